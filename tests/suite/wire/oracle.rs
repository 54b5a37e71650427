//! A Python process that answers what `jupyter_client` and `jupyter_kernel_test` think of a message.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The interpreter that has the packages below.
const PYTHON: &str = "KERNELBRIDGE_TEST_PYTHON";
/// Set in CI: a missing oracle is a failure.
const REQUIRE: &str = "KERNELBRIDGE_REQUIRE";
/// The oracle is pinned, as a difference must be ours and not a new version's.
const JUPYTER_CLIENT: &str = "8.10.0";

/// The process. Dropping it kills it.
pub struct Oracle {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Oracle {
    /// Start it, or say that the test is skipped and why.
    pub fn start() -> Option<Self> {
        let Some(python) = std::env::var_os(PYTHON) else {
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, but {PYTHON} is not");
            println!("skipped: {PYTHON} names no Python with jupyter_client=={JUPYTER_CLIENT} and jupyter_kernel_test");
            return None;
        };
        let mut child = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/wire/oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{PYTHON}={}: {error}", python.display()));
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut oracle = Self { child, stdin, stdout: BufReader::new(stdout) };
        assert_eq!(oracle.ask("version", json!({}))["jupyter_client"], JUPYTER_CLIENT, "of {PYTHON}");
        Some(oracle)
    }

    /// Ask one question of `oracle.py`.
    pub fn ask(&mut self, ask: &str, mut question: Value) -> Value {
        question["ask"] = ask.into();
        writeln!(self.stdin, "{question}").expect("the oracle lives");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the oracle answers");
        assert!(!answer.is_empty(), "the oracle ended at `{ask}`; its stderr says why");
        serde_json::from_str(&answer).expect("the oracle writes JSON")
    }

    /// `Session.deserialize` with the session of `key`: the message, or why it was refused.
    pub fn deserialize(&mut self, key: &[u8], frames: &[Bytes]) -> Result<Map<String, Value>, String> {
        let frames: Vec<_> = frames.iter().map(encode).collect();
        let Value::Object(answer) = self.ask("deserialize", json!({ "key": encode(key), "frames": frames })) else {
            panic!("an answer is an object");
        };
        match answer.get("refused").and_then(Value::as_str) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(answer),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes as the oracle wants them.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Bytes as the oracle sends them.
pub fn decode(value: &Value) -> Bytes {
    STANDARD.decode(value.as_str().expect("base64 is text")).expect("base64").into()
}

/// A list of bytes as the oracle sends it.
pub fn decode_all(value: &Value) -> Vec<Bytes> {
    value.as_array().expect("a list").iter().map(decode).collect()
}
