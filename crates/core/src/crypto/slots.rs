//! Changes of key slots: passphrases come and go, the master key stays.
//!
//! Four bytes decide whether a slot opens. They are written alone: last when a slot is filled,
//! first when it is erased. A slot that opens is never written over as it is.

use super::luks::{LuksArea, MasterKey, Random, Seed};
use crate::error::{Error, ErrorKind, Result};
use crate::source::ReadAt;
use backchain_format::bytes::to_usize;
use backchain_format::luks::{Header, SLOTS, slot_place};
use std::ops::Range;

/// What is asked of the key slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRequest<'a> {
    /// A further passphrase.
    Fill {
        /// In this slot; the first free one when `None`.
        slot: Option<u32>,
        /// The passphrase.
        passphrase: &'a [u8],
        /// Iterations of PBKDF2 that it is stretched with.
        iterations: u32,
    },
    /// A passphrase less. At least one of the two says which.
    Erase {
        /// This slot.
        slot: Option<u32>,
        /// The slots that this passphrase opens.
        passphrase: Option<&'a [u8]>,
    },
}

/// A change of key slots that was worked out: what is to be written, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotChange {
    /// Writes, by offset in bytes from the start of the header. All of one group may be written
    /// in any order; they have to be durable before those of the next.
    pub(crate) groups: Vec<Vec<(u64, Vec<u8>)>>,
}

fn refused(message: impl Into<String>) -> Error {
    let message = message.into();
    Error::new(ErrorKind::Invalid, message.clone()).with_qemu(message)
}

fn words(range: Range<usize>, header: &Header) -> Vec<u8> {
    header
        .to_bytes()
        .get(range)
        .map(<[u8]>::to_vec)
        .unwrap_or_default()
}

/// The two parts of a slot in the header: what decides, and the rest.
fn parts(slot: usize) -> (Range<usize>, Range<usize>) {
    let place = slot_place(slot);
    let (start, end) = (to_usize(place.start), to_usize(place.end));
    (start..start + 4, start + 4..end)
}

/// Work on the slots of one header.
struct Work {
    area: LuksArea,
    random: Random,
    change: SlotChange,
}

impl Work {
    /// Writes a part of the header as it is now.
    fn part(&self, range: Range<usize>) -> (u64, Vec<u8>) {
        let at = backchain_format::bytes::to_u64(range.start);
        (at, words(range, &self.area.header))
    }

    fn fill(
        &mut self,
        slot: usize,
        key: &MasterKey,
        passphrase: &[u8],
        iterations: u32,
    ) -> Result<()> {
        let material = self
            .area
            .fill_slot(slot, key, passphrase, iterations, &mut self.random)?;
        let (decides, rest) = parts(slot);
        let groups = [vec![material, self.part(rest)], vec![self.part(decides)]];
        self.change.groups.extend(groups);
        Ok(())
    }

    fn erase(&mut self, slots: &[usize]) {
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for &number in slots {
            let len = to_usize(self.area.header.key_material_len());
            let Some(slot) = self.area.header.slots.get_mut(number) else {
                continue;
            };
            slot.active = false;
            slot.iterations = 0;
            slot.salt = [0; 32];
            let at = slot.key_offset;
            let mut noise = vec![0; len];
            self.random.fill(&mut noise);
            let (decides, rest) = parts(number);
            first.push(self.part(decides));
            then.extend([(at, noise), self.part(rest)]);
        }
        self.change.groups.extend([first, then]);
    }
}

