//! `run` and the commands that start no kernel.

use std::fs;

use serde_json::{Value, json};

use crate::{
    cli::{Desk, one_at_a_time},
    support::Installed,
};

/// Doubles numbers; what is negative is refused.
const DOUBLE: &str = r#"
@bridge.on("number")
def double(event):
    if event.data < 0:
        raise ValueError(f"{event.data} is negative")
    print("got", event.data)
    return event.data * 2
"#;

#[test]
fn lines_that_are_no_json_are_counted_and_passed_over_unless_strict() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", DOUBLE);
    let args = ["run", "p", "--topic", "number", "--events", "-", "--state", ":memory:"];
    let input = "1\n{bad\n\n2\n";
    let ended = desk.run_with(&[&args[..], &["--json"]].concat(), input).with(0);
    assert_eq!(
        ended.err.lines().next(),
        Some("warning: stdin:2: not JSON (key must be a string at line 1 column 2): {bad")
    );
    assert!(ended.err.contains("[p] got 1\n[p] got 2\n"), "{}", ended.err);
    let lines = ended.lines();
    let results: Vec<_> = lines.iter().filter(|line| line["type"] == "result").map(|line| &line["result"]).collect();
    assert_eq!(results, [&json!(2), &json!(4)]);
    let summary = lines.last().expect("a line");
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["input"], json!({ "events": 2, "bad_lines": 1, "refused": 0 }));
    assert_eq!(summary["plugins"]["p"]["handled"], 2);

    let ended = desk.run_with(&args, input).with(0);
    assert!(ended.err.ends_with("1 line of the input was no event\n"), "{}", ended.err);

    let ended = desk.run_with(&[&args[..], &["--strict"]].concat(), input).with(2);
    assert!(
        ended.err.ends_with("error: stdin:2: not JSON (key must be a string at line 1 column 2): {bad\n"),
        "{}",
        ended.err
    );
    assert_eq!(ended.lines().len(), 1, "what came before was done");
    desk.leaves_nothing();
}

/// Not once more in the event's failure, and without what ipykernel says at each start.
#[test]
fn a_kernels_last_output_is_shown_once() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    // To the kernel's own stderr: what goes to the plugin's is an output, and lost when the process ends at once.
    let code = "import os, sys\n@bridge.on('die')\ndef die(event):\n    \
                os.write(sys.stderr._original_stdstream_copy, b'last words\\nand more\\n')\n    os._exit(3)\n";
    desk.python("p", "[delivery]\nattempts = 1\n", code);
    let args = ["run", "p", "--topic", "die", "--events", "-", "--state", ":memory:"];
    let ended = desk.run_with(&args, "1\n").with(1);
    assert!(ended.err.contains("[p] last words\n[p] and more\n"), "{}", ended.err);
    assert!(ended.err.contains("(die) failed: plugin `p`: the kernel ended with exit code 3\n"), "{}", ended.err);
    assert_eq!(ended.err.matches("last words").count(), 1, "{}", ended.err);
    assert!(!ended.err.contains("encryption"), "{}", ended.err);
    let failure = ended.lines().into_iter().find(|line| line["type"] == "failure").expect("a line");
    let message = failure["error"]["message"].as_str().expect("text");
    assert_eq!(message, "the kernel ended with exit code 3; its last output:\nlast words\nand more");
    desk.leaves_nothing();
}

#[test]
fn a_handler_that_raises_is_a_failure_line_and_status_1() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", DOUBLE);
    desk.write(
        "events.ndjson",
        "{\"topic\": \"number\", \"key\": \"k\", \"data\": -1}\n{\"topic\": \"number\", \"data\": 3}\n",
    );
    let args = ["run", "p", "--events", "events.ndjson", "--state", ":memory:", "--out", "out.ndjson"];
    let ended = desk.run(&args).with(1);
    assert!(ended.out.is_empty());
    let out = fs::read_to_string(desk.path("out.ndjson")).expect("the file");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["type"], "failure");
    assert_eq!(lines[0]["error"]["message"], "ValueError: -1 is negative");
    assert_eq!(lines[0]["attempts"], 3);
    assert_eq!((&lines[1]["type"], &lines[1]["result"]), (&json!("result"), &json!(6)));
    assert!(ended.err.contains("(number) failed: plugin `p`: ValueError: -1 is negative\n"), "{}", ended.err);
    desk.leaves_nothing();
}

