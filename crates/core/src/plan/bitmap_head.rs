//! Changing the bitmaps extension of a header so that a crash leaves the old one, the new one,
//! or at worst one that nobody trusts; whatever else is in the first cluster stays readable.

use super::link::header_write;
use super::rehead::{END, difference, first_cluster, in_one_sector, part};
use super::{MetadataKind, Step};
use crate::chain::NodeId;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{BitmapsExtension, Extension, Extensions, Head, autoclear};

/// The steps after which `head` says where the bitmaps are; `None`: there are none any more.
/// What it points at must be durable. `head` is changed accordingly.
pub(super) fn switch(
    node: NodeId,
    head: &mut Head,
    bitmaps: Option<BitmapsExtension>,
) -> Result<Vec<Step>> {
    let old = head.clone();
    let data = bitmaps.map(|b| b.to_bytes());
    put(head, data)?;
    let (before, after) = (first_cluster(&old), first_cluster(head));
    let Some(changed) = difference(&before, &after) else {
        return Ok(Vec::new());
    };
    if in_one_sector(&changed) {
        return Ok(vec![part(node, &after, changed)]);
    }
    let mut steps = Steps {
        node,
        list: Vec::new(),
    };
    let kept = old.extensions.get(Extensions::BITMAPS).is_some();
    match head.extensions.get(Extensions::BITMAPS).map(<[u8]>::to_vec) {
        Some(data) if kept => steps.change(&old, head, data),
        Some(data) => steps.add(&old, head, data),
        None => steps.remove(&old, head),
    }
    Ok(steps.list)
}

/// Puts the extension where it will be: its old place, unused space, or the end.
fn put(head: &mut Head, data: Option<Vec<u8>>) -> Result<()> {
    let list = &mut head.extensions;
    let header = &mut head.header;
    let Some(data) = data else {
        header.autoclear &= !autoclear::BITMAPS;
        list.set(Extensions::BITMAPS, None);
        return Ok(());
    };
    header.autoclear |= autoclear::BITMAPS;
    let unused = |e: &&mut Extension| {
        e.kind == Extensions::UNUSED && to_u64(e.data.len()) == BitmapsExtension::LEN
    };
    if list.get(Extensions::BITMAPS).is_some() {
        list.set(Extensions::BITMAPS, Some(data));
    } else if let Some(slot) = list.0.iter_mut().find(unused) {
        slot.kind = Extensions::BITMAPS;
        slot.data = data;
    } else {
        list.0.push(Extension {
            kind: Extensions::BITMAPS,
            data,
        });
        make_room(head)?;
    }
    Ok(())
}

/// Moves the backing file's name when the extensions have grown into it.
fn make_room(head: &mut Head) -> Result<()> {
    let end = u64::from(head.header.header_length) + head.extensions.len() + END;
    let cluster = head.header.cluster.bytes();
    let mut needed = end;
    if let Some((at, len)) = head.header.backing_name
        && at.0 < end
    {
        let long = u64::from(len);
        // Behind the old name, where the two are there side by side until the header says
        // which one counts.
        let apart = end.max(at.0 + long);
        let place = if apart + long <= cluster { apart } else { end };
        needed = place + long;
        head.header.backing_name = Some((HostOffset(place), len));
    }
    if needed > cluster {
        let message = format!(
            "the header has no room for the bitmaps extension: header, extensions and backing \
             file name would need {needed} bytes, the first cluster has {cluster}"
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

struct Steps {
    node: NodeId,
    list: Vec<Step>,
}

impl Steps {
    fn sync(&mut self) {
        self.list.push(Step::Sync { node: self.node });
    }

    fn header(&mut self, head: &Head) {
        self.list.push(header_write(self.node, head));
    }

    fn bytes(&mut self, at: u64, bytes: Vec<u8>) {
        self.list.push(Step::Write {
            to: self.node,
            dst: HostOffset(at),
            kind: MetadataKind::Header,
            bytes,
        });
    }

    /// An extension across two sectors: while it changes, nobody may trust it.
    fn change(&mut self, old: &Head, new: &Head, data: Vec<u8>) {
        let mut off = old.clone();
        off.header.autoclear &= !autoclear::BITMAPS;
        self.header(&off);
        self.sync();
        let at = start(new) + 8;
        self.bytes(at, data);
        self.sync();
        self.header(new);
    }

    fn add(&mut self, old: &Head, new: &Head, data: Vec<u8>) {
        if new.header.backing_name != old.header.backing_name && !self.move_name(old, new) {
            return;
        }
        let at = start(new);
        let mut rest = data;
        if old.extensions.len() < new.extensions.len() {
            // Behind the old end marker; then its own, where nobody looks yet.
            rest.extend([0; 8]);
        }
        self.bytes(at + 8, rest);
        self.sync();
        let mut front = Extensions::BITMAPS.to_be_bytes().to_vec();
        front.extend([0, 0, 0, 24]);
        self.bytes(at, front);
        self.sync();
        self.header(new);
    }

    /// Gives the backing file's name another place. False when there is no room for both the
    /// old and the new one: then all is written at once.
    fn move_name(&mut self, old: &Head, new: &Head) -> bool {
        let (Some((from, len)), Some((to, name))) = (old.header.backing_name, new.name_bytes())
        else {
            return true;
        };
        if to.0 < from.0 + u64::from(len) {
            let (before, after) = (first_cluster(old), first_cluster(new));
            if let Some(changed) = difference(&before, &after) {
                self.list.push(part(self.node, &after, changed));
            }
            return false;
        }
        self.list.push(Step::Write {
            to: self.node,
            dst: to,
            kind: MetadataKind::BackingName,
            bytes: name.to_vec(),
        });
        self.sync();
        let mut moved = old.clone();
        moved.header.backing_name = new.header.backing_name;
        self.header(&moved);
        self.sync();
        true
    }

    fn remove(&mut self, old: &Head, new: &mut Head) {
        let at = start(old);
        let last = old
            .extensions
            .0
            .last()
            .is_some_and(|e| e.kind == Extensions::BITMAPS);
        if last {
            self.bytes(at, vec![0; 8]);
        } else {
            // What follows it would have to move over more than one sector.
            self.bytes(at, Extensions::UNUSED.to_be_bytes().to_vec());
            new.extensions = old.extensions.clone();
            for extension in &mut new.extensions.0 {
                if extension.kind == Extensions::BITMAPS {
                    extension.kind = Extensions::UNUSED;
                }
            }
        }
        self.sync();
        self.header(new);
    }
}

/// Where the bitmaps extension of `head` starts in the file.
fn start(head: &Head) -> u64 {
    let area = u64::from(head.header.header_length);
    area + head.extensions.position(Extensions::BITMAPS).unwrap_or(0)
}
