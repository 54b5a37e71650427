//! One case of a `*.test.json`, and what is wrong with one.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value};

use crate::{
    manifest::units::parse_duration,
    pattern::{NameError, check_function_name, check_topic},
    suggest::did_you_mean,
};

/// A test.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub name: String,
    /// Keys that are set before.
    pub state: Map<String, Value>,
    pub action: Action,
    pub expected: Expected,
    pub timeout: Option<Duration>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Call { function: String, args: Vec<Value> },
    Emit { topic: String, data: Value, key: Option<String> },
    Filter { topic: String, data: Value },
}

/// What should come of it. What is absent may be anything, but for an error, which must be expected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expected {
    pub result: Option<Value>,
    pub error: Option<ExpectedError>,
    pub emitted: Option<Vec<ExpectedEvent>>,
    /// Keys afterwards; null: no such key.
    pub state: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExpectedError {
    pub kind: Option<String>,
    pub message_contains: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedEvent {
    pub topic: String,
    pub data: Option<Value>,
    pub key: Option<String>,
}

/// Why a file of cases was refused.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("{}: not JSON: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: must be a list of cases: [{{\"name\": ..., \"call\": ...}}, ...]", path.display())]
    NoList { path: PathBuf },
    #[error("{}: case {number}{}: {problem}", path.display(), named(.name))]
    Case { path: PathBuf, number: usize, name: String, problem: String },
}

fn named(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" (`{name}`)") }
}

const KINDS: [&str; 9] =
    ["Raised", "Denied", "Timeout", "Cancelled", "Deadlock", "Gone", "Host", "NotFound", "Invalid"];
const FIELDS: [&str; 10] =
    ["name", "given", "call", "emit", "filter", "result", "error", "emitted", "state", "timeout"];

/// Parse a file of cases.
///
/// # Errors
///
/// [`CaseError`]: the first mistake, with file, case and field.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Case>, CaseError> {
    let path = || path.to_owned();
    let value: Value = serde_json::from_str(text).map_err(|source| CaseError::Json { path: path(), source })?;
    let Value::Array(cases) = value else { return Err(CaseError::NoList { path: path() }) };
    let cases = cases.into_iter().enumerate().map(|(index, value)| {
        let number = index + 1;
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        case(value, number).map_err(|problem| CaseError::Case { path: path(), number, name, problem })
    });
    cases.collect()
}

fn case(value: Value, number: usize) -> Result<Case, String> {
    let mut fields = Fields::of(value, "", &FIELDS)?;
    let name = fields.text("name")?.unwrap_or_else(|| format!("case {number}"));
    let state = match fields.take("given") {
        Some(given) => Fields::of(given, "given", &["state"])?.object("state")?.unwrap_or_default(),
        None => Map::new(),
    };
    let mut actions = Vec::new();
    if let Some(call) = fields.take("call") {
        let mut call = Fields::of(call, "call", &["function", "args"])?;
        let function = call.required("function")?;
        check(&call, "function", check_function_name(&function))?;
        actions.push(Action::Call { function, args: call.list("args")?.unwrap_or_default() });
    }
    if let Some(emit) = fields.take("emit") {
        let mut emit = Fields::of(emit, "emit", &["topic", "data", "key"])?;
        let topic = emit.required("topic")?;
        check(&emit, "topic", check_topic(&topic))?;
        actions.push(Action::Emit { topic, data: emit.take("data").unwrap_or_default(), key: emit.text("key")? });
    }
    if let Some(filter) = fields.take("filter") {
        let mut filter = Fields::of(filter, "filter", &["topic", "data"])?;
        let topic = filter.required("topic")?;
        check(&filter, "topic", check_topic(&topic))?;
        actions.push(Action::Filter { topic, data: filter.take("data").unwrap_or_default() });
    }
    let [action] = <[Action; 1]>::try_from(actions)
        .map_err(|actions| format!("needs one of `call`, `emit` and `filter`, but has {}", actions.len()))?;
    let error = match fields.take("error") {
        Some(error) => {
            let mut error = Fields::of(error, "error", &["kind", "message contains"])?;
            let kind = error.text("kind")?;
            if let Some(kind) = kind.as_deref().filter(|kind| !KINDS.contains(kind)) {
                let hint = did_you_mean(kind, KINDS).unwrap_or_else(|| format!("there are {}", KINDS.join(", ")));
                return Err(format!("field `error.kind`: no kind `{kind}`; {hint}"));
            }
            Some(ExpectedError { kind, message_contains: error.text("message contains")? })
        }
        None => None,
    };
    let result = fields.take("result");
    if error.is_some() && result.is_some() {
        return Err("expects both `result` and `error`".into());
    }
    let emitted = match fields.list("emitted")? {
        Some(events) => Some(
            events
                .into_iter()
                .enumerate()
                .map(|(index, event)| {
                    let mut event = Fields::of(event, &format!("emitted[{index}]"), &["topic", "data", "key"])?;
                    Ok(ExpectedEvent {
                        topic: event.required("topic")?,
                        data: event.take("data"),
                        key: event.text("key")?,
                    })
                })
                .collect::<Result<_, String>>()?,
        ),
        None => None,
    };
    let timeout = match fields.text("timeout")? {
        Some(text) => Some(parse_duration(&text).map_err(|error| format!("field `timeout`: {error}"))?),
        None => None,
    };
    let expected = Expected { result, error, emitted, state: fields.object("state")?.unwrap_or_default() };
    Ok(Case { name, state, action, expected, timeout })
}

