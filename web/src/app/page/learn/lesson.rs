//! What a lesson is made of: all of it is data.

use super::goal::Goal;

/// Lessons on one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Chains,
    Snapshots,
    Commit,
    Pull,
    Removal,
    Inside,
    Broken,
}

impl Group {
    pub const ALL: [Self; 7] = [
        Self::Chains,
        Self::Snapshots,
        Self::Commit,
        Self::Pull,
        Self::Removal,
        Self::Inside,
        Self::Broken,
    ];

    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Chains => "Chains",
            Self::Snapshots => "Snapshots",
            Self::Commit => "Commit: merge down",
            Self::Pull => "Pull: merge up",
            Self::Removal => "Rebase and removal",
            Self::Inside => "Look inside",
            Self::Broken => "Break it",
        }
    }
}

/// One lesson, on a chain made for it.
#[derive(Debug, PartialEq)]
pub struct Lesson {
    /// Its address: `#/learn/ID`.
    pub id: &'static str,
    pub group: Group,
    /// The topic of the source document it is about; 0 for none.
    pub topic: u8,
    pub title: &'static str,
    /// The chain, in the words of the worker's recipes.
    pub recipe: &'static str,
    /// Places of the guests' disks whose text is shown: what is there, its offset, its length.
    pub places: &'static [(&'static str, u64, u32)],
    pub shows: Shows,
    pub steps: &'static [Step],
}

/// What is shown of the chain, besides the figure and the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    Nothing,
    /// The sizes of the files, before and now.
    Sizes,
    /// The bytes that each operation moved.
    Moved,
    /// Facts about the chosen layer.
    Details,
    /// The map and the bytes.
    Looks,
}

/// One step of a lesson.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub title: &'static str,
    /// Paragraphs. `code` and *emphasis* are marked; a paragraph that starts with `! ` is what
    /// people get wrong, one that starts with `$ ` is a command.
    pub text: &'static [&'static str],
    pub task: Task,
}

/// What is to be done in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Task {
    /// Reading it is enough.
    Read,
    /// An operation, and what the chain looks like when it is done.
    Do { act: Act, goal: Goal },
    /// The operation is started, and stopped by Cancel.
    Stop { act: Act },
    /// The operation is started, and the worker that carries it out is killed.
    Kill { act: Act },
    /// The chain is made anew.
    Remake,
    /// "Which files are now invalid?"
    Invalid,
    /// A question with answers: the text, whether it is right, and why.
    Question {
        ask: &'static str,
        answers: &'static [(&'static str, bool, &'static str)],
    },
}

/// Something that happens to a chain. Layers are called by their names without the ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Commit {
        top: &'static str,
        base: &'static str,
        /// Although other overlays break.
        force: bool,
    },
    Pull {
        top: &'static str,
        /// "" for none.
        base: &'static str,
    },
    Rebase {
        overlay: &'static str,
        /// "" for none.
        base: &'static str,
        /// Only the link.
        link_only: bool,
    },
    Remove {
        layer: &'static str,
        method: u8,
    },
    /// A new overlay on a layer.
    Overlay {
        on: &'static str,
        name: &'static str,
    },
    /// Back to an earlier layer, in a fresh overlay.
    GoBack {
        from: &'static str,
        to: &'static str,
        name: &'static str,
    },
    Snapshot {
        layer: &'static str,
        name: &'static str,
    },
    Revert {
        layer: &'static str,
        /// ID of the snapshot.
        id: &'static str,
        /// Its name.
        name: &'static str,
    },
    DeleteSnapshot {
        layer: &'static str,
        id: &'static str,
        name: &'static str,
    },
    /// The guest that runs on a layer writes.
    Write {
        layer: &'static str,
        writes: &'static str,
    },
    /// Files that are not needed any more are deleted.
    Delete(&'static [&'static str]),
    /// The chain is made anew.
    Remake,
}

impl Task {
    /// What happens to the chain when the step is taken.
    #[must_use]
    pub fn act(&self) -> Option<Act> {
        match self {
            Self::Do { act, .. } => Some(*act),
            Self::Remake => Some(Act::Remake),
            _ => None,
        }
    }

    /// The figure that the chain is to become.
    #[must_use]
    pub fn goal(&self) -> Option<Goal> {
        match self {
            Self::Do { goal, .. } => Some(*goal),
            _ => None,
        }
    }
}

impl Lesson {
    /// What happens to the chain before step `step` (from 0), with the steps.
    #[must_use]
    pub fn acts_before(&self, step: usize) -> Vec<(usize, Act)> {
        let before = self.steps.iter().enumerate().take(step);
        before
            .filter_map(|(nth, step)| Some((nth, step.task.act()?)))
            .collect()
    }
}
