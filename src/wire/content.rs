//! Contents of the messages a client sends and reads, by message type.
//!
//! What we send has every key the spec names (IJulia raises `KeyError` for a missing optional one). What we read
//! accepts anything missing, null, or misspelt in the ways real kernels do.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, value::RawValue};

/// `execute_request` on shell.
///
/// See [execute](https://jupyter-client.readthedocs.io/en/stable/messaging.html#execute).
#[derive(Debug, Clone, Serialize)]
pub struct ExecuteRequest {
    /// Source code.
    pub code: String,
    /// Ask for no `execute_input` and no result on iopub; kernels differ in what else they leave out.
    pub silent: bool,
    /// Put it into the kernel's history.
    pub store_history: bool,
    /// Expressions to evaluate afterwards; few kernels do.
    pub user_expressions: Map<String, Value>,
    /// May the code ask for input? R and IRuby ask all the same.
    pub allow_stdin: bool,
    /// Abort the requests queued behind it when it fails.
    pub stop_on_error: bool,
}

impl ExecuteRequest {
    /// Run `code` visibly, without history, input, or effect on queued requests.
    pub fn new(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            silent: false,
            store_history: false,
            user_expressions: Map::new(),
            allow_stdin: false,
            stop_on_error: false,
        }
    }
}

/// `complete_request` on shell.
#[derive(Debug, Clone, Serialize)]
pub struct CompleteRequest {
    /// Source code.
    pub code: String,
    /// Cursor, in Unicode code points.
    pub cursor_pos: usize,
}

/// `inspect_request` on shell.
#[derive(Debug, Clone, Serialize)]
pub struct InspectRequest {
    /// Source code.
    pub code: String,
    /// Cursor, in Unicode code points.
    pub cursor_pos: usize,
    /// 0: a tip; 1: everything.
    pub detail_level: u8,
}

/// `is_complete_request` on shell.
#[derive(Debug, Clone, Serialize)]
pub struct IsCompleteRequest {
    /// Source code.
    pub code: String,
}

/// `kernel_info_request`, `interrupt_request` and others without content.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Empty {}

/// `shutdown_request` on control, and on shell for kernels that only listen there.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ShutdownRequest {
    /// Is it going to be started again?
    pub restart: bool,
}

/// `comm_msg` on shell, which gets no reply. It says nothing but that it is there: R's JSON would not keep a value.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CommMessage<'a> {
    /// The comm that it goes to.
    pub comm_id: &'a str,
    /// Nothing.
    pub data: Empty,
}

/// `input_reply` on stdin.
#[derive(Debug, Clone, Serialize)]
pub struct InputReply<'a> {
    /// What was typed.
    pub value: &'a str,
}

/// The `status` of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It worked. Also when a reply has no status, as ilua, tslab and JJava send `kernel_info_reply`.
    #[default]
    Ok,
    /// The code raised.
    Error,
    /// It was interrupted or never ran; R and Bash spell it `abort`.
    Aborted,
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)?.as_str() {
            Some("error") => Self::Error,
            Some("abort" | "aborted") => Self::Aborted,
            _ => Self::Ok,
        })
    }
}

/// `execute_reply`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct ExecuteReply {
    /// How it ended, as far as the kernel says: Octave says `ok` for errors, R too when silent.
    #[serde(default)]
    pub status: Status,
    /// Name of the error; Bash leaves it empty, R always says `ERROR`.
    #[serde(default, deserialize_with = "text")]
    pub ename: String,
    /// The error's message.
    #[serde(default, deserialize_with = "text")]
    pub evalue: String,
    /// Lines, often with terminal colours.
    #[serde(default, deserialize_with = "lines")]
    pub traceback: Vec<String>,
    /// The kernel's counter.
    #[serde(default)]
    pub execution_count: Value,
}

/// `kernel_info_reply`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct KernelInfoReply {
    /// Message spec version; `5.0` to `5.6`, and `5.3.0` from ilua.
    #[serde(default, deserialize_with = "text")]
    pub protocol_version: String,
    /// Name of the kernel.
    #[serde(default, deserialize_with = "text")]
    pub implementation: String,
    /// Version of the kernel.
    #[serde(default, deserialize_with = "text")]
    pub implementation_version: String,
    /// The language it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub language_info: LanguageInfo,
    /// For people.
    #[serde(default, deserialize_with = "text")]
    pub banner: String,
    /// Optional features (message spec 5.5).
    #[serde(default, deserialize_with = "lines")]
    pub supported_features: Vec<String>,
}

