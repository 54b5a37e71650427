//! A new plugin passes its own test, and tests that fail say why.

use std::fs;

use serde_json::{Value, json};

use crate::{
    cli::{Desk, one_at_a_time},
    support::Installed,
};

macro_rules! languages {
    ($($language:ident),*) => {
        $(mod $language {
            #[test]
            fn makes_a_plugin_that_works() {
                super::works(stringify!($language));
            }

            #[test]
            fn makes_a_notebook_that_works() {
                super::notebook_works(stringify!($language));
            }
        })*
    };
}

languages!(bash, javascript, lua, node, octave, prolog, python, r);

fn works(language: &str) {
    if !Installed::look().has(language) {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let made = desk.run(&["new", language, "first-one", "--dir", "plugins"]).with(0);
    assert_eq!(made.out, "plugins/first-one\n");
    let tested = desk.run(&["test", "plugins/first-one"]).with(0);
    assert!(tested.out.ends_with("3 passed, 0 failed\n"), "{}", tested.out);
    let call = ["call", "--plugins", "plugins/first-one", "--state", ":memory:", "first-one.greet", "\"Ada\""];
    assert_eq!(desk.run(&call).with(0).out, "\"hello, Ada\"\n");
    let run = ["run", "plugins", "--topic", "guest.arrived", "--events", "-", "--state", "s.db"];
    let ran = desk.run_with(&run, "{\"name\": \"Ada\"}\n{\"name\": \"Grace\"}\n").with(0);
    let data: Vec<_> = ran.lines().into_iter().map(|line| line["data"].clone()).collect();
    assert_eq!(data, [json!({ "text": "hello, Ada", "count": 1 }), json!({ "text": "hello, Grace", "count": 2 })]);
    desk.leaves_nothing();
}

fn notebook_works(language: &str) {
    if !Installed::look().has(language) {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.run(&["new", language, "first-one", "--notebook"]).with(0);
    let tested = desk.run(&["test", "first-one"]).with(0);
    // Where notebooks have kernels with `bridge` in them, a cell of sample events comes before the test.
    let number = if ["python", "r", "javascript"].contains(&language) { 3 } else { 2 };
    assert!(tested.out.contains(&format!("  ok      plugin.ipynb[{number}]  ")), "{}", tested.out);
    assert!(tested.out.ends_with("4 passed, 0 failed\n"), "{}", tested.out);
    let file = desk.path("first-one/plugin.ipynb");
    let wrong = fs::read_to_string(&file).expect("a notebook").replace("hello, Ada", "bye, Ada");
    fs::write(file, wrong).expect("written");
    let tested = desk.run(&["test", "first-one"]).with(1);
    assert!(tested.out.contains(&format!("  FAILED  plugin.ipynb[{number}]  ")), "{}", tested.out);
    desk.leaves_nothing();
}

#[test]
fn says_what_to_do_next_and_refuses_to_overwrite() {
    let desk = Desk::new();
    let made = desk.run(&["new", "py", "my-rate"]).with(0);
    assert_eq!(made.out, "./my-rate\n");
    let said = "  plugin.toml\n  plugin.py\n  my-rate.test.json\n  README.md\nnext:\n";
    assert!(made.err.starts_with(said), "{}", made.err);
    let next = "  kernelbridge test ./my-rate\n  kernelbridge call --plugins ./my-rate my-rate.greet '\"Ada\"'\n  echo \
                '{\"name\": \"Ada\"}' | kernelbridge run ./my-rate --topic guest.arrived --events -\n";
    assert!(made.err.ends_with(next), "{}", made.err);
    let before = fs::read_to_string(desk.path("my-rate/plugin.toml")).expect("a manifest");
    assert_eq!(
        desk.run(&["new", "lua", "my-rate"]).with(2).err,
        "error: ./my-rate exists; nothing was written\nhint: take another name, or another folder with --dir DIR\n"
    );
    assert_eq!(fs::read_to_string(desk.path("my-rate/plugin.toml")).expect("a manifest"), before);
    assert_eq!(
        desk.run(&["new", "lua", "My Rate"]).with(2).err,
        "error: 'M' in plugin name `My Rate` is not allowed; use a-z, 0-9 and -\nhint: `my-rate` would do\n"
    );
    assert_eq!(
        desk.run(&["new", "scheme", "s"]).with(2).err,
        "error: language `scheme` has no shim: plugins for it are manifests with `turn = \"template\"` and a [template] \
         section, which no template of ours can guess\n"
    );
}

const PLUGIN: &str = r#"
@bridge.export
def add(a, b):
    print("adding", a, b)
    return {"sum": a + b, "of": [a, b]}

@bridge.on("quake.*")
def note(event):
    if event.data.get("mag") is None:
        raise ValueError("no magnitude")
    bridge.state.set("last", event.data["mag"])
    bridge.emit("alert.new", {"mag": event.data["mag"]})
    return "noted"

@bridge.filter("quake.*")
def clean(event):
    if event.data.get("mag") == 0:
        return None
    event.data["clean"] = True
    return event

bridge.state.set("loaded", True)
"#;

const CASES: &str = r#"[
    {"name": "adds", "call": {"function": "add", "args": [1, 2]}, "result": {"sum": 3}},
    {"name": "adds wrongly", "call": {"function": "add", "args": [1, 2]}, "result": {"sum": 4, "of": [1, 3], "x": 0}},
    {"name": "notes", "emit": {"topic": "quake.new", "data": {"mag": 5}}, "result": "noted",
     "emitted": [{"topic": "alert.new", "data": {"mag": 5}}], "state": {"last": 5, "loaded": true}},
    {"name": "begins with the state after loading", "given": {"state": {"other": 1}}, "call": {"function": "add", "args": [0, 0]},
     "state": {"last": null, "other": 1, "loaded": true}},
    {"name": "notes wrongly", "emit": {"topic": "quake.new", "data": {"mag": 5}}, "emitted": [], "state": {"last": 6, "none": 1}},
    {"name": "raises", "emit": {"topic": "quake.new", "data": {}}, "error": {"kind": "Raised", "message contains": "magnitude"}},
    {"name": "raises something else", "emit": {"topic": "quake.new", "data": {}}, "error": {"kind": "Timeout", "message contains": "late"}},
    {"name": "does not raise", "call": {"function": "add", "args": [1, 2]}, "error": {}},
    {"name": "cleans", "filter": {"topic": "quake.new", "data": {"mag": 1}}, "result": {"mag": 1, "clean": true}},
    {"name": "drops", "filter": {"topic": "quake.new", "data": {"mag": 0}}, "result": null},
    {"name": "hears nothing of it", "emit": {"topic": "rain.new"}}
]"#;

#[test]
fn failures_say_what_was_expected_and_what_came() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "[permissions]\ncall = [\"state.*\"]\nemit = [\"alert.*\"]\n", PLUGIN);
    desk.write("p/p.test.json", CASES);
    let ended = desk.run(&["test", "p"]).with(1);
    let times = |line: &str| {
        line.rsplit_once("  ")
            .filter(|(_, end)| end.ends_with(" ms"))
            .map_or(line.to_owned(), |(name, _)| name.to_owned())
    };
    // Output comes on its own channel, at its own time.
    let is_printed = |line: &&str| line.trim_start().starts_with("printed: ");
    assert!(ended.out.lines().any(|line| line == "          printed: adding 1 2"), "{}", ended.out);
    let shown: Vec<_> = ended.out.lines().filter(|line| !is_printed(line)).map(times).collect();
    let expected = r#"p
  ok      adds
  FAILED  adds wrongly
          result.sum: expected 4, got 3
          result.of[1]: expected 3, got 2
          result.x: expected 0, but there is no such key
  ok      notes
  ok      begins with the state after loading
  FAILED  notes wrongly
          emitted: expected none, got 1: `alert.new`
          state[last]: expected 6, got 5
          state[none]: expected 1, but there is no such key
  ok      raises
  FAILED  raises something else
          error.kind: expected Timeout, got Raised: plugin `p`: ValueError: no magnitude
          error: expected a message with `late`, got `ValueError: no magnitude`
  FAILED  does not raise
          error: expected one, got the result {"sum":3,"of":[1,2]}
  ok      cleans
  ok      drops
  FAILED  hears nothing of it
          no handler of the plugin takes topic `rain.new`; it has those for `quake.*`
