//! What the page knows of staged changes.

use crate::app::bench::model::RunResult;
use crate::protocol::Progress;
use crate::protocol::staged::{Answer, Stack};
use std::rc::Rc;

#[derive(Clone, Default, PartialEq)]
pub struct Staged {
    pub stack: Rc<Stack>,
    /// A wish that the worker has not answered yet.
    pub busy: Option<Busy>,
    /// How the last applying ended.
    pub result: Option<Rc<RunResult>>,
}

/// What the worker is at.
#[derive(Clone, PartialEq)]
pub enum Busy {
    /// It tries the operation of the form.
    Trying,
    /// It takes changes back, or puts one back.
    Moving,
    /// It carries them out.
    Applying {
        /// Number of changes there were.
        all: usize,
        /// The one that is being carried out.
        nth: Option<usize>,
        progress: Option<Progress>,
        cancelling: bool,
    },
}

/// What else is to happen on an answer.
pub enum Then {
    Nothing,
    /// The operation of the form is staged: the form has done its duty.
    CloseForm,
    Say(String),
}

impl Staged {
    /// Nothing is staged, and nothing can be put back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stack.done.is_empty() && self.stack.undone.is_empty()
    }

    /// The files are being written.
    #[must_use]
    pub fn applying(&self) -> bool {
        matches!(self.busy, Some(Busy::Applying { .. }))
    }

    pub fn begin(&mut self, busy: Busy) {
        self.busy = Some(busy);
        self.result = None;
    }

    pub fn cancel(&mut self) {
        if let Some(Busy::Applying { cancelling, .. }) = &mut self.busy {
            *cancelling = true;
        }
    }

    pub fn hear(&mut self, answer: Answer) -> Then {
        match answer {
            Answer::Stack(stack) => {
                self.stack = Rc::new(stack);
                if self.applying() {
                    return Then::Nothing;
                }
                match self.busy.take() {
                    Some(Busy::Trying) => Then::CloseForm,
                    _ => Then::Nothing,
                }
            }
            Answer::Failed(why) => {
                self.busy = None;
                Then::Say(why)
            }
            Answer::Applying { nth: at, progress } => {
                if let Some(Busy::Applying {
                    nth, progress: now, ..
                }) = &mut self.busy
                {
                    *nth = at;
                    *now = Some(progress);
                }
                Then::Nothing
            }
            Answer::Applied(outcome) => {
                self.busy = None;
                self.result = Some(Rc::new(outcome.into()));
                Then::Nothing
            }
        }
    }
}