/// `language_info` of a `kernel_info_reply`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct LanguageInfo {
    /// The language.
    #[serde(default, deserialize_with = "text")]
    pub name: String,
    /// Its version.
    #[serde(default, deserialize_with = "text")]
    pub version: String,
    /// Extension of its files, with the dot.
    #[serde(default, deserialize_with = "text")]
    pub file_extension: String,
}

/// `input_request` on stdin.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct InputRequest {
    /// What is asked; a message of the plugin protocol when the shim asks.
    #[serde(default, deserialize_with = "text")]
    pub prompt: String,
    /// Is it a secret?
    #[serde(default, deserialize_with = "or_default")]
    pub password: bool,
}

/// `stream` on iopub.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Stream {
    /// `stdout` or `stderr`.
    #[serde(default, deserialize_with = "text")]
    pub name: String,
    /// What was printed.
    #[serde(default, deserialize_with = "text")]
    pub text: String,
}

/// `display_data`, `update_display_data` and `execute_result` on iopub.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct DisplayData {
    /// By MIME type; binary ones in base64.
    #[serde(default, deserialize_with = "or_default")]
    pub data: Map<String, Value>,
    /// By MIME type.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
}

/// `error` on iopub.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ErrorOutput {
    /// Name of the error.
    #[serde(default, deserialize_with = "text")]
    pub ename: String,
    /// Its message.
    #[serde(default, deserialize_with = "text")]
    pub evalue: String,
    /// Lines.
    #[serde(default, deserialize_with = "lines")]
    pub traceback: Vec<String>,
}

/// `status` on iopub.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StatusOutput {
    /// `starting`, `busy` or `idle`.
    #[serde(default, deserialize_with = "text")]
    pub execution_state: String,
}

/// Any reply whose content the caller reads by itself.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Raw(pub Box<RawValue>);

/// Strings as they are, null and nothing as empty, other values as their JSON text.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// A list of texts; anything that is no list becomes one line or none.
fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let line = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().map(line).collect(),
        Value::Null => Vec::new(),
        Value::Object(fields) if fields.is_empty() => Vec::new(),
        other => vec![line(other)],
    })
}

/// The value, or the default where its shape is wrong (R sends `[]` for an empty object).
fn or_default<'de, D: Deserializer<'de>, T: Default + serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_real_kernels_are_read() {
        let reply = |json: &str| serde_json::from_str::<ExecuteReply>(json).expect(json);
        assert_eq!(reply(r#"{"status":"abort"}"#).status, Status::Aborted);
        assert_eq!(reply(r#"{"status":"aborted","traceback":null}"#).status, Status::Aborted);
        assert_eq!(reply(r#"{"execution_count":3}"#).status, Status::Ok);
        let error = reply(r#"{"status":"error","ename":"","evalue":1,"traceback":["a",2]}"#);
        assert_eq!((error.evalue.as_str(), error.traceback), ("1", vec!["a".to_owned(), "2".to_owned()]));
    }

    #[test]
    fn kernel_info_may_miss_anything() {
        let info: KernelInfoReply =
            serde_json::from_str(r#"{"language_info":[],"protocol_version":"5.3.0"}"#).expect("reads");
        assert_eq!((info.protocol_version.as_str(), info.language_info.name.as_str()), ("5.3.0", ""));
        let input: InputRequest = serde_json::from_str(r#"{"prompt":"p"}"#).expect("reads");
        assert!(!input.password);
    }

    #[test]
    fn an_execute_request_has_all_six_keys() {
        let json = serde_json::to_string(&ExecuteRequest::new("1")).expect("JSON");
        assert_eq!(
            json,
            r#"{"code":"1","silent":false,"store_history":false,"user_expressions":{},"allow_stdin":false,"stop_on_error":false}"#
        );
    }
}
