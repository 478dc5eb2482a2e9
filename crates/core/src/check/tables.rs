//! The L2 tables of an image, each once however many L1 entries name it.

/// An L2 table and how often it is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Offset in the file.
    pub(super) offset: u64,
    /// L1 entries that name it, those of snapshots included.
    pub(super) times: u64,
    /// Entries of the active L1 table that name it.
    pub(super) active: u64,
}

/// The tables of a window of file offsets, gathered in bounded memory.
pub(super) struct TableSet {
    start: u64,
    end: u64,
    capacity: usize,
    list: Vec<Table>,
}

/// Tables held at once: 12 MiB.
const CAPACITY: usize = 512 << 10;

impl TableSet {
    /// Gathers tables at offsets from `start` on.
    pub(super) fn new(start: u64) -> Self {
        Self::with_capacity(start, CAPACITY)
    }

    fn with_capacity(start: u64, capacity: usize) -> Self {
        Self {
            start,
            end: u64::MAX,
            capacity,
            list: Vec::new(),
        }
    }

    /// Takes a table in if it is in the window.
    pub(super) fn push(&mut self, table: Table) {
        if table.offset < self.start || table.offset >= self.end {
            return;
        }
        if let Some(last) = self.list.last_mut()
            && last.offset == table.offset
        {
            last.times = last.times.saturating_add(table.times);
            last.active = last.active.saturating_add(table.active);
            return;
        }
        if self.list.len() >= self.capacity {
            self.compact();
            if table.offset >= self.end {
                return;
            }
        }
        self.list.push(table);
    }

    /// Sorts, makes one of those that are the same, and closes the window when that did not
    /// make enough room.
    fn compact(&mut self) {
        self.merge();
        let half = (self.capacity / 2).max(1);
        if let Some(first_out) = self.list.get(half) {
            self.end = first_out.offset;
            self.list.truncate(half);
        }
    }

    fn merge(&mut self) {
        self.list.sort_unstable_by_key(|table| table.offset);
        self.list.dedup_by(|next, kept| {
            let same = next.offset == kept.offset;
            if same {
                kept.times = kept.times.saturating_add(next.times);
                kept.active = kept.active.saturating_add(next.active);
            }
            same
        });
    }

    /// The tables in file order, and the offset from which on tables were left out, if any.
    pub(super) fn finish(mut self) -> (Vec<Table>, Option<u64>) {
        self.merge();
        (self.list, (self.end < u64::MAX).then_some(self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_every_table_once_with_all_its_references() {
        let pushed: Vec<u64> = (0..1000u64).map(|n| n * 7919 % 100).collect();
        let (mut start, mut all) = (0, Vec::new());
        loop {
            let mut set = TableSet::with_capacity(start, 16);
            for &offset in &pushed {
                let active = offset % 2;
                set.push(Table {
                    offset,
                    times: 3,
                    active,
                });
                assert!(set.list.len() <= 16);
            }
            let (tables, next) = set.finish();
            all.extend(tables);
            match next {
                Some(next) => start = next,
                None => break,
            }
        }
        let offsets: Vec<u64> = all.iter().map(|t| t.offset).collect();
        assert_eq!(offsets, (0..100).collect::<Vec<_>>());
        assert!(
            all.iter()
                .all(|t| t.times == 30 && t.active == t.offset % 2 * 10)
        );
    }
}
