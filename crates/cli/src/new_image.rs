//! Options of new images (`-o`), read as qemu-img reads them.

use crate::failure::Failure;
use crate::keyval;
use crate::output::size::{self, SizeError};
use backchain::Format;
use backchain::format::qcow2::Codec;
use backchain::plan::CreateOptions;
use std::fmt::Write;

/// What `-o` and the options beside it ask for.
#[derive(Default)]
pub(crate) struct NewImage {
    pub(crate) options: CreateOptions,
    /// The value of `compat` as it was given.
    compat: Option<String>,
    preallocation: Option<String>,
    pub(crate) backing_file: Option<String>,
    pub(crate) backing_fmt: Option<String>,
}

impl NewImage {
    /// Reads all `-o` options for a new image of format `format`.
    ///
    /// # Errors
    /// The message alone; the caller puts the file's name before it.
    pub(crate) fn parse(format: &str, given: &[String]) -> Result<Self, String> {
        let mut new = Self::default();
        new.options.format = format
            .parse()
            .map_err(|_| format!("Unknown file format '{format}'"))?;
        for list in given {
            for (key, value) in pairs(list) {
                new.set(&key, &value)?;
            }
        }
        Ok(new)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let bytes = || match size::parse(value) {
            Ok(bytes) => Ok(bytes),
            Err(SizeError::Invalid) => Err(format!(
                "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, \
                 G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
            )),
            Err(SizeError::TooLarge) => Err(format!(
                "Value '{value}' is out of range for parameter '{key}'"
            )),
        };
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("Parameter '{key}' expects a number"))
        };
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
        };
        let options = &mut self.options;
        if key == "size" {
            options.size = Some(bytes()?);
            return Ok(());
        }
        if key == "preallocation" {
            if value != "off" {
                return Err(format!(
                    "preallocation={value} is not supported, only off is"
                ));
            }
            self.preallocation = Some(value.to_owned());
            return Ok(());
        }
        if options.format == Format::Raw {
            return Err(format!("Invalid parameter '{key}'"));
        }
        match key {
            "cluster_size" => options.cluster_size = bytes()?,
            "compat" => {
                options.v3 = match value {
                    "0.10" | "v2" => false,
                    "1.1" | "v3" => true,
                    _ => {
                        return Err(format!(
                            "Parameter 'version' does not accept value '{value}'"
                        ));
                    }
                };
                self.compat = Some(value.to_owned());
            }
            "refcount_bits" => options.refcount_bits = number()?,
            "extended_l2" => options.extended_l2 = switch()?,
            "lazy_refcounts" => options.lazy_refcounts = switch()?,
            "compression_type" => {
                options.codec = match value {
                    "zlib" => Codec::Zlib,
                    "zstd" => Codec::Zstd,
                    _ => {
                        return Err(format!(
                            "Parameter 'compression-type' does not accept value '{value}'"
                        ));
                    }
                };
            }
            "backing_file" => self.backing_file = Some(value.to_owned()),
            "backing_fmt" => self.backing_fmt = Some(value.to_owned()),
            "data_file" | "data_file_raw" | "encryption" => {
                return Err(format!("the option '{key}' is not supported yet"));
            }
            _ if key.starts_with("encrypt.") => {
                return Err(format!("the option '{key}' is not supported yet"));
            }
            _ => return Err(format!("Invalid parameter '{key}'")),
        }
        Ok(())
    }

    /// The line that `create` prints; `size` in bytes as it was given.
    pub(crate) fn formatting(&self, name: &str, size: u64) -> String {
        let options = &self.options;
        let mut line = format!("Formatting '{name}', fmt={}", options.format);
        let on = |yes: bool| if yes { "on" } else { "off" };
        // Writing to a string cannot fail.
        if options.format == Format::Raw {
            let _ = write!(line, " size={size}");
            return line;
        }
        let _ = write!(
            line,
            " cluster_size={} extended_l2={}",
            options.cluster_size,
            on(options.extended_l2)
        );
        if let Some(preallocation) = &self.preallocation {
            let _ = write!(line, " preallocation={preallocation}");
        }
        let codec = match options.codec {
            Codec::Zlib => "zlib",
            Codec::Zstd => "zstd",
        };
        let _ = write!(line, " compression_type={codec} size={size}");
        if let Some(compat) = &self.compat {
            let _ = write!(line, " compat={compat}");
        }
        if let Some(backing) = &self.backing_file {
            let _ = write!(line, " backing_file={backing}");
        }
        if let Some(format) = &self.backing_fmt {
            let _ = write!(line, " backing_fmt={format}");
        }
        let _ = write!(
            line,
            " lazy_refcounts={} refcount_bits={}",
            on(options.lazy_refcounts),
            options.refcount_bits
        );
        line
    }
}

/// Whether the user asks which options there are.
pub(crate) fn wants_help(given: &[String]) -> bool {
    given
        .iter()
        .any(|list| matches!(list.as_str(), "help" | "?"))
}

/// What `-o help` prints.
pub(crate) const QCOW2_HELP: &str = "Supported qcow2 options:
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  cluster_size=<size>    - qcow2 cluster size
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  compression_type=<str> - Compression method used for image cluster compression
  extended_l2=<bool (on/off)> - Extended L2 tables
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  preallocation=<str>    - Preallocation mode (allowed values: off)
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size";

/// `key=value,key=value`, where `,,` stands for a comma and a key alone means `on`.
fn pairs(list: &str) -> Vec<(String, String)> {
    let pair = |(key, value): (String, Option<String>)| match value {
        Some(value) => (key, value),
        None => match key.strip_prefix("no") {
            Some(key) if !key.is_empty() => (key.to_owned(), "off".to_owned()),
            _ => (key, "on".to_owned()),
        },
    };
    keyval::items(list).into_iter().map(pair).collect()
}

/// Fails when writing `name` would destroy one of the files that are read.
pub(crate) fn not_an_input(tree: &mut backchain::Tree, name: &str) -> Result<(), Failure> {
    let gate = backchain_native::FsGate::new(backchain_native::GateOptions {
        force_share: true,
        trust_probed: false,
    });
    let known = tree.nodes().len();
    if tree.add_one(&gate, name, Some(Format::Raw)).is_ok() && tree.nodes().len() == known {
        return Err(Failure::new(format_args!(
            "{name}: it is one of the images that are read, so it cannot be made anew"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commas_are_one() {
        let (a, b) = (pairs("size=1M,backing_file=a,,b"), pairs("lazy_refcounts"));
        let text = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(a, [text("size", "1M"), text("backing_file", "a,b")]);
        assert_eq!(b, [text("lazy_refcounts", "on")]);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for option in [
            "preallocation=full",
            "foo=1",
            "compat=2",
            "lazy_refcounts=maybe",
        ] {
            assert!(
                NewImage::parse("qcow2", &[option.to_owned()]).is_err(),
                "{option}"
            );
        }
        assert!(NewImage::parse("raw", &["cluster_size=4k".to_owned()]).is_err());
    }
}
