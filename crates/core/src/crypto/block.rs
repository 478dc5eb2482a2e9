//! Block ciphers with their keys, behind one small interface.

use crate::error::{Error, ErrorKind, Result};
use crate::source::Shareable;
use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, array::ArraySize,
};
use backchain_format::luks::Algorithm;

/// A block cipher with its key: works on any number of whole blocks, each on its own.
pub(super) trait Blocks: Shareable {
    /// Encrypts every block in place.
    fn encrypt(&self, blocks: &mut [u8]);
    /// Decrypts every block in place.
    fn decrypt(&self, blocks: &mut [u8]);
}

struct Keyed<C>(C);

impl<C> Blocks for Keyed<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + Shareable,
    <C as BlockSizeUser>::BlockSize: ArraySize,
{
    fn encrypt(&self, blocks: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(blocks);
        self.0.encrypt_blocks(blocks);
    }

    fn decrypt(&self, blocks: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(blocks);
        self.0.decrypt_blocks(blocks);
    }
}

fn keyed<C>(key: &[u8]) -> Result<Box<dyn Blocks>>
where
    C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt + Shareable + 'static,
{
    let cipher = C::new_from_slice(key).map_err(|_| {
        let message = format!("a key of {} bytes does not fit the cipher", key.len());
        Error::new(ErrorKind::Invalid, message)
    })?;
    Ok(Box::new(Keyed(cipher)))
}

/// Gives `algorithm` its key.
pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Result<Box<dyn Blocks>> {
    if key.len() != algorithm.key_len() {
        let message = format!("{algorithm} does not take a key of {} bytes", key.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    match algorithm {
        Algorithm::Aes(128) => keyed::<aes::Aes128>(key),
        Algorithm::Aes(192) => keyed::<aes::Aes192>(key),
        Algorithm::Aes(_) => keyed::<aes::Aes256>(key),
        #[cfg(not(target_arch = "wasm32"))]
        Algorithm::Cast5 => keyed::<cast5::Cast5>(key),
        #[cfg(not(target_arch = "wasm32"))]
        Algorithm::Serpent(_) => keyed::<serpent::Serpent>(key),
        #[cfg(not(target_arch = "wasm32"))]
        Algorithm::Twofish(_) => keyed::<twofish::Twofish>(key),
        #[cfg(target_arch = "wasm32")]
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the cipher {other} is only in the command line program, not on this page"),
        )),
    }
}
