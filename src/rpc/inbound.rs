//! What a shim sends: responses, host calls, emitted events, notifications.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    rpc::{
        ErrorKind, RpcError, null, pickle,
        raw::{self, Raw, outcome},
    },
    wire::json,
};

/// One message from a shim.
#[derive(Debug)]
pub enum Inbound {
    /// Always the first message of a turn.
    Ready,
    /// The answer to our request `id`.
    Response {
        /// Our id, echoed.
        id: u64,
        /// What came of it.
        result: Result<Box<RawValue>, RpcError>,
    },
    /// A request that the host answers.
    Request {
        /// The shim's id, to be echoed.
        id: u64,
        /// What it asks for, or why that is not understood.
        plea: Result<Plea, RpcError>,
    },
    /// A line for the log.
    Log {
        /// How bad it is.
        level: LogLevel,
        /// The text.
        message: String,
        /// Further values.
        fields: Value,
        /// Which plugin's, in a shared kernel.
        space: Option<u64>,
    },
    /// News about long work.
    Progress {
        /// How much is done.
        done: f64,
        /// Of how much, if known.
        total: Option<f64>,
        /// What is being done.
        message: String,
        /// Which plugin's, in a shared kernel.
        space: Option<u64>,
    },
    /// Something that the plugin printed where its kernel would lose it.
    Output {
        /// `stdout` or `stderr`.
        name: String,
        /// What.
        text: String,
    },
    /// All that a plugin has registered, which is more than when it was loaded.
    Handlers {
        /// Those.
        handlers: Vec<Handler>,
        /// Which plugin's, in a shared kernel.
        space: Option<u64>,
    },
    /// What it says next comes from the code of somebody else's request, in a kernel that runs their cells.
    Cell {
        /// The request's `msg_id`.
        id: String,
    },
    /// Not a message of the protocol; counted and shown, otherwise ignored.
    Bad {
        /// Why.
        reason: String,
    },
}

/// What a plugin asks of the host.
#[derive(Debug)]
pub enum Plea {
    /// Call a function of the host or of another plugin.
    Call {
        /// `state.get`, `quake-geo.distance`.
        name: String,
        /// A JSON array.
        args: Box<RawValue>,
    },
    /// Put an event onto the bus.
    Emit {
        /// The event's topic.
        topic: String,
        /// The event's data.
        data: Box<RawValue>,
        /// The event's key.
        key: Option<String>,
    },
}

