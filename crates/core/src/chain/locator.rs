//! Backing file names: relative paths and locators.

use crate::error::{Error, ErrorKind, Result};

/// What a backing file name turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locator {
    /// A path of the local file system (possibly written as `file:PATH`).
    Path(String),
    /// `json:{...}`, without the protocol: see [`super::Opening`].
    Json(String),
    /// `null-co://`: no file, only zeros.
    Null,
    /// Something else, such as `nbd://...`; never guessed at.
    Other(String),
}

impl Locator {
    /// Takes a name apart the way QEMU does: `PROTOCOL:REST`, where the protocol is what stands
    /// before the first colon, unless a slash comes earlier.
    pub fn parse(name: &str) -> Self {
        let Some((protocol, rest)) = name.split_once(':') else {
            return Locator::Path(name.to_owned());
        };
        if protocol.is_empty() || protocol.contains('/') {
            return Locator::Path(name.to_owned());
        }
        match protocol {
            "file" => Locator::Path(rest.to_owned()),
            "json" => Locator::Json(rest.to_owned()),
            "null-co" if rest.trim_matches('/').is_empty() => Locator::Null,
            _ => Locator::Other(name.to_owned()),
        }
    }

    /// The name that means, as seen from here, what `name` means in the header of the image
    /// opened as `referrer`: relative paths are relative to the referrer's directory as opened.
    /// Names that are not plain paths mean the same everywhere.
    pub fn resolve(name: &str, referrer: Option<&str>) -> Result<String> {
        let path = match Self::parse(name) {
            Locator::Path(path) => path,
            Locator::Json(_) | Locator::Null => return Ok(name.to_owned()),
            Locator::Other(_) => return Err(Self::refuse(name)),
        };
        // A relative name behind a protocol is relative to the working directory, as in QEMU.
        let is_plain = path == name;
        Ok(match referrer {
            Some(referrer) if is_plain && !path.starts_with('/') => match referrer.rfind('/') {
                Some(slash) => format!("{}{path}", referrer.get(..=slash).unwrap_or_default()),
                None => path,
            },
            _ => path,
        })
    }

    /// Why `name` cannot be opened.
    pub(super) fn refuse(name: &str) -> Error {
        const NETWORK: [&str; 14] = [
            "nbd", "nbd+unix", "http", "https", "ftp", "ftps", "ssh", "iscsi", "iser", "rbd",
            "nfs", "gluster", "fat", "null-aio",
        ];
        let protocol = name.split_once(':').map_or(name, |(protocol, _)| protocol);
        let message = if NETWORK.contains(&protocol) {
            format!("'{name}' does not name a local file; only local files can be opened")
        } else {
            format!("Unknown protocol '{protocol}'")
        };
        Error::new(ErrorKind::Unsupported, message)
    }
}

impl Locator {
    /// What has to stand in the header of the image opened as `referrer` to mean the file
    /// opened as `target`: the inverse of [`Locator::resolve`]. `None` where the two names do
    /// not tell how one is reached from the other.
    pub fn relative(target: &str, referrer: &str) -> Option<String> {
        let (here, _) = referrer.rsplit_once('/').unwrap_or_default();
        let absolute = referrer.starts_with('/');
        if target.starts_with('/') && !absolute {
            return Some(target.to_owned());
        }
        if absolute && !target.starts_with('/') {
            return None;
        }
        let from: Vec<&str> = here.split('/').filter(|_| !here.is_empty()).collect();
        let to: Vec<&str> = target.split('/').collect();
        let folders = to.len() - 1;
        let same = from.iter().zip(to.iter().take(folders));
        let common = same.take_while(|(a, b)| a == b).count();
        // Nothing but the root in common: the whole path says it better.
        if absolute && common <= 1 && !from.is_empty() && from != [""] {
            return Some(target.to_owned());
        }
        let up = from.get(common..).unwrap_or_default();
        if up.contains(&"..") {
            return None;
        }
        let down = to.get(common..).unwrap_or_default().join("/");
        Some(format!("{}{down}", "../".repeat(up.len())))
    }
}

/// The last component of a path or name.
pub fn file_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_names_start_at_the_referrers_directory_as_opened() {
        let resolve = |name, from| Locator::resolve(name, Some(from)).unwrap();
        assert_eq!(resolve("base.img", "dir/top.img"), "dir/base.img");
        assert_eq!(resolve("../base.img", "/a/b/top.img"), "/a/b/../base.img");
        assert_eq!(resolve("/x/base.img", "dir/top.img"), "/x/base.img");
        assert_eq!(resolve("base.img", "top.img"), "base.img");
        assert_eq!(resolve("a/b:c", "top.img"), "a/b:c");
    }

    #[test]
    fn a_relative_name_leads_back_to_its_file() {
        for (target, referrer, name) in [
            ("base.img", "top.img", "base.img"),
            ("dir/base.img", "dir/top.img", "base.img"),
            ("/vm/b/base.img", "/vm/a/top.img", "../b/base.img"),
            ("/other/base.img", "/vm/a/top.img", "/other/base.img"),
            ("/base.img", "/top.img", "/base.img"),
            ("base.img", "dir/top.img", "../base.img"),
            ("/abs/base.img", "top.img", "/abs/base.img"),
            ("../b/base.img", "../a/top.img", "../b/base.img"),
            ("../a/../b/base.img", "../a/top.img", "../b/base.img"),
        ] {
            let found = Locator::relative(target, referrer).unwrap();
            assert_eq!(found, name, "{target} from {referrer}");
        }
        // The way back out of `..` is not in the names, nor where a relative name starts.
        assert_eq!(Locator::relative("base.img", "../a/top.img"), None);
        assert_eq!(Locator::relative("base.img", "/vm/top.img"), None);
    }

    #[test]
    fn only_local_locators_are_understood() {
        let path = |s: &str| Locator::Path(s.to_owned());
        assert_eq!(Locator::parse("file:/a/b"), path("/a/b"));
        let json = r#"{"driver":"qcow2","file.filename":"/a b"}"#;
        let name = format!("json:{json}");
        assert_eq!(Locator::parse(&name), Locator::Json(json.to_owned()));
        assert_eq!(Locator::resolve(&name, Some("dir/top")).unwrap(), name);
        assert_eq!(Locator::parse("null-co://"), Locator::Null);
        for other in ["nbd://host/x", "foo:bar"] {
            assert!(Locator::resolve(other, None).is_err());
            assert!(
                matches!(Locator::parse(other), Locator::Other(_)),
                "{other}"
            );
        }
    }
}
