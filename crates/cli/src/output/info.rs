//! What `info` says about one image, as JSON and as text.

use super::size;
use backchain::Result;
use backchain::chain::{Locator, Node, Opening};
use backchain::format::luks;
use backchain::format::qcow2::{
    BitmapDirectoryEntry, Codec, CryptMethod, Extensions, SnapshotEntry, Version, autoclear,
    compatible, incompatible,
};
use backchain::image::{Image, Qcow2};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// Everything about one image that is shown.
pub(crate) struct Facts<'a> {
    node: &'a Node,
    qcow2: Option<&'a Qcow2>,
    snapshots: Vec<SnapshotEntry>,
    bitmaps: Vec<BitmapDirectoryEntry>,
    /// The LUKS header of an image that is encrypted with it.
    luks: Option<luks::Header>,
    /// There are bitmaps, but somebody who does not know them wrote to the image.
    pub(crate) distrusted_bitmaps: bool,
}

/// The backing file's name as a path from here, or as it is when it is not a local path.
pub(crate) fn full_backing_name(node: &Node) -> Option<String> {
    let name = &node.backing()?.name;
    let plain = matches!(Locator::parse(name), Locator::Path(path) if path == *name);
    if !plain {
        return Some(name.clone());
    }
    Locator::resolve(name, Some(&node.name)).ok()
}

impl<'a> Facts<'a> {
    /// Reads them: the header is there already, snapshots and bitmaps are read here.
    pub(crate) fn of(node: &'a Node) -> Result<Self> {
        let qcow2 = node.image()?.as_qcow2();
        let mut facts = Self {
            node,
            qcow2,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            luks: node
                .image()?
                .luks(node.source.as_ref())?
                .map(|area| area.header),
            distrusted_bitmaps: false,
        };
        if let Some(image) = qcow2 {
            let source = node.source.as_ref();
            facts.snapshots = image.snapshots(source)?;
            if image.bitmaps_consistent() {
                facts.bitmaps = image.bitmaps(source)?;
            } else {
                facts.distrusted_bitmaps = image.head.extensions.get(Extensions::BITMAPS).is_some();
            }
        }
        Ok(facts)
    }

    /// Length of the file as QEMU's block layer sees it: whole sectors.
    fn file_length(&self) -> u64 {
        self.node.source.len().next_multiple_of(512)
    }

    fn actual_size(&self) -> u64 {
        self.node.allocated.unwrap_or(0)
    }

