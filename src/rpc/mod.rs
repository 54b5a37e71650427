//! The plugin protocol (docs/protocol.md) as values: JSON-RPC 2.0 messages and their parameters.
//!
//! Pure. What we write is compact, in the documented order of keys and on one line, so that a shim without a JSON
//! parser can read it from the left; what we read may come in any order, with anything missing.

mod error;
mod inbound;
mod outbound;

pub use error::{ErrorKind, RpcError};
pub use inbound::{Handler, HandlerKind, Inbound, InitializeResult, LoadResult, LogLevel, Outcome, Outcomes, Plea};
pub use outbound::{
    Call, Cell, Deliver, DeliverBatch, EventBody, Filtered, Initialize, Load, PluginId, notification, request, response,
};

use serde_json::value::RawValue;

/// The version of the plugin protocol that this library speaks.
pub const VERSION: &str = "1";

/// JSON `null`.
pub fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// The value on one line: line feeds between tokens would end a line-oriented shim's message early.
pub fn one_line(value: Box<RawValue>) -> Box<RawValue> {
    if !value.get().contains(['\n', '\r']) {
        return value;
    }
    // Valid JSON has line feeds between tokens only, never inside strings.
    RawValue::from_string(value.get().replace(['\n', '\r'], " ")).unwrap_or(value)
}
