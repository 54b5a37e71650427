//! Plugins in any language that has a Jupyter kernel.

pub mod connection;
pub mod language;
pub mod wire;
