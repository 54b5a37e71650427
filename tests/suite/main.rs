//! All integration tests, in one binary: real kernels, real sockets, real files.
//!
//! - `conformance`: every language folder, the same cases, over every carrier
//! - `demo`: `kernelbridge demo`, every number of it computed again
//! - `discover`: kernelspecs found against jupyter_client's, on random machines
//! - `wire`: our messages against jupyter_client's and jupyter-protocol's, schemas, mutations

mod conformance;
mod demo;
mod discover;
mod support;
mod wire;
