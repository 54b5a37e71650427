//! The Jupyter wire protocol as values: frames, signatures, headers, messages, contents.
//!
//! Pure: nothing here reads a socket, a file or a clock. Bytes from outside never panic, and a message that cannot be
//! understood is kept as [`Received::Odd`], never lost.

pub mod content;
mod frames;
mod header;
pub(crate) mod json;
mod message;
mod signer;

pub use frames::{DELIMITER, FrameError, Frames};
pub use header::Header;
pub use message::{ContentError, Message, Odd, OddReason, Outgoing, Received};
pub use signer::{Signer, SignerError, VerifyError};
