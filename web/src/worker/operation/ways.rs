//! The ways to a goal, and which of them costs least here.

use super::BREATH;
use crate::protocol::{Field, Kind, LayerId, Operation, Way};
use crate::worker::session::{Session, sentence};
use backchain::plan::Target;
use backchain::ways::{Goal, Means, Ways};
use backchain::{NodeId, Operation as Wish, Preview as Sum, ways};

/// What is looked for: the layer that is not to be needed any more, or the layer whose chain is
/// to be shorter and how many layers may be below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Without(LayerId),
    Shorter(LayerId, usize),
}

/// What a form is about, where there may be several ways.
#[must_use]
pub fn wanted(session: &Session, form: &Operation) -> Option<Wanted> {
    let mut words = form.get(Field::Goal).split(' ');
    let what = words.next().unwrap_or_default();
    let layer = words.next().and_then(|word| word.parse().ok());
    let below = words.next().and_then(|word| word.parse().ok());
    match (what, layer, form.kind) {
        ("without", Some(layer), _) => Some(Wanted::Without(layer)),
        ("shorter", Some(layer), _) => Some(Wanted::Shorter(layer, below.unwrap_or(0))),
        (_, _, Kind::Remove) => form.top.map(Wanted::Without),
        (_, _, Kind::Pull) => {
            let below = match form.base {
                None => 0,
                Some(base) => super::depth(session, session.node(base).ok()?) + 1,
            };
            form.top.map(|top| Wanted::Shorter(top, below))
        }
        _ => None,
    }
}

