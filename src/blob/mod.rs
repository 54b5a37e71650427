//! Large values by reference: arrays and bytes in files, named in JSON as `{"$blob": ...}` (docs/protocol.md, section 5).
//!
//! The application makes an [`Array`] and gives it away as an argument, in an event's data, or nested in any type of its
//! own; it gets one back by asking for it as a type. Knows nothing of plugins, carriers and messages.
//!
//! # Theory of operation
//!
//! All blobs of this process are in one folder (0700), in memory where there is a `tmpfs`: the pool. A blob is a file that
//! was written once and a mapping of it. It lives as long as somebody holds it: an [`Array`], or a text that names it
//! ([`Parcel`], an event); then its file is unlinked, and whoever still has it mapped keeps what he sees. A file is never
//! written again. A plugin writes its results into a folder of its own; they become blobs by being moved into the pool
//! once they were looked at.

mod array;
mod dtype;
mod error;
mod list;
mod map;
mod object;
mod outbox;
mod parcel;
mod pool;
#[cfg(test)]
mod tests;
mod text;

pub use array::{Array, ArrayMut};
pub use dtype::{Dtype, Element};
pub use error::BlobError;
pub use outbox::Outbox;
pub use parcel::{Parcel, read};
pub use pool::{Blobs, Held, Pool, blobs};
pub use text::{adopt, by_value, hold, inline, names_any};

/// From this size on an array is a file; what is smaller travels in the message.
pub const SMALLEST_BYTES: usize = 64 * 1024;
