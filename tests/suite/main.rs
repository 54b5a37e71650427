//! Integration tests, one binary.
//!
//! - `wire`: messages against `jupyter_client`, `jupyter-protocol`, the message spec's schemas, and noise.

mod wire;
