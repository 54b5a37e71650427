//! Several plugins in one bare interpreter, each in a space: apart in all that the protocol says.

use std::{fs, path::Path};

use kernelbridge::rpc::{self, ErrorKind, RpcError};
use serde_json::{Value, json};

use super::{Bare, Outcome, event};

/// The source of each; whatever it names, the others name too.
const SOURCE: &str = r#"
require "side"
SIDE = $side
WORD = bridge.config["word"]
Wrong = Class.new(StandardError)
class Teller # to which the plugin's own functions are not known
  def word = bridge.config["word"]
  def copy = Marshal.load(Marshal.dump(self)) # which finds the class by its name
  def later = $later = Thread.new { $gate.pop; bridge.log.info("later") }
end
count = 0
def word = WORD
def where = File.basename(Dir.pwd)

# Who is it?
bridge.export("about") { [word, Teller.new.copy.word, bridge.plugin["name"], SIDE, where] }
bridge.export("bump") { count += 1 }
bridge.export("ask") { |name| [where, bridge.call(name), where, Teller.new.word] }
bridge.export("ask_below") { |name| Dir.chdir("below") { [bridge.call(name), where] } }
bridge.export("fail") { raise Wrong, word }
bridge.export("constant") { Log }
bridge.export("say") { Thread.new { bridge.log.info("said") }.join && bridge.progress(1) }
bridge.export("later") { ($gate = Queue.new) && Teller.new.later && nil }
bridge.export("lend") { ($lent = -> { bridge.config["word"] }) && nil }
bridge.export("borrow") { [$lent.call, Teller.new.word] }
bridge.export("open") { ($gate << 1) && $later.join && nil }
bridge.on("work") { |event| [word, event.data, where] }
bridge.on("batch", batch: 10) { |events| events.map { word } }
bridge.filter("sieve") { |event| { **event, "data" => word } }
bridge.on_shutdown { bridge.state.set("bye", [word, where]) }
"#;

/// A request over whichever turn there is.
type Ask = fn(&mut Bare, &str, Value) -> Outcome;

struct Spaces<'a> {
    bare: &'a mut Bare,
    ask: Ask,
    folder: &'a Path,
}

