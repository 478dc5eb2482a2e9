//! The drivers that open local files, and their options.

use super::Opening;
use super::json::Options;
use super::{Backing, File, Window, no_device};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::Format;
use serde_json::Value;

/// Bytes of a `null-co` that says nothing about them.
pub(super) const NULL_SIZE: u64 = 1 << 30;

/// A driver by its name.
pub(super) enum Driver {
    /// An image format.
    Format(Format),
    /// Files: `file` or `host_device`.
    File(&'static str),
    /// Nothing but zeros.
    Null,
}

/// Drivers of QEMU that do not open local files, or formats that are not known here.
const OTHERS: [&str; 38] = [
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "bochs",
    "cloop",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "dmg",
    "ftp",
    "ftps",
    "gluster",
    "host_cdrom",
    "http",
    "https",
    "io_uring",
    "iscsi",
    "nbd",
    "nfs",
    "null-aio",
    "nvme",
    "parallels",
    "preallocate",
    "qcow",
    "qed",
    "quorum",
    "rbd",
    "replication",
    "snapshot-access",
    "ssh",
    "throttle",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
    "virtio-blk-vhost-vdpa",
];

impl Driver {
    pub(super) fn parse(name: &str) -> Result<Self> {
        match name {
            "file" => Ok(Driver::File("file")),
            "host_device" => Ok(Driver::File("host_device")),
            "null-co" => Ok(Driver::Null),
            name if OTHERS.contains(&name) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the driver '{name}' is not supported; only images in local files are"),
            )),
            name => match name.parse() {
                Ok(format) => Ok(Driver::Format(format)),
                Err(error) => Err(Error::new(ErrorKind::Invalid, error.to_string())),
            },
        }
    }
}

/// An option that a format does not have.
pub(super) fn unknown(format: &str, option: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("Block format '{format}' does not support the option '{option}'"),
    )
}

/// The same for what opens files.
pub(super) fn unknown_of_file(driver: &str, option: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("Block protocol '{driver}' doesn't support the option '{option}'"),
    )
}

/// The name to ask the gate for when `driver` opens a file with these options: the path is meant
/// literally, as seen from the working directory.
pub(super) fn file(options: &mut Options, driver: &str) -> Result<String> {
    let Some(path) = options.take_string("filename") else {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("The '{driver}' block driver requires a file name"),
        ));
    };
    // How the file is read and locked is for the caller's gate to decide.
    for option in [
        "aio",
        "aio-max-batch",
        "locking",
        "pr-manager",
        "drop-cache",
    ] {
        options.take(option);
    }
    options.take("x-check-cache-dropped");
    Ok(format!("file:{path}"))
}

/// Bytes of a `null-co`.
pub(super) fn null(options: &mut Options) -> Result<u64> {
    options.take_switch("read-zeroes")?;
    options.take("latency-ns");
    options.take_string("filename");
    Ok(options.take_size("size")?.unwrap_or(NULL_SIZE))
}

/// The file below a format: `options` are those of the child called `role`.
pub(super) fn child(options: Option<Options>, role: &str) -> Result<File> {
    let missing = || {
        Error::new(
            ErrorKind::Invalid,
            format!("A block device must be specified for \"{role}\""),
        )
    };
    let mut options = options.ok_or_else(missing)?;
    if let Some(device) = options.take_string("") {
        return Err(no_device(&device));
    }
    options.take("");
    let driver = options.take_string("driver");
    options.drop_general();
    match driver.as_deref().map(Driver::parse).transpose()? {
        None if !options.has("filename") => Err(Error::new(
            ErrorKind::Invalid,
            "Must specify either driver or file",
        )),
        None => named(&mut options, "file"),
        Some(Driver::File(driver)) => named(&mut options, driver),
        Some(Driver::Null) => {
            let size = null(&mut options)?;
            options.none_left(|option| unknown_of_file("null-co", option))?;
            Ok(File::Null(size))
        }
        Some(Driver::Format(Format::Raw)) => {
            let inner = child(options.take_child("file"), "file")?;
            if window(&mut options)?.is_some() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "an image inside a window of a file (raw with offset or size) is not supported",
                ));
            }
            options.none_left(|option| unknown("raw", option))?;
            Ok(inner)
        }
        Some(Driver::Format(format)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("an image inside an image of format {format} is not supported"),
        )),
    }
}

fn named(options: &mut Options, driver: &str) -> Result<File> {
    let name = file(options, driver)?;
    options.none_left(|option| unknown_of_file(driver, option))?;
    Ok(File::Named(name))
}

/// `offset` and `size` of a raw image.
pub(super) fn window(options: &mut Options) -> Result<Option<Window>> {
    let (offset, size) = (options.take_size("offset")?, options.take_size("size")?);
    Ok((offset.is_some() || size.is_some()).then_some(Window {
        offset: offset.unwrap_or(0),
        size,
    }))
}

/// Which backing file the options ask for.
pub(super) fn backing(options: &mut Options) -> Backing {
    if options.get("backing").is_some_and(Value::is_null) {
        options.take("backing");
        return Backing::None;
    }
    let Some(mut child) = options.take_child("backing") else {
        return Backing::Header;
    };
    match child.take_string("") {
        Some(none) if none.is_empty() => Backing::None,
        Some(device) => Backing::Device(device),
        None => Backing::Options(child),
    }
}

/// Takes out what qcow2 has besides, none of which changes what is read; and the name of the
/// passphrase.
pub(super) fn qcow2(options: &mut Options, opening: &mut Opening) -> Result<()> {
    for option in [
        "lazy-refcounts",
        "pass-discard-request",
        "pass-discard-snapshot",
        "pass-discard-other",
        "discard-no-unref",
        "overlap-check.main-header",
        "overlap-check.active-l1",
        "overlap-check.active-l2",
        "overlap-check.refcount-table",
        "overlap-check.refcount-block",
        "overlap-check.snapshot-table",
        "overlap-check.inactive-l1",
        "overlap-check.inactive-l2",
        "overlap-check.bitmap-directory",
    ] {
        options.take_switch(option)?;
    }
    for option in [
        "cache-size",
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
    ] {
        options.take_size(option)?;
    }
    options.take("cache-clean-interval");
    for option in ["overlap-check", "overlap-check.template"] {
        let Some(value) = options.take(option) else {
            continue;
        };
        let value = super::text(&value);
        if !matches!(value.as_str(), "none" | "constant" | "cached" | "all") {
            let message = format!(
                "Unsupported value '{value}' for qcow2 option 'overlap-check'. Allowed are any \
                 of the following: none, constant, cached, all"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    opening.key_format = options.take_string("encrypt.format");
    if let Some(secret) = options.take_string("encrypt.key-secret") {
        opening.key_secret = Some(secret);
    }
    Ok(())
}
