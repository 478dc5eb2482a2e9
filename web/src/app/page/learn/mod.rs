//! The course: lessons on live chains.

pub mod act;
pub mod chain;
pub mod figure;
pub mod goal;
pub mod heard;
pub mod index;
pub mod keeper;
pub mod lesson;
pub mod lessons;
pub mod live;
pub mod page;
pub mod player;
pub mod progress;
pub mod question;
pub mod steps;
pub mod tables;
pub mod text;

pub use index::LearnPage;
pub use page::LessonPage;
