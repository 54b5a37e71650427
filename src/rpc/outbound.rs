//! What the host sends. The order of fields is part of the protocol.

use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use crate::rpc::RpcError;

/// Parameters of `initialize`.
#[derive(Debug, Serialize)]
pub struct Initialize<'a> {
    /// Protocol version.
    pub bridge: &'a str,
    /// `pipe` or `jupyter`.
    pub carrier: &'a str,
    /// Who it is.
    pub plugin: PluginId<'a>,
    /// Optional features of the host.
    pub features: &'a [&'a str],
    /// Its code comes in cells that somebody else has the kernel run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cells: bool,
    /// Where to go; the kernel is there already unless this is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<&'a str>,
    /// `[config]` of the manifest.
    pub config: &'a Map<String, Value>,
}

/// Name and version of a plugin.
#[derive(Debug, Serialize)]
pub struct PluginId<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
}

/// Parameters of `load`.
#[derive(Debug, Serialize)]
pub struct Load<'a> {
    /// Absolute path of the entry, where the kernel can read it.
    pub path: Option<&'a str>,
    /// Source, cell by cell.
    pub cells: &'a [Cell],
}

/// A piece of source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// For tracebacks: `plugin.py`, `plugin.ipynb[3]`.
    pub name: String,
    /// The source.
    pub source: String,
}

/// Parameters of `event` and `filter`.
#[derive(Debug, Serialize)]
pub struct Deliver<'a> {
    /// Which handler.
    pub handler: u64,
    /// The event's id.
    pub id: &'a str,
    /// The event's topic.
    pub topic: &'a str,
    /// When it was emitted, RFC 3339 in UTC.
    pub time: &'a str,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// The event's key.
    pub key: Option<&'a str>,
    /// From the root down to here.
    pub chain: &'a [String],
    /// The event's data.
    pub data: &'a RawValue,
}

/// Parameters of `events`.
#[derive(Debug, Serialize)]
pub struct DeliverBatch<'a> {
    /// Which handler.
    pub handler: u64,
    /// From the root down to here.
    pub chain: &'a [String],
    /// The events, oldest first.
    pub events: Vec<EventBody<'a>>,
}

/// Parameters of `series`.
#[derive(Debug, Serialize)]
pub struct DeliverSeries<'a> {
    /// No event is begun later than this after the first.
    pub within_ms: u64,
    /// From the root down to here.
    pub chain: &'a [String],
    /// The events, oldest first, each with its handler.
    pub events: Vec<EventBody<'a>>,
}

/// One event of a batch or series.
#[derive(Debug, Serialize)]
pub struct EventBody<'a> {
    /// Which handler; in a series only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<u64>,
    /// The event's id.
    pub id: &'a str,
    /// The event's topic.
    pub topic: &'a str,
    /// When it was emitted.
    pub time: &'a str,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// The event's key.
    pub key: Option<&'a str>,
    /// The event's data.
    pub data: &'a RawValue,
}

/// The result of `filter`, when it is not null.
#[derive(Debug, serde::Deserialize)]
pub struct Filtered {
    /// The topic, if the filter changed it.
    pub topic: Option<String>,
    /// The key, if there is one.
    pub key: Option<String>,
    /// The data.
    pub data: Option<Box<RawValue>>,
}

/// Parameters of `call`.
#[derive(Debug, Serialize)]
pub struct Call<'a> {
    /// The export's name.
    pub name: &'a str,
    /// From the root down to here.
    pub chain: &'a [String],
    /// A JSON array.
    pub args: &'a RawValue,
}

/// Parameters of `table`: a call whose one argument is a table, as an Arrow IPC stream or as columns.
#[derive(Debug, Default, Serialize)]
pub struct CallTable<'a> {
    /// The export's name.
    pub name: &'a str,
    /// From the root down to here.
    pub chain: &'a [String],
    /// Bytes, by reference or as they are: the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<Box<RawValue>>,
    /// How many rows there are, if it comes as columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// The bytes of those columns that are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<Box<RawValue>>,
    /// JSON arrays, or the types of those that are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Map<String, Value>>,
}

/// Parameters of a request to a plugin. Whatever JSON of others is in them was made compact when it came in.
pub trait Params: Serialize {
    /// How many events or calls are in it.
    fn count(&self) -> usize {
        1
    }
}

