//! The report as JSON. What qemu-img says too has the name it has there.

use super::{Entry, Report, role};
use backchain::Place;
use backchain::format::qcow2::{
    BitmapDirectoryEntry, SnapshotEntry, Version, compatible, incompatible,
};
use backchain::image::Qcow2;
use std::fmt::Write;

/// Version of the report's format.
const VERSION: u64 = 1;

/// The whole report.
#[must_use]
pub(super) fn write(report: &Report) -> String {
    let mut json = Json::default();
    json.open("", '{');
    json.number("backchain_report", VERSION);
    json.text("created", &report.created);
    json.text(
        "program",
        &format!("backchain {}", env!("CARGO_PKG_VERSION")),
    );
    json.open("images", '[');
    for entry in &report.entries {
        image(&mut json, entry);
    }
    json.close(']');
    json.close('}');
    json.out.push('\n');
    json.out
}

fn image(json: &mut Json, entry: &Entry) {
    let layer = &entry.layer;
    json.open("", '{');
    json.text("filename", &layer.path);
    json.text("format", &layer.format);
    if let Some(size) = layer.virtual_size {
        json.number("virtual-size", size);
    }
    // What a file takes of the disk under it is not known to a web page.
    json.number("file-size", layer.file_size);
    json.text("role", role(layer.role));
    json.text("state", layer.state.name());
    if let Some(reason) = &layer.reason {
        json.text("reason", reason);
    }
    if layer.staged {
        json.flag("staged", true);
    }
    if !layer.backing_path.is_empty() {
        json.text("backing-filename", &layer.backing_path);
    }
    if let Some(label) = entry.label() {
        json.text("backing-filename-format", label);
    }
    if let Some(found) = &entry.backing {
        json.text("backing-image", found);
    }
    if let Some(qcow2) = entry.qcow2() {
        header(json, entry, qcow2);
    }
    if let Some(stats) = &entry.stats {
        json.open("statistics", '{');
        json.number("data", stats.data);
        json.number("compressed", stats.compressed);
        json.number("zero", stats.zero);
        json.number("unallocated", stats.unallocated);
        json.number("unique", stats.unique);
        json.number("shadowed", stats.shadowed);
        json.number("kept-for-snapshots", stats.kept);
        json.number("could-give-back", stats.could_give_back());
        json.close('}');
    }
    json.open("map", '{');
    if let Some(error) = &entry.map.error {
        json.text("error", error);
    }
    json.flag("truncated", entry.map.truncated);
    json.open("runs", '[');
    for run in &entry.map.runs {
        let (data, zero) = super::data_and_zero(run.place);
        json.open("", '{');
        json.number("start", run.start);
        json.number("length", run.len);
        json.flag("present", run.place.is_allocated());
        json.flag("data", data);
        json.flag("zero", zero);
        json.flag("compressed", matches!(run.place, Place::Compressed { .. }));
        if let Some(offset) = super::host(run.place) {
            json.number("offset", offset);
        }
        json.close('}');
    }
    json.close(']');
    json.close('}');
    json.close('}');
}

fn header(json: &mut Json, entry: &Entry, qcow2: &Qcow2) {
    let header = &qcow2.head.header;
    let has = |field: u64, bit: u64| field & bit != 0;
    json.number("cluster-size", header.cluster.bytes());
    json.flag("dirty-flag", has(header.incompatible, incompatible::DIRTY));
    match &entry.snapshots {
        Ok(list) if list.is_empty() => {}
        Ok(list) => snapshots(json, list),
        Err(why) => json.text("snapshots-error", why),
    }
    json.open("format-specific", '{');
    json.text("type", "qcow2");
    json.open("data", '{');
    match header.version {
        Version::V2 => json.text("compat", "0.10"),
        Version::V3 => {
            json.text("compat", "1.1");
            let lazy = has(header.compatible, compatible::LAZY_REFCOUNTS);
            json.flag("lazy-refcounts", lazy);
            let corrupt = has(header.incompatible, incompatible::CORRUPT);
            json.flag("corrupt", corrupt);
            let extended = has(header.incompatible, incompatible::EXTENDED_L2);
            json.flag("extended-l2", extended);
        }
    }
    json.text("compression-type", header.codec.name());
    json.number("refcount-bits", header.refcount_width.bits());
    json.number("l1-entries", u64::from(header.l1_entries));
    json.number("l1-offset", header.l1_table.0);
    json.number("refcount-table-offset", header.refcount_table.0);
    match &entry.bitmaps {
        Ok(list) if list.is_empty() => {}
        Ok(list) => bitmaps(json, list),
        Err(why) => json.text("bitmaps-error", why),
    }
    json.close('}');
    json.close('}');
}

fn snapshots(json: &mut Json, list: &[SnapshotEntry]) {
    json.open("snapshots", '[');
    for snapshot in list {
        json.open("", '{');
        json.text("id", &snapshot.id);
        json.text("name", &snapshot.name);
        json.number("vm-state-size", snapshot.vm_state_size);
        json.number("date-sec", u64::from(snapshot.date_sec));
        json.number("date-nsec", u64::from(snapshot.date_nsec));
        json.number("vm-clock-sec", snapshot.vm_clock_nsec / 1_000_000_000);
        json.number("vm-clock-nsec", snapshot.vm_clock_nsec % 1_000_000_000);
        json.close('}');
    }
    json.close(']');
}

fn bitmaps(json: &mut Json, list: &[BitmapDirectoryEntry]) {
    json.open("bitmaps", '[');
    for bitmap in list {
        json.open("", '{');
        json.text("name", &bitmap.name);
        let grain = 1_u64.checked_shl(u32::from(bitmap.granularity_bits));
        json.number("granularity", grain.unwrap_or(0));
        json.open("flags", '[');
        for (flag, name) in [
            (BitmapDirectoryEntry::IN_USE, "in-use"),
            (BitmapDirectoryEntry::AUTO, "auto"),
        ] {
            if bitmap.flags & flag != 0 {
                json.text("", name);
            }
        }
        json.close(']');
        json.close('}');
    }
    json.close(']');
}

/// Text that grows. Every call with a name is for the inside of an object, with "" for the
/// inside of a list.
#[derive(Default)]
struct Json {
    out: String,
    /// Something stands before, at this level.
    follows: bool,
}

impl Json {
    fn open(&mut self, name: &str, bracket: char) {
        self.name(name);
        self.out.push(bracket);
        self.follows = false;
    }

    fn close(&mut self, bracket: char) {
        self.out.push(bracket);
        self.follows = true;
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.quoted(value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        // Writing to a string cannot fail.
        let _ = write!(self.out, "{value}");
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out.push_str(if value { "true" } else { "false" });
    }

    fn name(&mut self, name: &str) {
        if self.follows {
            self.out.push(',');
        }
        self.follows = true;
        if !name.is_empty() {
            self.quoted(name);
            self.out.push(':');
        }
    }

    fn quoted(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{0}'..='\u{1f}' | '\u{7f}' => {
                    let _ = write!(self.out, "\\u{:04x}", u32::from(letter));
                }
                letter => self.out.push(letter),
            }
        }
        self.out.push('"');
    }
}