6 passed, 5 failed"#;
    assert_eq!(shown.join("\n"), expected);
    let ended = desk.run(&["test", "p", "--json"]).with(1);
    let report: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((&report["passed"], &report["failed"]), (&json!(6), &json!(5)));
    let case = &report["plugins"][0]["cases"][1];
    assert_eq!(
        (&case["name"], &case["passed"], &case["file"]),
        (&json!("adds wrongly"), &json!(false), &json!("p/p.test.json"))
    );
    assert_eq!(case["problems"][0], "result.sum: expected 4, got 3");
    desk.leaves_nothing();
}

#[test]
fn slips_in_test_files_are_found_before_a_kernel_starts() {
    let desk = Desk::new();
    desk.python("p", "", "");
    assert_eq!(
        desk.run(&["test", "p"]).with(2).err,
        "warning: plugin `p` has no tests: no *.test.json beside p/plugin.toml\nerror: no tests\n\
         hint: `kernelbridge test --help` explains *.test.json; `kernelbridge new` makes an example\n"
    );
    desk.write("p/a.test.json", r#"[{"name": "n", "call": {"function": "f"}, "emited": []}]"#);
    assert_eq!(
        desk.run(&["test", "p"]).with(2).err,
        "error: p/a.test.json: case 1 (`n`): unknown field `emited`; did you mean `emitted`?\n"
    );
    desk.write("p/a.test.json", "[{\"name\": }]");
    assert_eq!(
        desk.run(&["test", "p"]).with(2).err,
        "error: p/a.test.json: not JSON: expected value at line 1 column 11\n"
    );
}

#[test]
fn a_slow_case_fails_and_the_next_one_runs() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let source = "import time\n@bridge.export\ndef nap(s):\n    time.sleep(s)\n    return s\n";
    desk.python("p", "[limits]\ntimeout = \"2s\"\n", source);
    desk.write(
        "p/p.test.json",
        r#"[{"name": "slow", "call": {"function": "nap", "args": [1]}, "timeout": "100ms"},
            {"name": "quick", "call": {"function": "nap", "args": [0]}, "result": 0},
            {"name": "too slow for the manifest", "call": {"function": "nap", "args": [9]}, "error": {"kind": "Timeout"}}]"#,
    );
    let ended = desk.run(&["test", "p"]).with(1);
    assert!(ended.out.contains("it took longer than 100ms\n"), "{}", ended.out);
    assert!(ended.out.ends_with("2 passed, 1 failed\n"), "{}", ended.out);
    desk.leaves_nothing();
}

