//! Where new files go.

use crate::protocol::{Access, Field, Granted, Kind, Operation, Place};
use crate::worker::execute::Destination;
use crate::worker::files::{Entry, Origin};
use crate::worker::session::Session;
use backchain::chain;
use wasm_bindgen::JsCast;

/// Longer names no file system takes.
const LONGEST: usize = 255;

/// The path of the new file, as the engine is to know it: beside the layer it comes from, so
/// that a link between the two is a plain name.
///
/// # Errors
/// When it cannot have this name, in words.
pub fn path(session: &Session, form: &Operation) -> Result<String, String> {
    let name = form.get(Field::Name).trim();
    if name.is_empty() {
        return Err("Enter a name for the new file.".to_owned());
    }
    if name.contains(['/', '\\', '\0']) || matches!(name, "." | "..") || name.len() > LONGEST {
        return Err(format!("\"{name}\" cannot be the name of a file."));
    }
    // What the engine calls the neighbour may differ from where the page has it.
    let beside = neighbour(form).and_then(|layer| session.node(layer).ok());
    let beside = beside.map(|id| session.tree.node(id).name.as_str());
    let folder = beside.and_then(|path| path.strip_suffix(chain::file_name(path)));
    let path = format!("{}{name}", folder.unwrap_or_default());
    let taken = match folder_of(session, form) {
        Some(entry) => {
            let here = format!("{}{name}", parent(&entry.path));
            session
                .files
                .0
                .iter()
                .any(|other| !other.gone() && other.gift == entry.gift && other.path == here)
        }
        None => session.tree.nodes().iter().any(|node| node.name == path),
    };
    if taken {
        return Err(format!(
            "There is a {name} already, and it is not overwritten. Choose another name."
        ));
    }
    Ok(path)
}

/// Where the new file goes: without a folder that would be its, into the browser's own storage.
#[must_use]
pub fn of(session: &Session, form: &Operation) -> Place {
    match Place::named(form.get(Field::Place)) {
        Place::Folder if folder_of(session, form).is_none() => Place::Private,
        place => place,
    }
}

/// The layer that the new file comes to lie beside.
fn neighbour(form: &Operation) -> Option<u32> {
    match form.kind {
        Kind::GoBack => form.base,
        _ => form.top,
    }
}

/// A file in the folder that the new file goes to, when it goes to one.
#[must_use]
pub fn folder_of<'a>(session: &'a Session, form: &Operation) -> Option<&'a Entry> {
    if Place::named(form.get(Field::Place)) != Place::Folder {
        return None;
    }
    let with_folder = |entry: &&Entry| entry.folder.is_some();
    match neighbour(form) {
        Some(layer) => {
            let nth = usize::try_from(layer).ok()?;
            session.files.0.get(nth).filter(with_folder)
        }
        None => session.files.0.iter().find(with_folder),
    }
}

/// Where the new file is to be written. `target` is the file that the user chose for it, gifts in
/// `read_only` may not be written.
#[must_use]
pub fn destination(
    session: &Session,
    form: &Operation,
    target: Option<&Granted>,
    read_only: &[u32],
) -> Destination {
    if let Some(Access::Handle(handle)) = target.map(|target| &target.access) {
        return Destination::Picked(handle.clone().unchecked_into());
    }
    folder_of(session, form)
        .filter(|entry| entry.private || !read_only.contains(&entry.gift))
        .and_then(|entry| entry.folder.clone())
        .map_or(Destination::Private, Destination::Folder)
}

/// How the new file is known from now on.
///
/// # Errors
/// When it cannot have its name, in words.
pub fn origin(
    session: &Session,
    form: &Operation,
    target: Option<&Granted>,
    destination: &Destination,
) -> Result<Origin, String> {
    Ok(match (destination, target) {
        (Destination::Picked(_), Some(target)) => Origin::named(target.gift, target.path.clone()),
        (Destination::Folder(folder), _) => {
            let entry = folder_of(session, form);
            let path = entry.map_or("", |entry| parent(&entry.path));
            Origin {
                gift: entry.map_or(PRIVATE_GIFT, |entry| entry.gift),
                path: format!("{path}{}", form.get(Field::Name).trim()),
                private: entry.is_some_and(|entry| entry.private),
                named: true,
                folder: Some(folder.clone()),
            }
        }
        _ => Origin {
            private: true,
            ..Origin::named(PRIVATE_GIFT, path(session, form)?)
        },
    })
}

/// The gift of what lies in the browser's own storage without being given.
const PRIVATE_GIFT: u32 = u32::MAX - 1;

/// The folder part of a path, with its slash.
fn parent(path: &str) -> &str {
    path.strip_suffix(chain::file_name(path))
        .unwrap_or_default()
}

/// How a new file is written, in words, and the gift that leave to write is asked for by.
#[must_use]
pub fn words(session: &Session, form: &Operation) -> (String, Option<u32>) {
    match Place::named(form.get(Field::Place)) {
        Place::Folder => match folder_of(session, form) {
            Some(entry) => {
                let folder = parent(&entry.path).trim_end_matches('/');
                let text = if entry.private {
                    "A new file inside the browser's own storage.".to_owned()
                } else {
                    format!("A new file in the folder {folder}.")
                };
                (text, (!entry.private).then_some(entry.gift))
            }
            None => (PRIVATE.to_owned(), None),
        },
        Place::Picked => (
            "A new file: you are asked where to put it when you press Run.".to_owned(),
            None,
        ),
        Place::Private => (PRIVATE.to_owned(), None),
    }
}

const PRIVATE: &str =
    "A new file inside the browser's own storage, offered to be saved when it is done.";
