//! What was typed, what it means, and what is shown for it.

pub mod languages;
