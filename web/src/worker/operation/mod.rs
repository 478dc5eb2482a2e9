//! From what the form says to a plan of the engine, and from the plan to what the preview shows.

pub mod commands;
pub mod figures;
pub mod place;
pub mod ways;
pub mod wish;
pub mod words;

pub use words::done;

use super::session::{Session, sentence};
use crate::protocol::{Field, FileWrite, Kind, LayerId, Made, Operation, Preview, Way};
use crate::units::bytes;
use backchain::plan::{FileChange, PlanInfo, RemoveMethod};
use backchain::{ErrorKind, Format, NodeId, Operation as Wish, Plan, Preview as Sum};

/// The plan for what the form says. `None` when nothing has to be written.
///
/// # Errors
/// *Invalid* when the form is not complete; else whatever the engine refuses it for.
pub fn plan(session: &Session, form: &Operation) -> Result<Option<Plan>, backchain::Error> {
    planned(session, wish::wish(session, &ways::settled(session, form)))
}

fn planned(
    session: &Session,
    wish: Result<Option<Wish>, String>,
) -> Result<Option<Plan>, backchain::Error> {
    let wish = wish.map_err(|why| backchain::Error::new(ErrorKind::Invalid, why))?;
    wish.map(|wish| session.tree.plan(&wish)).transpose()
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
    let mut other = (form.kind == Kind::Repair).then(|| session.with_damaged());
    if let Some(other) = &mut other {
        session.swap_tree(other);
    }
    let shown = preview_here(session, form, read_only, stale, note).await;
    if let Some(other) = &mut other {
        session.swap_tree(other);
    }
    shown
}

async fn preview_here(
    session: &mut Session,
    form: &Operation,
    read_only: &[u32],
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Result<Option<Preview>, String> {
    let Some(ways) = ways::ways(session, form, stale, note).await else {
        return Ok(None);
    };
    let form = &ways::decided(form, &ways);
    let (form, refusal, made) = match plan(session, form) {
        Ok(plan) => (form.clone(), None, Some(plan)),
        // Shown as it would be with the override, so that one sees what would happen.
        Err(error) if error.kind() == ErrorKind::Dependents && !form.force => (
            Operation {
                force: true,
                ..form.clone()
            },
            Some(sentence(&error.to_string())),
            None,
        ),
        // Another way may do.
        Err(error) if ways.iter().any(|way| way.possible) => {
            return Ok(Some(Preview {
                refusal: Some(sentence(&error.to_string())),
                ways,
                ..Preview::default()
            }));
        }
        Err(error) => return Err(sentence(&error.to_string())),
    };
    let Some(sum) = sum_of(session, &form, made, stale, note).await? else {
        return Ok(None);
    };
    let mut preview = shown(session, &form, &sum, read_only);
    preview.can_force = refusal.is_some();
    let this = |way: &Way| {
        let (way, form) = (&way.operation, &form);
        (way.kind, way.top, way.base) == (form.kind, form.top, form.base)
            && way.get(Field::Method) == form.get(Field::Method)
    };
    let way = ways.iter().position(this);
    preview.way = way.and_then(|way| u32::try_from(way).ok());
    preview.ways = ways;
    let cut = cuts_off(session, &form).filter(|_| refusal.is_none());
    preview.loses = cut.is_some();
    preview.refusal = refusal.or(cut);
    session.sum = Some((form, sum));
    Ok(Some(preview))
}

/// Why a disk is not made smaller just so.
#[must_use]
pub fn cuts_off(session: &Session, form: &Operation) -> Option<String> {
    if form.kind != Kind::Resize || form.is(Field::Shrink) {
        return None;
    }
    let node = session.tree.node(session.node(form.top?).ok()?);
    let now = node.virtual_size();
    let size = crate::size::parse_change(form.get(Field::Size), now).ok()?;
    (size < now).then(|| {
        let held = match held_behind(node, size) {
            Some(0) => String::new(),
            Some(held) => format!(" The layer itself holds {} there.", bytes(held)),
            None => " The layer itself holds a lot there.".to_owned(),
        };
        format!(
            "The disk would end at {} instead of {}: what lies behind is lost, and a file system that reaches there is damaged.{held} Shrink the file system inside first; then say above that the rest may be cut off.",
            bytes(size),
            bytes(now)
        )
    })
}

/// Bytes of data that a layer holds from a place on; none when that takes long to count.
fn held_behind(node: &backchain::Node, from: u64) -> Option<u64> {
    let mut held = 0_u64;
    let extents = node.extents(from).ok()?;
    for (nth, extent) in extents.enumerate() {
        let extent = extent.ok().filter(|_| nth < MOST_EXTENTS)?;
        if matches!(
            extent.place,
            backchain::Place::Data { .. } | backchain::Place::Compressed { .. }
        ) {
            held = held.saturating_add(extent.len);
        }
    }
    Some(held)
}

/// More runs than this are not counted while somebody waits.
const MOST_EXTENTS: usize = 20_000;

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
    sum_of(session, form, None, stale, note).await
}

