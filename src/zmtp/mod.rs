//! ZeroMQ's wire protocol (ZMTP 3.0) as values: the greeting, commands, and messages in frames.
//!
//! Pure: nothing here reads a socket, a file or a clock. What a peer announces is judged before anything is kept for it,
//! so memory grows only with what arrived. Nothing here knows of Jupyter.
//!
//! See [RFC 23](https://rfc.zeromq.org/spec/23/) and [RFC 37](https://rfc.zeromq.org/spec/37/). We say 3.0, which every
//! peer of 3.1 falls back to: no kernel needs more.

mod command;
mod decoder;
mod encoder;
mod greeting;

pub use command::{Command, CommandError, SocketType, pong, ready, subscribe_to_all};
pub use decoder::{Decoder, Item, Limits, ProtocolError, Refusal};
pub use encoder::{encode, encode_command};
pub use greeting::{GREETING, Greeting, GreetingError, take_greeting};
