//! What a name asks for: a plain path, `json:{...}`, or a list of options.
//!
//! QEMU's names can say more than which file: the driver, a window of the file, another backing
//! file, the data file, the passphrase. [`Opening`] is a name taken apart; [`super::Tree`] opens
//! what it says. Names stand in headers too, where a guest's host or a stranger wrote them, so
//! nothing is taken from them but what is listed here, and every file still goes through the
//! caller's gate.

mod driver;
mod json;
mod shown;

use super::locator::Locator;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::{Format, raw};
use driver::Driver;
pub use json::Options;
use serde_json::Value;

/// How an image is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The format that the name says; `None`: whoever refers to it says, or it is probed.
    pub format: Option<Format>,
    /// The file.
    pub file: File,
    /// It is opened as a file (`driver=file`), with no format on top: QEMU's name of the driver.
    pub bare: Option<&'static str>,
    /// The part of the file that is the disk; raw images only.
    pub window: Option<Window>,
    /// Its backing file.
    pub backing: Backing,
    /// Its external data file, instead of the one its header names: a path as seen from the
    /// working directory.
    pub data_file: Option<String>,
    /// The name of the passphrase (see [`super::Gate::secret`]).
    pub key_secret: Option<String>,
    /// How the image has to be encrypted: an error when it is not.
    pub key_format: Option<String>,
    /// QEMU's name for it where that is not the path of the file.
    pub shown: Option<String>,
    /// The same for the file below the format.
    pub file_shown: Option<String>,
    /// An option that only qcow2 has: an error when the image turns out to be something else.
    pub(super) only_qcow2: Option<String>,
    /// An option that the format does not have: an error once the file was found.
    pub(super) unknown: Option<String>,
}

/// Where the bytes of an image come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// A local file: its name, to be asked of the gate. Relative to the referrer unless it is
    /// written as `file:PATH`.
    Named(String),
    /// No file (`null-co`): so many zero bytes.
    Null(u64),
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// First byte.
    pub offset: u64,
    /// Bytes; up to the end of the file when `None`.
    pub size: Option<u64>,
}

/// Which backing file an image is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backing {
    /// The one its header names, if any.
    #[default]
    Header,
    /// None, whatever the header says.
    None,
    /// One opened with these options, on top of what the header says.
    Options(Options),
    /// The name of a block device of a running QEMU: there is none here.
    Device(String),
}

impl Opening {
    /// Takes a name apart. `name` is what the user or a header says.
    ///
    /// # Errors
    /// In QEMU's words, when it means nothing or no local file.
    pub fn parse(name: &str) -> Result<Self> {
        Self::parse_as(name, None)
    }

