//! Plugins in any language that has a Jupyter kernel.
pub mod language;
pub mod manifest;
pub mod notebook;
pub mod pattern;
pub mod queue;
pub mod store;
pub mod suggest;
