//! Packing and unpacking compressed clusters.

use crate::error::{Error, ErrorKind, Result};
use backchain_format::qcow2::Codec;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// State worth keeping between clusters: one for each thread.
#[derive(Default)]
pub struct CodecState {
    zlib: Option<Decompress>,
    #[cfg(not(target_arch = "wasm32"))]
    zstd: Option<zstd::zstd_safe::DCtx<'static>>,
}

/// Unpacks one cluster: `packed` may run on behind the end of the stream; `cluster` is filled
/// completely or the data is corrupt.
pub fn inflate(
    state: &mut CodecState,
    codec: Codec,
    packed: &[u8],
    cluster: &mut [u8],
) -> Result<()> {
    let filled = match codec {
        Codec::Zlib => zlib(state, packed, cluster),
        Codec::Zstd => zstd(state, packed, cluster),
    };
    match filled {
        Ok(n) if n == cluster.len() => Ok(()),
        Ok(n) => Err(corrupt(format!(
            "holds {n} bytes instead of {}",
            cluster.len()
        ))),
        Err(reason) => Err(corrupt(reason)),
    }
}

/// Bits of the window that QEMU unpacks zlib's data with.
const WINDOW_BITS: u8 = 12;

/// State worth keeping between clusters that are packed: one for each thread.
#[derive(Default)]
pub struct PackState {
    zlib: Option<Compress>,
    #[cfg(not(target_arch = "wasm32"))]
    zstd: Option<zstd::zstd_safe::CCtx<'static>>,
}

/// Packs one cluster as QEMU would, with each codec's usual effort. Returns false, and nothing
/// of use in `packed`, when it does not become shorter.
///
/// # Errors
/// When the codec fails, for want of memory.
pub fn deflate(
    state: &mut PackState,
    codec: Codec,
    cluster: &[u8],
    packed: &mut Vec<u8>,
) -> Result<bool> {
    packed.clear();
    let most = cluster.len().saturating_sub(1);
    let done = match codec {
        Codec::Zlib => pack_zlib(state, cluster, packed, most),
        Codec::Zstd => pack_zstd(state, cluster, packed, most),
    };
    done.map_err(|reason| {
        let message = format!("a cluster could not be compressed: {reason}");
        Error::new(ErrorKind::Io, message)
    })
}

fn pack_zlib(
    state: &mut PackState,
    cluster: &[u8],
    packed: &mut Vec<u8>,
    most: usize,
) -> Result<bool, String> {
    let deflater = state.zlib.get_or_insert_with(|| {
        Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS)
    });
    deflater.reset();
    packed.resize(most, 0);
    let status = deflater.compress(cluster, packed, FlushCompress::Finish);
    let status = status.map_err(|error| error.to_string())?;
    packed.truncate(usize::try_from(deflater.total_out()).unwrap_or(usize::MAX));
    Ok(status == Status::StreamEnd)
}

#[cfg(not(target_arch = "wasm32"))]
fn pack_zstd(
    state: &mut PackState,
    cluster: &[u8],
    packed: &mut Vec<u8>,
    most: usize,
) -> Result<bool, String> {
    use zstd::zstd_safe;
    let context = state.zstd.get_or_insert_with(zstd_safe::CCtx::create);
    packed.resize(most, 0);
    match context.compress2(packed.as_mut_slice(), cluster) {
        Ok(len) => {
            packed.truncate(len);
            Ok(true)
        }
        Err(code) if zstd_safe::get_error_name(code).contains("too small") => Ok(false),
        Err(code) => Err(zstd_safe::get_error_name(code).to_owned()),
    }
}

#[cfg(target_arch = "wasm32")]
fn pack_zstd(
    _: &mut PackState,
    cluster: &[u8],
    packed: &mut Vec<u8>,
    most: usize,
) -> Result<bool, String> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    *packed = compress_to_vec(cluster, CompressionLevel::Fastest);
    Ok(packed.len() <= most)
}

fn corrupt(reason: String) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("compressed cluster cannot be unpacked: {reason}"),
    )
}

fn zlib(state: &mut CodecState, packed: &[u8], cluster: &mut [u8]) -> Result<usize, String> {
    let inflater = state.zlib.get_or_insert_with(|| Decompress::new(false));
    inflater.reset(false);
    let status = inflater.decompress(packed, cluster, FlushDecompress::Finish);
    let filled = usize::try_from(inflater.total_out()).unwrap_or(usize::MAX);
    match status {
        // A full buffer is enough: the stream's own end may be cut off.
        Ok(Status::StreamEnd | Status::Ok) => Ok(filled),
        Ok(Status::BufError) if filled == cluster.len() => Ok(filled),
        Ok(Status::BufError) => Err("the packed data is cut off".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn zstd(state: &mut CodecState, packed: &[u8], cluster: &mut [u8]) -> Result<usize, String> {
    use zstd::zstd_safe::{self, InBuffer, OutBuffer};
    // The frame's end is unknown (packed data is padded to sectors), so it is streamed.
    let context = state.zstd.get_or_insert_with(zstd_safe::DCtx::create);
    let reset = context.reset(zstd_safe::ResetDirective::SessionOnly);
    reset.map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(cluster);
    loop {
        let before = (input.pos(), output.pos());
        let hint = context
            .decompress_stream(&mut output, &mut input)
            .map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
        let done = hint == 0 || output.pos() == output.capacity();
        if done || (input.pos(), output.pos()) == before {
            return Ok(output.pos());
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn zstd(_: &mut CodecState, packed: &[u8], cluster: &mut [u8]) -> Result<usize, String> {
    use std::io::Read;
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|e| e.to_string())?;
    let mut filled = 0;
    while filled < cluster.len() {
        match decoder.read(&mut cluster[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(codec: Codec, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(deflate(&mut PackState::default(), codec, data, &mut out).unwrap());
        out
    }

    #[test]
    fn state_is_reused_and_padding_behind_the_stream_ignored() {
        let mut state = CodecState::default();
        for codec in [Codec::Zlib, Codec::Zstd] {
            for fill in [1u8, 2] {
                let data = vec![fill; 4096];
                let mut packed = packed(codec, &data);
                packed.resize(packed.len().next_multiple_of(512), 0xaa);
                let mut out = vec![0; 4096];
                inflate(&mut state, codec, &packed, &mut out).unwrap();
                assert_eq!(out, data);
            }
        }
    }

    #[test]
    fn short_and_damaged_data_is_corrupt() {
        let mut state = CodecState::default();
        let packed = packed(Codec::Zlib, &[7; 100]);
        let mut out = vec![0; 4096];
        let error = inflate(&mut state, Codec::Zlib, &packed, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        for codec in [Codec::Zlib, Codec::Zstd] {
            assert!(inflate(&mut state, codec, &[0xff; 512], &mut out).is_err());
            assert!(inflate(&mut state, codec, &[], &mut out).is_err());
        }
    }

    /// Noise does not become shorter; that is said, whatever went before with the same state.
    #[test]
    fn what_does_not_become_shorter_is_left_alone() {
        let mut word = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.to_be_bytes()[0]
        })
        .take(65536)
        .collect();
        for codec in [Codec::Zlib, Codec::Zstd] {
            let (mut state, mut out) = (PackState::default(), Vec::new());
            for _ in 0..2 {
                assert!(!deflate(&mut state, codec, &noise, &mut out).unwrap());
                assert!(deflate(&mut state, codec, &[3; 65536], &mut out).unwrap());
                assert!(out.len() < 1000);
            }
        }
    }
}
