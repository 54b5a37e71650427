//! What kernelbridge is compared with, a file each. Their hosts are Rust on the same single-threaded tokio as ours.

mod grpc;
mod jupyter;
mod lines;
mod messages;
mod ours;
mod python;
mod raw;
mod redpanda;
mod rpc;

pub(super) use grpc::Grpc;
pub(super) use jupyter::Jupyter;
pub(super) use lines::Lines;
pub(super) use ours::{Ours, Road, host};
pub(super) use python::Kit;
pub(super) use raw::{Raw, echo};
pub(super) use redpanda::Redpanda;
