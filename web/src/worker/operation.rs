//! From what the form says to a plan of the engine, and from the plan to what the preview shows.

use super::session::{Session, sentence};
use super::write::Strategy;
use crate::protocol::{After, Fate, FileWrite, Kind, Operation, Preview};
use crate::units::bytes;
use backchain::chain::Locator;
use backchain::plan::{PlanInfo, RemoveMethod};
use backchain::{ErrorKind, Format, NodeId, Operation as Wish, Preview as Sum};

/// The engine's operation for what the form says.
///
/// # Errors
/// When the form is not complete, in words.
pub fn wish(session: &Session, form: &Operation) -> Result<Wish, String> {
    let tree = &session.tree;
    let top = session.node(form.top)?;
    let base = form.base.map(|base| session.node(base)).transpose()?;
    Ok(match form.kind {
        Kind::Commit => Wish::Commit {
            top,
            base: base.ok_or("Choose the layer to merge into.")?,
            relink: tree.valid_children(top),
            empty_top: false,
            bitmaps: false,
            allow_broken: form.force,
            allow_plaintext: form.force,
        },
        Kind::Pull => Wish::Pull { overlay: top, base },
        Kind::Rebase if form.link_only => {
            let named = base.map(|base| tree.node(base));
            Wish::Relink {
                overlay: top,
                name: base.map(|base| recorded_name(session, top, base)),
                // What the file is, and not what somebody called it.
                format: named.map(|node| node.probed),
                base,
            }
        }
        Kind::Rebase => Wish::Rebase {
            overlay: top,
            base,
            name: None,
            format: None,
            compress: false,
        },
        Kind::Remove => Wish::Remove {
            layer: top,
            active: highest(session, top),
            method: form.method.map(|method| {
                if method == 1 {
                    RemoveMethod::Commit
                } else {
                    RemoveMethod::Rebase
                }
            }),
            allow_broken: form.force,
            allow_plaintext: form.force,
        },
    })
}

/// What has to stand in the header of `overlay` to mean `base`.
fn recorded_name(session: &Session, overlay: NodeId, base: NodeId) -> String {
    let (from, to) = (session.tree.node(overlay), session.tree.node(base));
    let entry = |id| session.file(id).and_then(|nth| session.files.0.get(nth));
    // Of files that were given one by one nobody knows the folders: they count as beside each
    // other. A name that came from some header tells more.
    let apart = entry(overlay)
        .zip(entry(base))
        .is_some_and(|(a, b)| a.gift != b.gift && to.name == b.path);
    if apart {
        return session.name(base);
    }
    let name = Locator::relative(&to.name, &from.name);
    name.unwrap_or_else(|| to.name.clone())
}

/// The end of the longest chain above `id`; `id` itself when nothing is above it.
fn highest(session: &Session, id: NodeId) -> NodeId {
    // Dependents come nearest first.
    session.tree.dependents(id).last().copied().unwrap_or(id)
}