impl LuksArea {
    /// Works out a change of key slots. `key` is the master key, looked for only when it is
    /// needed. With `force`, a slot in use is overwritten and the last one is erased, after
    /// which nobody can read the data any more.
    ///
    /// # Errors
    /// *Invalid*, in qemu-img's words, for what cannot be or needs `force`.
    pub fn change_slots(
        &self,
        source: &dyn ReadAt,
        key: impl FnOnce() -> Result<MasterKey>,
        request: &SlotRequest<'_>,
        force: bool,
        seed: &Seed,
    ) -> Result<SlotChange> {
        let mut work = Work {
            area: self.clone(),
            random: Random::new(seed)?,
            change: SlotChange::default(),
        };
        let active = |slot: usize| self.header.slots.get(slot).is_some_and(|slot| slot.active);
        let free = (0..SLOTS).find(|&slot| !active(slot));
        match *request {
            SlotRequest::Fill {
                slot,
                passphrase,
                iterations,
            } => {
                let slot = self.slot_to_fill(slot, force)?;
                let key = key()?;
                // While a slot is replaced the key is in a free one, too: some passphrase opens
                // the image at any time.
                let spare = free.filter(|_| active(slot));
                if let Some(spare) = spare {
                    work.fill(spare, &key, passphrase, iterations)?;
                }
                if active(slot) {
                    work.erase(&[slot]);
                }
                work.fill(slot, &key, passphrase, iterations)?;
                if let Some(spare) = spare {
                    work.erase(&[spare]);
                }
            }
            SlotRequest::Erase { slot, passphrase } => {
                let slots = self.slots_to_erase(source, slot, passphrase, force)?;
                work.erase(&slots);
            }
        }
        Ok(work.change)
    }

    /// The slot of that number; the first free one when there is none.
    ///
    /// # Errors
    /// *Invalid* when there is no such slot, or it is in use and `force` is not set.
    pub fn slot_to_fill(&self, slot: Option<u32>, force: bool) -> Result<usize> {
        let slots = &self.header.slots;
        let Some(number) = slot else {
            return slots
                .iter()
                .position(|slot| !slot.active)
                .ok_or_else(|| refused("Can't add a keyslot - all keyslots are in use"));
        };
        let slot = existing(number)?;
        if !force && slots.get(slot).is_some_and(|slot| slot.active) {
            return Err(refused(format!(
                "Refusing to overwrite active keyslot {number} - please erase it first"
            )));
        }
        Ok(slot)
    }

    fn slots_to_erase(
        &self,
        source: &dyn ReadAt,
        slot: Option<u32>,
        passphrase: Option<&[u8]>,
        force: bool,
    ) -> Result<Vec<usize>> {
        let slots = &self.header.slots;
        let active = slots.iter().filter(|slot| slot.active).count();
        let opens = |slot: usize, passphrase: &[u8]| -> Result<bool> {
            Ok(self.try_slot(source, slot, passphrase)?.is_some())
        };
        if let Some(number) = slot {
            let slot = existing(number)?;
            if let Some(passphrase) = passphrase
                && !opens(slot, passphrase)?
            {
                return Err(refused(format!(
                    "Given keyslot {number} doesn't contain the given old password for erase \
                     operation"
                )));
            }
            let in_use = slots.get(slot).is_some_and(|slot| slot.active);
            if !force && !in_use {
                // The blank at the end is qemu-img's.
                return Err(refused(format!(
                    "Given keyslot {number} is already erased (inactive) "
                )));
            }
            if !force && active == 1 {
                return Err(refused(format!(
                    "Attempt to erase the only active keyslot {number} which will erase all the \
                     data in the image irreversibly - refusing operation"
                )));
            }
            return Ok(vec![slot]);
        }
        let Some(passphrase) = passphrase else {
            return Err(refused(
                "To erase keyslot(s), either explicit keyslot index or the password currently \
                 contained in them must be given",
            ));
        };
        let mut found = Vec::new();
        for slot in 0..SLOTS {
            if opens(slot, passphrase)? {
                found.push(slot);
            }
        }
        if found.is_empty() {
            return Err(refused(
                "No keyslots match given (old) password for erase operation",
            ));
        }
        if !force && found.len() == active {
            return Err(refused(
                "All the active keyslots match the (old) password that was given and erasing \
                 them will erase all the data in the image irreversibly - refusing operation",
            ));
        }
        Ok(found)
    }
}

