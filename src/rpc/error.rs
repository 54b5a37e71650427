//! Errors as they travel between host and plugin.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How many causes of an error are kept.
const CAUSES: usize = 8;

/// The last cause to be kept is the oldest: what it all began with.
fn oldest_if(mut cause: &Value, causes: usize) -> &Value {
    while causes == 1 && cause["data"]["cause"].is_object() {
        cause = &cause["data"]["cause"];
    }
    cause
}

/// What kind of error it is: the plugin raised, the kernel is gone, or we are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Plugin code raised.
    Raised,
    /// The manifest's permissions do not allow it.
    Denied,
    /// A deadline passed.
    Timeout,
    /// Interrupted, or the turn is over.
    Cancelled,
    /// Waiting could never end.
    Deadlock,
    /// The kernel of the plugin called is dead.
    Gone,
    /// The host itself failed.
    Host,
    /// No such method, function or handler.
    NotFound,
    /// A value that cannot be represented, is too large or nested too deep, or arguments that do not fit.
    Invalid,
}

impl ErrorKind {
    /// The JSON-RPC error code.
    pub fn code(self) -> i64 {
        match self {
            Self::Raised => -32000,
            Self::Denied => -32001,
            Self::Timeout => -32002,
            Self::Cancelled => -32003,
            Self::Deadlock => -32004,
            Self::Gone => -32005,
            Self::Host => -32006,
            Self::NotFound => -32601,
            Self::Invalid => -32602,
        }
    }

    fn from_code(code: i64) -> Self {
        let all = [
            Self::Denied,
            Self::Timeout,
            Self::Cancelled,
            Self::Deadlock,
            Self::Gone,
            Self::Host,
            Self::NotFound,
            Self::Invalid,
        ];
        all.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::Raised)
    }
}

/// An error of a call, event or filter, with whose it was and where.
///
/// `Display` is one line; [`RpcError::report`] has the tracebacks too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.whose())]
pub struct RpcError {
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// One line for people.
    pub message: String,
    /// The exception's class, when plugin code raised.
    pub ename: Box<str>,
    /// The exception's message.
    pub evalue: String,
    /// Lines, the shim's own frames cut.
    pub traceback: Vec<String>,
    /// The plugin it happened in; empty for the host.
    pub plugin: Box<str>,
    /// The error this one was raised from, when a call of the plugin's failed first.
    pub cause: Option<Box<RpcError>>,
    /// The kernel was gone before the request reached it, so it did nothing.
    pub not_begun: bool,
}

