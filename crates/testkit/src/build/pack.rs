//! Packing one cluster, as QEMU would.

use backchain_format::qcow2::Codec;
use flate2::{Compress, Compression, FlushCompress, Status};

/// The packed bytes of a cluster; `None` when it does not get smaller.
pub(super) fn pack(codec: Codec, cluster: &[u8]) -> Option<Vec<u8>> {
    let packed = match codec {
        Codec::Zlib => zlib(cluster)?,
        Codec::Zstd => zstd::bulk::compress(cluster, 1).ok()?,
    };
    (packed.len() < cluster.len()).then_some(packed)
}

/// Raw deflate with a window of 12 bits: readers reserve no more.
fn zlib(cluster: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(cluster.len());
    let mut deflater = Compress::new_with_window_bits(Compression::fast(), false, 12);
    let status = deflater.compress_vec(cluster, &mut out, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(out)
}
