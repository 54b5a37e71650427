//! What a message was meant to be that is too large to be read.
//!
//! Ids come before values in what shims write, so the beginning tells who waits for an answer, and the plugin's author
//! gets an error where otherwise only the kernel's end would be left.

use crate::rpc::{ErrorKind, Inbound, RpcError};

/// How much of the beginning is kept.
pub const HEAD_BYTES: usize = 64 * 1024;

impl Inbound {
    /// The messages of a frame of which there is only the beginning: those that are whole, and an error in place of the
    /// one that is not.
    pub fn parse_head(head: &[u8], size_bytes: usize, limit_bytes: usize) -> Vec<Self> {
        let text = match std::str::from_utf8(head) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
        };
        let error = too_large(size_bytes, limit_bytes);
        let (whole, rest) = split(text);
        let mut messages: Vec<Self> = whole.into_iter().flat_map(|message| Self::parse(message.as_bytes())).collect();
        messages.push(match rest.map(members).unwrap_or_default() {
            Members { id: Some(id), is_request: true } => Self::Request { id, plea: Err(error) },
            Members { id: Some(id), is_request: false } => Self::Response { id, result: Err(error) },
            Members { id: None, .. } => Self::Bad { reason: error.message },
        });
        messages
    }
}

/// The error that stands for such a message.
pub fn too_large(size_bytes: usize, limit_bytes: usize) -> RpcError {
    let message = format!(
        "a message of {size_bytes} bytes, more than the limit of {limit_bytes}; raise `result` in [limits] of the \
         plugin's plugin.toml, or put the value into the store and pass its key"
    );
    RpcError::new(ErrorKind::Invalid, message)
}

/// The objects of an array, or the one object: those that end in `text`, and the beginning of one that does not.
fn split(text: &str) -> (Vec<&str>, Option<&str>) {
    let outer = usize::from(text.trim_start().starts_with('['));
    let (mut whole, mut start) = (Vec::new(), None);
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                if depth == outer && byte == b'{' {
                    start = Some(index);
                }
                depth += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == outer
                    && let Some(start) = start.take()
                {
                    whole.push(&text[start..=index]);
                }
            }
            _ => {}
        }
    }
    (whole, start.map(|start| &text[start..]))
}

#[derive(Default)]
struct Members {
    id: Option<u64>,
    is_request: bool,
}

/// The members of an object up to the first whose value is not a short one.
fn members(object: &str) -> Members {
    let mut members = Members::default();
    let mut rest = object.strip_prefix('{').unwrap_or_default();
    while let Some((key, after)) = rest.trim_start().strip_prefix('"').and_then(|text| text.split_once('"'))
        && let Some(value) = after.trim_start().strip_prefix(':')
        && matches!(key, "jsonrpc" | "id" | "method")
        && let Some((value, after)) = value.split_once(',')
    {
        match key {
            // R and Octave may write 7.0.
            "id" => members.id = value.trim().parse::<f64>().ok().filter(|id| *id >= 0.0).map(|id| id as u64),
            "method" => members.is_request = true,
            _ => {}
        }
        rest = after;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, expected: &[&str]) {
        let found: Vec<String> = Inbound::parse_head(head.as_bytes(), 300, 200)
            .iter()
            .map(|message| match message {
                Inbound::Request { id, plea: Err(error) } => format!("request {id}: {:?}", error.kind),
                Inbound::Response { id, result: Err(error) } => format!("response {id}: {:?}", error.kind),
                Inbound::Bad { .. } => "bad".into(),
                Inbound::Log { message, .. } => format!("log {message}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(found, expected, "{head}");
    }

    #[test]
    fn the_beginning_tells_who_waits() {
        check(r#"{"jsonrpc":"2.0","id":7,"result":"xxx"#, &["response 7: Invalid"]);
        check(r#"{"jsonrpc":"2.0","id":7.0, "error" : {"message": "\"},{"#, &["response 7: Invalid"]);
        check(r#" { "id" : 3 , "method":"call","params":{"name":"a","args":["#, &["request 3: Invalid"]);
        let log = r#"{"jsonrpc":"2.0","method":"log","params":{"level":"info","message":"a } b"}}"#;
        check(&format!(r#"[{log},{{"jsonrpc":"2.0","id":7,"result":["#), &["log a } b", "response 7: Invalid"]);
    }

    #[test]
    fn what_cannot_be_told_is_reported() {
        check(r#"{"jsonrpc":"2.0","method":"log","params":{"message":"xx"#, &["bad"]);
        check(r#"{"params":{"x":1},"id":7,"#, &["bad"]);
        check(r#"{"id":-7,"result":"#, &["bad"]);
        for head in ["", "x", "[", "{", "{\"", "{\"id\"", "{\"id\":", "{\"id\":7", "]}{", "\"{"] {
            check(head, &["bad"]);
        }
        let cut = "{\"id\":7,\"result\":\"ä".as_bytes();
        assert_eq!(Inbound::parse_head(&cut[..cut.len() - 1], 300, 200).len(), 1);
    }

    #[test]
    fn the_error_says_how_to_raise_the_limit() {
        assert_eq!(
            too_large(300, 200).to_string(),
            "a message of 300 bytes, more than the limit of 200; raise `result` in [limits] of the plugin's plugin.toml, \
             or put the value into the store and pass its key"
        );
    }
}