#[test]
fn images_are_saved_and_one_that_is_broken_is_told() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    // A PNG of one pixel.
    let source = r#"
import base64
from IPython.display import Image, display
png = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")

@bridge.on("show")
def show(event):
    if event.data == 1:
        display({"image/png": "%"}, raw=True)
    display(Image(png))
"#;
    desk.python("painter", "", source);
    let args = ["run", "painter", "--topic", "show", "--events", "-", "--state", ":memory:", "--outputs", "images/new"];
    let ended = desk.run_with(&args, "1\n2\n").with(0);
    for number in 1..=2 {
        let bytes = fs::read(desk.path(&format!("images/new/painter-{number}.png"))).expect("an image");
        assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() == 70, "{} bytes", bytes.len());
        assert!(ended.err.contains(&format!("saved images/new/painter-{number}.png\n")), "{}", ended.err);
    }
    assert!(ended.err.contains("error: plugin `painter` showed a broken image/png: "), "{}", ended.err);
    desk.leaves_nothing();
}

#[test]
fn state_is_read_and_written_without_a_kernel() {
    let desk = Desk::new();
    let state = |args: &[&str]| desk.run(&[&["state"], args].concat());
    assert_eq!(
        state(&["get", "a"]).with(2).err,
        "error: there is no kernelbridge.db; name the database with --state FILE\n"
    );
    assert_eq!(state(&["set", "a/one", "1"]).with(0).out, "1\n");
    assert_eq!(state(&["set", "a/one", "{\"n\": -2}"]).with(0).out, "2\n");
    assert_eq!(state(&["set", "b", "-3"]).with(0).out, "1\n");
    assert_eq!(state(&["get", "a/one"]).with(0).out, "{\"n\": -2}\n");
    assert_eq!(state(&["list"]).with(0).out, "a/one\nb\n");
    let listed = state(&["list", "a/", "--json"]).with(0);
    let [entry] = &listed.lines()[..] else { panic!("{}", listed.out) };
    assert_eq!((&entry["key"], &entry["version"], &entry["value"]), (&json!("a/one"), &json!(2), &json!({ "n": -2 })));
    assert_eq!(
        state(&["get", "a/ome"]).with(2).err,
        "error: no key `a/ome` in kernelbridge.db; did you mean `a/one`?\n"
    );
    assert_eq!(state(&["delete", "b"]).with(0).out, "");
    assert_eq!(state(&["delete", "b"]).with(2).err, "error: no key `b` in kernelbridge.db\n");
    assert_eq!(
        state(&["set", "c", "text"]).with(2).err,
        "error: `text` is not JSON; a text needs double quotes inside single ones: '\"text\"': expected ident at line 1 column 2\n"
    );
    assert_eq!(state(&["--state", "other.db", "list"]).with(2).code, Some(2));
}

#[test]
fn languages_are_listed_for_programs() {
    let desk = Desk::new();
    let file = desk.kernelspec("ghost", &["/nonexistent/kernel", "{connection_file}"], "ghostly");
    let report: Value = serde_json::from_str(&desk.run(&["languages", "--json"]).with(0).out).expect("JSON");
    let text = report.to_string();
    for word in ["ghost", "python", "prolog", file.parent().and_then(|dir| dir.to_str()).expect("a path")] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let table = desk.run(&["languages"]).with(0);
    assert!(table.out.contains("python") && table.err.contains("/nonexistent/kernel"), "{}{}", table.out, table.err);
}

#[test]
fn shells_and_manuals_know_every_command() {
    let desk = Desk::new();
    let commands = [
        "run",
        "call",
        "new",
        "test",
        "state",
        "dead-letters",
        "release",
        "languages",
        "doctor",
        "install",
        "completions",
        "man",
    ];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.run(&["completions", shell]).with(0).out;
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(!script.contains("hold-kernel"), "{shell}");
    }
    let manual = desk.run(&["man"]).with(0).out;
    assert!(manual.contains(".TH kernelbridge 1") && manual.contains("kernelbridge\\-doctor(1)"), "{manual}");
    fs::create_dir(desk.path("man")).expect("a folder");
    desk.run(&["man", "man"]).with(0);
    for command in commands {
        assert!(desk.path(&format!("man/kernelbridge-{command}.1")).is_file(), "{command}");
    }
    let help = desk.run(&["--help"]).with(0).out;
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    assert!(!help.contains("hold-kernel"));
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}
