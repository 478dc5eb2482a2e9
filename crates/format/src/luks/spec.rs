//! How sectors are encrypted: names and numbers.

use crate::FormatError;
use std::fmt;
use std::str::FromStr;

/// A block cipher and the length of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// AES with 128, 192 or 256 bits.
    Aes(u16),
    /// CAST5 with 128 bits.
    Cast5,
    /// Serpent with 128, 192 or 256 bits.
    Serpent(u16),
    /// Twofish with 128, 192 or 256 bits.
    Twofish(u16),
}

impl Algorithm {
    const ALL: [Algorithm; 10] = [
        Algorithm::Aes(128),
        Algorithm::Aes(192),
        Algorithm::Aes(256),
        Algorithm::Cast5,
        Algorithm::Serpent(128),
        Algorithm::Serpent(192),
        Algorithm::Serpent(256),
        Algorithm::Twofish(128),
        Algorithm::Twofish(192),
        Algorithm::Twofish(256),
    ];

    /// The name in a LUKS header.
    pub const fn family(self) -> &'static str {
        match self {
            Algorithm::Aes(_) => "aes",
            Algorithm::Cast5 => "cast5",
            Algorithm::Serpent(_) => "serpent",
            Algorithm::Twofish(_) => "twofish",
        }
    }

    /// Bits of a key.
    pub const fn key_bits(self) -> u16 {
        match self {
            Algorithm::Aes(bits) | Algorithm::Serpent(bits) | Algorithm::Twofish(bits) => bits,
            Algorithm::Cast5 => 128,
        }
    }

    /// Bytes of a key.
    pub const fn key_len(self) -> usize {
        match self.key_bits() {
            128 => 16,
            192 => 24,
            _ => 32,
        }
    }

    /// Bytes of a block.
    pub const fn block_len(self) -> usize {
        match self {
            Algorithm::Cast5 => 8,
            _ => 16,
        }
    }

    /// The cipher of this family with a key of `bytes` bytes.
    pub fn with_key_len(self, bytes: usize) -> Option<Self> {
        Self::find(self.family(), bytes)
    }

    fn find(family: &str, key_len: usize) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|a| a.family() == family && a.key_len() == key_len)
    }
}

impl fmt::Display for Algorithm {
    /// QEMU's name, `aes-256`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.family(), self.key_bits())
    }
}

impl FromStr for Algorithm {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        let mut all = Self::ALL.into_iter();
        all.find(|a| a.to_string() == name).ok_or(())
    }
}

/// Names of an enumeration, as QEMU and LUKS headers have them.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Its name in headers and on command lines.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = ();
            fn from_str(name: &str) -> Result<Self, ()> {
                match name {
                    $($text => Ok($name::$variant),)*
                    _ => Err(()),
                }
            }
        }
    };
}

names! {
    /// How the blocks of a sector hang together.
    Mode {
        /// Not at all: equal blocks look equal.
        Ecb = "ecb",
        /// Cipher block chaining.
        Cbc = "cbc",
        /// XEX with two keys; the key is twice as long as the cipher's.
        Xts = "xts",
        /// Counter.
        Ctr = "ctr",
    }
}

names! {
    /// How the initialisation vector of a sector is made from its number.
    IvGenerator {
        /// The lower 32 bits of the number, little-endian.
        Plain = "plain",
        /// The number, 64 bits, little-endian.
        Plain64 = "plain64",
        /// The number encrypted with a hash of the key.
        Essiv = "essiv",
    }
}

names! {
    /// A hash function.
    HashName {
        /// MD5
        Md5 = "md5",
        /// SHA-1
        Sha1 = "sha1",
        /// SHA-224
        Sha224 = "sha224",
        /// SHA-256
        Sha256 = "sha256",
        /// SHA-384
        Sha384 = "sha384",
        /// SHA-512
        Sha512 = "sha512",
        /// RIPEMD-160
        Ripemd160 = "ripemd160",
        /// SM3
        Sm3 = "sm3",
    }
}

impl HashName {
    /// Bytes of a digest.
    pub const fn digest_len(self) -> usize {
        match self {
            HashName::Md5 => 16,
            HashName::Sha1 | HashName::Ripemd160 => 20,
            HashName::Sha224 => 28,
            HashName::Sha256 | HashName::Sm3 => 32,
            HashName::Sha384 => 48,
            HashName::Sha512 => 64,
        }
    }
}

/// What the cipher fields of a header say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSpec {
    /// Cipher and length of one key.
    pub algorithm: Algorithm,
    /// Mode.
    pub mode: Mode,
    /// Where initialisation vectors come from.
    pub iv: IvGenerator,
    /// The hash of [`IvGenerator::Essiv`]; `None` with the others.
    pub iv_hash: Option<HashName>,
}