/// Counts every way to what the form is about, the cheapest first. `None` when it became stale;
/// nothing when there is only one way, or when the goal makes no sense. Why a way is not possible
/// is said with it.
pub async fn ways(
    session: &mut Session,
    form: &Operation,
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Option<Vec<Way>> {
    let Some(wanted) = wanted(session, form) else {
        return Some(Vec::new());
    };
    if let Some((known, ways)) = &session.ways
        && *known == wanted
    {
        return Some(ways.clone());
    }
    let found = match count(session, wanted, stale, note).await? {
        Some(ways) => rows(session, ways, wanted),
        None => Vec::new(),
    };
    session.ways = Some((wanted, found.clone()));
    Some(found)
}

/// Outer `None`: stale. Inner `None`: there are no ways.
async fn count(
    session: &Session,
    wanted: Wanted,
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Option<Option<Vec<ways::Way>>> {
    let node = |layer| session.node(layer).ok();
    let (Wanted::Without(layer) | Wanted::Shorter(layer, _)) = wanted;
    let end = node(layer).map(|layer| super::wish::highest(session, layer));
    let whole = Operation::new(Kind::Pull, end.and_then(|end| session.layer(end)), None);
    // What cannot be read is told with the way that reads it.
    let _ = super::survey(session, &whole, stale, note).await;
    if stale() {
        return None;
    }
    let goal = match wanted {
        Wanted::Without(layer) => node(layer).map(|layer| Goal::Remove {
            layer,
            active: end.unwrap_or(layer),
        }),
        Wanted::Shorter(layer, below) => node(layer).map(|top| Goal::Shorten { top, below }),
    };
    let ways = goal.and_then(|goal| Ways::new(&session.tree, goal, Some(FLAT)).ok());
    let Some(mut ways) = ways else {
        return Some(None);
    };
    let mut breathed = js_sys::Date::now();
    while ways.advance(&session.tree, STEPS) {
        if js_sys::Date::now() - breathed > BREATH {
            crate::js::pause().await;
            breathed = js_sys::Date::now();
            if stale() {
                return None;
            }
        }
    }
    Some(Some(ways.ranked(&|sum| cost(session, sum))))
}

/// Steps counted before looking at the clock.
const STEPS: usize = 64;

/// The name that a flattened image is counted by.
const FLAT: &str = "flattened.qcow2";

/// Bytes a browser writes: it puts whole files in the place of those that change.
fn cost(session: &Session, sum: &Sum) -> u64 {
    let copied: u64 = sum
        .changes
        .iter()
        .filter_map(|change| {
            let entry = session.files.0.get(session.file(change.node)?)?;
            (!entry.private).then_some(change.len_before)
        })
        .sum();
    sum.written().saturating_add(copied)
}

fn rows(session: &Session, ways: Vec<ways::Way>, wanted: Wanted) -> Vec<Way> {
    ways.into_iter()
        .filter_map(|way| {
            let operation = form(session, &way.operation, wanted)?;
            let (written, here, possible) = match &way.cost {
                Ok(sum) => (sum.written(), cost(session, sum), true),
                Err(_) => (0, 0, false),
            };
            let why = match (&way.cost, &way.refusal) {
                (Err(error), _) => sentence(&error.to_string()),
                (_, Some(error)) => sentence(&error.to_string()),
                _ => String::new(),
            };
            Some(Way {
                label: label(session, &way),
                operation,
                written,
                here,
                possible,
                refused: way.refusal.is_some(),
                why,
                invalid: way
                    .invalid()
                    .into_iter()
                    .map(|id| session.name(id))
                    .collect(),
                released: way.released(&session.tree),
            })
        })
        .collect()
}

/// A way in words.
fn label(session: &Session, way: &ways::Way) -> String {
    let name = |id: NodeId| session.name(id);
    match (&way.operation, way.means) {
        (Wish::Remove { layer, .. }, Means::Commit) => {
            let below = session.tree.backing(*layer).map(name).unwrap_or_default();
            format!("Method 1: commit {} into {below}", name(*layer))
        }
        (Wish::Remove { layer, .. }, _) => {
            let above: Vec<String> = session
                .tree
                .valid_children(*layer)
                .into_iter()
                .map(name)
                .collect();
            format!("Method 2: safe rebase of {}", super::words::listed(&above))
        }
        (Wish::Pull { overlay, .. }, _) => format!("Pull into {}", name(*overlay)),
        (Wish::Rebase { overlay, .. }, _) => format!("Safe rebase of {}", name(*overlay)),
        (Wish::Commit { top, base, .. }, _) => {
            format!("Commit {} into {}", name(*top), name(*base))
        }
        _ => "Flatten into a new file".to_owned(),
    }
}

/// What the form says for a way.
fn form(session: &Session, wish: &Wish, wanted: Wanted) -> Option<Operation> {
    let layer = |id: NodeId| session.layer(id);
    let both = |kind, top: NodeId, base: Option<NodeId>| {
        Some(Operation::new(kind, layer(top)?, base.and_then(layer)))
    };
    let operation = match wish {
        Wish::Remove { layer, method, .. } => {
            let number = match method {
                Some(backchain::plan::RemoveMethod::Rebase) => "2",
                _ => "1",
            };
            both(Kind::Remove, *layer, None)?.with(Field::Method, number)
        }
        Wish::Pull { overlay, base } => both(Kind::Pull, *overlay, *base)?,
        Wish::Rebase { overlay, base, .. } => both(Kind::Rebase, *overlay, *base)?,
        Wish::Commit { top, base, .. } => both(Kind::Commit, *top, Some(*base))?,
        Wish::Convert {
            sources,
            target: Target::New { backing, .. },
            ..
        } => both(Kind::Export, *sources.first()?, *backing)?,
        _ => return None,
    };
    let goal = match wanted {
        Wanted::Without(layer) => format!("without {layer}"),
        Wanted::Shorter(layer, below) => format!("shorter {layer} {below}"),
    };
    Some(operation.with(Field::Goal, goal))
}

/// The form with the way it leaves open decided: the cheapest that can be gone just so.
#[must_use]
pub fn decided(form: &Operation, ways: &[Way]) -> Operation {
    if form.kind != Kind::Remove || !form.get(Field::Method).is_empty() {
        return form.clone();
    }
    let methods = || ways.iter().filter(|way| way.operation.kind == Kind::Remove);
    let best = methods()
        .find(|way| way.possible && !way.refused)
        .or_else(|| methods().find(|way| way.possible));
    match best {
        Some(way) => form
            .clone()
            .with(Field::Method, way.operation.get(Field::Method)),
        None => form.clone(),
    }
}

/// The form decided by the ways that were counted for it, as long as the tree is the same.
#[must_use]
pub fn settled(session: &Session, form: &Operation) -> Operation {
    let known = session.ways.as_ref();
    let known = known.filter(|(about, _)| Some(*about) == wanted(session, form));
    known.map_or_else(|| form.clone(), |(_, ways)| decided(form, ways))
}
