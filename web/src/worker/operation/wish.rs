//! From what the form says to the engine's operation.

use super::place;
use crate::protocol::{Field, Kind, Operation};
use crate::size;
use crate::worker::session::Session;
use backchain::chain::Locator;
use backchain::check::Fix;
use backchain::format::qcow2::Codec;
use backchain::image::SnapshotQuery;
use backchain::plan::{
    Amendment, BitmapAction, Broken, ConvertOptions, CreateOptions, Preallocation, RemoveMethod,
    Target, Zeros,
};
use backchain::{Format, NodeId, Operation as Wish};

/// The engine's operation for what the form says. `None` when nothing has to be written.
///
/// # Errors
/// When the form is not complete, in words.
pub fn wish(session: &Session, form: &Operation) -> Result<Option<Wish>, String> {
    let tree = &session.tree;
    let base = form.base.map(|base| session.node(base)).transpose()?;
    if form.kind == Kind::Create {
        return Ok(Some(Wish::Create {
            name: place::path(session, form)?,
            options: creation(form)?,
            backing: None,
        }));
    }
    let top = session.node(form.top.ok_or("Choose a layer.")?)?;
    Ok(Some(match form.kind {
        Kind::Commit => Wish::Commit {
            top,
            base: base.ok_or("Choose the layer to merge into.")?,
            relink: tree.valid_children(top),
            empty_top: form.is(Field::EmptyTop) && tree.valid_children(top).is_empty(),
            bitmaps: form.is(Field::Bitmaps),
            allow_broken: form.force,
            allow_plaintext: form.force,
        },
        Kind::Pull => Wish::Pull { overlay: top, base },
        Kind::Rebase => rebase(session, form, top, base),
        Kind::Remove => Wish::Remove {
            layer: top,
            active: highest(session, top),
            method: match form.get(Field::Method) {
                "1" => Some(RemoveMethod::Commit),
                "2" => Some(RemoveMethod::Rebase),
                _ => None,
            },
            allow_broken: form.force,
            allow_plaintext: form.force,
        },
        Kind::GoBack if form.makes().is_none() => {
            super::earlier(session, form)?;
            return Ok(None);
        }
        Kind::Overlay | Kind::GoBack => Wish::Create {
            name: place::path(session, form)?,
            options: creation(form)?,
            backing: Some(match form.kind {
                Kind::Overlay => top,
                _ => super::earlier(session, form)?,
            }),
        },
        Kind::Snapshot => Wish::SnapshotCreate {
            image: top,
            name: filled(form, Field::SnapshotName, "Enter a name for the snapshot.")?,
            date_sec: seconds(),
            date_nsec: 0,
        },
        Kind::Revert => Wish::SnapshotApply {
            image: top,
            snapshot: snapshot(form)?.ok_or("Choose a snapshot.")?,
            allow_broken: form.force,
        },
        Kind::DeleteSnapshot => Wish::SnapshotDelete {
            image: top,
            snapshot: snapshot(form)?.ok_or("Choose a snapshot.")?,
        },
        Kind::Resize => Wish::Resize {
            image: top,
            size: size::parse_change(form.get(Field::Size), tree.node(top).virtual_size())?,
            preallocation: preallocation(form),
            allow_broken: form.force,
        },
        Kind::Repair => Wish::Repair {
            image: top,
            fix: match form.get(Field::Fix) {
                "all" => Fix::All,
                _ => Fix::Leaks,
            },
        },
        Kind::Amend => Wish::Amend {
            node: top,
            change: amendment(form)?,
        },
        Kind::Bitmap => Wish::Bitmap {
            node: top,
            name: filled(form, Field::Bitmap, "Name the bitmap.")?,
            actions: vec![bitmap_action(form, base)?],
        },
        Kind::Export | Kind::Create => Wish::Convert {
            sources: vec![top],
            target: Target::New {
                name: place::path(session, form)?,
                options: creation(form)?,
                backing: base,
            },
            options: ConvertOptions {
                snapshot: snapshot(form)?,
                zeros: if form.is(Field::FindZeros) {
                    Zeros::USUAL
                } else {
                    Zeros::Known
                },
                compress: compresses(form),
                bitmaps: form.is(Field::Bitmaps).then_some(Broken::Skip),
                ..ConvertOptions::default()
            },
        },
    }))
}

/// The same without what makes a plan read all of the data: it writes the most there can be.
pub fn outline(mut wish: Wish) -> Wish {
    match &mut wish {
        Wish::Convert { options, .. } => {
            options.compress = false;
            options.zeros = Zeros::Known;
        }
        Wish::Rebase { compress, .. } => *compress = false,
        _ => {}
    }
    wish
}