/// How bad a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For the plugin's author.
    Debug,
    /// For whoever runs it.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// As a shim writes it; what is none is `info`.
    pub fn from_name(name: &str) -> Self {
        match name {
            "debug" => Self::Debug,
            "warn" | "warning" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

impl Inbound {
    /// Read a frame's body: one message or an array of them. Never fails; what is no message is [`Inbound::Bad`].
    pub fn parse(body: &[u8]) -> Vec<Self> {
        if let Some(response) = pickle::response(body) {
            return vec![response];
        }
        // Before anything is taken apart: a value may go on to others as it is, and half a character from Node with it.
        let body = &*json::text(body);
        if let Some(response) = Self::parse_plain(body) {
            return vec![response];
        }
        raw::each(body, |message| match message {
            Ok(raw) => Self::read(raw),
            Err(reason) => Self::Bad { reason },
        })
    }

    /// The most frequent message as shims write it, in half the time: `{"jsonrpc":"2.0","id":7,"result":...}`.
    fn parse_plain(body: &str) -> Option<Self> {
        let rest = body.trim_ascii_end().strip_prefix(r#"{"jsonrpc":"2.0","id":"#)?;
        let (id, rest) = rest.split_once(',')?;
        let value = rest.strip_prefix(r#""result":"#)?.strip_suffix('}')?;
        // Anything but one whole value is read the long way.
        let value: &RawValue = serde_json::from_str(value).ok()?;
        Some(Self::Response { id: id.parse().ok()?, result: Ok(value.to_owned()) })
    }

    fn read(raw: Raw<'_>) -> Self {
        // R and Octave have no integers of their own and may write 7.0.
        let id = raw.id.as_ref().and_then(|id| id.as_u64().or_else(|| id.as_f64().map(|id| id as u64)));
        match (raw.method, id) {
            (None, Some(id)) => Self::Response { id, result: outcome(raw.result, raw.error) },
            (None, None) => Self::Bad { reason: "neither a method nor an id".into() },
            (Some(method), Some(id)) => Self::Request { id, plea: Plea::parse(&method, raw.params) },
            (Some(method), None) => Self::notification(&method, raw.params),
        }
    }

    fn notification(method: &str, params: Option<&RawValue>) -> Self {
        let params = || params.and_then(|params| serde_json::from_str::<Value>(params.get()).ok()).unwrap_or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let space = |params: &Value| params["space"].as_f64().map(|space| space as u64);
        match method {
            "ready" => Self::Ready,
            "log" => {
                let mut params = params();
                let level = LogLevel::from_name(params["level"].as_str().unwrap_or_default());
                let (fields, space) = (params["fields"].take(), space(&params));
                Self::Log { level, message: text(&params["message"]), fields, space }
            }
            "progress" => {
                let params = params();
                Self::Progress {
                    done: params["done"].as_f64().unwrap_or_default(),
                    total: params["total"].as_f64(),
                    message: params["message"].as_str().unwrap_or_default().to_owned(),
                    space: space(&params),
                }
            }
            "output" => {
                let params = params();
                let name = params["name"].as_str().filter(|name| *name == "stderr").unwrap_or("stdout").to_owned();
                Self::Output { name, text: text(&params["text"]) }
            }
            "handlers" => {
                let mut params = params();
                match serde_json::from_value(params["handlers"].take()) {
                    Ok(handlers) => Self::Handlers { handlers, space: space(&params) },
                    Err(error) => Self::Bad { reason: format!("parameters of `handlers`: {error}") },
                }
            }
            "cell" => Self::Cell { id: text(&params()["id"]) },
            _ => Self::Bad { reason: format!("unknown notification `{method}`") },
        }
    }
}

#[derive(Deserialize)]
struct CallParams {
    name: String,
    #[serde(default)]
    args: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct EmitParams {
    topic: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    key: Option<Value>,
}

impl Plea {
    /// Read the parameters of `call` and `emit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for another method, [`ErrorKind::Invalid`] for parameters that do not fit.
    pub fn parse(method: &str, params: Option<&RawValue>) -> Result<Self, RpcError> {
        fn read<'a, T: Deserialize<'a>>(method: &str, params: Option<&'a RawValue>) -> Result<T, RpcError> {
            serde_json::from_str(params.map_or("{}", RawValue::get))
                .map_err(|error| RpcError::new(ErrorKind::Invalid, format!("parameters of `{method}`: {error}")))
        }
        match method {
            "call" => {
                let CallParams { name, args } = read(method, params)?;
                let args = args.unwrap_or_else(|| RawValue::from_string("[]".into()).unwrap_or_else(|_| null()));
                if !args.get().starts_with('[') {
                    return Err(RpcError::new(ErrorKind::Invalid, format!("arguments of `{name}` are not an array")));
                }
                Ok(Self::Call { name, args })
            }
            "emit" => {
                let EmitParams { topic, data, key } = read(method, params)?;
                let key = match key {
                    None | Some(Value::Null) => None,
                    Some(Value::String(key)) => Some(key),
                    Some(other) => Some(other.to_string()),
                };
                Ok(Self::Emit { topic, data: data.unwrap_or_else(null), key })
            }
            _ => Err(RpcError::new(ErrorKind::NotFound, format!("no method `{method}`"))),
        }
    }
}

/// The result of `initialize`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct InitializeResult {
    /// The protocol version the shim speaks.
    #[serde(default)]
    pub bridge: String,
    /// The language folder's name.
    #[serde(default)]
    pub language: String,
    /// For people: `CPython 3.11.7, ipykernel 7.4.0`.
    #[serde(default)]
    pub interpreter: String,
    /// What it can do beyond the protocol's core; see [`SERIES`](crate::rpc::SERIES).
    #[serde(default, deserialize_with = "or_default")]
    pub features: Vec<String>,
}

/// The result of `load`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LoadResult {
    /// What the plugin registered.
    #[serde(default)]
    pub handlers: Vec<Handler>,
    /// Does a handler need the language's `*-async` turn?
    #[serde(default, rename = "async")]
    pub is_async: bool,
}

/// One thing that a plugin registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handler {
    /// Chosen by the shim, named by `event`, `events` and `filter`.
    pub id: u64,
    /// What it is.
    pub kind: HandlerKind,
    /// Pattern of the topics it wants; empty for exports.
    #[serde(default, deserialize_with = "or_default")]
    pub topic: String,
    /// The export's name, or the function's for people.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Largest batch it wants; 0 for single events.
    #[serde(default, deserialize_with = "or_default")]
    pub batch: usize,
    /// The shape in which it wants a batch, column by column; empty for a list of events.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub columns: String,
    /// Is that made of an Arrow table?
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub table: bool,
    /// Order among filters, lowest first.
    #[serde(default, deserialize_with = "or_default")]
    pub priority: i64,
    /// The author's documentation.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub doc: String,
}

impl Handler {
    /// A handler of single events.
    pub fn on(id: u64, topic: &str, name: &str) -> Self {
        Self { id, kind: HandlerKind::On, topic: topic.to_owned(), name: name.to_owned(), ..Self::export(id, name) }
    }

    /// A function that may be called.
    pub fn export(id: u64, name: &str) -> Self {
        Self {
            id,
            kind: HandlerKind::Export,
            topic: String::new(),
            name: name.to_owned(),
            batch: 0,
            columns: String::new(),
            table: false,
            priority: 0,
            doc: String::new(),
        }
    }
}

/// A shim may send null for what it has nothing to say about, as Prolog's does.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// What a plugin registered a function as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerKind {
    /// Consumes events.
    On,
    /// Changes or drops events before their handlers see them.
    Filter,
    /// May be called by name.
    Export,
}

/// The result of `events` and `series`.
#[derive(Debug, Deserialize)]
pub struct Outcomes {
    /// One for each event, in order; of a series, one for each that was begun.
    pub outcomes: Vec<Outcome>,
}

/// What came of one event of a batch or series.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    /// How long the handler took, in a series.
    pub ms: Option<f64>,
    /// The handler's result for it.
    pub result: Option<Box<RawValue>>,
    /// Or its error.
    pub error: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Inbound {
        let mut messages = Inbound::parse(json.as_bytes());
        assert_eq!(messages.len(), 1, "{json}");
        messages.remove(0)
    }

    #[test]
    fn messages_are_read_whatever_their_shape() {
        assert!(matches!(one(r#"{"jsonrpc":"2.0","method":"ready"}"#), Inbound::Ready));
        let Inbound::Response { id: 7, result: Ok(result) } = one(r#"{"result":{"a":[1]},"id":7}"#) else { panic!() };
        assert_eq!(result.get(), r#"{"a":[1]}"#);
        let Inbound::Response { id: 7, result: Ok(result) } = one(r#"{"id":7.0,"result":null}"#) else { panic!() };
        assert_eq!(result.get(), "null");
        let Inbound::Request { id: 1, plea: Ok(Plea::Call { name, args }) } =
            one(r#"{"id":1,"method":"call","params":{"args":[1, "x"],"name":"f"}}"#)
        else {
            panic!()
        };
        assert_eq!((name.as_str(), args.get()), ("f", r#"[1, "x"]"#));
        let Inbound::Log { level: LogLevel::Warn, message, .. } =
            one(r#"{"method":"log","params":{"level":"warn","message":"m"}}"#)
        else {
            panic!()
        };
        assert_eq!(message, "m");
        for (sent, expected) in [("stderr", "stderr"), ("stdout", "stdout"), ("else", "stdout")] {
            let json = format!(r#"{{"method":"output","params":{{"name":"{sent}","text":"a\nb"}}}}"#);
            let Inbound::Output { name, text } = one(&json) else { panic!() };
            assert_eq!((name.as_str(), text.as_str()), (expected, "a\nb"));
        }
    }

    #[test]
    fn null_is_as_good_as_nothing_in_a_handler() {
        let json = r#"{"id":1,"kind":"export","name":"f","topic":null,"batch":null,"priority":null,"doc":null}"#;
        let handler: Handler = serde_json::from_str(json).expect("a handler");
        assert_eq!((handler.topic.as_str(), handler.batch, handler.priority, handler.doc.as_str()), ("", 0, 0, ""));
    }

    #[test]
    fn batches_keep_their_order() {
        let messages = Inbound::parse(br#"[{"method":"log","params":{}},{"id":3,"result":1}]"#);
        assert!(matches!(messages[..], [Inbound::Log { .. }, Inbound::Response { id: 3, .. }]));
        assert!(Inbound::parse(b"[]").is_empty());
    }

    #[test]
    fn half_a_character_costs_no_message() {
        let Inbound::Response { id: 1, result: Ok(result) } = one(r#"{"id":1,"result":["\ud83d"]}"#) else { panic!() };
        assert_eq!(result.get(), r#"["\ufffd"]"#);
        let Inbound::Response { id: 1, result: Err(error) } = one(r#"{"id":1,"error":{"message":"a\ud83d"}}"#) else {
            panic!()
        };
        assert_eq!(error.message, "a\u{fffd}");
        let Inbound::Request { plea: Ok(Plea::Emit { topic, data, .. }), .. } =
            one(r#"{"id":1,"method":"emit","params":{"topic":"t\ud83d","data":"\udf0d"}}"#)
        else {
            panic!()
        };
        assert_eq!((topic.as_str(), data.get()), ("t\u{fffd}", r#""\ufffd""#));
        let Inbound::Log { message, .. } = one(r#"{"method":"log","params":{"message":"\ud83d"}}"#) else { panic!() };
        assert_eq!(message, "\u{fffd}");
        assert!(matches!(Inbound::parse(b"{\"id\":1,\"result\":\"\xff\"}")[..], [Inbound::Response { .. }]));
    }

    #[test]
    fn nonsense_is_bad_never_a_panic() {
        for json in ["", "7", "{", "{}", r#"{"id":"x"}"#, r#"{"method":"nope"}"#, "\u{1}", "[7"] {
            assert!(matches!(one(json), Inbound::Bad { .. }), "{json}");
        }
        assert!(matches!(Inbound::parse(&[0xff])[..], [Inbound::Bad { .. }]));
        let Inbound::Request { plea: Err(error), .. } = one(r#"{"id":1,"method":"nope"}"#) else { panic!() };
        assert_eq!(error.kind, ErrorKind::NotFound);
        let Inbound::Request { plea: Err(error), .. } =
            one(r#"{"id":1,"method":"call","params":{"name":"f","args":{}}}"#)
        else {
            panic!()
        };
        assert_eq!(error.kind, ErrorKind::Invalid);
    }
}
