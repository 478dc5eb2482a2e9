//! Encryption of new images: `encrypt.*` of qcow2, and the same without the prefix for LUKS.

use super::NewImage;
use backchain::chain::{Gate, Secret};
use backchain::crypto::{LuksArea, LuksOptions, Volume, payload_offset};
use backchain::format::luks::{Algorithm, CipherSpec, HashName, IvGenerator, Mode};
use backchain::{Error, Format};
use backchain_native::{FsGate, seed, stretch};
use std::str::FromStr;
use std::sync::Arc;

/// What a new LUKS header is to be.
struct Wanted<'a> {
    /// The name of the passphrase.
    secret: Option<&'a str>,
    cipher: CipherSpec,
    hash: HashName,
    /// Milliseconds that stretching the passphrase is to take.
    time: u64,
}

/// QEMU's default for `iter-time`, in milliseconds.
pub(crate) const ITER_TIME: u64 = 2000;

impl NewImage {
    fn prefix(&self) -> &'static str {
        match self.format {
            Format::Luks => "",
            _ => "encrypt.",
        }
    }

    /// What is asked for, if anything.
    fn wanted(&self) -> Result<Option<Wanted<'_>>, String> {
        let prefix = self.prefix();
        if self.format == Format::Raw {
            return Ok(None);
        }
        if self.format == Format::Qcow2 {
            let mut given = self.given().filter(|key| key.starts_with(prefix));
            let alias = self.value("encryption").is_some();
            let format = match (alias, self.text("encrypt.format")) {
                (true, Some(_)) => {
                    let message = "'encrypt.format' and its alias 'encryption' can't be used at the same time";
                    return Err(message.to_owned());
                }
                (true, None) if self.is_on("encryption") => "aes",
                (_, Some(format)) => format,
                (_, None) if given.next().is_some() => {
                    return Err("Parameter 'encrypt.format' is missing".to_owned());
                }
                _ => return Ok(None),
            };
            match format {
                "luks" => {}
                "aes" => return Err(self.legacy(given)),
                other => {
                    return Err(format!(
                        "Parameter 'format' does not accept value '{other}'"
                    ));
                }
            }
        } else if self.is_on("detached-header") {
            return Err("Parameter 'detached-header' is unexpected".to_owned());
        }
        let key = |name: &str| format!("{prefix}{name}");
        let iv = self.choice("ivgen-alg")?.unwrap_or(IvGenerator::Plain64);
        let iv_hash = self.choice("ivgen-hash-alg")?;
        let cipher = CipherSpec {
            algorithm: self.algorithm()?,
            mode: self.choice("cipher-mode")?.unwrap_or(Mode::Xts),
            iv,
            iv_hash: (iv == IvGenerator::Essiv).then(|| iv_hash.unwrap_or(HashName::Sha256)),
        };
        Ok(Some(Wanted {
            secret: self.text(&key("key-secret")),
            cipher,
            hash: self.choice("hash-alg")?.unwrap_or(HashName::Sha256),
            time: self
                .number(&key("iter-time"))
                .filter(|&time| time > 0)
                .unwrap_or(ITER_TIME),
        }))
    }

    /// Why no image is made with the old method.
    fn legacy<'a>(&self, mut given: impl Iterator<Item = &'a str>) -> String {
        let only_luks = given.find(|key| !matches!(*key, "encrypt.format" | "encrypt.key-secret"));
        if let Some(key) = only_luks {
            return format!("Parameter '{key}' is unexpected");
        }
        if self.text("encrypt.key-secret").is_none() {
            return "Parameter 'encrypt.key-secret' is required for cipher".to_owned();
        }
        "new images are not encrypted with the old AES method, which is not safe; \
         use encrypt.format=luks"
            .to_owned()
    }

    fn choice<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let text = self.text(&format!("{}{name}", self.prefix()));
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| format!("Parameter '{name}' does not accept value '{text}'"))
        };
        text.map(parse).transpose()
    }

    fn algorithm(&self) -> Result<Algorithm, String> {
        // QEMU knows their names, too.
        const OTHERS: [&str; 3] = ["des", "3des", "sm4"];
        let text = self.text(&format!("{}cipher-alg", self.prefix()));
        match text.filter(|name| OTHERS.contains(name)) {
            Some(name) => Err(format!("Algorithm '{name}' not supported")),
            None => Ok(self.choice("cipher-alg")?.unwrap_or(Algorithm::Aes(256))),
        }
    }

    /// Whether the options for encryption make sense.
    pub(super) fn check_encryption(&self) -> Result<(), String> {
        self.wanted().map(|_| ())
    }

    /// Bytes in front of the disk of a LUKS volume as it is asked for.
    ///
    /// # Errors
    /// The message alone.
    pub(crate) fn header_len(&self, gate: &FsGate) -> Result<u64, String> {
        let Some(wanted) = self.wanted()? else {
            return Ok(0);
        };
        self.secret(&wanted, gate)?;
        wanted.cipher.check().map_err(|e| e.message.to_string())?;
        Ok(payload_offset(wanted.cipher))
    }

    fn secret(&self, wanted: &Wanted<'_>, gate: &FsGate) -> Result<Secret, String> {
        let id = wanted.secret.ok_or_else(|| {
            format!(
                "Parameter '{}key-secret' is required for cipher",
                self.prefix()
            )
        })?;
        gate.secret(id)
            .ok_or_else(|| format!("No secret with id '{id}'"))
    }

    /// Makes the LUKS header that is asked for, which takes as long as measuring how fast
    /// passphrases are stretched here, and stretching one.
    ///
    /// # Errors
    /// The message alone; the caller puts the file's name before it.
    pub(crate) fn encryption(&self, gate: &FsGate) -> Result<Option<Arc<Volume>>, String> {
        let Some(wanted) = self.wanted()? else {
            return Ok(None);
        };
        let secret = self.secret(&wanted, gate)?;
        let words = |error: Error| error.as_qemu().map_or(error.to_string(), str::to_owned);
        wanted.cipher.check().map_err(|e| e.message.to_string())?;
        let pace = stretch::measure(wanted.hash, wanted.cipher.key_len()).map_err(words)?;
        let options = LuksOptions {
            cipher: wanted.cipher,
            hash: wanted.hash,
            slot_iterations: pace.for_slot(wanted.time),
            digest_iterations: pace.for_digest(wanted.time),
        };
        let seed = seed().map_err(|error| format!("no random bytes: {error}"))?;
        let volume = LuksArea::create(&options, secret.as_bytes(), &seed).map_err(words)?;
        Ok(Some(Arc::new(volume)))
    }
}