fn rebase(session: &Session, form: &Operation, top: NodeId, base: Option<NodeId>) -> Wish {
    if !form.is(Field::Unsafe) {
        return Wish::Rebase {
            overlay: top,
            base,
            name: None,
            format: None,
            compress: form.is(Field::Pack),
        };
    }
    let tree = &session.tree;
    let named = base.map(|base| tree.node(base));
    Wish::Relink {
        overlay: top,
        name: base.map(|base| recorded_name(session, top, base)),
        // What the file is, and not what somebody called it.
        format: named.map(|node| node.probed),
        base,
    }
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
pub fn highest(session: &Session, id: NodeId) -> NodeId {
    // Dependents come nearest first.
    session.tree.dependents(id).last().copied().unwrap_or(id)
}

/// Whether clusters of the new file are packed.
pub fn compresses(form: &Operation) -> bool {
    form.kind == Kind::Export
        && form.get(Field::Format) == "qcow2"
        && !form.get(Field::Compress).is_empty()
}

/// How the new image is to be.
fn creation(form: &Operation) -> Result<CreateOptions, String> {
    let format = match form.get(Field::Format) {
        "raw" => Format::Raw,
        _ => Format::Qcow2,
    };
    let size = match (form.kind, form.get(Field::Size).trim()) {
        (Kind::Export, _) => None,
        (Kind::Create, "") => return Err("Enter a size, such as 10G.".to_owned()),
        (_, "") => None,
        (_, text) => Some(size::parse(text)?),
    };
    let mut options = CreateOptions {
        format,
        size,
        preallocation: preallocation(form),
        ..CreateOptions::default()
    };
    if format == Format::Qcow2 {
        options.cluster_size = size::parse(form.get(Field::Cluster))?;
        options.v3 = form.get(Field::Compat) != "0.10";
        options.refcount_bits = number(form, Field::RefcountBits)?;
        options.extended_l2 = form.is(Field::ExtendedL2);
        options.lazy_refcounts = form.is(Field::LazyRefcounts);
        if form.get(Field::Compress) == "zstd" {
            options.codec = Codec::Zstd;
        }
    }
    Ok(options)
}

fn preallocation(form: &Operation) -> Preallocation {
    Preallocation::from_name(form.get(Field::Preallocation)).unwrap_or_default()
}

fn snapshot(form: &Operation) -> Result<Option<SnapshotQuery>, String> {
    let id = form.get(Field::Snapshot);
    Ok((!id.is_empty()).then(|| SnapshotQuery::Id(id.to_owned())))
}

fn amendment(form: &Operation) -> Result<Amendment, String> {
    let said = form.get(Field::Amendment);
    let (name, value) = said.split_once('=').unwrap_or((said, ""));
    Ok(match name {
        "compat" => Amendment::Version { v3: value == "1.1" },
        "lazy_refcounts" => Amendment::LazyRefcounts(value == "on"),
        "refcount_bits" => Amendment::RefcountBits(
            value
                .parse()
                .map_err(|_| format!("\"{value}\" is no width of refcounts."))?,
        ),
        _ => return Err(format!("\"{said}\" is no change that can be made.")),
    })
}

fn bitmap_action(form: &Operation, source: Option<NodeId>) -> Result<BitmapAction, String> {
    Ok(match form.get(Field::Action) {
        "add" => BitmapAction::Add {
            granularity: match form.get(Field::Granularity).trim() {
                "" => None,
                text => Some(size::parse(text)?),
            },
        },
        "remove" => BitmapAction::Remove,
        "clear" => BitmapAction::Clear,
        "enable" => BitmapAction::Enable,
        "disable" => BitmapAction::Disable,
        "merge" => BitmapAction::Merge {
            source,
            bitmap: filled(form, Field::OtherBitmap, "Name the bitmap to merge.")?,
        },
        other => return Err(format!("\"{other}\" cannot be done with a bitmap.")),
    })
}

fn filled(form: &Operation, field: Field, otherwise: &str) -> Result<String, String> {
    match form.get(field) {
        "" => Err(otherwise.to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn number(form: &Operation, field: Field) -> Result<u64, String> {
    let text = form.get(field).trim();
    text.parse()
        .map_err(|_| format!("\"{text}\" is no whole number."))
}

/// Now, in seconds since 1970.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what does not fit is cut to the ends of the field's 32 bits"
)]
fn seconds() -> u32 {
    (js_sys::Date::now() / 1000.0) as u32
}
