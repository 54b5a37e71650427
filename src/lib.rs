//! Plugins in any language that has a Jupyter kernel.

pub mod chain;
pub mod connection;
pub mod language;
pub mod rpc;
pub mod wire;