impl Spaces<'_> {
    fn ask(&mut self, method: &str, params: Value) -> Outcome {
        (self.ask)(self.bare, method, params)
    }

    /// The handlers of a plugin in a new space, by topic.
    fn load(&mut self, space: u64, name: &str, source: &str) -> Result<impl Fn(&str) -> Value + use<>, RpcError> {
        let folder = self.folder.join(name);
        fs::create_dir_all(folder.join("below")).expect("a folder");
        fs::write(folder.join("side.rb"), format!("$side = 'beside {space}'\nLog ||= 'of all'\n")).expect("written");
        let config = json!({ "word": format!("of {space}") });
        let plugin = json!({ "name": name, "version": "0.1.0" });
        let params = json!({ "space": space, "bridge": "1", "carrier": "pipe", "plugin": plugin, "features": [],
                             "config": config, "folder": folder });
        let told = self.ask("initialize", params).expect("initialized");
        assert!(told["features"].as_array().expect("features").contains(&json!("shared")));
        let cells = json!([{ "name": "plugin.rb", "source": source }]);
        let params = json!({ "space": space, "path": folder.join("plugin.rb"), "cells": cells });
        let handlers = self.ask("load", params)?["handlers"].as_array().expect("handlers").clone();
        Ok(move |topic: &str| handlers.iter().find(|it| it["topic"] == topic).expect("a handler")["id"].clone())
    }

    fn call(&mut self, space: u64, name: &str, args: Value) -> Outcome {
        self.ask("call", json!({ "space": space, "name": name, "chain": ["call"], "args": args }))
    }

    fn about(&mut self, space: u64) -> Value {
        self.call(space, "about", json!([])).expect("answered")
    }

    fn shut_down(&mut self, space: u64) -> Outcome {
        self.ask("shutdown", json!({ "space": space }))
    }

    fn are_kept_apart(&mut self, first: u64) {
        let (a, b, again) = (first, first + 1, first + 2);
        let of = |space: u64| format!("of {space}");
        let about = |space, name| json!([of(space), of(space), name, format!("beside {space}"), name]);
        let handler_a = self.load(a, "a", SOURCE).expect("loaded");
        let handler_b = self.load(b, "b", SOURCE).expect("loaded");
        for round in 1..=2 {
            for (space, name, handler) in [(a, "a", &handler_a as &dyn Fn(&str) -> Value), (b, "b", &handler_b)] {
                assert_eq!(self.about(space), about(space, name));
                assert_eq!(self.call(space, "bump", json!([])).expect("answered"), round);
                let handled = self.ask("event", event(&handler("work"), "work", json!(round))).expect("handled");
                assert_eq!(handled, json!([of(space), round, name]));
                let sieved = self.ask("filter", event(&handler("sieve"), "sieve", json!(1))).expect("filtered");
                assert_eq!(sieved["data"], of(space));
                let one = event(&handler("batch"), "batch", json!(1));
                let batch = json!({ "handler": handler("batch"), "chain": ["e1"], "events": [one] });
                let handled = self.ask("events", batch).expect("handled");
                assert_eq!(handled["outcomes"], json!([{ "result": of(space) }]));
                let error = self.call(space, "fail", json!([])).expect_err("raised");
                assert_eq!((error.ename, error.evalue), ("Wrong".into(), of(space)));
                assert!(error.traceback[0].starts_with(&format!("{name}/plugin.rb:")), "{:?}", error.traceback);
            }
        }

        let handled = self.ask("event", event(&handler_a("work"), "work", json!(3))).expect("handled");
        assert_eq!(handled, json!([of(a), 3, "a"]), "after the other");
        self.call(a, "lend", json!([])).expect("lent");
        let told = self.call(b, "borrow", json!([])).expect("answered");
        assert_eq!(told, json!([of(a), of(b)]), "code keeps its `bridge`");

        // One is served while the other waits, and one of the first in the middle of that; then each is home again.
        let told = self.call(a, "ask", json!([format!("{b}.about")])).expect("answered");
        assert_eq!(told, json!(["a", about(b, "b"), "a", of(a)]));
        let told = self.call(b, "ask_below", json!([format!("{a}.about")])).expect("answered");
        assert_eq!(told, json!([about(a, "a"), "below"]));
        let nested = self.call(a, "ask", json!([format!("{b}.ask_back")])).expect("answered");
        assert_eq!(nested, json!(["a", ["b", about(a, "a"), "b", of(b)], "a", of(a)]));
        assert_eq!(self.about(b), about(b, "b"));

        // What a file beside defines is everybody's, also if the shim has something of that name.
        assert_eq!(self.call(b, "constant", json!([])).expect("answered"), "of all");

        // A thread's log lines are those of the plugin that began it, whoever is served.
        self.bare.notes.clear();
        self.call(a, "say", json!([])).expect("said");
        self.call(b, "say", json!([])).expect("said");
        self.call(a, "later", json!([])).expect("begun");
        self.call(b, "open", json!([])).expect("opened");
        let notes = [(a, "said"), (a, "progress"), (b, "said"), (b, "progress"), (a, "later")];
        assert_eq!(self.bare.notes, notes.map(|(space, note)| (Some(space), note.to_owned())));

        // The second is loaded anew, beside the old one, which goes then.
        let broken = self.load(first + 3, "b", "def").err().expect("a syntax error");
        assert!(broken.report().contains("b/plugin.rb:1"), "{}", broken.report());
        assert_eq!(self.shut_down(first + 3).expect("shut down"), Value::Null);
        let handler = self.load(again, "b", SOURCE).expect("loaded");
        assert_ne!(handler("work"), handler_b("work"));
        assert_eq!(self.about(again), about(again, "b"), "with the files beside it");
        assert_eq!(self.about(b), about(b, "b"));
        self.shut_down(b).expect("shut down");
        assert_eq!(self.bare.state["bye"].0, json!([of(b), "b"]));
        assert_eq!(self.shut_down(b).expect("nothing to do"), Value::Null);
        assert_eq!(self.bare.state["bye"].1, 1);
        let gone = self.ask("event", event(&handler_b("work"), "work", json!(1))).expect_err("gone");
        assert_eq!(gone.kind, ErrorKind::NotFound, "{}", gone.report());
        let gone = self.call(b, "bump", json!([])).expect_err("gone");
        assert_eq!(gone.kind, ErrorKind::NotFound, "{}", gone.report());
        let handled = self.ask("event", event(&handler("work"), "work", json!(1))).expect("handled");
        assert_eq!(handled, json!([of(again), 1, "b"]));
        assert_eq!(self.call(again, "bump", json!([])).expect("answered"), 1);
        assert_eq!(self.call(a, "bump", json!([])).expect("answered"), 3);
        assert_eq!(self.about(a), about(a, "a"));

        // It goes also if it has no folder any more, or fails on its way.
        let handler =
            self.load(first + 4, "c", "bridge.on('x') {}\nbridge.on_shutdown { raise 'not yet' }").expect("loaded");
        assert_eq!(self.shut_down(first + 4).expect_err("raised").evalue, "not yet");
        let gone = self.ask("event", event(&handler("x"), "x", json!(1))).expect_err("gone");
        assert_eq!(gone.kind, ErrorKind::NotFound, "{}", gone.report());
        fs::remove_dir_all(self.folder.join("b")).expect("removed");
        self.shut_down(again).expect_err("no folder");
        assert_eq!(self.shut_down(again).expect("nothing to do"), Value::Null);
        assert_eq!(self.about(a), about(a, "a"));
        self.bare.state.clear();
    }
}

#[test]
fn ruby_keeps_plugins_apart_in_the_bare_interpreter() {
    let Some(mut bare) = Bare::start("ruby", "ruby") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    Spaces { bare: &mut bare, ask: Bare::turn, folder: dir.path() }.are_kept_apart(1);
    bare.stand();
    let ask: Ask = |bare, method, params| bare.request(method, &params);
    Spaces { bare: &mut bare, ask, folder: dir.path() }.are_kept_apart(10);
    // Whichever turn a plugin was loaded in, it is served in the other, where another thread has it from the first.
    for space in [1, 10] {
        let told = Spaces { bare: &mut bare, ask, folder: dir.path() }.about(space);
        assert_eq!((&told[0], &told[1]), (&json!(format!("of {space}")), &told[0]));
    }
    bare.send(&rpc::notification("end"));
    bare.wait_closed(bare.child.id());
    for space in [10, 1] {
        let told = Spaces { bare: &mut bare, ask: Bare::turn, folder: dir.path() }.about(space);
        assert_eq!((&told[0], &told[1]), (&json!(format!("of {space}")), &told[0]));
    }
}