#[test]
fn notebooks_have_test_cells() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.write("nb/plugin.toml", "[plugin]\nname = \"nb\"\nlanguage = \"python\"\nentry = \"plugin.ipynb\"\n");
    let cell = |source: &str, tags: &[&str]| json!({ "cell_type": "code", "source": source, "metadata": { "tags": tags }, "outputs": [], "execution_count": null });
    let cells = [
        cell("@bridge.export\ndef twice(n):\n    return 2 * n", &[]),
        cell("assert twice(2) == 4", &["test"]),
        cell("n = 3\nassert twice(n) == 7, 'not seven'", &["test"]),
        cell("assert 'n' not in globals()", &["test"]),
    ];
    desk.write(
        "nb/plugin.ipynb",
        &json!({ "nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells }).to_string(),
    );
    desk.write("nb/nb.test.json", r#"[{"name": "twice", "call": {"function": "twice", "args": [4]}, "result": 8}]"#);
    let ended = desk.run(&["test", "nb"]).with(1);
    assert!(ended.out.contains("  ok      plugin.ipynb[2]  "), "{}", ended.out);
    assert!(ended.out.contains("  FAILED  plugin.ipynb[3]  "), "{}", ended.out);
    assert!(ended.out.contains("AssertionError: not seven\n"), "{}", ended.out);
    assert!(ended.out.contains("File \"plugin.ipynb[3]\", line 2, in <module>"), "{}", ended.out);
    assert!(ended.out.ends_with("3 passed, 1 failed\n"), "{}", ended.out);
    desk.leaves_nothing();
}

#[test]
fn a_plugin_that_does_not_load_is_a_failed_case() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", "import nothing_of_that_name\n");
    desk.write("p/p.test.json", r#"[{"call": {"function": "f"}}]"#);
    let ended = desk.run(&["test", "p"]).with(1);
    assert!(ended.out.starts_with("p\n  FAILED  loads  "), "{}", ended.out);
    assert!(ended.out.contains("ModuleNotFoundError: No module named 'nothing_of_that_name'"), "{}", ended.out);
    assert!(ended.out.ends_with("0 passed, 1 failed\n"), "{}", ended.out);
    desk.leaves_nothing();
}

#[test]
fn a_plugin_that_calls_another_is_tested_with_it() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("b", "", "@bridge.export\ndef twice(n):\n    return 2 * n\n");
    let source = "@bridge.export\ndef four_times(n):\n    return 2 * bridge.call('b.twice', n)\n";
    desk.python("a", "[permissions]\ncall = [\"b.*\"]\n", source);
    desk.write("a/a.test.json", r#"[{"call": {"function": "four_times", "args": [3]}, "result": 12}]"#);
    let alone = desk.run(&["test", "a"]).with(1);
    assert!(alone.out.contains("no function `b.twice`"), "{}", alone.out);
    assert!(desk.run(&["test", "a", "--with", "b"]).with(0).out.ends_with("1 passed, 0 failed\n"));
    desk.leaves_nothing();
}