/// The slot of that number.
fn existing(number: u32) -> Result<usize> {
    let slot = to_usize(u64::from(number));
    if slot < SLOTS {
        return Ok(slot);
    }
    Err(refused(format!(
        "Invalid keyslot {number} specified, must be between 0 and {}",
        SLOTS - 1
    )))
}

#[cfg(test)]
mod tests {
    use super::super::LuksOptions;
    use super::*;
    use backchain_format::luks::{CipherSpec, HashName};

    fn volume() -> Vec<u8> {
        let options = LuksOptions {
            cipher: CipherSpec::parse("aes", "xts-plain64", 64).unwrap(),
            hash: HashName::Sha256,
            slot_iterations: 10,
            digest_iterations: 10,
        };
        let volume = LuksArea::create(&options, b"old", &Seed([1; 32])).unwrap();
        volume.bytes
    }

    fn opens(bytes: &Vec<u8>, passphrase: &[u8]) -> bool {
        let area = LuksArea::read(bytes, 0).unwrap();
        area.unlock(bytes, passphrase).is_ok()
    }

    /// Carries a change out and shows `check` the volume after every subset of each group that
    /// a crash can leave.
    fn apply(
        bytes: &mut Vec<u8>,
        request: &SlotRequest<'_>,
        force: bool,
        check: impl Fn(&Vec<u8>),
    ) {
        let area = LuksArea::read(bytes, 0).unwrap();
        let key = || Ok(area.unlock(bytes, b"old")?.1);
        let change = area
            .change_slots(bytes, key, request, force, &Seed([2; 32]))
            .unwrap();
        for group in change.groups {
            let write = |to: &mut Vec<u8>, (at, with): &(u64, Vec<u8>)| {
                let at = to_usize(*at);
                to[at..at + with.len()].copy_from_slice(with);
            };
            for subset in 0..1u32 << group.len() {
                let mut torn = bytes.clone();
                for (bit, step) in group.iter().enumerate() {
                    if subset >> bit & 1 == 1 {
                        write(&mut torn, step);
                    }
                }
                check(&torn);
            }
            group.iter().for_each(|step| write(bytes, step));
        }
    }

    #[test]
    fn passphrases_come_and_go_and_one_opens_after_any_crash() {
        let mut bytes = volume();
        for slot in [None, Some(6), Some(7)] {
            let fill = SlotRequest::Fill {
                slot,
                passphrase: b"new",
                iterations: 10,
            };
            apply(&mut bytes, &fill, false, |torn| {
                assert!(opens(torn, b"old"))
            });
        }
        assert!(opens(&bytes, b"new") && opens(&bytes, b"old"));
        let erase = SlotRequest::Erase {
            slot: None,
            passphrase: Some(b"new"),
        };
        let before = bytes.clone();
        apply(&mut bytes, &erase, false, |torn| {
            assert!(opens(torn, b"old"))
        });
        assert!(!opens(&bytes, b"new"));
        let header = LuksArea::read(&bytes, 0).unwrap().header;
        for slot in [1, 6, 7] {
            let at = to_usize(header.slots[slot].key_offset);
            assert_ne!(bytes[at..at + 512], before[at..at + 512]);
        }
    }

    #[test]
    fn the_only_slot_can_be_replaced_without_a_moment_in_which_nothing_opens() {
        let mut bytes = volume();
        let fill = SlotRequest::Fill {
            slot: Some(0),
            passphrase: b"new",
            iterations: 10,
        };
        apply(&mut bytes, &fill, true, |torn| {
            assert!(opens(torn, b"old") || opens(torn, b"new"));
        });
        assert!(opens(&bytes, b"new") && !opens(&bytes, b"old"));
        let header = LuksArea::read(&bytes, 0).unwrap().header;
        assert_eq!(header.slots.iter().filter(|slot| slot.active).count(), 1);
    }
}
