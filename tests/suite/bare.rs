//! Shims whose kernel no registry carries, in the bare interpreter over the `pipe` carrier: `conformance/bare.*` of the
//! language folder stands in for the kernel, and this for the host.

mod spaces;

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::{Duration, Instant},
};

use kernelbridge::{
    language::Language,
    rpc::{self, ErrorKind, Inbound, Plea, RpcError},
};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
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
    /// Of log lines and progress, with the space.
    notes: Vec<(Option<u64>, String)>,
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
            .envs(&language.kernel.env)
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
        let (state, emitted, notes) = (HashMap::new(), Vec::new(), Vec::new());
        let mut bare =
            Self { language, child, stdin, lines, frames, to_plugin, next_id: 0, state, emitted, notes, dir };
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
        self.line(|line| line == "ok" || line.starts_with("error "))
    }

    /// The next line that is as wanted.
    fn line(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).expect("a line");
            if is_wanted(&line) {
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

    /// Open a turn that goes on when its cell has ended.
    fn stand(&mut self) {
        let code = self.language.turn.standing.clone().expect("a standing turn");
        self.execute(&code);
        assert!(matches!(self.receive()[..], [Inbound::Ready]));
        assert_eq!(self.reply(), "ok");
    }

    /// Of a standing turn.
    fn call_standing(&mut self, name: &str, args: Value) -> Outcome {
        self.request("call", &call(name, args))
    }

    fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).expect("interrupted");
    }

    /// Interrupts that come at any time end handlers, and tear no message.
    fn is_whole_in_a_storm(&mut self) {
        let (process, (stop, stopped)) = (Pid::from_raw(self.child.id().cast_signed()), channel::<()>());
        let storm = std::thread::spawn(move || {
            while matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
                kill(process, Signal::SIGINT).expect("interrupted");
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let mut cancelled = 0;
        for n in 0..500 {
            match self.call_standing("add", json!([n, 1])) {
                Ok(sum) => assert_eq!(sum, f64::from(n + 1)),
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Cancelled, "{}", error.report());
                    cancelled += 1;
                }
            }
        }
        drop(stop);
        storm.join().expect("it ended");
        assert!(cancelled > 0, "nothing was interrupted");
        // The last one may still be on its way.
        let began = Instant::now();
        while self.call_standing("add", json!([1, 1])).is_err() {
            assert!(began.elapsed() < DEADLINE, "it is interrupted for ever");
        }
    }

    /// Until a process has closed its ends of the FIFOs.
    fn wait_closed(&self, process_id: u32) {
        let began = Instant::now();
        let is_ours = |file: fs::DirEntry| fs::read_link(file.path()).is_ok_and(|to| to.starts_with(self.dir.path()));
        while fs::read_dir(format!("/proc/{process_id}/fd")).expect("procfs").flatten().any(is_ours) {
            assert!(began.elapsed() < DEADLINE, "{process_id} has the FIFOs open");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn initialize(&mut self) -> Value {
        let plugin = json!({ "name": "conformance-ruby", "version": "0.1.0" });
        let params = json!({ "bridge": "1", "carrier": "pipe", "plugin": plugin, "features": [], "config": { "greeting": "hello" } });
        self.turn("initialize", params).expect("initialized")
    }

    fn call(&mut self, name: &str, args: Value) -> Outcome {
        self.turn("call", call(name, args))
    }

    fn send(&mut self, message: &str) {
        write!(self.to_plugin, "{}\n{message}\n", message.len() + 1).expect("written");
    }

    fn receive(&self) -> Vec<Inbound> {
        Inbound::parse(&self.frames.recv_timeout(DEADLINE).expect("a frame"))
    }

    fn request(&mut self, method: &str, params: &Value) -> Outcome {
        let mine = self.ask(method, params);
        self.answer(mine)
    }

    /// The id of a request that is sent and not waited for.
    fn ask(&mut self, method: &str, params: &Value) -> u64 {
        self.next_id += 1;
        let mut message = String::new();
        rpc::write_request(&mut message, self.next_id, method, &serde_json::to_string(params).expect("JSON"));
        self.send(&message);
        self.next_id
    }

    /// The answer to it; serves the plugin until then.
    fn answer(&mut self, mine: u64) -> Outcome {
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
                    Inbound::Log { message, space, .. } => self.notes.push((space, message)),
                    Inbound::Progress { space, .. } => self.notes.push((space, "progress".into())),
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
            "test.interrupt" => {
                self.interrupt();
                Value::Null
            }
            "test.fail" => return Err(RpcError::new(ErrorKind::Raised, "host said no")),
            "test.nest" => {
                let below = call("nest", json!([args[0].as_i64().expect("a number") - 1]));
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
            other => match other.split_once('.').map(|(space, name)| (space.parse::<u64>(), name)) {
                // One that calls the next lower one back.
                Some((Ok(space), "ask_back")) => {
                    let args = json!([format!("{}.about", space - 1)]);
                    self.request("call", &json!({ "space": space, "name": "ask", "chain": ["call"], "args": args }))?
                }
                Some((Ok(space), name)) => {
                    self.request("call", &json!({ "space": space, "name": name, "chain": ["call"], "args": [] }))?
                }
                _ => return Err(RpcError::new(ErrorKind::NotFound, format!("no function `{other}`"))),
            },
        })
    }

    fn load(&mut self, file: &Path) -> Outcome {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let source = fs::read_to_string(file).expect("a source");
        self.turn("load", json!({ "path": file, "cells": [{ "name": name, "source": source }] }))
    }
}

