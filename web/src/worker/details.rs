//! What a layer says about itself, as lists of facts.

use crate::protocol::Section;
use crate::units::bytes;
use backchain::Node;
use backchain::chain::FormatOrigin;
use backchain::format::qcow2::{Version, autoclear, compatible, incompatible};
use backchain::image::{Image, Qcow2};

/// All that is known about `node`. What cannot be read is said so in its place.
#[must_use]
pub fn sections(node: &Node) -> Vec<Section> {
    let mut image = Facts::new("Image");
    match &node.image {
        Ok(opened) => {
            image.add("Virtual size", size(opened.virtual_size()));
            image.add("Format", opened.format().to_string());
        }
        Err(error) => image.add("Error", error.to_string()),
    }
    image.add("File size", size(node.source.len()));
    image.add(
        "Format known by",
        match node.origin {
            FormatOrigin::Given => "what you said",
            FormatOrigin::Label => "the label in its overlay",
            FormatOrigin::Probed => "its first bytes",
        },
    );
    if let Some(backing) = node.backing() {
        image.add("Backing file", &backing.name);
        image.add(
            "Labelled as",
            backing.format.as_deref().unwrap_or("nothing: it is probed"),
        );
    }
    let mut sections = vec![image.0];
    if let Ok(Image::Qcow2(qcow2)) = &node.image {
        sections.extend(qcow2_sections(node, qcow2));
    }
    sections
}

fn qcow2_sections(node: &Node, qcow2: &Qcow2) -> Vec<Section> {
    let header = &qcow2.head.header;
    let mut facts = Facts::new("Header");
    facts.add(
        "Version",
        match header.version {
            Version::V2 => "2 (compat 0.10)",
            Version::V3 => "3 (compat 1.1)",
        },
    );
    facts.add("Cluster size", bytes(header.cluster.bytes()));
    facts.add(
        "L1 table",
        format!("{} entries at {:#x}", header.l1_entries, header.l1_table.0),
    );
    facts.add(
        "Refcount table",
        format!(
            "{} clusters at {:#x}",
            header.refcount_table_clusters, header.refcount_table.0
        ),
    );
    facts.add(
        "Refcount width",
        format!("{} bits", header.refcount_width.bits()),
    );
    facts.add("Compression", header.codec.name());

    let mut features = Facts::new("Features");
    let known = [
        ("Dirty", header.incompatible & incompatible::DIRTY),
        ("Corrupt", header.incompatible & incompatible::CORRUPT),
        (
            "External data file",
            header.incompatible & incompatible::DATA_FILE,
        ),
        (
            "Compression type",
            header.incompatible & incompatible::COMPRESSION,
        ),
        (
            "Extended L2 entries",
            header.incompatible & incompatible::EXTENDED_L2,
        ),
        (
            "Lazy refcounts",
            header.compatible & compatible::LAZY_REFCOUNTS,
        ),
        ("Bitmaps", header.autoclear & autoclear::BITMAPS),
        (
            "Raw external data",
            header.autoclear & autoclear::RAW_DATA_FILE,
        ),
    ];
    for (name, bit) in known {
        if bit != 0 {
            features.add(name, "on");
        }
    }
    let mut sections = vec![facts.0];
    if !features.0.rows.is_empty() {
        sections.push(features.0);
    }
    if header.snapshots > 0 {
        let mut snapshots = Facts::new("Internal snapshots");
        match qcow2.snapshots(node.source.as_ref()) {
            Ok(list) => {
                for snapshot in &list {
                    let state = match snapshot.vm_state_size {
                        0 => "disk only".to_owned(),
                        size => format!("{} of VM state", bytes(size)),
                    };
                    snapshots.add(&format!("{} {}", snapshot.id, snapshot.name), state);
                }
            }
            Err(error) => snapshots.add("Error", error.to_string()),
        }
        sections.push(snapshots.0);
    }
    match qcow2.bitmaps(node.source.as_ref()) {
        Ok(list) if !list.is_empty() => {
            let mut bitmaps = Facts::new("Bitmaps");
            let trusted = if qcow2.bitmaps_consistent() {
                ""
            } else {
                ", not to be trusted"
            };
            for bitmap in &list {
                let grain = 1_u64
                    .checked_shl(u32::from(bitmap.granularity_bits))
                    .unwrap_or(0);
                bitmaps.add(
                    &bitmap.name,
                    format!("granularity {}{trusted}", bytes(grain)),
                );
            }
            sections.push(bitmaps.0);
        }
        Ok(_) => {}
        Err(error) => {
            let mut bitmaps = Facts::new("Bitmaps");
            bitmaps.add("Error", error.to_string());
            sections.push(bitmaps.0);
        }
    }
    sections
}

fn size(count: u64) -> String {
    if count < 1024 {
        bytes(count)
    } else {
        format!("{} ({count} bytes)", bytes(count))
    }
}

struct Facts(Section);

impl Facts {
    fn new(title: &str) -> Self {
        Self(Section {
            title: title.to_owned(),
            rows: Vec::new(),
        })
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.rows.push((name.to_owned(), value.into()));
    }
}
