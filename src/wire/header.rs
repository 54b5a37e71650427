//! The header of a message, read leniently and written strictly.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wire::json;

/// A message's header; also the shape of a parent header.
///
/// See [message header](https://jupyter-client.readthedocs.io/en/stable/messaging.html#message-header).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Unique for each message.
    pub msg_id: String,
    /// Unique for each sender.
    pub session: String,
    /// Who sent it.
    pub username: String,
    /// ISO 8601; never parsed, as kernels write it in too many ways.
    pub date: String,
    /// What kind of message it is, such as `execute_request`.
    pub msg_type: String,
    /// Version of the message spec the sender follows.
    pub version: String,
    /// Subshell that should run it (message spec 5.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subshell_id: Option<String>,
}

impl Header {
    /// Read a header. Missing fields become empty strings and fields of other types their JSON text: kernels leave out
    /// `date`, send numbers and nulls, and none of that is a reason to lose a message.
    ///
    /// Returns `None` when the bytes are not a JSON object, or an empty one.
    pub fn parse(header: &[u8]) -> Option<Self> {
        // serde would read an array of seven texts into the struct, too.
        if !header.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        // The strict shape first: it is what nearly every message has, and twice as quick.
        if let Ok(header) = serde_json::from_slice::<Self>(header) {
            return Some(header);
        }
        let fields: Map<String, Value> = json::from_slice(header).ok()?;
        if fields.is_empty() {
            return None;
        }
        let text = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        Some(Self {
            msg_id: text("msg_id"),
            session: text("session"),
            username: text("username"),
            date: text("date"),
            msg_type: text("msg_type"),
            version: text("version"),
            subshell_id: fields.get("subshell_id").and_then(Value::as_str).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_headers_are_read_as_far_as_they_go() {
        let check = |json: &str, expected: Option<(&str, &str)>| {
            let header = Header::parse(json.as_bytes());
            let found = header.as_ref().map(|header| (header.msg_id.as_str(), header.msg_type.as_str()));
            assert_eq!(found, expected, "{json}");
        };
        check("null", None);
        check("{}", None);
        check("[]", None);
        check(r#"["1","s","u","d","t","v",null]"#, None);
        check("{\"msg_id\":", None);
        check("\u{0}", None);
        check(r#"{"msg_id":"1","msg_type":"status"}"#, Some(("1", "status")));
        check(r#"{"msg_id":7,"msg_type":null,"date":0}"#, Some(("7", "")));
        check(
            r#"{"msg_id":"1","session":"s","username":"u","date":"d","msg_type":"t","version":"5.3","extra":[]}"#,
            Some(("1", "t")),
        );
        check(r#"{"msg_id":"1","msg_type":"t","username":"\ud83d"}"#, Some(("1", "t")));
        let latin1 = Header::parse(b"{\"msg_id\":\"1\",\"username\":\"Andr\xe9\"}").expect("a header");
        assert_eq!((latin1.msg_id.as_str(), latin1.username.as_str()), ("1", "Andr\u{fffd}"));
    }
}