fn check(fields: &Fields, name: &str, checked: Result<(), NameError>) -> Result<(), String> {
    checked.map_err(|error| format!("field `{}`: {error}", fields.path(name)))
}

/// An object that is read field by field.
struct Fields {
    at: String,
    map: Map<String, Value>,
}

impl Fields {
    /// `at` is where the object is; empty for the case itself.
    fn of(value: Value, at: &str, known: &[&str]) -> Result<Self, String> {
        let fields = match value {
            Value::Object(map) => Self { at: at.to_owned(), map },
            other if at.is_empty() => return Err(format!("must be an object, not {}", kind_of(&other))),
            other => return Err(format!("field `{at}` must be an object, not {}", kind_of(&other))),
        };
        if let Some(unknown) = fields.map.keys().find(|key| !known.contains(&key.as_str())) {
            let hint = did_you_mean(unknown, known.iter().copied());
            let hint = hint.unwrap_or_else(|| format!("there are `{}`", known.join("`, `")));
            return Err(format!("unknown field `{}`; {hint}", fields.path(unknown)));
        }
        Ok(fields)
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    fn wrong<T>(&self, name: &str, wanted: &str, found: &Value) -> Result<T, String> {
        Err(format!("field `{}` must be {wanted}, not {}", self.path(name), kind_of(found)))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.wrong(name, "a text", &other),
        }
    }

    fn required(&mut self, name: &str) -> Result<String, String> {
        self.text(name)?.ok_or_else(|| format!("field `{}` is missing", self.path(name)))
    }

    fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => self.wrong(name, "a list", &other),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => self.wrong(name, "an object", &other),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_case_has_one_action_and_what_is_expected() {
        let text = r#"[
            {"call": {"function": "greet"}},
            {"name": "n", "given": {"state": {"k": 1}}, "emit": {"topic": "a.b", "data": [1], "key": "x"}, "timeout": "5s",
             "emitted": [{"topic": "c"}], "state": {"k": null}, "error": {"message contains": "m"}}
        ]"#;
        let cases = parse(text, Path::new("p.test.json")).expect("parses");
        assert_eq!(cases[0].name, "case 1");
        assert_eq!(cases[0].action, Action::Call { function: "greet".into(), args: Vec::new() });
        assert_eq!(cases[1].action, Action::Emit { topic: "a.b".into(), data: json!([1]), key: Some("x".into()) });
        assert_eq!(cases[1].timeout, Some(Duration::from_secs(5)));
        assert_eq!(cases[1].expected.state["k"], Value::Null);
        assert_eq!(cases[1].expected.emitted.as_ref().map(Vec::len), Some(1));
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = parse(text, Path::new("p.test.json")).expect_err("refused");
        assert_eq!(error.to_string(), format!("p.test.json: {expected}"));
    }

    #[test]
    fn mistakes_name_file_case_and_field() {
        check("[", "not JSON: EOF while parsing a list at line 1 column 1");
        check("{}", "must be a list of cases: [{\"name\": ..., \"call\": ...}, ...]");
        check("[1]", "case 1: must be an object, not a number");
        check("[{}]", "case 1: needs one of `call`, `emit` and `filter`, but has 0");
        check(
            r#"[{"name": "a", "call": {"function": "f"}, "emited": []}]"#,
            "case 1 (`a`): unknown field `emited`; did you mean `emitted`?",
        );
        check(
            r#"[{"call": {"function": "f", "x": 1}}]"#,
            "case 1: unknown field `call.x`; there are `function`, `args`",
        );
        check(r#"[{"call": {"args": []}}]"#, "case 1: field `call.function` is missing");
        check(
            r#"[{"call": {"function": "f", "args": {}}}]"#,
            "case 1: field `call.args` must be a list, not an object",
        );
        check(
            r#"[{"emit": {"topic": "a b"}}]"#,
            "case 1: field `emit.topic`: ' ' in topic `a b` is not allowed; use letters, digits and . _ / -",
        );
        check(
            r#"[{"call": {"function": "f"}, "emitted": [{"data": 1}]}]"#,
            "case 1: field `emitted[0].topic` is missing",
        );
        check(
            r#"[{"call": {"function": "f"}, "error": {"kind": "raised"}}]"#,
            "case 1: field `error.kind`: no kind `raised`; did you mean `Raised`?",
        );
        check(
            r#"[{"call": {"function": "f"}, "timeout": "5"}]"#,
            "case 1: field `timeout`: `5` is not a duration; write a number and ms, s, m, h or d, such as \"5s\"",
        );
        check(
            r#"[{"call": {"function": "f"}, "result": 1, "error": {}}]"#,
            "case 1: expects both `result` and `error`",
        );
    }
}
