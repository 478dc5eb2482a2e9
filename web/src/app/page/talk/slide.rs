//! A lesson as a row of slides.

use crate::app::page::learn::lesson::{Lesson, Task};

/// One slide. Steps count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slide {
    Title,
    /// A paragraph, with the commands that follow it: the first one and how many.
    Text {
        step: usize,
        from: usize,
        count: usize,
    },
    /// What is going to be done.
    Before(usize),
    /// It is done.
    After(usize),
    Ask(usize),
    Answer(usize),
    End,
}

impl Slide {
    /// Number of steps that have happened to the chain when this is shown.
    #[must_use]
    pub fn happened(self, lesson: &Lesson) -> usize {
        match self {
            Self::Title => 0,
            Self::Text { step, .. } | Self::Before(step) | Self::Ask(step) | Self::Answer(step) => {
                step
            }
            Self::After(step) => step + 1,
            Self::End => lesson.steps.len(),
        }
    }

    /// The step it belongs to.
    #[must_use]
    pub fn step(self) -> Option<usize> {
        match self {
            Self::Title | Self::End => None,
            Self::Text { step, .. }
            | Self::Before(step)
            | Self::After(step)
            | Self::Ask(step)
            | Self::Answer(step) => Some(step),
        }
    }
}

/// All slides of a lesson.
#[must_use]
pub fn slides(lesson: &Lesson) -> Vec<Slide> {
    let mut slides = vec![Slide::Title];
    for (step, what) in lesson.steps.iter().enumerate() {
        match what.task {
            Task::Read => {
                let mut from = 0;
                while from < what.text.len() {
                    let rest = what.text.iter().skip(from + 1);
                    let commands = rest.take_while(|text| text.starts_with("$ ")).count();
                    let count = commands + 1;
                    slides.push(Slide::Text { step, from, count });
                    from += count;
                }
            }
            Task::Do { .. } | Task::Stop { .. } | Task::Kill { .. } | Task::Remake => {
                slides.extend([Slide::Before(step), Slide::After(step)]);
            }
            Task::Invalid | Task::Question { .. } => {
                slides.extend([Slide::Ask(step), Slide::Answer(step)]);
            }
        }
    }
    slides.push(Slide::End);
    slides
}

#[cfg(test)]
mod tests {
    use super::{Slide, slides};
    use crate::app::page::learn::lessons::{all, find};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn commands_stay_with_their_paragraph() {
        let lesson = find("remove-method-1").unwrap();
        let texts: Vec<_> = slides(lesson)
            .into_iter()
            .filter_map(|slide| match slide {
                Slide::Text { from, count, .. } => Some((from, count)),
                _ => None,
            })
            .collect();
        assert_eq!(texts, [(0, 1), (1, 4), (5, 1)]);
    }

    #[wasm_bindgen_test]
    fn the_chain_only_goes_forward() {
        for lesson in all() {
            let happened = slides(lesson).into_iter().map(|s| s.happened(lesson));
            assert!(happened.is_sorted(), "{}", lesson.id);
        }
    }
}
