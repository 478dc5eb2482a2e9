//! The chains of the course: made, written to, and read, in the worker's own folder.

use super::private;
use super::recipe;
use super::session::Session;
use crate::js;
use crate::protocol::course::{Answer, Ask, Peeked};
use crate::protocol::{LayerId, State};
use backchain::Node;
use backchain::chain::Reader;
use backchain::check::check;
use std::collections::{BTreeMap, BTreeSet};

/// Its folder in the worker's own one.
const FOLDER: &str = "course";

/// Does what a lesson asks for. Whether the tree has changed is told with the answer.
pub async fn answer(session: &mut Session, ask: Ask) -> (Answer, bool) {
    if let Ask::Peek { places } = ask {
        return (Answer::Peeked(peek(session, &places)), false);
    }
    let changed = change(session, ask).await;
    let answer = match changed {
        Ok(()) => private::own_name()
            .await
            .map_err(|error| js::message(&error)),
        Err(why) => Err(why),
    };
    match answer {
        Ok(folder) => (Answer::Done { folder }, true),
        Err(why) => (Answer::Failed(why), true),
    }
}

async fn change(session: &mut Session, ask: Ask) -> Result<(), String> {
    match ask {
        Ask::Make { recipe } => {
            *session = Session::default();
            recipe::make(FOLDER, &recipe).await?;
            reopen(session).await
        }
        Ask::Adopt { folder } => {
            private::adopt(folder);
            *session = Session::default();
            reopen(session).await
        }
        Ask::Write { layer, writes } => {
            let file = name(session, layer)?;
            let entries = session.files.0.iter();
            let sources = entries
                .map(|entry| {
                    let source: backchain::Source = entry.source.clone();
                    (entry.name().to_owned(), source)
                })
                .collect();
            recipe::write(FOLDER, sources, &file, &writes).await?;
            session.files.refresh().await;
            session.open();
            Ok(())
        }
        Ask::Delete { layers } => {
            for layer in layers {
                recipe::delete(FOLDER, &name(session, layer)?).await?;
            }
            let kept = Marks::of(session);
            *session = Session::default();
            reopen(session).await?;
            kept.put(session);
            session.open();
            Ok(())
        }
        Ask::Peek { .. } => Ok(()),
    }
}

async fn reopen(session: &mut Session) -> Result<(), String> {
    let folder = private::private_folder(FOLDER).await;
    let folder = folder.map_err(|error| js::message(&error))?;
    session
        .files
        .add_folder(u32::MAX, FOLDER.to_owned(), folder, true)
        .await?;
    session.open();
    Ok(())
}

fn name(session: &Session, layer: LayerId) -> Result<String, String> {
    let entry = usize::try_from(layer)
        .ok()
        .and_then(|nth| session.files.0.get(nth));
    entry
        .map(|entry| entry.name().to_owned())
        .ok_or_else(|| "There is no such layer.".to_owned())
}

/// What is remembered of files by their numbers, by name.
struct Marks([BTreeSet<String>; 4]);

impl Marks {
    fn of(session: &Session) -> Self {
        let entries = &session.files.0;
        let names = |numbers: &BTreeSet<usize>| {
            let known = numbers.iter().filter_map(|&nth| entries.get(nth));
            known.map(|entry| entry.name().to_owned()).collect()
        };
        Self(
            [
                &session.invalid,
                &session.merged,
                &session.spare,
                &session.known,
            ]
            .map(names),
        )
    }

    fn put(self, session: &mut Session) {
        let numbers: BTreeMap<String, usize> = session
            .files
            .0
            .iter()
            .enumerate()
            .map(|(nth, entry)| (entry.name().to_owned(), nth))
            .collect();
        let [invalid, merged, spare, known] = self.0.map(|names| {
            let known = names.iter().filter_map(|name| numbers.get(name).copied());
            known.collect::<BTreeSet<usize>>()
        });
        session.invalid = invalid;
        session.merged = merged;
        session.spare = spare;
        session.known = known;
    }
}

/// What each layer's guest reads, whether it is still valid or not.
fn peek(session: &Session, places: &[(u64, u32)]) -> Vec<Peeked> {
    let view = session.view();
    view.layers
        .iter()
        .map(|layer| {
            let node = session.node(layer.id).ok();
            let mut reader = node
                .filter(|_| !matches!(layer.state, State::Loop | State::Missing))
                .and_then(|id| session.tree.chain(id).ok())
                .map(Reader::new);
            let texts = places
                .iter()
                .map(|&(offset, len)| text(reader.as_mut()?, offset, len));
            let texts = texts.collect();
            let node = node.map(|id| session.tree.node(id));
            let snapshots = node.and_then(|node| node.snapshots().ok());
            let names = snapshots.into_iter().flatten();
            Peeked {
                layer: layer.id,
                texts,
                snapshots: names.map(|entry| entry.name).collect(),
                errors: node.map_or(0, |node| errors(node)),
            }
        })
        .collect()
}

/// What a check of the file would complain about, leaks aside.
fn errors(node: &Node) -> u64 {
    let image = node.image().ok().and_then(|image| image.as_qcow2());
    image.map_or(0, |image| {
        let report = check(node.source.as_ref(), image, 0, &mut |_| {});
        report.corruptions.saturating_add(report.check_errors)
    })
}

/// Most bytes that are shown of a place.
const LONGEST: u32 = 256;

/// The text at a place, up to the first zero.
fn text(reader: &mut Reader, offset: u64, len: u32) -> Option<String> {
    let mut bytes = vec![0; usize::try_from(len.min(LONGEST)).ok()?];
    reader.read_at(offset, &mut bytes).ok()?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}
