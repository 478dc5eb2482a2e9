//! The pages, one for each kind of address.

pub mod about;
pub mod files;
pub mod learn;
pub mod settings;
pub mod talk;
pub mod welcome;
