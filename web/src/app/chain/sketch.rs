//! What the picture of a tree consists of: its layers, and the files they miss.

use crate::app::diagram::layout::Link;
use crate::protocol::{Layer, LayerId, Remark, Role, State, Tree};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A backing file that is named and was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ghost {
    pub id: LayerId,
    /// File name, without folders.
    pub name: String,
    /// The same as the overlays name it.
    pub path: String,
    /// Who stands on it.
    pub overlays: Vec<LayerId>,
}

/// A tree with what is missing from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    pub tree: Rc<Tree>,
    pub links: Vec<Link>,
    pub ghosts: Vec<Ghost>,
    index: HashMap<LayerId, usize>,
}

impl Sketch {
    #[must_use]
    pub fn new(tree: Rc<Tree>) -> Self {
        let mut links = Vec::with_capacity(tree.layers.len());
        let mut ghosts: Vec<Ghost> = Vec::new();
        for layer in &tree.layers {
            // What a layer names but nobody gave is drawn too, as a gap in the chain.
            let mut backing = layer.backing;
            if layer.state == State::Missing && backing.is_none() {
                let known = ghosts.iter_mut().find(|g| g.path == layer.backing_path);
                backing = Some(match known {
                    Some(ghost) => {
                        ghost.overlays.push(layer.id);
                        ghost.id
                    }
                    None => {
                        let id = LayerId::MAX - u32::try_from(ghosts.len()).unwrap_or(0);
                        ghosts.push(Ghost {
                            id,
                            name: layer.backing_name.clone(),
                            path: layer.backing_path.clone(),
                            overlays: vec![layer.id],
                        });
                        id
                    }
                });
            }
            links.push(Link {
                id: layer.id,
                backing,
                dim: layer.state == State::Invalid || layer.role == Role::Spare,
            });
        }
        links.extend(ghosts.iter().map(|ghost| Link {
            id: ghost.id,
            backing: None,
            dim: false,
        }));
        let index = tree.layers.iter().map(|layer| layer.id).zip(0..).collect();
        Self {
            tree,
            links,
            ghosts,
            index,
        }
    }

    #[must_use]
    pub fn layer(&self, id: LayerId) -> Option<&Layer> {
        self.tree.layers.get(*self.index.get(&id)?)
    }

    #[must_use]
    pub fn ghost(&self, id: LayerId) -> Option<&Ghost> {
        self.ghosts.iter().find(|ghost| ghost.id == id)
    }

    /// The box, all below it and all above it.
    #[must_use]
    pub fn related(&self, id: LayerId) -> HashSet<LayerId> {
        let backing: HashMap<LayerId, LayerId> = self
            .links
            .iter()
            .filter_map(|link| Some((link.id, link.backing?)))
            .collect();
        let mut related = HashSet::from([id]);
        let mut at = id;
        while let Some(&below) = backing.get(&at) {
            if !related.insert(below) {
                break;
            }
            at = below;
        }
        let mut above: HashMap<LayerId, Vec<LayerId>> = HashMap::new();
        for (&overlay, &below) in &backing {
            above.entry(below).or_default().push(overlay);
        }
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            for &overlay in above.get(&id).into_iter().flatten() {
                if related.insert(overlay) {
                    waiting.push(overlay);
                }
            }
        }
        related
    }

    /// The layers whose name has `wanted` in it, in the order given.
    #[must_use]
    pub fn find(&self, wanted: &str, order: &[LayerId]) -> Vec<LayerId> {
        let wanted = wanted.trim().to_lowercase();
        if wanted.is_empty() {
            return Vec::new();
        }
        let named = |id: LayerId| match self.layer(id) {
            Some(layer) => layer.name.to_lowercase().contains(&wanted),
            None => self
                .ghost(id)
                .is_some_and(|ghost| ghost.name.to_lowercase().contains(&wanted)),
        };
        order.iter().copied().filter(|&id| named(id)).collect()
    }

    /// Guest bytes that all bars of a tree stand for.
    #[must_use]
    pub fn extent(&self) -> u64 {
        let sizes = self.tree.layers.iter().filter_map(|l| l.virtual_size);
        sizes.max().unwrap_or(0)
    }

    /// The tree in a few words: `60 layers, 4 branches, 1 needs attention`.
    #[must_use]
    pub fn summary(&self) -> String {
        let layers = self.tree.layers.len();
        let tips = {
            let below: HashSet<LayerId> =
                self.links.iter().filter_map(|link| link.backing).collect();
            let ends = |link: &&Link| !below.contains(&link.id);
            self.links.iter().filter(ends).count()
        };
        let troubled = self
            .tree
            .layers
            .iter()
            .filter(|l| needs_attention(l))
            .count();
        let mut said = plural(layers, "layer", "layers");
        if tips > 1 {
            said.push_str(&format!(", {tips} ends"));
        }
        match troubled {
            0 => {}
            1 => said.push_str(", 1 needs attention"),
            n => said.push_str(&format!(", {n} need attention")),
        }
        said
    }
}

/// Whether something is wrong, or may be.
#[must_use]
pub fn needs_attention(layer: &Layer) -> bool {
    layer.state != State::Ok || layer.remarks.contains(&Remark::ChangedBelow)
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// How boxes are sized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sizing {
    #[default]
    Equal,
    /// Twice the bytes, one step higher.
    Logarithmic,
    /// Twice the bytes, twice as high.
    Linear,
}

impl Sizing {
    pub const ALL: [Self; 3] = [Self::Equal, Self::Logarithmic, Self::Linear];

    /// Its name in the document, and in words.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Equal => ("equal", "all alike"),
            Self::Logarithmic => ("log", "by bytes used (log)"),
            Self::Linear => ("linear", "by bytes used"),
        }
    }

    /// How large each layer is drawn, from 0 to 1; empty when all are alike.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a height on the screen")]
    pub fn sizes(self, sketch: &Sketch) -> HashMap<LayerId, f64> {
        const SMALLEST: f64 = 65536.0;
        let used = |layer: &Layer| layer.allocated.unwrap_or(0) as f64;
        let most = sketch.tree.layers.iter().map(used).fold(1.0, f64::max);
        let share = |bytes: f64| match self {
            Self::Logarithmic => (1.0 + bytes / SMALLEST).ln() / (1.0 + most / SMALLEST).ln(),
            _ => bytes / most,
        };
        if self == Self::Equal {
            return HashMap::new();
        }
        let layers = sketch.tree.layers.iter();
        layers.map(|layer| (layer.id, share(used(layer)))).collect()
    }
}
