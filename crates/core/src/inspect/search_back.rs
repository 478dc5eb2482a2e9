//! Searching bytes towards the start.

use super::back::Windows;
use super::search::Search;
use crate::chain::Chain;
use crate::error::Result;
use crate::source::Source;
use backchain_format::bytes::to_u64;

/// A search for the last place of a needle before some byte, a piece at a time.
///
/// Every window is searched forwards for the last hit in it.
pub struct SearchBack {
    bytes: Bytes,
    needle: Vec<u8>,
    windows: Windows,
    window: Option<Search>,
    /// First byte of the window.
    pos: u64,
    /// Something was read in the window.
    read: bool,
    last: Option<u64>,
    total: u64,
}

enum Bytes {
    Guest(Chain),
    Host(Source),
}

impl SearchBack {
    /// Searches the guest's view of `chain` for a hit that begins before byte `end`.
    ///
    /// # Errors
    /// For a needle of a length that is not allowed.
    pub fn guest(chain: Chain, needle: Vec<u8>, end: u64) -> Result<Self> {
        let total = chain.virtual_size();
        Self::new(Bytes::Guest(chain), needle, end, total)
    }

    /// The same in a file.
    ///
    /// # Errors
    /// For a needle of a length that is not allowed.
    pub fn host(source: Source, needle: Vec<u8>, end: u64) -> Result<Self> {
        let total = source.len();
        Self::new(Bytes::Host(source), needle, end, total)
    }

    fn new(bytes: Bytes, needle: Vec<u8>, end: u64, total: u64) -> Result<Self> {
        Search::check(&needle)?;
        let end = end.min(total);
        Ok(Self {
            bytes,
            needle,
            windows: Windows::before(end),
            window: None,
            pos: end,
            read: true,
            last: None,
            total,
        })
    }

    /// What lies behind this byte was searched.
    pub fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes of the whole disk or file.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Goes on for about a mebibyte. Gives back the offset of the hit; `None` inside means: go
    /// on; `None` outside: there is none.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    pub fn advance(&mut self) -> Result<Option<Option<u64>>> {
        let Some(window) = &mut self.window else {
            if let Some(hit) = self.last {
                return Ok(Some(Some(hit)));
            }
            let Some(range) = self.windows.next(!self.read) else {
                return Ok(None);
            };
            // A hit may begin at the window's last byte.
            let end = range.end.saturating_add(to_u64(self.needle.len()) - 1);
            let needle = self.needle.clone();
            let search = match &self.bytes {
                Bytes::Guest(chain) => Search::guest(chain.clone(), needle, range.start),
                Bytes::Host(source) => Search::host(source.clone(), needle, range.start),
            };
            self.window = Some(search?.until(end));
            (self.pos, self.read) = (range.start, false);
            return Ok(Some(None));
        };
        match window.advance()? {
            Some(found) => {
                self.read = true;
                self.last = found.or(self.last);
            }
            None => self.window = None,
        }
        Ok(Some(None))
    }
}

#[cfg(test)]
mod tests {
    use super::SearchBack;
    use std::sync::Arc;

    #[test]
    fn the_nearest_hit_before_a_place_is_found_across_windows() {
        let mut bytes = vec![0_u8; 40 << 20];
        let edge = (24 << 20) - 1;
        for at in [5, edge, (30 << 20) + 7] {
            bytes[at..at + 3].copy_from_slice(b"abc");
        }
        let source = Arc::new(bytes);
        let find = |end: u64| {
            let mut search = SearchBack::host(source.clone(), b"abc".to_vec(), end).unwrap();
            while let Some(hit) = search.advance().unwrap() {
                if hit.is_some() {
                    return hit;
                }
            }
            None
        };
        assert_eq!(find(40 << 20), Some((30 << 20) + 7));
        assert_eq!(
            find((30 << 20) + 7),
            Some(edge as u64),
            "not the place itself"
        );
        assert_eq!(find(edge as u64), Some(5));
        assert_eq!(find(5), None);
    }
}
