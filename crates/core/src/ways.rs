//! The cheapest way to a goal: the operations that lead there, each with what it would cost.
//!
//! A way is an operation like any other, and what it costs is the [`Preview`] of its plan.

use crate::chain::{Chain, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{ConvertOptions, CreateOptions, Operation, Plan, Preview, RemoveMethod, Target};

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// `active` does not need `layer` any more, which is below it.
    Remove {
        /// The layer to take out.
        layer: NodeId,
        /// The end of the chain.
        active: NodeId,
    },
    /// At most so many layers are below `top`; none: it stands alone.
    Shorten {
        /// The end of the chain.
        top: NodeId,
        /// How many.
        below: usize,
    },
}

/// The kind of operation that a way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// Layers are merged down, and what is above them relinked: Method 1.
    Commit,
    /// What is above takes in what differs, by content: Method 2.
    Rebase,
    /// What is above takes in what lies between.
    Pull,
    /// What the guest sees is written into a new image; all others stay as they are.
    Flatten,
}

/// One way to the goal.
pub struct Way {
    /// How.
    pub means: Means,
    /// The operation, with the override that [`Way::refusal`] asks for, if there is one.
    pub operation: Operation,
    /// Why it is not done without an override.
    pub refusal: Option<Error>,
    /// What it costs, or why it cannot be done.
    pub cost: Result<Preview>,
}

impl Way {
    /// Images that read differently afterwards, whether that is the operation's own doing or
    /// they just depend on what changes.
    pub fn invalid(&self) -> Vec<NodeId> {
        let info = self.cost.as_ref().map(|preview| &preview.info);
        info.map_or_else(
            |_| Vec::new(),
            |info| [info.invalid.as_slice(), &info.broken_dependents].concat(),
        )
    }

    /// Bytes of the files that nothing needs any more afterwards: those that become invalid
    /// within the operation, and those whose content is elsewhere.
    pub fn released(&self, tree: &Tree) -> u64 {
        let Ok(preview) = &self.cost else {
            return 0;
        };
        let gone = preview.info.invalid.iter().chain(&preview.info.superseded);
        gone.map(|&id| tree.node(id).source.len()).sum()
    }

    /// What comes first: ways that need no override before those that do, before those that
    /// cannot be gone; among them the one with the lower `cost`, then the one after which the
    /// files are shorter.
    fn rank(&self, cost: &dyn Fn(&Preview) -> u64) -> (u8, u64, u64, Means) {
        match &self.cost {
            Ok(preview) => {
                let override_needed = u8::from(self.refusal.is_some());
                let growth = preview.growth();
                (override_needed, cost(preview), growth, self.means)
            }
            Err(_) => (2, 0, 0, self.means),
        }
    }
}

/// The ways to a goal, being counted.
pub struct Ways {
    waiting: Vec<(Means, Operation)>,
    now: Option<Counting>,
    done: Vec<Way>,
}

struct Counting {
    means: Means,
    operation: Operation,
    refusal: Option<Error>,
    plan: Plan,
    preview: Preview,
}

impl Ways {
    /// Looks for ways to `goal`. `new_name`: the name of the image that [`Means::Flatten`]
    /// makes; without one that is no way.
    ///
    /// # Errors
    /// When the chain cannot be read, or the goal makes no sense in it.
    pub fn new(tree: &Tree, goal: Goal, new_name: Option<&str>) -> Result<Self> {
        let mut waiting = match goal {
            Goal::Remove { layer, active } => removals(tree, layer, active, new_name)?,
            Goal::Shorten { top, below } => shortenings(tree, top, below, new_name)?,
        };
        // Taken from the end.
        waiting.reverse();
        Ok(Self {
            waiting,
            now: None,
            done: Vec::new(),
        })
    }

    /// Counts up to `steps` more steps; false when every way is counted. `tree` is the one the
    /// ways are for.
    pub fn advance(&mut self, tree: &Tree, steps: usize) -> bool {
        for _ in 0..steps {
            if !self.step(tree) {
                return false;
            }
        }
        true
    }

    /// Counts all of them: where nobody waits.
    #[must_use]
    pub fn finish(mut self, tree: &Tree) -> Vec<Way> {
        while self.step(tree) {}
        self.ranked(&Preview::written)
    }

    /// How many ways are counted, and how many there are.
    pub fn progress(&self) -> (usize, usize) {
        let open = self.waiting.len() + usize::from(self.now.is_some());
        (self.done.len(), self.done.len() + open)
    }

    /// The ways that were counted, the cheapest first. `cost` is what counts: natively the bytes
    /// written; who has to write whole files anew says so here.
    #[must_use]
    pub fn ranked(mut self, cost: &dyn Fn(&Preview) -> u64) -> Vec<Way> {
        self.done.sort_by_key(|way| way.rank(cost));
        self.done
    }