fn call(name: &str, args: Value) -> Value {
    json!({ "name": name, "chain": ["call"], "args": args })
}

fn event(handler: &Value, topic: &str, data: Value) -> Value {
    json!({ "handler": handler, "id": "e1", "topic": topic, "time": "2026-01-01T00:00:00.000Z", "attempt": 1,
            "key": null, "chain": ["e1"], "data": data })
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
    let initialized = bare.initialize();
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

    let event = |topic: &str, data: Value| event(&id(topic), topic, data);
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

const STANDING: &str = r#"
bridge.on("echo") { |event| event.data + 1 }
bridge.export("add") { |a, b| bridge.call("test.add", a, b) }
bridge.export("nest") { |n| n <= 0 ? 0 : bridge.call("test.nest", n) }
bridge.export("deep") { |n| deep(n) }
def deep(n) = n.zero? ? 0 : [n].sum { |n| deep(n - 1) + 1 }
bridge.export("say") { |text| $stdout.puts(text); $stdout.flush; nil }
bridge.export("spin") { say("spinning"); loop {} }
bridge.export("rest") { say("resting"); sleep }
bridge.export("wait") { bridge.call("test.interrupt"); sleep }
bridge.export("open_gate") { $gate << 1; nil }
bridge.export("child") { fork { sleep 60 } }
bridge.export("leave") { Thread.exit }
def say(text) = $stdout.puts(text) || $stdout.flush
"#;

#[test]
fn ruby_is_served_without_cells_in_the_bare_interpreter() {
    let Some(mut bare) = Bare::start("ruby", "ruby") else { return };
    bare.initialize();
    let cells = json!([{ "name": "plugin.rb", "source": STANDING }]);
    let loaded = bare.turn("load", json!({ "path": null, "cells": cells })).expect("loaded");
    let echo = loaded["handlers"][0]["id"].clone();
    bare.execute("$gate = Queue.new");
    assert_eq!(bare.reply(), "ok");

    bare.stand();
    assert_eq!(bare.request("event", &event(&echo, "echo", json!(1))).expect("handled"), 2);
    assert_eq!(bare.call_standing("add", json!([2, 40])).expect("a sum"), 42.0);
    assert_eq!(bare.call_standing("nest", json!([50])).expect("a depth"), 50);
    assert_eq!(bare.call_standing("deep", json!([2000])).expect("the stack of a cell"), 2000);
    bare.call_standing("say", json!(["printed by a handler"])).expect("printed");
    bare.line(|line| line == "printed by a handler");

    // Also while a cell runs; what is interrupted is the handler, wherever it is.
    bare.execute("$gate.pop");
    for (name, says) in [("spin", "spinning"), ("rest", "resting")] {
        let id = bare.ask("call", &call(name, json!([])));
        bare.line(|line| line == says);
        bare.interrupt();
        assert_eq!(bare.answer(id).expect_err("interrupted").kind, ErrorKind::Cancelled, "{name}");
    }
    assert_eq!(bare.call_standing("wait", json!([])).expect_err("interrupted").kind, ErrorKind::Cancelled);
    assert_eq!(bare.call_standing("add", json!([1, 2])).expect("nothing is torn"), 3.0);
    bare.call_standing("open_gate", json!([])).expect("opened");
    assert_eq!(bare.reply(), "ok", "the cell was not interrupted");
    bare.is_whole_in_a_storm();

    // A child has no host, and keeps no turn open.
    let child = bare.call_standing("child", json!([])).expect("a process id").as_u64().expect("a number");
    bare.wait_closed(u32::try_from(child).expect("a process id"));
    assert_eq!(bare.call_standing("add", json!([1, 2])).expect("the parent has one"), 3.0);
    kill(Pid::from_raw(i32::try_from(child).expect("a process id")), Signal::SIGKILL).expect("killed");

    bare.send(&rpc::notification("end"));
    bare.wait_closed(bare.child.id());
    assert_eq!(bare.call("add", json!([2, 3])).expect("a turn of a cell"), 5.0);
    bare.stand();
    assert_eq!(bare.call_standing("add", json!([3, 4])).expect("a second one"), 7.0);

    // Whatever ends the thread ends the turn.
    bare.ask("call", &call("leave", json!([])));
    bare.wait_closed(bare.child.id());
    assert_eq!(bare.call("add", json!([4, 5])).expect("a turn of a cell"), 9.0);
}
