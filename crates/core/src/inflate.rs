//! Unpacking compressed clusters.

use crate::error::{Error, ErrorKind, Result};
use backchain_format::qcow2::Codec;
use flate2::{Decompress, FlushDecompress, Status};

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
    use flate2::{Compress, Compression, FlushCompress};

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + 64);
        Compress::new(Compression::default(), false)
            .compress_vec(data, &mut out, FlushCompress::Finish)
            .unwrap();
        out
    }

    #[test]
    fn state_is_reused_and_padding_behind_the_stream_ignored() {
        let mut state = CodecState::default();
        for fill in [1u8, 2] {
            let data = vec![fill; 4096];
            let mut packed = deflated(&data);
            packed.resize(packed.len().next_multiple_of(512), 0xaa);
            let mut out = vec![0; 4096];
            inflate(&mut state, Codec::Zlib, &packed, &mut out).unwrap();
            assert_eq!(out, data);
        }
    }

    #[test]
    fn short_and_damaged_data_is_corrupt() {
        let mut state = CodecState::default();
        let packed = deflated(&[7; 100]);
        let mut out = vec![0; 4096];
        let error = inflate(&mut state, Codec::Zlib, &packed, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        for codec in [Codec::Zlib, Codec::Zstd] {
            assert!(inflate(&mut state, codec, &[0xff; 512], &mut out).is_err());
            assert!(inflate(&mut state, codec, &[], &mut out).is_err());
        }
    }
}
