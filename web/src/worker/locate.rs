//! Finding a missing backing file among the given ones: by its name, then by size and format.

use super::session::{Session, sentence};
use crate::protocol::LayerId;
use crate::protocol::locate::{Fit, Locate, Located, Suggestion, Wanted};
use backchain::chain::{Opening, file_name};
use backchain::{Node, NodeId};

/// Serves a request. The second part says that the tree is another one now.
pub async fn locate(session: &mut Session, request: Locate) -> (Located, bool) {
    let (layer, answer) = match request {
        Locate::Suggest { layer } => {
            let suggestions = session.node(layer).and_then(|id| {
                Ok(Located::Suggestions {
                    layer,
                    wanted: wanted(session, id)?,
                    suggestions: suggestions(session, id, None)?,
                })
            });
            let answer = suggestions.unwrap_or_else(|why| failed(layer, &why));
            return (answer, false);
        }
        Locate::Take { layer, file } => (layer, take(session, layer, file)),
        Locate::Give { layer, granted } => {
            let added = session.files.add(granted).await;
            session.open();
            (
                layer,
                added.and_then(|added| take_best(session, layer, &added)),
            )
        }
        Locate::Forget { layer } => {
            if let Ok(nth) = usize::try_from(layer) {
                session.files.unlink(nth);
            }
            session.open();
            (layer, Ok(Located::Forgotten { layer }))
        }
    };
    (answer.unwrap_or_else(|why| failed(layer, &why)), true)
}

fn failed(layer: LayerId, why: &str) -> Located {
    Located::Failed {
        layer,
        why: sentence(why),
    }
}

/// Of the files that were given for `layer`, takes the one that fits best.
fn take_best(session: &mut Session, layer: LayerId, added: &[usize]) -> Result<Located, String> {
    let id = session.node(layer)?;
    let found = suggestions(session, id, Some(added))?;
    let best = match found.as_slice() {
        [] => return Err("none of these files can be its backing file".to_owned()),
        // Whoever gives a single file means it.
        [only] => only,
        [best, ..] if best.fit.likely() => best,
        _ => {
            return Err(format!(
                "none of these {} files fits by its name, or by size and format. Choose one of them.",
                found.len()
            ));
        }
    };
    take(session, layer, best.file)
}

fn take(session: &mut Session, layer: LayerId, file: LayerId) -> Result<Located, String> {
    let (overlay, found) = (session.node(layer)?, session.node(file)?);
    let name = session.name(overlay);
    if overlay == found {
        return Err(format!("{name} cannot be its own backing file"));
    }
    if session.tree.dependents(overlay).contains(&found) {
        return Err(format!(
            "{} stands on {name}, so it cannot be its backing file",
            session.name(found)
        ));
    }
    let wanted = wanted(session, overlay)?;
    let suggestion = Suggestion {
        file,
        name: session.name(found),
        fit: fit(&wanted, session.tree.node(found)),
    };
    let known = session.file(overlay).zip(session.file(found));
    let (overlay, found) = known.ok_or("this file is not here any more")?;
    session.files.link(overlay, wanted.name.clone(), found);
    session.open();
    let backing = session.tree.backing(session.node(layer)?);
    if backing.and_then(|id| session.file(id)) == Some(found) {
        return Ok(Located::Linked {
            layer,
            file: suggestion,
        });
    }
    session.files.unlink(overlay);
    session.open();
    Err(format!(
        "{} is no name of a file that another one could stand for. Rebase {name} with \"only change the link\" instead",
        wanted.name
    ))
}

/// What the header of `id` says about its backing file.
fn wanted(session: &Session, id: NodeId) -> Result<Wanted, String> {
    let node = session.tree.node(id);
    let backing = node
        .backing()
        .ok_or_else(|| format!("{} names no backing file", session.name(id)))?;
    Ok(Wanted {
        name: backing.name.clone(),
        format: backing.format.clone().unwrap_or_default(),
        virtual_size: virtual_size(node),
    })
}

/// The files that can be the backing file of `id`, best first; only those among `those`.
fn suggestions(
    session: &Session,
    id: NodeId,
    those: Option<&[usize]>,
) -> Result<Vec<Suggestion>, String> {
    let wanted = wanted(session, id)?;
    let above = session.tree.dependents(id);
    let mut found: Vec<Suggestion> = session
        .tree
        .nodes()
        .iter()
        .filter(|node| node.id != id && !above.contains(&node.id) && node.image.is_ok())
        .filter(|node| session.tree.data_owners(node.id).is_empty())
        .filter_map(|node| {
            let nth = session.file(node.id)?;
            let chosen = those.is_none_or(|those| those.contains(&nth));
            Some(Suggestion {
                file: u32::try_from(nth).ok().filter(|_| chosen)?,
                name: session.name(node.id),
                fit: fit(&wanted, node),
            })
        })
        .collect();
    // Of equals the first given.
    found.sort_by_key(|suggestion| std::cmp::Reverse(suggestion.fit));
    Ok(found)
}

fn fit(wanted: &Wanted, node: &Node) -> Fit {
    let recorded = Opening::parse(&wanted.name).ok().and_then(|o| o.path());
    let recorded = recorded.unwrap_or_else(|| wanted.name.clone());
    let name = file_name(&recorded).to_lowercase();
    Fit {
        name: file_name(&node.name).to_lowercase() == name,
        size: wanted.virtual_size.is_some() && wanted.virtual_size == virtual_size(node),
        format: wanted.format.is_empty() || wanted.format == node.probed.to_string(),
    }
}

fn virtual_size(node: &Node) -> Option<u64> {
    let image = node.image.as_ref().ok()?;
    Some(image.virtual_size())
}
