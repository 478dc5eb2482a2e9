//! What the worker told a lesson.

use crate::protocol::course::{Answer, Peeked};
use std::rc::Rc;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// Number of answers to what a lesson did so far.
    pub answers: u32,
    /// Why the last one failed.
    pub problem: Option<String>,
    /// The worker's folder in the origin-private file system.
    pub folder: Option<Rc<str>>,
    /// What the layers' guests read, as the tree is now; empty while that is not known.
    pub peeked: Rc<[Peeked]>,
    /// Number of trees so far.
    pub trees: u32,
}

impl Course {
    /// There is a new tree: what was known of the last one is not true any more.
    pub fn forget(&mut self) {
        self.peeked = Rc::default();
        self.trees = self.trees.wrapping_add(1);
    }

    pub fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Done { folder } => {
                self.answers = self.answers.wrapping_add(1);
                self.problem = None;
                self.folder = Some(folder.into());
            }
            Answer::Failed(why) => {
                self.answers = self.answers.wrapping_add(1);
                self.problem = Some(why);
            }
            Answer::Peeked(peeked) => self.peeked = peeked.into(),
        }
    }
}
