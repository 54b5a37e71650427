//! All integration tests, in one binary: real kernels, real sockets, real files.
//!
//! - `bare`: shims whose kernel no registry carries, in the bare interpreter
//! - `batches`: events that are handed over together, as lists, columns and tables
//! - `blobs`: large values by reference: lies, sandboxes, what is left
//! - `client`: one kernel: ask, interrupt, restart, shut down, and what is no kernel
//! - `cli`: the program, as a user has it
//! - `comm`: turns that a comm opens: output, interrupts, comms that are gone
//! - `conformance`: every language folder, the same cases, over every carrier
//! - `demo`: `kernelbridge demo`, every number of it computed again
//! - `discover`: kernelspecs found against jupyter_client's, on random machines
//! - `examples`: they run
//! - `floors`: who imports whom
//! - `frontends`: notebook kernels, asked by Jupyter's own client what it asks any kernel
//! - `host`: many plugins: state, crossing calls, full queues, deadlines, lossless streams
//! - `hostile`: a kernel that misbehaves in every way we could think of
//! - `link`: other processes attach to a running host: mirrors, stand-ins, and what is none
//! - `notebooks`: notebook kernels: handlers in cells, live events, a plugin's place
//! - `parsers`: broken manifests, kernelspecs, languages, notebooks, RPC messages and frames
//! - `security`: environment, limits, sandboxes, on real kernels
//! - `shared`: many plugins in one kernel
//! - `turns`: a shim that does what real ones do rarely
//! - `warm`: kernels at hand, plugins and instances added to a running host, phases of a start
//! - `wire`: our messages against jupyter_client's and jupyter-protocol's, schemas, mutations

mod bare;
mod batches;
mod blobs;
mod chaos;
mod cli;
mod client;
mod comm;
mod conformance;
mod delivery;
mod demo;
mod discover;
mod examples;
mod floors;
mod frontends;
mod host;
mod hostile;
mod link;
mod notebooks;
mod parsers;
mod security;
mod series;
mod shared;
mod support;
mod turns;
mod warm;
mod wire;
