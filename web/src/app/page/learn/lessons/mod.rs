//! The lessons, group by group.

pub mod broken;
pub mod chains;
pub mod commit;
pub mod inside;
pub mod pull;
pub mod removal;
pub mod snapshots;

use super::lesson::{Group, Lesson, Step, Task};

/// All lessons in the order of the course.
pub fn all() -> impl DoubleEndedIterator<Item = &'static Lesson> + Clone {
    [
        chains::LESSONS,
        snapshots::LESSONS,
        commit::LESSONS,
        pull::LESSONS,
        removal::LESSONS,
        inside::LESSONS,
        broken::LESSONS,
    ]
    .into_iter()
    .flatten()
}

/// The lessons of a group.
pub fn of(group: Group) -> impl Iterator<Item = &'static Lesson> {
    all().filter(move |lesson| lesson.group == group)
}

/// The lesson of that address.
#[must_use]
pub fn find(id: &str) -> Option<&'static Lesson> {
    all().find(|lesson| lesson.id == id)
}

/// The lessons before and after one.
#[must_use]
pub fn beside(id: &str) -> (Option<&'static Lesson>, Option<&'static Lesson>) {
    let before = all().take_while(|lesson| lesson.id != id).last();
    let after = all().skip_while(|lesson| lesson.id != id).nth(1);
    (before, after)
}

const fn read(title: &'static str, text: &'static [&'static str]) -> Step {
    Step {
        title,
        text,
        task: Task::Read,
    }
}

const fn invalid() -> Step {
    Step {
        title: "Which files are now invalid?",
        text: &[],
        task: Task::Invalid,
    }
}

/// Names and contents that several lessons share: a kernel, a diary and a log, as text at
/// fixed places of the disk.
const PLACES: &[(&str, u64, u32)] = &[
    ("kernel (8 MiB)", 8 << 20, 24),
    ("diary (9 MiB)", 9 << 20, 24),
    ("log (10 MiB)", 10 << 20, 24),
];

#[cfg(test)]
pub mod tests {
    use super::super::lesson::Task;
    use super::{all, beside};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn every_topic_of_the_source_document_has_a_lesson() {
        for topic in 1..=17 {
            assert!(all().any(|lesson| lesson.topic == topic), "{topic}");
        }
    }

    #[wasm_bindgen_test]
    fn addresses_are_unique_and_lead_on() {
        for lesson in all() {
            assert_eq!(all().filter(|other| other.id == lesson.id).count(), 1);
            let (_, after) = beside(lesson.id);
            assert!(after.is_none_or(|after| beside(after.id).0 == Some(lesson)));
        }
    }

    #[wasm_bindgen_test]
    fn every_question_has_right_and_wrong_answers() {
        for step in all().flat_map(|lesson| lesson.steps) {
            if let Task::Question { answers, .. } = step.task {
                assert!(answers.iter().any(|answer| answer.1), "{}", step.title);
                assert!(answers.iter().any(|answer| !answer.1), "{}", step.title);
            }
        }
    }
}
