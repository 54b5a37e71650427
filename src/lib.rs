//! Plugins in any language that has a Jupyter kernel.
pub mod cli;
pub mod install;
pub mod language;