/// What the page shows before anything is done. `None` when `stale` says that nobody waits for
/// it any more.
///
/// # Errors
/// When the operation is refused, or cannot be planned, in words.
pub async fn preview(
    session: &mut Session,
    form: &Operation,
    read_only: &[u32],
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Result<Option<Preview>, String> {
    let first = session.tree.plan(&wish(session, form)?);
    let (form, refusal) = match first {
        Ok(_) => (*form, None),
        // Shown as it would be with the override, so that one sees what would happen.
        Err(error) if error.kind() == ErrorKind::Dependents && !form.force => (
            Operation {
                force: true,
                ..*form
            },
            Some(sentence(&error.to_string())),
        ),
        Err(error) => return Err(sentence(&error.to_string())),
    };
    let Some(sum) = sum(session, &form, stale, note).await? else {
        return Ok(None);
    };
    let mut preview = shown(session, &form, &sum, read_only);
    preview.can_force = refusal.is_some();
    preview.refusal = refusal;
    session.sum = Some((form, sum));
    Ok(Some(preview))
}

/// Sums a plan up, letting messages in on the way. `None` when it became stale.
///
/// # Errors
/// When it cannot be planned, in words.
pub async fn sum(
    session: &Session,
    form: &Operation,
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Result<Option<Sum>, String> {
    if let Some((known, sum)) = &session.sum
        && known == form
    {
        return Ok(Some(sum.clone()));
    }
    let say = |error: backchain::Error| sentence(&error.to_string());
    if !form.link_only {
        survey(session, form, stale, note).await?;
        if stale() {
            return Ok(None);
        }
    }
    let plan = session.tree.plan(&wish(session, form)?).map_err(say)?;
    let mut sum = Sum::begin(&plan);
    let mut breathed = js_sys::Date::now();
    for step in plan {
        sum.count(&step.map_err(say)?);
        if js_sys::Date::now() - breathed > 50.0 {
            crate::js::pause().await;
            breathed = js_sys::Date::now();
            if stale() {
                return Ok(None);
            }
        }
    }
    Ok(Some(sum))
}

/// Looks for holes in the raw files that will be read: a browser does not tell where they are.
async fn survey(
    session: &Session,
    form: &Operation,
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Result<(), String> {
    let ends = [Some(form.top), form.base].into_iter().flatten();
    let chains = ends.filter_map(|layer| session.tree.chain(session.node(layer).ok()?).ok());
    let layers: Vec<_> = chains.flat_map(|chain| chain.layers().to_vec()).collect();
    for node in layers {
        let raw = node
            .image()
            .is_ok_and(|image| image.format() == Format::Raw);
        let entry = session
            .file(node.id)
            .and_then(|nth| session.files.0.get(nth));
        let Some(entry) = entry.filter(|_| raw) else {
            continue;
        };
        let total = node.source.len();
        let report = |seen: u64| {
            let percent = u128::from(seen) * 100 / u128::from(total.max(1));
            note(format!(
                "looking for holes in {}: {percent} %",
                entry.name()
            ));
            !stale()
        };
        let surveyed = entry.source.inner().survey(&report).await;
        surveyed.map_err(|error| format!("{} cannot be read: {error}", entry.name()))?;
    }
    Ok(())
}

fn shown(session: &Session, form: &Operation, sum: &Sum, read_only: &[u32]) -> Preview {
    let writes = sum
        .changes
        .iter()
        .filter_map(|change| {
            let entry = session.files.0.get(session.file(change.node)?)?;
            let strategy = Strategy::of(entry, read_only);
            Some(FileWrite {
                layer: session.layer(change.node)?,
                name: entry.name().to_owned(),
                before: change.len_before,
                after: change.len_after,
                how: strategy.words().to_owned(),
                temporary: strategy.temporary(change.len_before, change.len_after),
                in_place: strategy.in_place(),
            })
        })
        .collect();
    let mut warnings: Vec<String> = sum.info.warnings.iter().map(|w| sentence(w)).collect();
    if sum.written() > LARGE {
        warnings.push(format!(
            "{} are a lot for a browser: the command line below is faster.",
            bytes(sum.written())
        ));
    }
    // From the base up, as they are drawn.
    let mut invalid: Vec<NodeId> = [
        sum.info.invalid.as_slice(),
        &sum.info.broken_dependents,
        merged_away(&sum.info),
    ]
    .concat();
    invalid.sort_by_key(|&id| depth(session, id));
    let invalid = invalid.into_iter().map(|id| session.name(id)).collect();
    Preview {
        summary: summary(session, form),
        after: after(session, form, &sum.info),
        flow: flow(session, form, &sum.info),
        copied: sum.copied,
        inflated: sum.inflated,
        zeroed: sum.zeroed,
        metadata: sum.metadata,
        writes,
        invalid,
        warnings,
        refusal: None,
        can_force: false,
        commands: sum.info.equivalent.clone(),
    }
}

/// Layers that a commit merged into the one below: they read as they did, and nothing should go
/// on using them. A rebase leaves the layer it makes superfluous alone.
pub fn merged_away(info: &PlanInfo) -> &[NodeId] {
    match info.method {
        Some(RemoveMethod::Rebase) => &[],
        _ => &info.superseded,
    }
}

/// Number of layers below `id`.
fn depth(session: &Session, id: NodeId) -> usize {
    let below = std::iter::successors(session.tree.backing(id), |&id| session.tree.backing(id));
    below.take(session.tree.nodes().len()).count()
}

/// More than this is said to be much.
const LARGE: u64 = 16 << 30;

fn summary(session: &Session, form: &Operation) -> String {
    let name = |layer| {
        session
            .node(layer)
            .map(|id| session.name(id))
            .unwrap_or_default()
    };
    let top = name(form.top);
    let base = form.base.map(name);
    match (form.kind, base) {
        (Kind::Commit, base) => {
            let merged = merged(session, form);
            let verb = if merged.len() == 1 { "is" } else { "are" };
            format!(
                "{} {verb} merged into {}.",
                listed(&merged),
                base.unwrap_or_default()
            )
        }
        (Kind::Pull, Some(base)) => {
            format!("{top} takes over what it needs from below and then stands on {base}.")
        }
        (Kind::Pull, None) => {
            format!("{top} takes over everything from below and then stands alone.")
        }
        (Kind::Rebase, Some(base)) if form.link_only => {
            format!("Only the link of {top} changes: it will name {base}. Nothing is compared.")
        }
        (Kind::Rebase, None) if form.link_only => {
            format!("Only the link of {top} changes: it will name no backing file.")
        }
        (Kind::Rebase, Some(base)) => {
            format!("{top} gets {base} as its backing file and reads the same as before.")
        }
        (Kind::Rebase, None) => format!("{top} will stand alone and read the same as before."),
        (Kind::Remove, _) => format!("{top} is taken out of the chain."),
    }
}

/// Names of the layers a commit merges, from the base up.
fn merged(session: &Session, form: &Operation) -> Vec<String> {
    let Ok(top) = session.node(form.top) else {
        return Vec::new();
    };
    let base = form.base.and_then(|base| session.node(base).ok());
    let mut names: Vec<String> = std::iter::successors(Some(top), |&id| session.tree.backing(id))
        .take(session.tree.nodes().len())
        .take_while(|&id| Some(id) != base)
        .map(|id| session.name(id))
        .collect();
    names.reverse();
    names
}

/// `a, b and c`; only the ends of a long list.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, .., last] if names.len() > 5 => {
            format!("{first}, {last} and {} layers between", names.len() - 2)
        }
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

/// What is said when it is done.
#[must_use]
pub fn done(session: &Session, form: &Operation) -> String {
    let name = |layer| {
        session
            .node(layer)
            .map(|id| session.name(id))
            .unwrap_or_default()
    };
    let top = name(form.top);
    let base = form.base.map(name);
    match (form.kind, base) {
        (Kind::Commit, base) => {
            let merged = merged(session, form);
            let verb = if merged.len() == 1 { "is" } else { "are" };
            format!(
                "{} {verb} merged into {}.",
                listed(&merged),
                base.unwrap_or_default()
            )
        }
        (Kind::Pull, Some(base)) => format!("{top} now stands on {base}."),
        (Kind::Pull, None) => format!("{top} now stands alone."),
        (Kind::Rebase, Some(base)) => format!("The backing file of {top} is now {base}."),
        (Kind::Rebase, None) => format!("{top} has no backing file any more."),
        (Kind::Remove, _) => format!("{top} is no longer part of the chain and can be deleted."),
    }
}

fn after(session: &Session, form: &Operation, info: &PlanInfo) -> Vec<After> {
    let written = |id: NodeId| {
        info.files
            .iter()
            .any(|file| file.node == id && file.written)
    };
    session
        .tree
        .nodes()
        .iter()
        .filter_map(|node| {
            let id = node.id;
            let link = info.links.iter().find(|(overlay, _)| *overlay == id);
            let backing = link.map_or_else(|| session.tree.backing(id), |(_, to)| *to);
            let invalid = info.invalid.contains(&id)
                || info.broken_dependents.contains(&id)
                || merged_away(info).contains(&id);
            // The layer whose link changes may take data as well: only then is it "written".
            let takes_data = match form.kind {
                Kind::Commit => session.node(form.base?).ok() == Some(id),
                Kind::Pull => session.node(form.top).ok() == Some(id),
                Kind::Rebase => !form.link_only && session.node(form.top).ok() == Some(id),
                Kind::Remove => written(id) && link.is_none(),
            };
            let removed = info.superseded.contains(&id)
                || form.kind == Kind::Remove && session.node(form.top).ok() == Some(id);
            let fate = if invalid {
                Fate::Invalid
            } else if takes_data {
                Fate::Written
            } else if link.is_some() {
                Fate::Relinked
            } else if removed {
                Fate::Spare
            } else if written(id) {
                Fate::Written
            } else {
                Fate::Untouched
            };
            Some(After {
                layer: session.layer(id)?,
                backing: backing.and_then(|id| session.layer(id)),
                fate,
            })
        })
        .collect()
}

/// Whose data goes where: the dashed arrows.
fn flow(session: &Session, form: &Operation, info: &PlanInfo) -> Vec<(u32, u32)> {
    let Ok(top) = session.node(form.top) else {
        return Vec::new();
    };
    let below = |id: NodeId| {
        let mut found: Vec<NodeId> = Vec::new();
        let mut at = session.tree.backing(id);
        while let Some(next) = at.filter(|next| !found.contains(next)) {
            found.push(next);
            at = session.tree.backing(next);
        }
        found
    };
    let new_base = form.base.and_then(|base| session.node(base).ok());
    let until_base = |ids: Vec<NodeId>| ids.into_iter().take_while(move |id| Some(*id) != new_base);
    let pairs: Vec<(NodeId, NodeId)> = match form.kind {
        Kind::Commit => {
            let Some(base) = new_base else {
                return Vec::new();
            };
            std::iter::once(top)
                .chain(until_base(below(top)))
                .map(|id| (id, base))
                .collect()
        }
        Kind::Rebase if form.link_only => Vec::new(),
        Kind::Pull | Kind::Rebase => until_base(below(top)).map(|id| (id, top)).collect(),
        Kind::Remove => {
            let overlay = info.links.first().map(|(overlay, _)| *overlay);
            let takes = info
                .files
                .iter()
                .filter(|file| file.written)
                .map(|file| file.node)
                .find(|&id| Some(id) != overlay)
                .or(overlay);
            takes.map(|to| (top, to)).into_iter().collect()
        }
    };
    pairs
        .into_iter()
        .filter_map(|(from, to)| Some((session.layer(from)?, session.layer(to)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use backchain::chain::Locator;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn names_are_relative_to_the_overlays_folder() {
        let relative = |overlay, base| Locator::relative(base, overlay).unwrap();
        assert_eq!(relative("dir/top", "dir/base"), "base");
        assert_eq!(relative("dir/a/top", "dir/b/base"), "../b/base");
        assert_eq!(relative("top", "base"), "base");
        assert_eq!(relative("dir/top", "/abs/base"), "/abs/base");
    }
}
