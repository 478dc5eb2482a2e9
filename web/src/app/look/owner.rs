//! Owners of the parts of a file: their colours and their names in a legend.

/// The colours of owners, by their numbers.
pub const COLOURS: [&str; 14] = [
    "--unallocated-soft",
    "--leaked",
    "--data",
    "--compressed",
    "--zero",
    "--shared",
    "--bitmap",
    "--l2",
    "--l1",
    "--refcounts",
    "--refcount-table",
    "--encryption",
    "--header",
    "--corrupt",
];

/// The property with the colour of an owner.
#[must_use]
pub fn colour(number: u8) -> &'static str {
    COLOURS
        .get(usize::from(number))
        .copied()
        .unwrap_or("--cell-unknown")
}

/// The property with the colour of a structure among bytes: what stands in one cluster on the
/// map is told apart here.
#[must_use]
pub fn field_colour(number: u8) -> &'static str {
    match number {
        11 => "--compressed",
        12 => "--data",
        other => colour(other),
    }
}

/// What the fields of a structure belong to, by the owner's number that they carry.
#[must_use]
pub fn structure(number: u8) -> &'static str {
    match number {
        6 => "backing file name",
        7 => "L2 entries",
        8 => "L1 entries",
        9 => "refcounts",
        10 => "refcount table",
        11 => "header extensions",
        12 => "header",
        _ => "fields",
    }
}