    /// QEMU's driver for what is below the format.
    fn protocol(&self) -> &'static str {
        match &self.node.opened {
            Opening {
                bare: Some(driver), ..
            } => driver,
            opening if opening.name().is_none() => "null-co",
            _ => "file",
        }
    }

    /// The file's own name, as QEMU shows it below the format's.
    fn file_name(&self) -> &str {
        match (&self.node.opened.file_shown, self.node.has_file()) {
            (Some(shown), false) => shown,
            _ => &self.node.name,
        }
    }

    /// What `--output=json` shows of the file below the format.
    fn file_json(&self) -> Value {
        let mut info = json!({
            "children": [],
            "virtual-size": self.file_length(),
            "filename": self.file_name(),
            "format": self.protocol(),
            "actual-size": self.actual_size(),
        });
        if let Value::Object(map) = &mut info
            && self.node.has_file()
        {
            map.insert(
                "format-specific".to_owned(),
                json!({"type": "file", "data": {}}),
            );
            map.insert("dirty-flag".to_owned(), json!(false));
        }
        info
    }

    /// The object that `--output=json` shows.
    pub(crate) fn json(&self) -> Value {
        if self.node.opened.bare.is_some() {
            return self.file_json();
        }
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| {
            map.insert(key.to_owned(), value);
        };
        set(
            "children",
            json!([{"name": "file", "info": self.file_json()}]),
        );
        if !self.snapshots.is_empty() {
            set(
                "snapshots",
                self.snapshots.iter().map(snapshot_json).collect(),
            );
        }
        let backing = self.node.backing();
        if let Some(format) = backing.and_then(|b| b.format.as_ref()) {
            set("backing-filename-format", json!(format));
        }
        set("virtual-size", json!(self.node.virtual_size()));
        set("filename", json!(self.node.title()));
        if let Some(image) = self.qcow2 {
            set("cluster-size", json!(image.head.header.cluster.bytes()));
        }
        set("format", json!(self.format()));
        set("actual-size", json!(self.actual_size()));
        if let Some(image) = self.qcow2 {
            let data = Value::Object(self.specific(image));
            set("format-specific", json!({"type": "qcow2", "data": data}));
        }
        if let (None, Some(header)) = (self.qcow2, &self.luks) {
            let data = super::luks::facts(header, false);
            set("format-specific", json!({"type": "luks", "data": data}));
        }
        if self.is_encrypted() {
            set("encrypted", json!(true));
        }
        if let Some(backing) = backing {
            if let Some(full) = full_backing_name(self.node) {
                set("full-backing-filename", json!(full));
            }
            set("backing-filename", json!(backing.name));
        }
        if self.node.has_file() {
            set("dirty-flag", json!(self.is_dirty()));
        }
        Value::Object(map)
    }

    fn format(&self) -> &'static str {
        self.node
            .image
            .as_ref()
            .map_or("raw", |image: &Image| image.format().name())
    }

    fn is_encrypted(&self) -> bool {
        let image = self.node.image.as_ref().ok();
        image.is_some_and(|image| image.encryption().is_some())
    }

    fn is_dirty(&self) -> bool {
        self.qcow2
            .is_some_and(|image| image.head.header.has(incompatible::DIRTY))
    }

    /// QEMU's `ImageInfoSpecificQCow2`.
    fn specific(&self, image: &Qcow2) -> Map<String, Value> {
        let header = &image.head.header;
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| {
            map.insert(key.to_owned(), value);
        };
        let v3 = header.version == Version::V3;
        set("compat", json!(if v3 { "1.1" } else { "0.10" }));
        let codec = match header.codec {
            Codec::Zlib => "zlib",
            Codec::Zstd => "zstd",
        };
        set("compression-type", json!(codec));
        if v3 {
            let lazy = header.compatible & compatible::LAZY_REFCOUNTS != 0;
            set("lazy-refcounts", json!(lazy));
            if !self.bitmaps.is_empty() {
                set("bitmaps", self.bitmaps.iter().map(bitmap_json).collect());
            }
        }
        set("refcount-bits", json!(header.refcount_width.bits()));
        match header.crypt {
            CryptMethod::None => {}
            CryptMethod::Aes => set("encrypt", json!({"format": "aes"})),
            CryptMethod::Luks => {
                let header = self.luks.as_ref();
                let facts = header.map(|header| super::luks::facts(header, true));
                set("encrypt", facts.unwrap_or_default());
            }
        }
        if header.has(incompatible::DATA_FILE) {
            let name = image.head.extensions.string(Extensions::DATA_FILE);
            if let Some(name) = name {
                set("data-file", json!(name));
            }
            let raw = header.autoclear & autoclear::RAW_DATA_FILE != 0;
            set("data-file-raw", json!(raw));
        }
        if v3 {
            set("corrupt", json!(header.has(incompatible::CORRUPT)));
            set("extended-l2", json!(header.has(incompatible::EXTENDED_L2)));
        }
        map
    }

    /// The lines that `--output=human` shows.
    pub(crate) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let size = |bytes: u64| format!("{} ({bytes} bytes)", size::human(bytes));
        let bare = self.node.opened.bare;
        writeln!(out, "image: {}", self.node.title())?;
        writeln!(out, "file format: {}", bare.unwrap_or(self.format()))?;
        writeln!(out, "virtual size: {}", size(self.node.virtual_size()))?;
        writeln!(out, "disk size: {}", size::human(self.actual_size()))?;
        if self.is_encrypted() {
            writeln!(out, "encrypted: yes")?;
        }
        if let Some(image) = self.qcow2 {
            writeln!(out, "cluster_size: {}", image.head.header.cluster.bytes())?;
        }
        if self.is_dirty() {
            writeln!(out, "cleanly shut down: no")?;
        }
        self.backing_text(out)?;
        if !self.snapshots.is_empty() {
            snapshots_text(&self.snapshots, out)?;
        }
        if let Some(image) = self.qcow2 {
            writeln!(out, "Format specific information:")?;
            specific_text(&self.specific(image), 1, out)?;
        } else if let Some(header) = &self.luks
            && let Value::Object(facts) = super::luks::facts(header, false)
        {
            writeln!(out, "Format specific information:")?;
            specific_text(&facts, 1, out)?;
        }
        if bare.is_some() {
            return Ok(());
        }
        writeln!(out, "Child node '/file':")?;
        writeln!(out, "    filename: {}", self.file_name())?;
        writeln!(out, "    protocol type: {}", self.protocol())?;
        writeln!(out, "    file length: {}", size(self.file_length()))?;
        writeln!(out, "    disk size: {}", size::human(self.actual_size()))
    }

    fn backing_text(&self, out: &mut impl Write) -> io::Result<()> {
        let Some(backing) = self.node.backing() else {
            return Ok(());
        };
        write!(out, "backing file: {}", backing.name)?;
        match full_backing_name(self.node) {
            Some(full) if full == backing.name => writeln!(out)?,
            Some(full) => writeln!(out, " (actual path: {full})")?,
            None => writeln!(out, " (cannot determine actual path)")?,
        }
        match &backing.format {
            Some(format) => writeln!(out, "backing file format: {format}"),
            None => Ok(()),
        }
    }
}

