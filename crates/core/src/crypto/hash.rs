//! Hashes by name, and the stretching of passphrases with them.

use crate::error::Result;
#[cfg(target_arch = "wasm32")]
use crate::error::{Error, ErrorKind};
use backchain_format::luks::HashName;
use sha2::digest::Digest;
use zeroize::Zeroizing;

/// Calls `$work::<D>($args)` for the hash `D` of that name.
macro_rules! with_hash {
    ($name:expr, $work:ident($($arg:expr),*)) => {
        match $name {
            HashName::Sha1 => Ok($work::<sha1::Sha1>($($arg),*)),
            HashName::Sha224 => Ok($work::<sha2::Sha224>($($arg),*)),
            HashName::Sha256 => Ok($work::<sha2::Sha256>($($arg),*)),
            HashName::Sha384 => Ok($work::<sha2::Sha384>($($arg),*)),
            HashName::Sha512 => Ok($work::<sha2::Sha512>($($arg),*)),
            #[cfg(not(target_arch = "wasm32"))]
            HashName::Md5 => Ok($work::<md5::Md5>($($arg),*)),
            #[cfg(not(target_arch = "wasm32"))]
            HashName::Ripemd160 => Ok($work::<ripemd::Ripemd160>($($arg),*)),
            #[cfg(not(target_arch = "wasm32"))]
            HashName::Sm3 => Ok($work::<sm3::Sm3>($($arg),*)),
            #[cfg(target_arch = "wasm32")]
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the hash {other} is only in the command line program, not on this page"),
            )),
        }
    };
}

/// The digest of `bytes`.
pub(super) fn digest(name: HashName, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    fn of<D: Digest>(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(D::digest(bytes).to_vec())
    }
    with_hash!(name, of(bytes))
}

/// Fills `out` with what PBKDF2 (RFC 8018) makes of a passphrase with HMAC of the hash `name`.
///
/// # Errors
/// *Unsupported* where the hash is not there.
pub fn pbkdf2(
    name: HashName,
    passphrase: &[u8],
    salt: &[u8],
    iterations: u32,
    out: &mut [u8],
) -> Result<()> {
    use ::pbkdf2::pbkdf2_hmac as stretch;
    with_hash!(name, stretch(passphrase, salt, iterations, out))
}
