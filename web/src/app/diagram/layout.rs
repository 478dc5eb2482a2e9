//! Where each layer of a tree is drawn.
//!
//! Side by side where there is room, as the source document draws its figures: the base on the
//! left, each overlay to the right of its backing file, branches below. One below the other
//! otherwise, with branches indented.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// One box to place: its id, and the id of the box it points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub id: u32,
    pub backing: Option<u32>,
    /// A chain that ends in such a box gives way to others.
    pub dim: bool,
}

/// A box's place in the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub id: u32,
    pub backing: Option<u32>,
    /// Distance from the chain's base.
    pub depth: u32,
    /// Side by side: the row. Row 0 holds the longest chain.
    pub row: u32,
    /// One below the other: position from the top.
    pub order: u32,
    /// One below the other: how far indented.
    pub lane: u32,
}

/// Places every box, in drawing order. A box whose backing is not among them, or which is part
/// of a loop, starts a chain of its own. Never recurses, so depth costs no stack.
#[must_use]
pub fn place(links: &[Link]) -> Vec<Place> {
    let backing: HashMap<u32, Option<u32>> =
        links.iter().map(|link| (link.id, link.backing)).collect();
    let mut roots = roots(links, &backing);
    let rooted: HashSet<u32> = roots.iter().copied().collect();

    let mut overlays: HashMap<u32, Vec<u32>> = HashMap::new();
    for link in links {
        if let Some(below) = link.backing
            && !rooted.contains(&link.id)
        {
            overlays.entry(below).or_default().push(link.id);
        }
    }
    let dim: HashMap<u32, bool> = links.iter().map(|link| (link.id, link.dim)).collect();
    let weights = weights(&roots, &overlays, &dim);
    let weight = |id: &u32| Reverse(weights.get(id).copied().unwrap_or_default());
    for above in overlays.values_mut() {
        // Heaviest first: the chain in use, and the longest, stays on its base's row.
        above.sort_by_key(weight);
    }
    roots.sort_by_key(weight);

    let mut places: HashMap<u32, Place> = HashMap::new();
    let mut row = 0;
    for &root in &roots {
        row = across(root, row, &overlays, &backing, &mut places);
    }
    let mut drawn = Vec::with_capacity(places.len());
    let mut order = 0;
    for &root in &roots {
        let mut stack = vec![(root, 0)];
        while let Some((id, lane)) = stack.pop() {
            let Some(mut place) = places.get(&id).copied() else {
                continue;
            };
            place.order = order;
            place.lane = lane;
            order += 1;
            drawn.push(place);
            // The last pushed is drawn next: side branches stand between a box and the main
            // line, whose rail passes them on the left.
            if let Some(above) = overlays.get(&id) {
                stack.extend(above.first().map(|&overlay| (overlay, lane)));
                stack.extend(
                    above
                        .iter()
                        .skip(1)
                        .rev()
                        .map(|&overlay| (overlay, lane + 1)),
                );
            }
        }
    }
    drawn
}

/// The boxes that chains start from.
fn roots(links: &[Link], backing: &HashMap<u32, Option<u32>>) -> Vec<u32> {
    let mut roots = Vec::new();
    // The number of the walk that came by.
    let mut seen: HashMap<u32, usize> = HashMap::with_capacity(links.len());
    let mut loops: HashMap<u32, usize> = HashMap::new();
    for (walk, link) in links.iter().enumerate() {
        let mut at = link.id;
        loop {
            match seen.get(&at) {
                // This very walk: the boxes from here on form a loop.
                Some(&by) if by == walk => {
                    let first = at;
                    loop {
                        loops.insert(at, walk);
                        match backing.get(&at).copied().flatten() {
                            Some(below) if below != first => at = below,
                            _ => break,
                        }
                    }
                    break;
                }
                Some(_) => break,
                None => seen.insert(at, walk),
            };
            match backing.get(&at).copied().flatten() {
                Some(below) if backing.contains_key(&below) => at = below,
                _ => {
                    roots.push(at);
                    break;
                }
            }
        }
    }
    // A loop has no base: its first member, as given, is drawn as one.
    let mut known = HashSet::new();
    for link in links {
        if let Some(walk) = loops.get(&link.id)
            && known.insert(*walk)
        {
            roots.push(link.id);
        }
    }
    roots
}

/// Whether a chain in use leads up from each box, and the number of layers on its longest way up.
fn weights(
    roots: &[u32],
    overlays: &HashMap<u32, Vec<u32>>,
    dim: &HashMap<u32, bool>,
) -> HashMap<u32, (bool, u32)> {
    let mut order: Vec<u32> = roots.to_vec();
    let mut at = 0;
    while let Some(&id) = order.get(at) {
        order.extend(overlays.get(&id).into_iter().flatten());
        at += 1;
    }
    let mut weights: HashMap<u32, (bool, u32)> = HashMap::new();
    for id in order.into_iter().rev() {
        let above = overlays.get(&id).into_iter().flatten();
        let heaviest = above.filter_map(|id| weights.get(id)).max();
        let weight = match heaviest {
            Some(&(live, height)) => (live, height + 1),
            None => (!dim.get(&id).copied().unwrap_or(false), 0),
        };
        weights.insert(id, weight);
    }
    weights
}

