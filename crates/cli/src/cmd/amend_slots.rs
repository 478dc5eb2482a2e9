//! The key slots of an encrypted image: what `amend -o` says of them, and the change it means.

use crate::failure::Failure;
use crate::new_image::encrypt::ITER_TIME;
use crate::new_image::number;
use crate::open::words;
use backchain::chain::{Gate, Node, Secret};
use backchain::crypto::{SlotChange, SlotRequest};
use backchain::plan::Amendment;
use backchain::{Error, Format};
use backchain_native::{FsGate, seed, stretch};
use std::sync::Arc;

/// What `-o help` says of LUKS volumes.
pub(super) const HELP: &str = "Amend options for 'luks':
  iter-time=<num>        - Time to spend in PBKDF in milliseconds
  keyslot=<num>          - Select a single keyslot to modify explicitly
  new-secret=<str>       - New secret to set in the matching keyslots. Empty string to erase
  old-secret=<str>       - Select all keyslots that match this password
  state=<str>            - Select new state of affected keyslots (active/inactive)";

/// Options about key slots.
#[derive(Default)]
pub(super) struct SlotOptions {
    state: Option<String>,
    new_secret: Option<String>,
    old_secret: Option<String>,
    keyslot: Option<u32>,
    iter_time: Option<u64>,
    any: bool,
}

impl SlotOptions {
    /// Takes `key` when it is one of these options.
    pub(super) fn take(&mut self, format: Format, key: &str, value: &str) -> Result<bool, Failure> {
        let name = match format {
            Format::Luks => Some(key),
            _ => key.strip_prefix("encrypt."),
        };
        let parse = || {
            number(value)
                .ok_or_else(|| Failure::new(format_args!("Parameter '{key}' expects a number")))
        };
        match name {
            Some("state") => self.state = Some(value.to_owned()),
            Some("new-secret") => self.new_secret = Some(value.to_owned()),
            Some("old-secret") => self.old_secret = Some(value.to_owned()),
            // qemu-img looks at the lower half only.
            Some("keyslot") => {
                let low = parse()? & u64::from(u32::MAX);
                self.keyslot = u32::try_from(low).ok();
            }
            Some("iter-time") => self.iter_time = Some(parse()?),
            _ => return Ok(false),
        }
        self.any = true;
        Ok(true)
    }

    /// Whether any was given.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Works out the change of `node`, which takes as long as the passphrases are stretched.
    pub(super) fn amendment(
        &self,
        node: &Node,
        gate: &FsGate,
        force: bool,
    ) -> Result<Amendment, Failure> {
        let change = match self.state.as_deref() {
            None => Err(Failure::new("Parameter 'state' is missing")),
            Some("active") => self.fill(node, gate, force),
            Some("inactive") => self.erase(node, gate, force),
            Some(other) => Err(Failure::new(format_args!(
                "Parameter 'state' does not accept value '{other}'"
            ))),
        }?;
        Ok(Amendment::KeySlots(Arc::new(change)))
    }

    fn fill(&self, node: &Node, gate: &FsGate, force: bool) -> Result<SlotChange, Failure> {
        let Some(id) = &self.new_secret else {
            return Err(Failure::new(
                "'new-secret' is required to activate a keyslot",
            ));
        };
        if self.old_secret.is_some() {
            return Err(Failure::new(
                "'old-secret' must not be given when activating keyslots",
            ));
        }
        let (area, key) = node.luks().map_err(failure)?;
        area.slot_to_fill(self.keyslot, force).map_err(failure)?;
        let secret = secret(gate, id)?;
        let (hash, len) = (area.header.hash, area.header.cipher.key_len());
        let pace = stretch::measure(hash, len).map_err(failure)?;
        let request = SlotRequest::Fill {
            slot: self.keyslot,
            passphrase: secret.as_bytes(),
            iterations: pace.for_slot(self.iter_time.unwrap_or(ITER_TIME)),
        };
        let seed = seed().map_err(failure)?;
        area.change_slots(node.source.as_ref(), key, &request, force, &seed)
            .map_err(failure)
    }

    fn erase(&self, node: &Node, gate: &FsGate, force: bool) -> Result<SlotChange, Failure> {
        for (given, name) in [
            (self.new_secret.is_some(), "new-secret"),
            (self.iter_time.is_some(), "iter-time"),
        ] {
            if given {
                return Err(Failure::new(format_args!(
                    "'{name}' must not be given when erasing keyslots"
                )));
            }
        }
        let old = self.old_secret.as_deref().map(|id| secret(gate, id));
        let old = old.transpose()?;
        let request = SlotRequest::Erase {
            slot: self.keyslot,
            passphrase: old.as_ref().map(Secret::as_bytes),
        };
        let (area, key) = node.luks().map_err(failure)?;
        let seed = seed().map_err(failure)?;
        area.change_slots(node.source.as_ref(), key, &request, force, &seed)
            .map_err(failure)
    }
}

fn secret(gate: &FsGate, id: &str) -> Result<Secret, Failure> {
    gate.secret(id)
        .ok_or_else(|| Failure::new(format_args!("No secret with id '{id}'")))
}

/// In qemu-img's words, which do not name the file.
fn failure(error: Error) -> Failure {
    Failure::new(words(&error))
}
