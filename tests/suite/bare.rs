//! Shims whose kernel no registry carries, in the bare interpreter over the `pipe` carrier: `conformance/bare.*` of the
//! language folder stands in for the kernel, and this for the host.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use kernelbridge::{
    language::Language,
    rpc::{self, ErrorKind, Inbound, Plea, RpcError},
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json, value::to_raw_value};

use crate::support::{is_required, root};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A host with just enough to serve one shim.
struct Bare {
    language: Language,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    frames: Receiver<Vec<u8>>,
    to_plugin: fs::File,
    next_id: u64,
    state: HashMap<String, (Value, u64)>,
    emitted: Vec<String>,
    dir: tempfile::TempDir,
}

type Outcome = Result<Value, RpcError>;

impl Bare {
    fn start(language: &str, program: &str) -> Option<Self> {
        if Command::new(program).arg("--version").output().is_err() {
            assert!(!is_required(language), "`{language}` is required, but there is no program `{program}`");
            println!("skipped: no program `{program}`");
            return None;
        }
        let folder = root().join("kernelspecs").join(language);
        let text = fs::read_to_string(folder.join("language.toml")).expect("language.toml");
        let language = Language::parse(&text).expect("a language");
        let dir = tempfile::tempdir().expect("a folder");
        let file = &language.shim.as_ref().expect("a shim").file;
        fs::copy(folder.join(file), dir.path().join(file)).expect("copied");
        for fifo in ["to-host", "to-plugin"] {
            mkfifo(&dir.path().join(fifo), Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
        }
        let both =
            |name: &str| fs::OpenOptions::new().read(true).write(true).open(dir.path().join(name)).expect("opens");
        let (mut to_host, to_plugin) = (both("to-host"), both("to-plugin"));
        let mut child = Command::new(program)
            .arg(folder.join("conformance").join(format!("bare.{}", language.extension)))
            .env("KERNELBRIDGE_DIR", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let (line, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let (frame, frames) = channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            loop {
                let mut digits = String::new();
                while to_host.read_exact(&mut byte).is_ok() && byte != *b"\n" {
                    digits.push(byte[0] as char);
                }
                let mut body = vec![0; digits.parse().expect("a length")];
                if to_host.read_exact(&mut body).is_err() || frame.send(body).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take().expect("piped");
        let (state, emitted) = (HashMap::new(), Vec::new());
        let mut bare = Self { language, child, stdin, lines, frames, to_plugin, next_id: 0, state, emitted, dir };
        let bootstrap = bare.language.shim.as_ref().and_then(|shim| shim.bootstrap.clone()).expect("a bootstrap");
        bare.execute(&bootstrap);
        assert_eq!(bare.reply(), "ok");
        Some(bare)
    }

    fn execute(&mut self, code: &str) {
        writeln!(self.stdin, "{code}").expect("written");
    }

    /// The next `ok` or `error` line; others are what the plugin printed.
    fn reply(&self) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).expect("a reply");
            if line == "ok" || line.starts_with("error ") {
                return line;
            }
        }
    }

    /// One turn with one request.
    fn turn(&mut self, method: &str, params: Value) -> Outcome {
        let code = self.language.turn.pipe.clone().expect("a turn over pipes");
        self.execute(&code);
        assert!(matches!(self.receive()[..], [Inbound::Ready]));
        let outcome = self.request(method, &params);
        self.send(&rpc::notification("end"));
        assert_eq!(self.reply(), "ok");
        outcome
    }

    fn call(&mut self, name: &str, args: Value) -> Outcome {
        self.turn("call", json!({ "name": name, "chain": ["call"], "args": args }))
    }

    fn send(&mut self, message: &str) {
        write!(self.to_plugin, "{}\n{message}\n", message.len() + 1).expect("written");
    }

    fn receive(&self) -> Vec<Inbound> {
        Inbound::parse(&self.frames.recv_timeout(DEADLINE).expect("a frame"))
    }

    fn request(&mut self, method: &str, params: &Value) -> Outcome {
        self.next_id += 1;
        let mine = self.next_id;
        let mut message = String::new();
        rpc::write_request(&mut message, mine, method, &serde_json::to_string(params).expect("JSON"));
        self.send(&message);
        loop {
            for message in self.receive() {
                match message {
                    Inbound::Response { id, result } => {
                        assert_eq!(id, mine, "last in, first out");
                        return result.map(|value| serde_json::from_str(value.get()).expect("JSON"));
                    }
                    Inbound::Request { id, plea } => {
                        let answer = plea.and_then(|plea| self.serve(plea));
                        let answer = answer.map(|value| to_raw_value(&value).expect("JSON"));
                        self.send(&rpc::response(id, answer.as_ref().map(|value| value.get())));
                    }
                    Inbound::Log { .. } | Inbound::Progress { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn serve(&mut self, plea: Plea) -> Outcome {
        let (name, args) = match plea {
            Plea::Emit { topic, .. } => {
                self.emitted.push(topic);
                return Ok(Value::Null);
            }
            Plea::Call { name, args } => (name, args),
        };
        let args: Vec<Value> = serde_json::from_str(args.get()).expect("an array");
        let key = || args[0].as_str().expect("a key").to_owned();
        Ok(match name.as_str() {
            "test.add" => json!(args[0].as_f64().expect("a number") + args[1].as_f64().expect("a number")),
            "test.fail" => return Err(RpcError::new(ErrorKind::Raised, "host said no")),
            "test.nest" => {
                let below =
                    json!({ "name": "nest", "chain": ["call"], "args": [args[0].as_i64().expect("a number") - 1] });
                json!(self.request("call", &below)?.as_i64().expect("a number") + 1)
            }
            "state.get" => self.state.get(&key()).map_or(Value::Null, |(value, _)| value.clone()),
            "state.read" => {
                let (value, version) = self.state.get(&key()).cloned().unwrap_or_default();
                json!({ "value": value, "version": version })
            }
            "state.set" => {
                let version = self.state.get(&key()).map_or(0, |(_, version)| *version) + 1;
                self.state.insert(key(), (args[1].clone(), version));
                json!(version)
            }
            "state.swap" => {
                let version = self.state.get(&key()).map_or(0, |(_, version)| *version);
                let swapped = args[1].as_u64() == Some(version);
                if swapped {
                    self.state.insert(key(), (args[2].clone(), version + 1));
                }
                json!({ "swapped": swapped, "version": version + u64::from(swapped) })
            }
            "state.delete" => json!(self.state.remove(&key()).is_some()),
            other => return Err(RpcError::new(ErrorKind::NotFound, format!("no function `{other}`"))),
        })
    }

    fn load(&mut self, file: &Path) -> Outcome {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let source = fs::read_to_string(file).expect("a source");
        self.turn("load", json!({ "path": file, "cells": [{ "name": name, "source": source }] }))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(self.dir.path().exists());
    }
}

#[test]
fn ruby_conforms_in_the_bare_interpreter() {
    let Some(mut bare) = Bare::start("ruby", "ruby") else { return };
    let conformance = root().join("kernelspecs/ruby/conformance");
    let plugin = json!({ "name": "conformance-ruby", "version": "0.1.0" });
    let initialize = json!({ "bridge": "1", "carrier": "pipe", "plugin": plugin, "features": [], "config": { "greeting": "hello" } });
    let initialized = bare.turn("initialize", initialize).expect("initialized");
    assert_eq!((&initialized["bridge"], &initialized["language"]), (&json!("1"), &json!("ruby")));

    let error = bare.load(&conformance.join("broken.rb")).expect_err("a syntax error");
    assert!(error.report().contains("broken.rb:3"), "{}", error.report());
    let loaded = bare.load(&conformance.join("plugin.rb")).expect("loaded");
    let handlers = loaded["handlers"].as_array().expect("handlers").clone();
    let id = |topic: &str| handlers.iter().find(|handler| handler["topic"] == topic).expect("a handler")["id"].clone();

    assert_eq!(bare.call("hello", json!(["Ada"])).expect("a greeting"), "hello, Ada from ruby");
    let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
    for value in [
        json!("naïve Ω 漢字 🦀 \u{10ffff} \"quoted\" \\ \n\t\u{1}"),
        json!(null),
        json!([]),
        json!({}),
        json!([1, "a", null, true, [2], { "b": 3.5 }]),
        json!({ "with space": 1, "ünï": null }),
        json!(9_007_199_254_740_991_i64),
        json!(1.5e-300),
        deep,
        json!("aé\n🦀".repeat(1_000_000)),
    ] {
        assert_eq!(bare.call("identity", json!([value])).expect("the same"), value);
    }
    let error = bare.call("fail", json!(["that is wrong"])).expect_err("raised");
    assert_eq!((error.kind, error.evalue.as_str()), (ErrorKind::Raised, "that is wrong"));
    assert!(error.traceback.iter().any(|line| line.contains("plugin.rb:")), "{}", error.report());
    assert!(!error.report().contains("shim.rb"), "{}", error.report());
    assert_eq!(bare.call("call_host", json!(["test.add", [2, 40]])).expect("a sum"), 42.0);
    let caught = bare.call("try_call", json!(["test.fail", []])).expect("caught");
    assert_eq!((&caught["kind"], &caught["message"]), (&json!("Raised"), &json!("host said no")));
    let error = bare.call("call_host", json!(["test.fail", []])).expect_err("passed through");
    assert_eq!(error.cause.expect("a cause").message, "host said no");
    assert_eq!(bare.call("nope", json!([])).expect_err("no such function").kind, ErrorKind::NotFound);
    assert_eq!(bare.turn("nope", json!({})).expect_err("no such method").kind, ErrorKind::NotFound);
    assert_eq!(bare.call("nest", json!([50])).expect("a depth"), 50);
    assert_eq!(bare.call("increment", json!(["counter", 20])).expect("a count"), 20);
    assert_eq!(bare.call("state_roundtrip", json!(["k", { "a": [1] }])).expect("a value"), json!({ "a": [1] }));
    bare.call("emit_one", json!(["conf.out", null])).expect("emitted");
    assert_eq!(bare.emitted, ["conf.out"]);

    let event = |topic: &str, data: Value| {
        json!({ "handler": id(topic), "id": "e1", "topic": topic, "time": "2026-01-01T00:00:00.000Z", "attempt": 1,
                "key": null, "chain": ["e1"], "data": data })
    };
    let echoed = bare.turn("event", event("conf.echo", json!({ "n": 1 }))).expect("handled");
    assert_eq!(echoed, json!({ "topic": "conf.echo", "data": { "n": 1 }, "attempt": 1 }));
    assert_eq!(bare.turn("event", event("conf.fail", json!(null))).expect_err("raised").kind, ErrorKind::Raised);
    let events: Vec<Value> = (0..5).map(|n| event("conf.batch", json!({ "n": n }))).collect();
    let batch = json!({ "handler": id("conf.batch"), "chain": ["e1"], "events": events });
    let outcomes = bare.turn("events", batch).expect("handled")["outcomes"].clone();
    assert_eq!(outcomes[4]["result"], 8);
    let series: Vec<Value> = ["conf.echo", "conf.fail", "conf.echo"].map(|topic| event(topic, json!(1))).to_vec();
    let series = json!({ "within_ms": 1000, "chain": ["e1"], "events": series });
    let outcomes = bare.turn("series", series).expect("handled")["outcomes"].clone();
    assert_eq!(outcomes.as_array().map(Vec::len), Some(2), "it ends where one fails");
    assert_eq!((&outcomes[0]["result"]["data"], &outcomes[1]["error"]["data"]["kind"]), (&json!(1), &json!("Raised")));
    assert!(outcomes[0]["ms"].is_number());
    let passed =
        bare.turn("filter", event("conf.filter", json!({ "path": ["start"], "drop": false }))).expect("filtered");
    assert_eq!(passed["data"]["path"], json!(["start", "ruby"]));
    let dropped = bare.turn("filter", event("conf.filter", json!({ "path": [], "drop": true }))).expect("filtered");
    assert_eq!(dropped, Value::Null);
    bare.turn("shutdown", json!({})).expect("shut down");
    assert_eq!(bare.state["shutdown/ruby"].0, true);
}
