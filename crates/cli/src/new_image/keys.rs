//! The keys that `-o` knows, in the order in which QEMU prints them: one line each.

use backchain::Format;
use std::fmt::Write;

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What is printed when it is not given; empty: nothing.
    pub(super) default: &'static str,
    help: &'static str,
    /// It belongs to the file rather than to the format.
    protocol: bool,
}

/// How a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// `on` or `off`.
    Switch,
    /// A number of bytes with a suffix.
    Size,
    /// A number.
    Number,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "str",
            Self::Switch => "bool (on/off)",
            Self::Size => "size",
            Self::Number => "num",
        }
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        help,
        protocol: false,
    }
}

const fn file(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key {
        protocol: true,
        ..key(name, kind, "", help)
    }
}

use Kind::{Number, Size, Switch, Text};

const SIZE: Key = key("size", Size, "", "Virtual disk size");
const NOCOW: Key = file(
    "nocow",
    Switch,
    "Turn off copy-on-write (valid only on btrfs)",
);
const EXTENT_SIZE_HINT: Key = file(
    "extent_size_hint",
    Size,
    "Extent size hint for the image file, 0 to disable",
);

const RAW: &[Key] = &[
    SIZE,
    NOCOW,
    file(
        "preallocation",
        Text,
        "Preallocation mode (allowed values: off, falloc, full)",
    ),
    EXTENT_SIZE_HINT,
];

#[rustfmt::skip]
const QCOW2: &[Key] = &[
    key("encryption", Switch, "", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"),
    key("encrypt.format", Text, "", "Encrypt the image, format choices: 'aes', 'luks'"),
    key("encrypt.key-secret", Text, "", "ID of secret providing qcow AES key or LUKS passphrase"),
    key("encrypt.cipher-alg", Text, "", "Name of encryption cipher algorithm"),
    key("encrypt.cipher-mode", Text, "", "Name of encryption cipher mode"),
    key("encrypt.ivgen-alg", Text, "", "Name of IV generator algorithm"),
    key("encrypt.ivgen-hash-alg", Text, "", "Name of IV generator hash algorithm"),
    key("encrypt.hash-alg", Text, "", "Name of encryption hash algorithm"),
    key("encrypt.iter-time", Number, "", "Time to spend in PBKDF in milliseconds"),
    key("cluster_size", Size, "65536", "qcow2 cluster size"),
    key("extended_l2", Switch, "off", "Extended L2 tables"),
    key("preallocation", Text, "", "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    key("compression_type", Text, "zlib", "Compression method used for image cluster compression"),
    SIZE,
    key("compat", Text, "", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    key("backing_file", Text, "", "File name of a base image"),
    key("backing_fmt", Text, "", "Image format of the base image"),
    key("data_file", Text, "", "File name of an external data file"),
    key("data_file_raw", Switch, "", "The external data file must stay valid as a raw image"),
    key("lazy_refcounts", Switch, "off", "Postpone refcount updates"),
    key("refcount_bits", Number, "16", "Width of a reference count entry in bits"),
    NOCOW,
    EXTENT_SIZE_HINT,
];

#[rustfmt::skip]
const LUKS: &[Key] = &[
    SIZE,
    key("key-secret", Text, "", "ID of the secret that provides the keyslot passphrase"),
    key("cipher-alg", Text, "", "Name of encryption cipher algorithm"),
    key("cipher-mode", Text, "", "Name of encryption cipher mode"),
    key("ivgen-alg", Text, "", "Name of IV generator algorithm"),
    key("ivgen-hash-alg", Text, "", "Name of IV generator hash algorithm"),
    key("hash-alg", Text, "", "Name of encryption hash algorithm"),
    key("iter-time", Number, "", "Time to spend in PBKDF in milliseconds"),
    key("detached-header", Switch, "", "Create a detached LUKS header"),
    NOCOW,
    file("preallocation", Text, "Preallocation mode (allowed values: off, falloc, full)"),
    EXTENT_SIZE_HINT,
];

/// The keys for new images of a format.
pub(super) fn keys(format: Format) -> &'static [Key] {
    match format {
        Format::Qcow2 => QCOW2,
        Format::Luks => LUKS,
        _ => RAW,
    }
}

/// What `-o help` prints for a format: all of it when a file name was given, as only then is it
/// known what kind of file it will be.
pub(crate) fn help(format: Format, with_file: bool) -> String {
    let mut keys: Vec<&Key> = keys(format)
        .iter()
        .filter(|key| with_file || !key.protocol)
        .collect();
    keys.sort_by_key(|key| key.name);
    let mut text = if with_file {
        "Supported options:".to_owned()
    } else {
        format!("Supported {format} options:")
    };
    for key in keys {
        let name = format!("{}=<{}>", key.name, key.kind.name());
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {name:<22} - {}", key.help);
    }
    if !with_file {
        text.push_str(
            "\n\nThe protocol level may support further options.\n\
             Specify the target filename to include those options.",
        );
    }
    text
}
