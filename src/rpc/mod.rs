//! The plugin protocol (docs/protocol.md) as values: JSON-RPC 2.0 messages and their parameters.
//!
//! Pure. What we write is compact, in the documented order of keys and on one line, so that a shim without a JSON
//! parser can read it from the left; what we read may come in any order, with anything missing.

mod batch;
mod error;
mod frame;
mod inbound;
mod link;
mod message;
mod outbound;
mod oversized;
mod packed;
pub mod pickle;
mod raw;

pub use batch::{Batch, Columns, Done, Ids, Results, Runs};
pub use error::{ErrorKind, RpcError};
pub use frame::{FrameError, take_frame};
pub use inbound::{Handler, HandlerKind, Inbound, InitializeResult, LoadResult, LogLevel, Outcome, Outcomes, Plea};
pub use link::{AboutHost, AboutPlugin, Attach, Attached, May, Mode, SetHandlers};
pub use message::Message;
pub use outbound::{
    Call, CallTable, Cell, Deliver, DeliverBatch, DeliverSeries, EventBody, Filtered, Initialize, Load, Params,
    PluginId, SHUTDOWN, in_space, may_be_batched, notification, response, write_request,
};
pub use oversized::{HEAD_BYTES, too_large};
pub use packed::Packed;
#[cfg(feature = "arrow")]
pub(crate) use packed::{Kind, NA, NO_TEXT, PackedValues, text_type};

use serde_json::value::RawValue;

/// The version of the plugin protocol that this library speaks.
pub const VERSION: &str = "1";

/// The feature of a shim that takes several events at once for handlers of single events, with `series`.
pub const SERIES: &str = "series";

/// The feature of a shim that takes a JSON-RPC batch: an array of requests, answered in their order.
pub const BATCH: &str = "batch";

/// The feature of a shim that reads and writes large values by reference.
pub const BLOB: &str = "blob";

/// The feature of a host and of a shim that speak of lists of events by `rows`.
pub const ROWS: &str = "rows";

/// The feature of a host and of a shim that speak of batches column by column, by `columns`.
pub const COLUMNS: &str = "columns";

/// The feature of a shim that takes columns as bytes, and sends them so.
pub const PACKED: &str = "packed";

/// The feature of a host and of a shim that pass many records to each other as a pickle of plain data.
pub const PICKLE: &str = "pickle";

/// The feature of a host and of a shim that pass tables to each other as Arrow IPC streams.
pub const ARROW: &str = "arrow";

/// The feature of a shim that takes a table as columns, and returns one so.
pub const TABLES: &str = "tables";

/// The feature of a shim that keeps several plugins apart, each in a space of its own.
pub const SHARED: &str = "shared";

/// What this host can do beyond the protocol's core.
pub const FEATURES: &[&str] =
    if cfg!(feature = "arrow") { &[ROWS, COLUMNS, PICKLE, ARROW] } else { &[ROWS, COLUMNS, PICKLE] };

/// JSON `null`.
pub fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// The value without space outside its strings, as the protocol promises to shims that read it without a parser.
pub fn compact(value: Box<RawValue>) -> Box<RawValue> {
    let Some(first) = first_space(value.get().as_bytes(), 0) else { return value };
    let json = value.get().as_bytes();
    let mut compact = Vec::with_capacity(json.len());
    let (mut start, mut space) = (0, Some(first));
    while let Some(end) = space {
        compact.extend_from_slice(&json[start..end]);
        start = end + 1;
        space = first_space(json, start);
    }
    compact.extend_from_slice(&json[start..]);
    // Only whole ASCII characters between tokens were left out, so it is the same JSON.
    String::from_utf8(compact).ok().and_then(|text| RawValue::from_string(text).ok()).unwrap_or(value)
}

/// The next white space between tokens; `from` is outside any string.
fn first_space(json: &[u8], from: usize) -> Option<usize> {
    let mut index = from;
    while index < json.len() {
        match json[index] {
            b' ' | b'\n' | b'\r' | b'\t' => return Some(index),
            b'"' => {
                index += 1;
                while let Some(offset) = json.get(index..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
                    index += offset;
                    if json[index] == b'"' {
                        break;
                    }
                    index += 2;
                }
            }
            _ => {}
        }
        index += 1;
    }
    None
}
