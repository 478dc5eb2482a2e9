//! Reading persistent dirty bitmaps, and whether they tell what changed.

use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{BitmapDirectoryEntry, Head, autoclear};

/// The host offset in an entry of a bitmap's table.
pub(crate) const HOST: u64 = 0x00ff_ffff_ffff_fe00;

/// One bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its directory entry.
    pub entry: BitmapDirectoryEntry,
    /// One bit for each granule of the disk.
    pub bits: Vec<bool>,
}

/// The directory of a qcow2 file, whether or not it may be trusted.
pub(crate) fn directory(bytes: &[u8], head: &Head) -> Result<Vec<BitmapDirectoryEntry>, String> {
    let Some(extension) = head.extensions.bitmaps(0) else {
        return Ok(Vec::new());
    };
    let extension = extension.map_err(|e| e.to_string())?;
    let at = to_usize(extension.directory.0);
    let area = bytes.get(at..at + to_usize(extension.directory_len));
    let area = area.ok_or("the bitmap directory is past the end of the file")?;
    BitmapDirectoryEntry::directory(area, extension.count, extension.directory.0)
        .map_err(|e| e.to_string())
}

/// The bitmaps that may be trusted: consistent, and not in use.
///
/// # Errors
/// What is wrong with them.
pub fn trusted(bytes: &[u8]) -> Result<Vec<Bitmap>, String> {
    let head = Head::from_bytes(bytes).map_err(|e| e.to_string())?;
    if head.header.autoclear & autoclear::BITMAPS == 0 {
        return Ok(Vec::new());
    }
    let list = directory(bytes, &head)?;
    let valid = list
        .into_iter()
        .filter(|e| e.flags & BitmapDirectoryEntry::IN_USE == 0);
    valid.map(|entry| read(bytes, &head, entry)).collect()
}

fn read(bytes: &[u8], head: &Head, entry: BitmapDirectoryEntry) -> Result<Bitmap, String> {
    let cluster = head.header.cluster.bytes();
    let granules = head.header.size.div_ceil(1 << entry.granularity_bits);
    let per_chunk = cluster * 8;
    if u64::from(entry.table_entries) != granules.div_ceil(per_chunk) {
        let (name, entries) = (&entry.name, entry.table_entries);
        return Err(format!(
            "bitmap {name} has {entries} entries for {granules} granules"
        ));
    }
    let mut bits = Vec::new();
    for granule in 0..granules {
        let at = entry.table.0 + granule / per_chunk * 8;
        let word = be64(bytes, to_usize(at)).ok_or("a bitmap table is cut off")?;
        bits.push(match word & HOST {
            0 => word & 1 == 1,
            host => {
                let bit = granule % per_chunk;
                let byte = bytes
                    .get(to_usize(host + bit / 8))
                    .ok_or("bits are cut off")?;
                byte >> (bit % 8) & 1 == 1
            }
        });
    }
    Ok(Bitmap { entry, bits })
}

/// Whether the bitmaps of the file `after` still tell all that they told, and, where they
/// record writes, all that reads differently. With `finished`, none may have got lost.
///
/// # Errors
/// What they do not tell.
pub fn tell(
    before: &[u8],
    after: &[u8],
    old_view: &[u8],
    new_view: &[u8],
    finished: bool,
) -> Result<(), String> {
    let (old, new) = (trusted(before)?, trusted(after)?);
    if finished && old.len() != new.len() {
        return Err(format!(
            "{} trusted bitmaps became {}",
            old.len(),
            new.len()
        ));
    }
    for map in new {
        let name = &map.entry.name;
        let Some(old) = old.iter().find(|m| &m.entry.name == name) else {
            return Err(format!("bitmap {name} was not to be trusted before"));
        };
        let granularity = 1 << map.entry.granularity_bits;
        let auto = map.entry.flags & BitmapDirectoryEntry::AUTO != 0;
        for (index, bit) in map.bits.iter().enumerate() {
            let told = old.bits.get(index).copied().unwrap_or(false);
            let start = index * granularity;
            let part = |view: &[u8]| {
                let mut bytes = view.get(start..).unwrap_or_default().to_vec();
                bytes.resize(granularity, 0);
                bytes
            };
            let changed = auto && part(old_view) != part(new_view);
            if !bit && (told || changed) {
                let at = to_u64(start);
                return Err(format!("bitmap {name} does not tell of {at:#x}"));
            }
            // A chunk of ones goes on behind the old end of a disk that grew.
            if !auto && *bit && !told && index < old.bits.len() {
                return Err(format!("bitmap {name} records although it is off"));
            }
        }
    }
    Ok(())
}