/// The same. `made` is the plan for the form when there is one that nobody else needs: making it
/// may take a while.
async fn sum_of(
    session: &Session,
    form: &Operation,
    made: Option<Option<Plan>>,
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Result<Option<Sum>, String> {
    if let Some((known, sum)) = &session.sum
        && known == form
    {
        return Ok(Some(sum.clone()));
    }
    let say = |error: backchain::Error| sentence(&error.to_string());
    if matches!(
        form.kind,
        Kind::Commit | Kind::Pull | Kind::Rebase | Kind::Remove | Kind::Export
    ) && !form.is(Field::Unsafe)
    {
        survey(session, form, stale, note).await?;
        if stale() {
            return Ok(None);
        }
    }
    let plan = match made.filter(|_| !reads_everything(form)) {
        Some(made) => made,
        // What is seen only by reading all of the data is left to the run.
        None => {
            let wish = wish::wish(session, &ways::settled(session, form));
            planned(session, wish.map(|wish| wish.map(wish::outline))).map_err(say)?
        }
    };
    let Some(plan) = plan else {
        return Ok(Some(Sum::default()));
    };
    let mut sum = Sum::begin(&plan);
    let mut breathed = js_sys::Date::now();
    for step in plan {
        sum.count(&step.map_err(say)?);
        if js_sys::Date::now() - breathed > BREATH {
            crate::js::pause().await;
            breathed = js_sys::Date::now();
            if stale() {
                return Ok(None);
            }
        }
    }
    Ok(Some(sum))
}

/// Milliseconds after which messages are let in.
const BREATH: f64 = 30.0;

/// Whether planning it reads all of the data, which takes as long as doing it.
#[must_use]
pub fn reads_everything(form: &Operation) -> bool {
    match form.kind {
        Kind::Export => wish::compresses(form) || form.is(Field::FindZeros),
        Kind::Rebase => form.is(Field::Pack) && !form.is(Field::Unsafe),
        _ => false,
    }
}

/// Looks for holes in the raw files that will be read: a browser does not tell where they are.
async fn survey(
    session: &Session,
    form: &Operation,
    stale: &dyn Fn() -> bool,
    note: &dyn Fn(String),
) -> Result<(), String> {
    let ends = [form.top, form.base].into_iter().flatten();
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

/// What the page shows of a plan that was summed up.
pub fn shown(session: &Session, form: &Operation, sum: &Sum, read_only: &[u32]) -> Preview {
    let writes = sum
        .changes
        .iter()
        .filter_map(|change| write(session, form, change, read_only))
        .collect();
    let mut warnings: Vec<String> = sum.info.warnings.iter().map(|w| sentence(w)).collect();
    if sum.written() > LARGE {
        warnings.push(format!(
            "{} are a lot for a browser: the command line below is faster.",
            bytes(sum.written())
        ));
    }
    warnings.extend(words::warnings(session, form));
    let names = |mut ids: Vec<NodeId>| -> Vec<String> {
        // From the base up, as they are drawn.
        ids.sort_by_key(|&id| depth(session, id));
        ids.into_iter().map(|id| session.name(id)).collect()
    };
    let info = &sum.info;
    let invalid = [
        info.invalid.as_slice(),
        &info.broken_dependents,
        merged_away(info),
    ]
    .concat();
    Preview {
        summary: words::summary(session, form),
        after: figures::after(session, form, info),
        made: form.makes().map(|name| Made {
            name: name.trim().to_owned(),
            backing: made_on(form),
        }),
        flow: figures::flow(session, form, info),
        copied: sum.copied,
        inflated: sum.inflated,
        zeroed: sum.zeroed,
        packed: sum.packed,
        metadata: sum.metadata,
        at_most: reads_everything(form),
        writes,
        invalid: names(invalid),
        spare: names(unneeded(session, form, info)),
        warnings,
        refusal: None,
        can_force: false,
        loses: false,
        commands: commands::commands(session, form, info),
        ways: Vec::new(),
        way: None,
    }
}

fn write(
    session: &Session,
    form: &Operation,
    change: &FileChange,
    read_only: &[u32],
) -> Option<FileWrite> {
    let Some(nth) = session.file(change.node) else {
        let (how, gift) = place::words(session, form);
        return Some(FileWrite {
            layer: None,
            gift,
            name: form.get(Field::Name).trim().to_owned(),
            before: 0,
            after: change.len_after,
            how,
            temporary: 0,
            in_place: true,
        });
    };
    let entry = session.files.0.get(nth)?;
    let way = super::strategy::Way::of(entry, read_only, Some(change));
    Some(FileWrite {
        layer: session.layer(change.node),
        gift: Some(entry.gift),
        name: entry.name().to_owned(),
        before: change.len_before,
        after: change.len_after,
        how: way.words,
        temporary: way.temporary,
        in_place: way.strategy.in_place(),
    })
}

/// The backing file of the layer that is made.
fn made_on(form: &Operation) -> Option<LayerId> {
    match form.kind {
        Kind::Overlay => form.top,
        Kind::GoBack | Kind::Export => form.base,
        _ => None,
    }
}

/// Layers that a commit merged into the one below: they read as they did, and nothing should go
/// on using them. A rebase leaves the layer it makes superfluous alone.
#[must_use]
pub fn merged_away(info: &PlanInfo) -> &[NodeId] {
    match info.method {
        Some(RemoveMethod::Rebase) => &[],
        _ => &info.superseded,
    }
}

/// Layers that stay valid and are not needed any more.
#[must_use]
pub fn unneeded(session: &Session, form: &Operation, info: &PlanInfo) -> Vec<NodeId> {
    let mut found: Vec<NodeId> = info.superseded.clone();
    found.retain(|id| !merged_away(info).contains(id));
    if form.kind == Kind::GoBack
        && let (Some(top), Ok(earlier)) = (form.top, earlier(session, form))
        && let Ok(top) = session.node(top)
    {
        // From the top down, until a layer that another branch stands on, or that is gone back to.
        let mut at = Some(top);
        while let Some(id) = at.filter(|&id| id != earlier && !found.contains(&id)) {
            let mut others = session.tree.valid_children(id);
            others.retain(|other| !found.contains(other));
            if !others.is_empty() {
                break;
            }
            found.push(id);
            at = session.tree.backing(id);
        }
    }
    found
}

/// The layer that is gone back to.
fn earlier(session: &Session, form: &Operation) -> Result<NodeId, String> {
    let to = session.node(form.base.ok_or("Choose the layer to go back to.")?)?;
    let from = session.node(form.top.ok_or("Choose the layer to give up.")?)?;
    if session.tree.dependents(to).contains(&from) {
        Ok(to)
    } else {
        Err(format!(
            "{} is not below {} in its chain.",
            session.name(to),
            session.name(from)
        ))
    }
}

/// Number of layers below `id`.
fn depth(session: &Session, id: NodeId) -> usize {
    let below = std::iter::successors(session.tree.backing(id), |&id| session.tree.backing(id));
    below.take(session.tree.nodes().len()).count()
}

/// Number of layers below a file, for putting files in order.
#[must_use]
pub fn depth_of_file(session: &Session, nth: usize) -> usize {
    let layer = u32::try_from(nth).ok();
    let id = layer.and_then(|layer| session.node(layer).ok());
    id.map_or(0, |id| depth(session, id))
}

/// More than this is said to be much.
const LARGE: u64 = 16 << 30;