/// Gives `root`'s tree its columns and rows; returns the first free row below it.
fn across(
    root: u32,
    row: u32,
    overlays: &HashMap<u32, Vec<u32>>,
    backing: &HashMap<u32, Option<u32>>,
    places: &mut HashMap<u32, Place>,
) -> u32 {
    let mut free = row;
    // Chains still to be laid along a row of their own.
    let mut chains = vec![(root, 0)];
    while let Some((start, depth)) = chains.pop() {
        let mut branches = Vec::new();
        let mut at = Some(start);
        let mut depth = depth;
        while let Some(id) = at {
            let below = if id == root {
                None
            } else {
                backing.get(&id).copied().flatten()
            };
            places.insert(
                id,
                Place {
                    id,
                    backing: below,
                    depth,
                    row: free,
                    order: 0,
                    lane: 0,
                },
            );
            let above = overlays.get(&id).map(Vec::as_slice).unwrap_or_default();
            at = above.first().copied();
            depth += 1;
            // The last pushed is laid first.
            branches.extend(above.iter().skip(1).rev().map(|&branch| (branch, depth)));
        }
        free += 1;
        // Branches high up the chain are laid first: their lines down then cross nothing.
        chains.extend(branches);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_bindgen_test::wasm_bindgen_test;

    fn links(pairs: &[(u32, Option<u32>)]) -> Vec<Link> {
        pairs
            .iter()
            .map(|&(id, backing)| Link {
                id,
                backing,
                dim: false,
            })
            .collect()
    }

    #[wasm_bindgen_test]
    fn a_chain_is_one_row() {
        let places = place(&links(&[(2, Some(1)), (0, None), (1, Some(0))]));
        let seen: Vec<_> = places
            .iter()
            .map(|p| (p.id, p.depth, p.row, p.lane))
            .collect();
        assert_eq!(seen, [(0, 0, 0, 0), (1, 1, 0, 0), (2, 2, 0, 0)]);
    }

    #[wasm_bindgen_test]
    fn the_longest_branch_stays_on_the_base_row() {
        let places = place(&links(&[
            (0, None),
            (1, Some(0)),
            (2, Some(0)),
            (3, Some(2)),
        ]));
        let row = |id| places.iter().find(|p| p.id == id).map(|p| p.row);
        assert_eq!(
            (row(0), row(2), row(3), row(1)),
            (Some(0), Some(0), Some(0), Some(1))
        );
    }

    #[wasm_bindgen_test]
    fn a_chain_in_use_comes_before_a_longer_one_that_is_not() {
        let mut given = links(&[(0, None), (1, Some(0)), (2, Some(1)), (3, Some(0))]);
        given[1].dim = true;
        given[2].dim = true;
        let rows: Vec<_> = place(&given).iter().map(|p| (p.id, p.row)).collect();
        assert_eq!(rows.iter().find(|(id, _)| *id == 3), Some(&(3, 0)));
        assert_eq!(rows.iter().find(|(id, _)| *id == 2), Some(&(2, 1)));
    }

    #[wasm_bindgen_test]
    fn every_box_is_drawn_once_even_in_loops() {
        let places = place(&links(&[
            (0, Some(1)),
            (1, Some(0)),
            (2, Some(2)),
            (3, Some(9)),
            (4, Some(0)),
        ]));
        let mut ids: Vec<_> = places.iter().map(|p| p.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
    }

    #[wasm_bindgen_test]
    fn each_loop_is_drawn_from_its_first_member() {
        let places = place(&links(&[
            (7, Some(5)),
            (5, Some(6)),
            (6, Some(5)),
            (1, Some(2)),
            (2, Some(1)),
        ]));
        let mut roots: Vec<_> = places
            .iter()
            .filter(|place| place.backing.is_none())
            .map(|place| place.id)
            .collect();
        roots.sort_unstable();
        assert_eq!(roots, [1, 5]);
        assert_eq!(places.len(), 5);
    }

    #[wasm_bindgen_test]
    fn rows_and_orders_are_distinct() {
        let places = place(&links(&[
            (0, None),
            (1, Some(0)),
            (2, Some(1)),
            (3, Some(2)),
            (4, Some(0)),
            (5, Some(4)),
            (6, Some(1)),
            (7, Some(1)),
        ]));
        let mut cells: Vec<_> = places.iter().map(|p| (p.row, p.depth)).collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), 8);
        let orders: Vec<_> = places.iter().map(|p| p.order).collect();
        assert_eq!(orders, (0..8).collect::<Vec<_>>());
    }
}