impl RpcError {
    /// An error of ours.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            ename: Box::default(),
            evalue: String::new(),
            traceback: Vec::new(),
            plugin: Box::default(),
            cause: None,
            not_begun: false,
        }
    }

    /// The same error, known to have happened in `plugin`.
    pub fn in_plugin(mut self, plugin: &str) -> Self {
        if self.plugin.is_empty() {
            self.plugin = plugin.into();
        }
        self
    }

    /// As [`RpcError::in_plugin`], whatever it says itself: an error that a plugin answers with is its own, and what it
    /// was raised from is its cause.
    #[must_use]
    pub fn by_plugin(self, plugin: &str) -> Self {
        Self { plugin: plugin.into(), ..self }
    }

    /// Is this error, or one that it was raised from, of this kind?
    pub fn is_caused_by(&self, kind: ErrorKind) -> bool {
        self.kind == kind || self.cause.as_ref().is_some_and(|cause| cause.is_caused_by(kind))
    }

    /// Several lines for people: the message, its traceback, and what it was raised from.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        for line in &self.traceback {
            text.push_str("\n    ");
            text.push_str(&line.trim_end().replace('\n', "\n    "));
        }
        if let Some(cause) = &self.cause {
            text.push_str("\n  raised from: ");
            text.push_str(&cause.report().replace('\n', "\n  "));
        }
        text
    }

    fn whose(&self) -> String {
        if self.plugin.is_empty() { String::new() } else { format!("plugin `{}`: ", self.plugin) }
    }

    /// Read an error object of the protocol; whatever is missing but the message is left empty, and of a long line of causes only the
    /// youngest are kept, as each call that an error passes through adds one.
    pub fn from_json(error: &Value) -> Self {
        Self::read(error, CAUSES)
    }

    fn read(error: &Value, causes: usize) -> Self {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let data = &error["data"];
        let kind = serde_json::from_value(data["kind"].clone())
            .unwrap_or_else(|_| ErrorKind::from_code(error["code"].as_i64().unwrap_or_default()));
        let traceback = match &data["traceback"] {
            Value::Array(lines) => lines.iter().map(text).collect(),
            Value::Null => Vec::new(),
            other => vec![text(other)],
        };
        let cause = &data["cause"];
        let cause =
            (cause.is_object() && causes > 0).then(|| Box::new(Self::read(oldest_if(cause, causes), causes - 1)));
        let mut message = text(&error["message"]);
        if message.is_empty() {
            message.push_str("an error without a message");
        }
        Self {
            kind,
            message,
            ename: text(&data["ename"]).into(),
            evalue: text(&data["evalue"]),
            traceback,
            plugin: text(&data["plugin"]).into(),
            cause,
            not_begun: false,
        }
    }

    /// The error object of the protocol.
    pub fn to_json(&self) -> Value {
        let mut data = json!({ "kind": self.kind });
        if self.kind == ErrorKind::Raised {
            data["ename"] = (&*self.ename).into();
            data["evalue"] = self.evalue.as_str().into();
        }
        if !self.traceback.is_empty() {
            data["traceback"] = self.traceback.clone().into();
        }
        if !self.plugin.is_empty() {
            data["plugin"] = (&*self.plugin).into();
        }
        if let Some(cause) = &self.cause {
            data["cause"] = cause.to_json();
        }
        json!({ "code": self.kind.code(), "message": self.message, "data": data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_a_round_trip_with_their_cause() {
        let mut error = RpcError::new(ErrorKind::Raised, "ValueError: no").in_plugin("geo");
        error.ename = "ValueError".into();
        error.evalue = "no".into();
        error.traceback = vec!["line 1".into()];
        error.cause = Some(Box::new(RpcError::new(ErrorKind::Deadlock, "chains 1 and 2")));
        assert_eq!(RpcError::from_json(&error.to_json()), error);
        assert!(error.is_caused_by(ErrorKind::Deadlock));
        assert_eq!(error.report(), "plugin `geo`: ValueError: no\n    line 1\n  raised from: chains 1 and 2");
    }

    #[test]
    fn of_many_causes_the_youngest_and_the_oldest_are_kept() {
        let mut error = RpcError::new(ErrorKind::Invalid, "oldest");
        for number in 0..100 {
            error = RpcError { cause: Some(Box::new(error)), ..RpcError::new(ErrorKind::Raised, number.to_string()) };
        }
        let error = RpcError::from_json(&error.to_json());
        assert!(error.is_caused_by(ErrorKind::Invalid));
        assert_eq!(error.report().lines().count(), CAUSES + 1);
    }

    #[test]
    fn anything_is_read_as_an_error() {
        let check = |json: &str, kind, message: &str| {
            let error = RpcError::from_json(&serde_json::from_str(json).expect("JSON"));
            assert_eq!((error.kind, error.message.as_str()), (kind, message), "{json}");
        };
        check("null", ErrorKind::Raised, "an error without a message");
        check(r#"{"code":-32601,"message":"m"}"#, ErrorKind::NotFound, "m");
        check(r#"{"code":1,"message":2,"data":[]}"#, ErrorKind::Raised, "2");
        check(
            r#"{"code":-32002,"data":{"kind":"Denied","traceback":"x"}}"#,
            ErrorKind::Denied,
            "an error without a message",
        );
        check(r#"{"data":{"kind":"Nonsense"}}"#, ErrorKind::Raised, "an error without a message");
    }
}