impl Params for Initialize<'_> {}
impl Params for Load<'_> {}
impl Params for Deliver<'_> {}
impl Params for Call<'_> {}
impl Params for CallTable<'_> {}
/// Of methods without parameters.
impl Params for Map<String, Value> {}

impl Params for DeliverBatch<'_> {
    fn count(&self) -> usize {
        self.events.len()
    }
}

impl Params for DeliverSeries<'_> {
    fn count(&self) -> usize {
        self.events.len()
    }
}

/// Write a request with `params` that are compact JSON; `method` is one of ours and needs no escape.
pub fn write_request(message: &mut String, id: u64, method: &str, params: &str) {
    message.reserve(params.len() + method.len() + 64);
    message.push_str(r#"{"jsonrpc":"2.0","id":"#);
    message.push_str(itoa::Buffer::new().format(id));
    message.push_str(r#","method":""#);
    message.push_str(method);
    message.push_str(r#"","params":"#);
    message.push_str(params);
    message.push('}');
}

/// Name the plugin in a shared kernel that `params`, one of our own objects, is meant for. Handlers have ids of their own
/// there, so whatever names one does without.
pub fn in_space(method: &str, params: &mut String, space: u64) {
    if matches!(method, "initialize" | "load" | "call" | "table" | SHUTDOWN) {
        let more = if params.len() > 2 { "," } else { "" };
        params.insert_str(1, &format!(r#""space":{space}{more}"#));
    }
}

/// The request that ends a plugin: its `on_shutdown` functions run, and in a shared kernel its namespace is dropped.
pub const SHUTDOWN: &str = "shutdown";

/// May this method be one of several in one message? Each then is a thing of its own, whatever comes of the others.
pub fn may_be_batched(method: &str) -> bool {
    matches!(method, "call" | "event" | "filter")
}

/// A notification without parameters: `end`, `continue`.
pub fn notification(method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)
}

/// The answer to a shim's request.
pub fn response(id: u64, result: Result<&str, &RpcError>) -> String {
    match result {
        Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        Err(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, error.to_json()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{ErrorKind, compact};

    #[test]
    fn the_order_of_keys_is_the_documented_one() {
        let data = RawValue::from_string(r#"{"a": 1}"#.into()).expect("JSON");
        let deliver = Deliver {
            handler: 1,
            id: "e1",
            topic: "t",
            time: "2026-01-01T00:00:00.000Z",
            attempt: 1,
            key: None,
            chain: &["e1".into()],
            data: &data,
        };
        let params = serde_json::to_string(&deliver).expect("JSON");
        let mut message = String::new();
        write_request(&mut message, 7, "event", &params);
        assert_eq!(
            message,
            r#"{"jsonrpc":"2.0","id":7,"method":"event","params":{"handler":1,"id":"e1","topic":"t","time":"2026-01-01T00:00:00.000Z","attempt":1,"key":null,"chain":["e1"],"data":{"a": 1}}}"#
        );
        let error = RpcError::new(ErrorKind::Denied, "no");
        assert_eq!(
            response(3, Err(&error)),
            r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32001,"message":"no","data":{"kind":"Denied"}}}"#
        );
    }

    #[test]
    fn a_space_is_named_first() {
        let named = |method: &str, params: &str| {
            let mut params = params.to_owned();
            in_space(method, &mut params, 7);
            params
        };
        assert_eq!(named("call", r#"{"name":"f","args":[]}"#), r#"{"space":7,"name":"f","args":[]}"#);
        assert_eq!(named(SHUTDOWN, "{}"), r#"{"space":7}"#);
        assert_eq!(named("event", r#"{"handler":1}"#), r#"{"handler":1}"#);
    }

    #[test]
    fn space_is_left_out_between_tokens_and_nowhere_else() {
        let check = |json: &str, expected: &str| {
            assert_eq!(compact(RawValue::from_string(json.into()).expect("JSON")).get(), expected);
        };
        check(r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check("{\n  \"a\" : [\n1,\t2]\r\n}", r#"{"a":[1,2]}"#);
        check(r#"[ "a b\" c" , "\\" , " é " ]"#, r#"["a b\" c","\\"," é "]"#);
        check("12345678901234567890123", "12345678901234567890123");
    }
}