fn snapshot_json(snapshot: &SnapshotEntry) -> Value {
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    if let Some(icount) = snapshot.icount {
        set("icount", json!(icount));
    }
    set(
        "vm-clock-nsec",
        json!(snapshot.vm_clock_nsec % 1_000_000_000),
    );
    set("name", json!(snapshot.name));
    set("date-sec", json!(snapshot.date_sec));
    set("date-nsec", json!(snapshot.date_nsec));
    set(
        "vm-clock-sec",
        json!(snapshot.vm_clock_nsec / 1_000_000_000),
    );
    set("id", json!(snapshot.id));
    set("vm-state-size", json!(snapshot.vm_state_size));
    Value::Object(map)
}

fn bitmap_json(bitmap: &BitmapDirectoryEntry) -> Value {
    let mut flags = Vec::new();
    if bitmap.flags & BitmapDirectoryEntry::IN_USE != 0 {
        flags.push("in-use");
    }
    if bitmap.flags & BitmapDirectoryEntry::AUTO != 0 {
        flags.push("auto");
    }
    let granularity = 1u64
        .checked_shl(u32::from(bitmap.granularity_bits))
        .unwrap_or(0);
    json!({"flags": flags, "name": bitmap.name, "granularity": granularity})
}

/// The list of internal snapshots, with its title.
pub(crate) fn snapshots_text(snapshots: &[SnapshotEntry], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "Snapshot list:")?;
    row(out, ["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])?;
    for snapshot in snapshots {
        let seconds = snapshot.vm_clock_nsec / 1_000_000_000;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            snapshot.vm_clock_nsec / 1_000_000 % 1000
        );
        let size = size::human(snapshot.vm_state_size);
        let icount = snapshot
            .icount
            .map_or_else(|| "--".to_owned(), |n| n.to_string());
        let date = date(snapshot.date_sec);
        row(
            out,
            [&snapshot.id, &snapshot.name, &size, &date, &clock, &icount],
        )?;
    }
    Ok(())
}

fn row(out: &mut impl Write, cells: [&str; 6]) -> io::Result<()> {
    let [id, tag, size, date, clock, icount] = cells;
    // C pads to bytes, not to characters.
    let width = |text: &str, width: usize| width.saturating_sub(text.len()) + text.chars().count();
    let (wide_id, wide_tag) = (width(id, 7), width(tag, 16));
    writeln!(
        out,
        "{id:<wide_id$} {tag:<wide_tag$} {size:>8} {date:>19} {clock:>15} {icount:>10}"
    )
}

/// Local time, to the second.
fn date(seconds: u32) -> String {
    match Timestamp::from_second(i64::from(seconds)) {
        Ok(time) => time
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => seconds.to_string(),
    }
}

/// QEMU's generic text of nested values: names with blanks for dashes, lists with indexes.
fn specific_text(map: &Map<String, Value>, level: usize, out: &mut impl Write) -> io::Result<()> {
    for (key, value) in map {
        let name = key.replace('-', " ");
        entry_text(&name, value, level, out)?;
    }
    Ok(())
}

fn entry_text(name: &str, value: &Value, level: usize, out: &mut impl Write) -> io::Result<()> {
    let indent = level * 4;
    match value {
        Value::Object(map) => {
            writeln!(out, "{:indent$}{name}:", "")?;
            specific_text(map, level + 1, out)
        }
        Value::Array(items) => {
            writeln!(out, "{:indent$}{name}:", "")?;
            for (index, item) in items.iter().enumerate() {
                entry_text(&format!("[{index}]"), item, level + 1, out)?;
            }
            Ok(())
        }
        Value::String(text) => writeln!(out, "{:indent$}{name}: {text}", ""),
        other => writeln!(out, "{:indent$}{name}: {other}", ""),
    }
}