impl CipherSpec {
    /// From a header's fields: `aes`, `xts-plain64`, and the bytes of its master key.
    ///
    /// # Errors
    /// *Unsupported* for names that are not known, at the byte of the header they are at.
    pub fn parse(cipher: &str, mode: &str, key_bytes: u32) -> Result<Self, FormatError> {
        let unsupported = |at: u64, message: String| FormatError::unsupported(at, message);
        let wrong_mode =
            || unsupported(40, format!("Unexpected cipher mode string format '{mode}'"));
        let (name, iv) = mode.split_once('-').ok_or_else(wrong_mode)?;
        let (iv, hash) = match iv.split_once(':') {
            Some((iv, hash)) => (iv, Some(hash)),
            None => (iv, None),
        };
        let mode = name
            .parse()
            .map_err(|()| unsupported(40, format!("Cipher mode '{name}' not supported")))?;
        let iv: IvGenerator = iv
            .parse()
            .map_err(|()| unsupported(40, format!("IV generator '{iv}' not supported")))?;
        let iv_hash = match (iv, hash) {
            (IvGenerator::Essiv, Some(hash)) => {
                let message = format!("Hash algorithm '{hash}' not supported");
                Some(hash.parse().map_err(|()| unsupported(40, message))?)
            }
            (IvGenerator::Essiv, None) => {
                return Err(FormatError::corrupt(
                    40,
                    "Missing IV generator hash specification",
                ));
            }
            _ => None,
        };
        let halves = if mode == Mode::Xts { 2 } else { 1 };
        let len = usize::try_from(key_bytes).unwrap_or(usize::MAX);
        let algorithm =
            Algorithm::find(cipher, len / halves).filter(|_| len.is_multiple_of(halves));
        let Some(algorithm) = algorithm else {
            let message = format!(
                "Algorithm '{cipher}' with key size {} bytes not supported",
                len / halves
            );
            return Err(unsupported(8, message));
        };
        let spec = Self {
            algorithm,
            mode,
            iv,
            iv_hash,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Fails where the parts do not go together.
    pub fn check(&self) -> Result<(), FormatError> {
        if self.mode == Mode::Xts && self.algorithm.block_len() != 16 {
            return Err(FormatError::unsupported(40, "Unsupported cipher mode xts"));
        }
        if self.iv == IvGenerator::Essiv {
            self.essiv()?;
        }
        Ok(())
    }

    /// Cipher and hash that make the vectors of [`IvGenerator::Essiv`].
    pub fn essiv(&self) -> Result<(Algorithm, HashName), FormatError> {
        let hash = self.iv_hash.unwrap_or(HashName::Sha256);
        let len = hash.digest_len();
        match (self.algorithm, self.algorithm.with_key_len(len)) {
            (_, Some(algorithm)) => Ok((algorithm, hash)),
            (algorithm, None) => {
                let family = match algorithm {
                    Algorithm::Aes(_) => "AES",
                    Algorithm::Serpent(_) => "Serpent",
                    Algorithm::Twofish(_) => "Twofish",
                    Algorithm::Cast5 => "CAST5",
                };
                let message = format!("No {family} cipher with key size {len} available");
                Err(FormatError::unsupported(40, message))
            }
        }
    }

    /// Bytes of the master key.
    pub const fn key_len(&self) -> usize {
        match self.mode {
            Mode::Xts => 2 * self.algorithm.key_len(),
            _ => self.algorithm.key_len(),
        }
    }

    /// The `cipher-mode` field of a header: `cbc-essiv:sha256`.
    pub fn mode_field(&self) -> String {
        match self.iv_hash {
            Some(hash) if self.iv == IvGenerator::Essiv => {
                format!("{}-{}:{hash}", self.mode, self.iv)
            }
            _ => format!("{}-{}", self.mode, self.iv),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_header_read_back_from_what_they_make() {
        for (cipher, mode, bytes, name) in [
            ("aes", "xts-plain64", 64, "aes-256"),
            ("aes", "cbc-essiv:sha256", 16, "aes-128"),
            ("serpent", "ecb-plain", 32, "serpent-256"),
            ("cast5", "cbc-plain64", 16, "cast5-128"),
        ] {
            let spec = CipherSpec::parse(cipher, mode, bytes).unwrap();
            assert_eq!(spec.algorithm.to_string(), name);
            assert_eq!(spec.mode_field(), mode);
            assert_eq!(spec.key_len(), usize::try_from(bytes).unwrap());
            assert_eq!(name.parse(), Ok(spec.algorithm));
        }
    }

    #[test]
    fn what_is_not_known_or_does_not_fit_is_refused() {
        for (cipher, mode, bytes) in [
            ("aes", "xts", 64),
            ("aes", "xts-plain64", 33),
            ("aes", "xts-random", 64),
            ("aes", "cbc-essiv", 32),
            ("aes", "cbc-essiv:sha1", 32),
            ("aes", "gcm-plain64", 32),
            ("cast5", "xts-plain64", 32),
            ("rot13", "cbc-plain64", 32),
            ("aes", "cbc-plain64", u32::MAX),
        ] {
            assert!(
                CipherSpec::parse(cipher, mode, bytes).is_err(),
                "{cipher}-{mode}"
            );
        }
    }
}
