//! Messages of a link: any request, response or notification, from either side.

use serde_json::value::RawValue;

use crate::{
    rpc::{
        RpcError, null,
        raw::{self, Raw, outcome},
    },
    wire::json,
};

/// One message of a link.
#[derive(Debug)]
pub enum Message {
    /// Wants an answer.
    Request {
        /// Of the one who asks, to be echoed.
        id: u64,
        /// What is asked for.
        method: String,
        /// Its parameters; null if there were none.
        params: Box<RawValue>,
    },
    /// The answer to our request.
    Response {
        /// Our id, echoed.
        id: u64,
        /// What came of it.
        result: Result<Box<RawValue>, RpcError>,
    },
    /// Wants no answer.
    Notification {
        /// What happened.
        method: String,
        /// Its parameters; null if there were none.
        params: Box<RawValue>,
    },
    /// No message.
    Bad {
        /// Why.
        reason: String,
    },
}

impl Message {
    /// Read a frame's body: one message or an array of them. Never fails; what is no message is [`Message::Bad`].
    pub fn parse(body: &[u8]) -> Vec<Self> {
        let body = &*json::text(body);
        raw::each(body, |message| match message {
            Ok(raw) => Self::read(raw),
            Err(reason) => Self::Bad { reason },
        })
    }

    fn read(raw: Raw<'_>) -> Self {
        let id = raw.id.as_ref().filter(|id| !id.is_null());
        let number = id.and_then(|id| id.as_u64().or_else(|| id.as_f64().map(|id| id as u64)));
        let params = || raw.params.map_or_else(null, ToOwned::to_owned);
        match (raw.method, id, number) {
            (_, Some(id), None) => Self::Bad { reason: format!("an id that is no number: {id}") },
            (Some(method), _, Some(id)) => Self::Request { id, method: method.into_owned(), params: params() },
            (Some(method), _, None) => Self::Notification { method: method.into_owned(), params: params() },
            (None, _, Some(id)) => Self::Response { id, result: outcome(raw.result, raw.error) },
            // What the other side could not read had no id for it.
            (None, _, None) => match raw.error {
                Some(error) => Self::Bad { reason: format!("refused: {}", RpcError::from_json(&error).message) },
                None => Self::Bad { reason: "neither a method nor an id".into() },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Message {
        let mut messages = Message::parse(json.as_bytes());
        assert_eq!(messages.len(), 1, "{json}");
        messages.remove(0)
    }

    #[test]
    fn any_method_is_a_message() {
        let Message::Request { id: 3, method, params } = one(r#"{"id":3,"method":"x","params":{"a":1}}"#) else {
            panic!()
        };
        assert_eq!((method.as_str(), params.get()), ("x", r#"{"a":1}"#));
        let Message::Notification { method, params } = one(r#"{"method":"lost"}"#) else { panic!() };
        assert_eq!((method.as_str(), params.get()), ("lost", "null"));
        let Message::Response { id: 4, result: Ok(result) } = one(r#"{"id":4,"result":[1]}"#) else { panic!() };
        assert_eq!(result.get(), "[1]");
        let Message::Response { id: 4, result: Err(error) } = one(r#"{"id":4,"error":{"message":"m"}}"#) else {
            panic!()
        };
        assert_eq!(error.message, "m");
    }

    #[test]
    fn nonsense_is_bad_never_a_panic() {
        for json in ["", "7", "{", "{}", r#"{"id":"x"}"#, r#"{"id":"x","method":"m"}"#, "\u{1}", "[7"] {
            assert!(matches!(one(json), Message::Bad { .. }), "{json}");
        }
        assert!(Message::parse(b"[]").is_empty());
        let Message::Bad { reason } = one(r#"{"id":null,"error":{"message":"too long"}}"#) else { panic!() };
        assert_eq!(reason, "refused: too long");
    }
}
