//! The copied flags of the active tables against the stored refcounts.
//!
//! A flag says that the refcount is exactly one, so that the cluster may be written in place.
//! The first pass finds out whether any flag is wrong; only then this one names them.

use super::finding::{Finding, Recorder};
use super::geometry::bits;
use super::refcounts::{Event, Pass, each_table};
use backchain_format::bytes::{be64, to_usize};

/// Reports every wrong flag.
pub(super) fn check_copied(pass: &mut Pass<'_>, recorder: &mut Recorder<'_>) {
    let g = pass.geometry;
    let mut window = Some(0);
    while let Some(from) = window {
        let tables;
        (tables, window) = pass.active_tables(from, &mut |index, entry, stored| {
            let offset = entry & bits::OFFSET;
            if offset == 0 {
                return;
            }
            let Some(refcount) = stored.count(offset >> g.cluster_bits) else {
                return;
            };
            if (refcount == 1) != (entry & bits::COPIED != 0) {
                recorder.add(&Finding::L1Copied {
                    index,
                    entry,
                    refcount,
                });
            }
        });
        let stored = &mut pass.stored;
        each_table(&mut pass.words, g, &tables, &mut |event| {
            // What could not be read was reported by the first pass.
            let Event::Table(table, bytes) = event else {
                return;
            };
            for words in bytes.chunks_exact(to_usize(g.layout.entry_len())) {
                let entry = be64(words, 0).unwrap_or(0);
                let offset = entry & bits::OFFSET;
                let set = entry & bits::COPIED != 0;
                let zero = !g.layout.extended && entry & bits::ZERO != 0;
                let present = offset != 0 || g.data_file && set && !zero;
                if entry & bits::COMPRESSED != 0 || !present {
                    continue;
                }
                let refcount = if g.data_file {
                    Some(1)
                } else {
                    stored.count(offset >> g.cluster_bits)
                };
                if let Some(refcount) = refcount
                    && (refcount == 1) != set
                {
                    let finding = Finding::L2Copied { entry, refcount };
                    recorder.add_times(&finding, table.active);
                }
            }
        });
    }
}
