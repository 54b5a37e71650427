//! Plugins in any language that has a Jupyter kernel.

pub mod chain;
pub mod channels;
pub mod client;
pub mod connection;
pub mod language;
pub mod plugin;
pub mod provision;
pub mod rpc;
pub mod wire;
