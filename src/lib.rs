//! Plugins in any language that has a Jupyter kernel.
pub mod cli;
pub mod discover;
pub mod kernelspec;
pub mod language;
