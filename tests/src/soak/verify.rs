//! Whether the files are what the model says, by both programs.

use super::model::{Layer, World};
use super::op::Tool;
use super::run::Place;
use backchain::chain::Reader;
use backchain::format::Format;
use backchain::{Tree, check};
use backchain_native::{FsGate, GateOptions};
use backchain_testkit::model::first_difference;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

/// What was seen of the files last time.
#[derive(Default)]
pub(super) struct Seen {
    files: BTreeMap<String, (u64, SystemTime)>,
    /// Leaked clusters that qemu-img itself left behind.
    leaks: BTreeMap<String, u64>,
}

impl Seen {
    /// Holds every image against the model. `by`: whose operation it was.
    pub(super) fn verify(
        &mut self,
        place: &Place<'_>,
        world: &World,
        by: Tool,
    ) -> Result<(), String> {
        let last = world.layers.len().saturating_sub(1);
        for (at, layer) in world.layers.iter().enumerate() {
            let metadata = fs::metadata(place.path(&layer.name))
                .map_err(|e| format!("{}: {e}", layer.name))?;
            let now = (
                metadata.len(),
                metadata.modified().map_err(|e| e.to_string())?,
            );
            let changed = self.files.insert(layer.name.clone(), now) != Some(now);
            own_view(place, layer)?;
            if changed || at == last {
                qemu_view(place, layer, None)?;
            }
            if changed && layer.features.is_some() {
                self.check(place, layer, by)?;
                listed(place, layer)?;
                for snapshot in &layer.snapshots {
                    qemu_view(place, layer, Some(&snapshot.tag))?;
                }
            }
        }
        Ok(())
    }

    /// `qemu-img check` and our own check find nothing, and agree.
    fn check(&mut self, place: &Place<'_>, layer: &Layer, by: Tool) -> Result<(), String> {
        let name = &layer.name;
        let v3 = layer.features.as_ref().is_some_and(|f| f.v3);
        if v3 && place.is_dirty(name)? {
            // The next one who writes puts the refcounts right.
            return Ok(());
        }
        let arguments = ["check", "-f", "qcow2", "--output=json", name];
        let said = place.run("qemu-img", &arguments)?;
        let report: Value = serde_json::from_str(&said.out)
            .map_err(|_| format!("qemu-img check {name}: {}", said.err))?;
        let count = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or(0);
        let theirs = (count("corruptions"), count("leaks"), count("check-errors"));

        let tree = open(place, layer)?;
        let node = tree.node(backchain::NodeId(0));
        let image = node.image().map_err(|e| e.to_string())?;
        let image = image.as_qcow2().ok_or("not qcow2 any more")?;
        let mut findings = String::new();
        let report = check::check(node.source.as_ref(), image, 10, &mut |finding| {
            findings += &format!("{finding}\n");
        });
        let ours = (report.corruptions, report.leaks, report.check_errors);
        if ours != theirs {
            return Err(format!(
                "check {name}: (corruptions, leaks, errors) are {ours:?} for backchain, \
                 {theirs:?} for qemu-img\n{findings}{}",
                said.err
            ));
        }
        let leaks = self.leaks.entry(name.clone()).or_default();
        if by == Tool::Qemu {
            *leaks = ours.1;
        }
        if ours.0 > 0 || ours.2 > 0 || ours.1 > *leaks {
            return Err(format!("check {name}: {ours:?}\n{findings}"));
        }
        *leaks = ours.1;
        Ok(())
    }
}

fn open(place: &Place<'_>, layer: &Layer) -> Result<Tree, String> {
    let gate = FsGate::new(GateOptions {
        force_share: false,
        trust_probed: true,
    });
    let format = if layer.features.is_some() {
        Format::Qcow2
    } else {
        Format::Raw
    };
    let mut tree = Tree::new();
    let path = place.path(&layer.name).to_string_lossy().into_owned();
    tree.add(&gate, &path, Some(format))
        .map_err(|e| e.to_string())?;
    Ok(tree)
}

/// What our own engine reads.
fn own_view(place: &Place<'_>, layer: &Layer) -> Result<(), String> {
    let tree = open(place, layer)?;
    let read = || {
        let chain = tree.chain(backchain::NodeId(0))?;
        let mut view = vec![0xaa; super::model::len(chain.virtual_size())];
        Reader::new(chain).read_at(0, &mut view)?;
        Ok::<_, backchain::Error>(view)
    };
    let view = read().map_err(|e| format!("backchain cannot read {}: {e}", layer.name))?;
    match first_difference(&view, &layer.view) {
        None => Ok(()),
        Some(difference) => Err(format!(
            "{} reads wrong by backchain (read against model): {difference}",
            layer.name
        )),
    }
}

/// What qemu-img reads.
fn qemu_view(place: &Place<'_>, layer: &Layer, tag: Option<&str>) -> Result<(), String> {
    let wanted = match tag {
        None => &layer.view,
        Some(tag) => {
            let snapshot = layer.snapshots.iter().find(|s| s.tag == tag);
            &snapshot.ok_or("no such snapshot")?.view
        }
    };
    let mut arguments = vec!["convert", "-f", layer.format(), "-O", "raw"];
    let parameter = format!("snapshot.name={}", tag.unwrap_or_default());
    if tag.is_some() {
        arguments.extend(["-l", &parameter]);
    }
    arguments.extend([layer.name.as_str(), "view"]);
    let what = format!("{} {}", layer.name, tag.unwrap_or_default());
    let said = place.run("qemu-img", &arguments)?;
    if said.code != Some(0) {
        return Err(format!("qemu-img cannot read {what}: {}", said.err));
    }
    let view = fs::read(place.path("view")).map_err(|e| e.to_string())?;
    let _ = fs::remove_file(place.path("view"));
    // QEMU shows a snapshot at the size that the disk has now.
    let len = if tag.is_some() {
        view.len().min(wanted.len())
    } else {
        view.len().max(wanted.len())
    };
    let cut = |bytes: &[u8]| bytes[..len.min(bytes.len())].to_vec();
    match first_difference(&cut(&view), &cut(wanted)) {
        None => Ok(()),
        Some(difference) => Err(format!(
            "{what} reads wrong by qemu-img (read against model): {difference}"
        )),
    }
}

/// The image has the snapshots and bitmaps that it should have, and no others.
fn listed(place: &Place<'_>, layer: &Layer) -> Result<(), String> {
    let said = place.run("qemu-img", &["info", "--output=json", &layer.name])?;
    let info: Value = serde_json::from_str(&said.out)
        .map_err(|_| format!("qemu-img info {}: {}", layer.name, said.err))?;
    let names = |list: Option<&Value>| -> Vec<String> {
        let list = list
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let name = |entry: &Value| Some(entry.get("name")?.as_str()?.to_owned());
        list.iter().filter_map(name).collect()
    };
    let snapshots: Vec<String> = layer.snapshots.iter().map(|s| s.tag.clone()).collect();
    let found = names(info.get("snapshots"));
    if found != snapshots {
        return Err(format!(
            "{} has the snapshots {found:?}, not {snapshots:?}",
            layer.name
        ));
    }
    let mut found = names(info.pointer("/format-specific/data/bitmaps"));
    found.sort();
    let mut bitmaps: Vec<String> = layer.bitmaps.iter().map(|b| b.name.clone()).collect();
    bitmaps.sort();
    if found != bitmaps {
        return Err(format!(
            "{} has the bitmaps {found:?}, not {bitmaps:?}",
            layer.name
        ));
    }
    Ok(())
}
