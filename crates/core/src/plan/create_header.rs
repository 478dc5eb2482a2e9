//! The header of a new qcow2 image: which options go together, in qemu-img's words.

use super::{CreateOptions, Preallocation};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::qcow2::{
    ClusterSize, Codec, CryptMethod, Header, RefcountWidth, Version, autoclear, compatible,
    incompatible,
};
pub(super) fn too_large() -> Error {
    let message =
        "The image size is too large for file format 'qcow2' (try using a larger cluster size)";
    Error::new(ErrorKind::Invalid, message)
}

/// The header of a new image, without what depends on its layout.
pub(super) fn header(options: &CreateOptions, size: u64, has_backing: bool) -> Result<Header> {
    let invalid = |message: &str| Error::new(ErrorKind::Invalid, message);
    let too_old = |what: &str| {
        let message =
            format!("{what} with compatibility level 1.1 and above (use version=v3 or greater)");
        Error::new(ErrorKind::Invalid, message)
    };
    let cluster = ClusterSize::from_bytes(options.cluster_size)
        .ok_or_else(|| invalid("Cluster size must be a power of two between 512 and 2048k"))?;
    if options.extended_l2 && cluster.bytes() < MIN_EXTENDED {
        let message = format!(
            "Extended L2 entries are only supported with cluster sizes of at least {MIN_EXTENDED} bytes"
        );
        return Err(invalid(&message));
    }
    if options.extended_l2 && !options.v3 {
        return Err(too_old("Extended L2 entries are only supported"));
    }
    if has_backing && options.preallocation != Preallocation::Off && !options.extended_l2 {
        let message =
            "Backing file and preallocation can only be used at the same time if extended_l2 is on";
        return Err(invalid(message));
    }
    if options.lazy_refcounts && !options.v3 {
        return Err(too_old("Lazy refcounts only supported"));
    }
    let width = RefcountWidth::from_bits(options.refcount_bits).ok_or_else(|| {
        invalid("Refcount width must be a power of two and may not exceed 64 bits")
    })?;
    if !options.v3 && width != RefcountWidth::DEFAULT {
        let message = "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)";
        return Err(invalid(message));
    }
    if !options.v3 && options.codec != Codec::Zlib {
        return Err(too_old("Non-zlib compression type is only supported"));
    }
    if options.data_file.is_some() && !options.v3 {
        return Err(too_old("External data files are only supported"));
    }
    if options.data_file_raw && options.data_file.is_none() {
        return Err(invalid("data-file-raw requires data-file"));
    }
    if options.data_file_raw && has_backing {
        let message = "Backing file and data-file-raw cannot be used at the same time";
        return Err(invalid(message));
    }
    let mut incompatible = 0;
    if options.data_file.is_some() {
        incompatible |= incompatible::DATA_FILE;
    }
    if options.extended_l2 {
        incompatible |= incompatible::EXTENDED_L2;
    }
    if options.codec != Codec::Zlib {
        incompatible |= incompatible::COMPRESSION;
    }
    Ok(Header {
        version: if options.v3 { Version::V3 } else { Version::V2 },
        backing_name: None,
        cluster,
        size,
        crypt: match options.encryption {
            Some(_) => CryptMethod::Luks,
            None => CryptMethod::None,
        },
        l1_table: HostOffset(0),
        l1_entries: 0,
        refcount_table: HostOffset(cluster.bytes()),
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshot_table: HostOffset(0),
        incompatible,
        compatible: if options.lazy_refcounts {
            compatible::LAZY_REFCOUNTS
        } else {
            0
        },
        autoclear: if options.data_file_raw {
            autoclear::RAW_DATA_FILE
        } else {
            0
        },
        refcount_width: width,
        codec: options.codec,
        header_length: if options.v3 { 112 } else { 72 },
        unknown: if options.v3 { vec![0; 7] } else { Vec::new() },
    })
}

/// Subclusters are a sector or larger.
const MIN_EXTENDED: u64 = 32 * 512;
