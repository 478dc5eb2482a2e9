//! The figure that a chain is to become, and how near it is.
//!
//! Written as the source document writes chains: `RootBase <- Snap-1 <- Snap-4; Snap-2!`. Each
//! name after an arrow stands on the one before it; a part that starts with a known name is a
//! branch. `Snap-2!` is a layer that is invalid then, wherever it stands; `Disk@a,b` has just
//! these internal snapshots, `Disk@` none.

use crate::protocol::course::Peeked;
use crate::protocol::{Layer, State, Tree};

/// What is to be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    pub figure: &'static str,
    /// Text that a guest reads at one of the lesson's places: the layer, the place, the text.
    pub reads: &'static [(&'static str, usize, &'static str)],
}

/// A figure without more.
#[must_use]
pub const fn figure(figure: &'static str) -> Goal {
    Goal { figure, reads: &[] }
}

/// One box of a figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn<'a> {
    pub name: &'a str,
    /// `None` where it does not matter: the layer is invalid.
    pub backing: Option<&'a str>,
    pub invalid: bool,
    pub snapshots: Option<Vec<&'a str>>,
}

/// A layer's name without the ending of its file.
#[must_use]
pub fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The layer of that name.
#[must_use]
pub fn find<'a>(tree: &'a Tree, name: &str) -> Option<&'a Layer> {
    tree.layers.iter().find(|layer| stem(&layer.name) == name)
}

impl Goal {
    /// The boxes of the figure, each after the one it stands on.
    #[must_use]
    pub fn boxes(&self) -> Vec<Drawn<'static>> {
        let mut boxes: Vec<Drawn<'static>> = Vec::new();
        for chain in self.figure.split(';') {
            let mut below: Option<&str> = None;
            for part in chain.split("<-") {
                let part = part.trim();
                let (part, snapshots) = match part.split_once('@') {
                    Some((name, list)) => {
                        let names = list.split(',').filter(|name| !name.is_empty());
                        (name, Some(names.collect()))
                    }
                    None => (part, None),
                };
                let invalid = part.ends_with('!');
                let name = part.trim_end_matches('!');
                if !boxes.iter().any(|drawn| drawn.name == name) {
                    boxes.push(Drawn {
                        name,
                        backing: (!invalid || below.is_some()).then_some(below.unwrap_or("")),
                        invalid,
                        snapshots,
                    });
                }
                below = Some(name);
            }
        }
        boxes
    }

    /// Whether one box of the figure is true of the chain.
    #[must_use]
    pub fn holds(drawn: &Drawn<'_>, tree: &Tree, peeked: &[Peeked]) -> bool {
        let Some(layer) = find(tree, drawn.name) else {
            return false;
        };
        let backing = drawn
            .backing
            .is_none_or(|backing| backing == stem(&layer.backing_name));
        let state = if drawn.invalid {
            layer.state == State::Invalid
        } else {
            layer.state == State::Ok
        };
        let snapshots = drawn.snapshots.as_ref().is_none_or(|wanted| {
            let seen = peeked.iter().find(|seen| seen.layer == layer.id);
            seen.is_some_and(|seen| seen.snapshots == *wanted)
        });
        backing && state && snapshots
    }

    /// Whether all of it is true, and nothing else is there.
    #[must_use]
    pub fn reached(&self, tree: &Tree, peeked: &[Peeked]) -> bool {
        let boxes = self.boxes();
        let reads = self.reads.iter().all(|&(name, place, text)| {
            let layer = find(tree, name).map(|layer| layer.id);
            let seen = peeked.iter().find(|seen| Some(seen.layer) == layer);
            let read = seen.and_then(|seen| seen.texts.get(place));
            read.is_some_and(|read| read.as_deref() == Some(text))
        });
        reads
            && boxes.len() == tree.layers.len()
            && boxes.iter().all(|drawn| Self::holds(drawn, tree, peeked))
    }
}

#[cfg(test)]
mod tests {
    use super::figure;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn figures_are_read_as_the_source_document_writes_them() {
        let boxes = figure("A <- B <- C@x; A <- D; E!").boxes();
        let read: Vec<_> = boxes
            .iter()
            .map(|b| (b.name, b.backing, b.invalid, b.snapshots.clone()))
            .collect();
        assert_eq!(
            read,
            [
                ("A", Some(""), false, None),
                ("B", Some("A"), false, None),
                ("C", Some("B"), false, Some(vec!["x"])),
                ("D", Some("A"), false, None),
                ("E", None, true, None),
            ]
        );
    }
}
