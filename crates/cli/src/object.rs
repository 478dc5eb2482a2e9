//! `--object`: passphrases, as qemu-img takes them.

use crate::failure::{Failure, code, plain};
use crate::keyval;
use crate::output;
use backchain::chain::Secret;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::str::FromStr;

/// One `--object`.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    /// `secret,id=ID,data=TEXT` or `secret,id=ID,file=PATH`.
    Secret(String, Secret),
    /// `help`, or `secret,help`.
    Help(&'static str),
}

const TYPES: &str = "List of user creatable objects:
  secret
";

const SECRET: &str = "secret options:
  data=<string>
  file=<string>
  format=<QCryptoSecretFormat>
";

/// What qemu-img makes objects of besides secrets: nothing of it has a use with local files.
const OTHERS: [&str; 21] = [
    "authz-list",
    "authz-list-file",
    "authz-pam",
    "authz-simple",
    "cryptodev-backend",
    "filter-buffer",
    "input-linux",
    "iothread",
    "main-loop",
    "memory-backend-file",
    "memory-backend-ram",
    "pr-manager-helper",
    "rng-builtin",
    "rng-random",
    "secret_keyring",
    "thread-context",
    "throttle-group",
    "tls-creds-anon",
    "tls-creds-psk",
    "tls-creds-x509",
    "tls-cipher-suites",
];

/// QEMU's limit for the bytes of a file with a secret would be that of its memory; this is more
/// than any passphrase has.
const MAX_SECRET: u64 = 1 << 20;

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let object = if text.trim_start().starts_with('{') {
            keyval::json_object(text)?
        } else {
            match text {
                "help" | "?" => return Ok(Object::Help(TYPES)),
                "secret,help" | "secret,?" => return Ok(Object::Help(SECRET)),
                _ => keyval::parse(text, "qom-type")?,
            }
        };
        Self::from_map(&object)
    }
}

impl Object {
    fn from_map(object: &Map<String, Value>) -> Result<Self, String> {
        let string = |key: &str| match object.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!(
                "Invalid parameter type for '{key}', expected: string"
            )),
        };
        let kind = string("qom-type")?.ok_or("Parameter 'qom-type' is missing")?;
        if OTHERS.contains(&kind) {
            return Err(format!(
                "objects of type '{kind}' have no use with local files; only 'secret' is supported"
            ));
        }
        if kind != "secret" {
            return Err(format!(
                "Parameter 'qom-type' does not accept value '{kind}'"
            ));
        }
        let id = string("id")?.ok_or("Parameter 'id' is missing")?;
        let (data, file) = (string("data")?, string("file")?);
        let format = string("format")?;
        let base64 = match format {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => {
                return Err(format!(
                    "Parameter 'format' does not accept value '{other}'"
                ));
            }
        };
        let keyid = string("keyid")?;
        string("iv")?;
        let known = ["qom-type", "id", "data", "file", "format", "keyid", "iv"];
        if let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(match object.get(key) {
                Some(Value::Object(_)) => format!("Parameters '{key}.*' are unexpected"),
                _ => format!("Parameter '{key}' is unexpected"),
            });
        }
        check_id(id)?;
        let bytes = match (data, file) {
            (Some(_), Some(_)) => {
                return Err("'file' and 'data' are mutually exclusive".to_owned());
            }
            (None, None) => return Err("Either 'file' or 'data' must be provided".to_owned()),
            (Some(data), None) => data.as_bytes().to_vec(),
            (None, Some(file)) => read(file)?,
        };
        if keyid.is_some() {
            return Err(
                "secrets that are encrypted with another secret ('keyid') are not supported"
                    .to_owned(),
            );
        }
        let bytes = if base64 { from_base64(&bytes)? } else { bytes };
        Ok(Object::Secret(id.to_owned(), Secret::new(bytes)))
    }
}

/// All secrets by their names.
pub(crate) fn secrets(objects: &[Object]) -> Result<BTreeMap<String, Secret>, Failure> {
    let mut secrets = BTreeMap::new();
    for object in objects {
        match object {
            Object::Help(text) => {
                let mut out = output::stdout();
                out.write_all(text.as_bytes())?;
                out.flush()?;
                return Err(Failure::silent(code::OK));
            }
            Object::Secret(id, secret) => {
                if secrets.insert(id.clone(), secret.clone()).is_some() {
                    return Err(Failure::new(format_args!(
                        "attempt to add duplicate property '{id}' to object (type 'container')"
                    )));
                }
            }
        }
    }
    Ok(secrets)
}

fn check_id(id: &str) -> Result<(), String> {
    let first = id.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if first && id.chars().all(rest) {
        return Ok(());
    }
    Err(
        "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', \
         '_', starting with a letter."
            .to_owned(),
    )
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let reading = |e: &std::io::Error| {
        format!(
            "Unable to read {path}: Error reading file “{path}”: {}",
            plain(e)
        )
    };
    let file = std::fs::File::open(path).map_err(|e| {
        format!(
            "Unable to read {path}: Failed to open file “{path}”: {}",
            plain(&e)
        )
    })?;
    let mut bytes = Vec::new();
    let mut file = std::io::Read::take(file, MAX_SECRET + 1);
    std::io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| reading(&e))?;
    if backchain::format::bytes::to_u64(bytes.len()) > MAX_SECRET {
        return Err(format!(
            "Unable to read {path}: it has more than {MAX_SECRET} bytes"
        ));
    }
    Ok(bytes)
}

/// Base64 as QEMU reads it: no other characters than those of the alphabet, padding and line
/// ends; what is left over at the end is dropped.
fn from_base64(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for &c in text {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' | b'\n' => continue,
            _ => return Err("Base64 data contains invalid characters".to_owned()),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).unwrap_or(0));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Vec<u8> {
        match text.parse() {
            Ok(Object::Secret(_, secret)) => secret.as_bytes().to_vec(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn secrets_are_taken_from_text_base64_and_json() {
        assert_eq!(secret("secret,id=s,data=a,,b"), b"a,b");
        assert_eq!(secret("secret,id=s,data=YWJj,format=base64"), b"abc");
        assert_eq!(secret("secret,id=s,data=YWJjZA==,format=base64"), b"abcd");
        let json = r#"{"qom-type":"secret","id":"s","data":"x"}"#;
        assert_eq!(secret(json), b"x");
    }

    #[test]
    fn what_is_wrong_is_said_in_qemus_words() {
        for (text, message) in [
            ("secret,data=abc", "Parameter 'id' is missing"),
            ("secret,id=s", "Either 'file' or 'data' must be provided"),
            (
                "foo,id=s",
                "Parameter 'qom-type' does not accept value 'foo'",
            ),
            ("", "Parameter 'qom-type' is missing"),
            ("secret,id=s,data=a,x=1", "Parameter 'x' is unexpected"),
            ("secret,id=s,data.x=a", "Parameters 'data.*' are unexpected"),
            ("secret,foo,data=x", "Expected '=' after parameter 'foo'"),
            (
                "secret,id=s,data=ab!c,format=base64",
                "Base64 data contains invalid characters",
            ),
        ] {
            match text.parse::<Object>() {
                Err(found) => assert!(found.ends_with(message), "{text}: {found}"),
                Ok(object) => panic!("{text}: {object:?}"),
            }
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let object: Object = "secret,id=s,data=hidden".parse().unwrap();
        assert!(!format!("{object:?}").contains("hidden"));
    }
}
