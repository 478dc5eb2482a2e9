//! Missing backing files: what was suggested for them, and what became of it.

use crate::protocol::LayerId;
use crate::protocol::locate::{Fit, Located, Suggestion};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What the worker said about missing files, as long as the tree lasts.
#[derive(Clone, Default, PartialEq)]
pub struct Locating {
    suggestions: BTreeMap<LayerId, Rc<Vec<Suggestion>>>,
    /// What happened last, and which message it was.
    pub last: Option<Rc<Located>>,
    pub heard: u32,
}

impl Locating {
    pub fn hear(&mut self, located: Located) {
        self.heard = self.heard.wrapping_add(1);
        match located {
            Located::Suggestions {
                layer, suggestions, ..
            } => {
                self.suggestions.insert(layer, Rc::new(suggestions));
            }
            other => self.last = Some(Rc::new(other)),
        }
    }

    /// Another tree, other suggestions. What was said last is about it.
    pub fn renew(&mut self) {
        self.suggestions.clear();
    }

    #[must_use]
    pub fn asked(&self, layer: LayerId) -> bool {
        self.suggestions.contains_key(&layer)
    }

    /// Files that may be the missing one, best first.
    #[must_use]
    pub fn likely(&self, layer: LayerId) -> Vec<Suggestion> {
        let found = self.suggestions.get(&layer).map(|s| s.as_slice());
        let likely = found.unwrap_or_default().iter();
        likely.filter(|s| s.fit.likely()).take(3).cloned().collect()
    }

    /// What happened last, in words.
    #[must_use]
    pub fn said(&self) -> Option<String> {
        match self.last.as_deref()? {
            Located::Linked { file, .. } => Some(format!(
                "{} is taken for the missing file: {}.",
                file.name,
                fits(file.fit)
            )),
            Located::Failed { why, .. } => Some(why.clone()),
            Located::Forgotten { .. } => Some("The header's own name counts again.".to_owned()),
            Located::Suggestions { .. } => None,
        }
    }
}

/// In what a file agrees with the missing one.
#[must_use]
pub fn fits(fit: Fit) -> String {
    let parts: Vec<&str> = [
        (fit.name, "name"),
        (fit.size, "size"),
        (fit.format, "format"),
    ]
    .into_iter()
    .filter_map(|(agrees, what)| agrees.then_some(what))
    .collect();
    match parts.as_slice() {
        [] => "neither name, size nor format agree".to_owned(),
        [one] => format!("its {one} fits"),
        [most @ .., last] => format!("its {} and {last} fit", most.join(", ")),
    }
}