    fn step(&mut self, tree: &Tree) -> bool {
        let Some(counting) = &mut self.now else {
            let Some((means, operation)) = self.waiting.pop() else {
                return false;
            };
            self.begin(tree, means, operation);
            return true;
        };
        let failed = match counting.plan.next() {
            Some(Ok(step)) => {
                counting.preview.count(&step);
                return true;
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        if let Some(done) = self.now.take() {
            self.done.push(Way {
                means: done.means,
                operation: done.operation,
                refusal: done.refusal,
                cost: failed.map_or(Ok(done.preview), Err),
            });
        }
        true
    }

    /// Plans a way; one that is refused but for an override with that.
    fn begin(&mut self, tree: &Tree, means: Means, mut operation: Operation) {
        let mut planned = tree.plan(&operation);
        let mut refusal = None;
        if let Err(error) = &planned
            && matches!(error.kind(), ErrorKind::Dependents | ErrorKind::Plaintext)
        {
            let why = error.duplicate();
            overridden(&mut operation);
            planned = tree.plan(&operation);
            refusal = Some(why);
        }
        match planned {
            Ok(plan) => {
                self.now = Some(Counting {
                    means,
                    operation,
                    refusal,
                    preview: Preview::begin(&plan),
                    plan,
                });
            }
            Err(error) => self.done.push(Way {
                means,
                operation,
                refusal: None,
                cost: Err(error),
            }),
        }
    }
}

/// Lets an operation break dependents and write plain text.
fn overridden(operation: &mut Operation) {
    if let Operation::Commit {
        allow_broken,
        allow_plaintext,
        ..
    }
    | Operation::Remove {
        allow_broken,
        allow_plaintext,
        ..
    } = operation
    {
        (*allow_broken, *allow_plaintext) = (true, true);
    }
}

type Found = Vec<(Means, Operation)>;

fn removals(tree: &Tree, layer: NodeId, active: NodeId, new_name: Option<&str>) -> Result<Found> {
    let chain = tree.chain(active)?;
    let depth = chain.depth_of(layer).filter(|&depth| depth > 0);
    let depth = depth.ok_or_else(|| {
        let names = (&tree.node(layer).name, &tree.node(active).name);
        let message = format!("'{}' is not below '{}' in its chain", names.0, names.1);
        Error::new(ErrorKind::Invalid, message)
    })?;
    let below = chain.layers().get(depth + 1).map(|node| node.id);
    let mut found = Vec::new();
    if below.is_some() {
        for method in [RemoveMethod::Commit, RemoveMethod::Rebase] {
            let means = match method {
                RemoveMethod::Commit => Means::Commit,
                RemoveMethod::Rebase => Means::Rebase,
            };
            let operation = Operation::Remove {
                layer,
                active,
                method: Some(method),
                allow_broken: false,
                allow_plaintext: false,
            };
            found.push((means, operation));
        }
    }
    // With several overlays each would have to pull.
    if let [overlay] = tree.valid_children(layer).as_slice() {
        let overlay = *overlay;
        found.push((
            Means::Pull,
            Operation::Pull {
                overlay,
                base: below,
            },
        ));
    }
    found.extend(flatten(active, new_name, None));
    Ok(found)
}

fn shortenings(tree: &Tree, top: NodeId, below: usize, new_name: Option<&str>) -> Result<Found> {
    let chain = tree.chain(top)?;
    let deepest = chain.layers().len() - 1;
    if deepest <= below {
        return Ok(Vec::new());
    }
    // The layer that is to be the backing file.
    let base = match below {
        0 => None,
        _ => id_at(&chain, deepest - below + 1),
    };
    let overlay = top;
    let mut found = vec![
        (Means::Pull, Operation::Pull { overlay, base }),
        (
            Means::Rebase,
            Operation::Rebase {
                overlay,
                base,
                name: None,
                format: None,
                compress: false,
            },
        ),
    ];
    let commits = match below {
        // All of it into the deepest, which is what stands alone then.
        0 => vec![(0, deepest)],
        // The upper ones, or the lower ones.
        _ => vec![(1, deepest - below + 1), (below, deepest)],
    };
    let mut known = None;
    for ends in commits {
        let (Some(top), Some(base)) = (id_at(&chain, ends.0), id_at(&chain, ends.1)) else {
            continue;
        };
        if known.replace(ends) == Some(ends) {
            continue;
        }
        let operation = Operation::Commit {
            top,
            base,
            relink: tree.valid_children(top),
            empty_top: false,
            bitmaps: false,
            allow_broken: false,
            allow_plaintext: false,
        };
        found.push((Means::Commit, operation));
    }
    found.extend(flatten(top, new_name, base));
    Ok(found)
}

fn id_at(chain: &Chain, depth: usize) -> Option<NodeId> {
    chain.layers().get(depth).map(|node| node.id)
}

fn flatten(top: NodeId, name: Option<&str>, backing: Option<NodeId>) -> Option<(Means, Operation)> {
    let operation = Operation::Convert {
        sources: vec![top],
        target: Target::New {
            name: name?.to_owned(),
            options: CreateOptions::default(),
            backing,
        },
        options: ConvertOptions::default(),
    };
    Some((Means::Flatten, operation))
}
