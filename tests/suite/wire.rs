//! The wire layer against others who speak the same protocol, and against noise.
//!
//! - `session`: signatures and frames against `jupyter_client`'s `Session`, both ways.
//! - `schemas`: what we send against the schemas of `jupyter_kernel_test`.
//! - `protocol`: contents against the crate `jupyter-protocol`, both ways.
//! - `recorded`: messages that real kernels sent.
//! - `mutation`: 200,000 broken variants of those, with the checks of the fuzz target.

mod exercise;
pub mod mutation;
mod oracle;
mod protocol;
mod random;
mod recorded;
mod schemas;
mod session;
