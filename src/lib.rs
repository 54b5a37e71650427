//! Plugins in any language that has a Jupyter kernel.

pub mod blob;
pub mod chain;
pub mod channels;
pub mod cli;
pub mod client;
pub mod connection;
pub mod discover;
pub mod doctor;
pub mod host;
pub mod install;
pub mod kernelspec;
pub mod language;
pub mod manifest;
pub mod notebook;
pub mod pattern;
pub mod plugin;
pub mod provision;
pub mod queue;
pub mod rpc;
pub mod store;
pub mod suggest;
pub mod supervision;
#[cfg(feature = "arrow")]
pub mod table;
pub mod wire;
pub mod zmtp;