    /// The same for a format that was given beside the name: it takes the place of the driver
    /// that the name says.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_as(name: &str, format: Option<Format>) -> Result<Self> {
        match Locator::parse(name) {
            // As QEMU shows it: `file:a:b` is not to be taken for a protocol `a`.
            Locator::Path(path) if path != name && is_protocol(&path) => Ok(Self {
                format,
                ..Self::plain(format!("file:./{path}"))
            }),
            Locator::Path(_) => Ok(Self {
                format,
                ..Self::plain(name.to_owned())
            }),
            Locator::Json(text) => {
                let mut options = json::parse(&text)?;
                if let Some(format) = format {
                    options.set("driver", format.name());
                }
                Self::of_options(options, None)
            }
            Locator::Null => Ok(Self {
                format,
                file: File::Null(driver::NULL_SIZE),
                shown: Some("null-co://".to_owned()),
                file_shown: Some("null-co://".to_owned()),
                ..Self::plain(String::new())
            }),
            Locator::Other(_) => Err(Locator::refuse(name)),
        }
    }

    /// The backing file of an image whose header names `header` (resolved), opened with
    /// `options` of the overlay's own name.
    pub(crate) fn backing(options: &Options, header: Option<String>) -> Result<Self> {
        let own = options.has("file.filename") || options.has("filename");
        let header = header.filter(|_| !own && options.string("driver") != Some("null-co"));
        Self::of_options(options.clone(), header)
    }

    /// A file of which nothing but its name is known.
    pub(crate) fn plain(name: String) -> Self {
        Self {
            format: None,
            file: File::Named(name),
            bare: None,
            window: None,
            backing: Backing::Header,
            data_file: None,
            key_secret: None,
            key_format: None,
            shown: None,
            file_shown: None,
            only_qcow2: None,
            unknown: None,
        }
    }

    /// The name to ask the gate for; `None` when there is no file.
    pub fn name(&self) -> Option<&str> {
        match &self.file {
            File::Named(name) => Some(name),
            File::Null(_) => None,
        }
    }

    /// The same for messages: the path alone.
    pub fn path(&self) -> Option<String> {
        match Locator::parse(self.name()?) {
            Locator::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The part of the file that the disk is: offset and size in bytes, for a file of `len`
    /// bytes. `None` for the whole file.
    ///
    /// # Errors
    /// In QEMU's words, when the file does not have it.
    pub(crate) fn range(&self, len: u64) -> Result<Option<(u64, u64)>> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let Some(Window { offset, size }) = self.window else {
            return Ok(None);
        };
        // QEMU's files have whole sectors.
        let len = raw::virtual_size(len);
        let Some(rest) = len.checked_sub(offset) else {
            return Err(invalid(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({len})"
            )));
        };
        let Some(size) = size else {
            return Ok(Some((offset, raw::virtual_size(rest))));
        };
        if size > rest {
            return Err(invalid(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  \
                 actual size of the containing file ({len})"
            )));
        }
        if size % raw::SECTOR != 0 {
            return Err(invalid("Specified size is not multiple of 512".to_owned()));
        }
        Ok(Some((offset, size)))
    }

    /// Fails when an option does not go together with what the image turned out to be.
    pub(crate) fn check(&self, format: Format) -> Result<()> {
        let option = match format {
            Format::Qcow2 => self.window.map(|_| "offset"),
            _ => self.only_qcow2.as_deref(),
        };
        let option = option.or(self.unknown.as_deref());
        option.map_or(Ok(()), |option| Err(driver::unknown(format.name(), option)))
    }

    /// `filename`: the file when the options name none.
    fn of_options(mut options: Options, filename: Option<String>) -> Result<Self> {
        let shown = shown::name(&options);
        let named = options.take_string("driver");
        let driver = named.as_deref().map(Driver::parse).transpose()?;
        options.drop_general();
        let mut opening = match driver {
            Some(Driver::File(name)) => {
                let file = driver::file(&mut options, name)?;
                options.none_left(|option| driver::unknown_of_file(name, option))?;
                Self {
                    bare: Some(name),
                    format: Some(Format::Raw),
                    ..Self::plain(file)
                }
            }
            Some(Driver::Null) => {
                let size = driver::null(&mut options)?;
                options.none_left(|option| driver::unknown_of_file("null-co", option))?;
                Self {
                    bare: Some("null-co"),
                    format: Some(Format::Raw),
                    file: File::Null(size),
                    ..Self::plain(String::new())
                }
            }
            Some(Driver::Format(format)) => Self::of_format(options, Some(format), filename)?,
            None => {
                if !options.has_child("file") && filename.is_none() {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "Must specify either driver or file",
                    ));
                }
                Self::of_format(options, None, filename)?
            }
        };
        if opening.bare.is_some() {
            opening.file_shown.clone_from(&shown);
        }
        opening.shown = shown;
        Ok(opening)
    }

    fn of_format(
        mut options: Options,
        format: Option<Format>,
        filename: Option<String>,
    ) -> Result<Self> {
        let mut opening = Self::plain(String::new());
        opening.format = format;
        let child = options.take_child("file");
        opening.file_shown = child.as_ref().and_then(shown::name);
        opening.file = match (child, filename) {
            (None, Some(filename)) => File::Named(filename),
            (child, _) => driver::child(child, "file")?,
        };
        if format != Some(Format::Qcow2) {
            opening.window = driver::window(&mut options)?;
        }
        if format.is_none_or(|f| f.name() == "luks") {
            opening.key_secret = options.take_string("key-secret");
        }
        if format.is_none_or(|format| format == Format::Qcow2) {
            let before = options.first().map(str::to_owned);
            opening.backing = driver::backing(&mut options);
            if let Some(data) = options.take_child("data-file") {
                match driver::child(Some(data), "data-file")? {
                    File::Named(name) => opening.data_file = Some(name),
                    File::Null(_) => {
                        let message = "null-co cannot be a data file";
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                }
            }
            driver::qcow2(&mut options, &mut opening)?;
            opening.only_qcow2 = before.filter(|first| !options.has(first));
        }
        opening.unknown = options.first().map(str::to_owned);
        Ok(opening)
    }
}

/// Whether QEMU would take what stands before the first colon for a protocol.
fn is_protocol(path: &str) -> bool {
    path.split_once(':')
        .is_some_and(|(protocol, _)| !protocol.contains('/'))
}

/// What is said about a block device that a name refers to.
pub(crate) fn no_device(name: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("Cannot find device='{name}' nor node-name='{name}'"),
    )
}

