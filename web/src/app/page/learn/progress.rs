//! How far the learner came, kept in this browser.

use super::lesson::Lesson;
use gloo::storage::{LocalStorage, Storage};

fn key(lesson: &Lesson) -> String {
    format!("learn.{}", lesson.id)
}

/// Number of steps that are done.
#[must_use]
pub fn load(lesson: &Lesson) -> usize {
    let stored = LocalStorage::raw().get_item(&key(lesson)).ok().flatten();
    let steps = stored.and_then(|steps| steps.parse().ok()).unwrap_or(0);
    lesson.steps.len().min(steps)
}

pub fn store(lesson: &Lesson, steps: usize) {
    // Storage may be forbidden; progress then lasts as long as the page.
    let _ = LocalStorage::raw().set_item(&key(lesson), &steps.to_string());
}

pub fn forget(lesson: &Lesson) {
    let _ = LocalStorage::raw().remove_item(&key(lesson));
}