/// A value as text, the way options are compared.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Opening {
        Opening::parse(&format!("json:{json}")).unwrap_or_else(|e| panic!("{json}: {e}"))
    }

    #[test]
    fn nested_objects_and_dotted_keys_are_the_same() {
        for json in [
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"a b"}}"#,
            r#"{"driver":"qcow2","file.driver":"file","file.filename":"a b"}"#,
            r#"{"driver":"qcow2","file":{"filename":"a b"}}"#,
            "{'driver':'qcow2','file.filename':'a b'}",
            r#"{"driver":"qcow2","file.filename":"a b","lazy-refcounts":"on","discard":"unmap"}"#,
            r#"{"driver":"qcow2","file":{"driver":"host_device","filename":"a b"}}"#,
        ] {
            let opening = parse(json);
            assert_eq!(opening.format, Some(Format::Qcow2), "{json}");
            assert_eq!(opening.path().as_deref(), Some("a b"), "{json}");
        }
    }

    #[test]
    fn a_file_named_by_options_is_taken_literally() {
        let opening = parse(r#"{"file.filename":"nbd://host/x"}"#);
        assert_eq!(opening.path().as_deref(), Some("nbd://host/x"));
        assert_eq!(opening.format, None);
        assert_eq!(opening.name(), Some("file:nbd://host/x"));
    }

    #[test]
    fn windows_are_checked_against_the_file() {
        let opening = parse(r#"{"driver":"raw","offset":"1k","size":1024,"file.filename":"a"}"#);
        assert_eq!(opening.range(4096).unwrap(), Some((1024, 1024)));
        assert!(opening.range(1536).is_err());
        assert!(opening.range(512).is_err());
        let shown = opening.shown.unwrap();
        assert_eq!(
            shown,
            r#"json:{"offset": "1k", "driver": "raw", "size": 1024, "file": {"driver": "file", "filename": "a"}}"#
        );
        let rest = parse(r#"{"driver":"raw","offset":513,"file.filename":"a"}"#);
        assert_eq!(rest.range(2000).unwrap(), Some((513, 1536)));
    }

    #[test]
    fn what_means_nothing_is_refused_in_qemus_words() {
        for (json, message) in [
            (
                "{",
                "Could not parse the JSON options: JSON parse error, premature EOI",
            ),
            (
                "",
                "Could not parse the JSON options: Expecting a JSON value",
            ),
            ("[]", "Invalid JSON object given"),
            ("{}", "Must specify either driver or file"),
            (r#"{"filename":"x"}"#, "Must specify either driver or file"),
            (
                r#"{"driver":"qcow2"}"#,
                "A block device must be specified for \"file\"",
            ),
            (r#"{"driver":"nosuch"}"#, "Unknown driver 'nosuch'"),
            (
                r#"{"driver":"qcow2","file":"x"}"#,
                "Cannot find device='x' nor node-name='x'",
            ),
            (
                r#"{"driver":"qcow2","file":{"driver":"file","filename":"x","nosuch":1}}"#,
                "Block protocol 'file' doesn't support the option 'nosuch'",
            ),
            (
                r#"{"driver":"file"}"#,
                "The 'file' block driver requires a file name",
            ),
            (
                r#"{"driver":"raw","offset":-1,"file.filename":"x"}"#,
                "Value '-1' is out of range for parameter 'offset'",
            ),
            (
                r#"{"driver":"qcow2","lazy-refcounts":"foo","file.filename":"x"}"#,
                "Parameter 'lazy-refcounts' expects 'on' or 'off'",
            ),
        ] {
            let error = Opening::parse(&format!("json:{json}")).unwrap_err();
            assert_eq!(error.message(), message, "{json}");
        }
    }

    #[test]
    fn what_a_format_does_not_have_is_said_once_the_format_is_known() {
        for (json, format, message) in [
            (
                r#"{"nosuch":1,"file.filename":"x"}"#,
                Format::Raw,
                "'raw' does not support the option 'nosuch'",
            ),
            (
                r#"{"offset":512,"file.filename":"x"}"#,
                Format::Qcow2,
                "'qcow2' does not support the option 'offset'",
            ),
            (
                r#"{"lazy-refcounts":true,"file.filename":"x"}"#,
                Format::Raw,
                "'raw' does not support the option 'lazy-refcounts'",
            ),
        ] {
            let error = parse(json).check(format).unwrap_err();
            assert_eq!(error.message(), format!("Block format {message}"), "{json}");
        }
    }

    #[test]
    fn a_format_given_beside_the_name_wins() {
        let json = r#"json:{"driver":"qcow2","file.filename":"x"}"#;
        let opening = Opening::parse_as(json, Some(Format::Raw)).unwrap();
        assert_eq!(opening.format, Some(Format::Raw));
        let zeros = Opening::parse_as(r#"json:{"driver":"null-co"}"#, Some(Format::Raw));
        assert!(zeros.is_err());
    }

    #[test]
    fn hostile_names_end_quickly() {
        let deep = format!("json:{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        assert!(Opening::parse(&deep).is_err());
        let long = format!("json:{{\"file.filename\":\"{}\"}}", "x".repeat(1 << 20));
        assert!(Opening::parse(&long).is_err());
    }
}
