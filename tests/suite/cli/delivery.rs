//! What `run` says of drops, deaths, and events that are left for the next run.

use std::fs;

use kernelbridge::store::Store;
use serde_json::{Value, json};

use crate::{
    cli::{Desk, Ended, one_at_a_time},
    support::Installed,
};

/// Does what its event says.
const PLUGIN: &str = r#"
import os, time

@bridge.on("sleep")
def sleep(event):
    time.sleep(event.data)
    return event.data

@bridge.on("die")
def die(event):
    if event.attempt <= event.data:
        print("dying")
        os._exit(3)
"#;

fn run(desk: &Desk, args: &[&str], input: &str) -> Ended {
    desk.run_with(&[&["run", "p", "--events", "-"], args].concat(), input)
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// The words of the line that begins with this one.
fn row<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&first)).unwrap_or_else(|| panic!("no line `{first}` in\n{text}"))
}

#[test]
fn drops_are_told_by_topic_and_reason() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "[queue]\ncapacity = 2\nwhen-full = \"drop-newest\"\n", PLUGIN);
    let args = ["--topic", "sleep", "--state", ":memory:"];
    let input = "0.2\n".repeat(20);
    let ended = run(&desk, &[&args[..], &["--json"]].concat(), &input).with(0);
    let lines = ended.lines();
    let summary = lines.last().expect("a line");
    let plugin = &summary["plugins"]["p"];
    let dropped = count(&plugin["dropped"]);
    assert!(dropped > 0 && dropped + count(&plugin["handled"]) == 20, "{summary}");
    assert_eq!(plugin["drops"], json!([{ "topic": "sleep", "reason": "drop-newest", "count": dropped }]));
    assert_eq!((&summary["drained"], &summary["quarantined"]), (&json!(true), &json!({})));

    let ended = run(&desk, &args, &input).with(0);
    assert_eq!(row(&ended.err, "PLUGIN").join(" "), "PLUGIN HANDLED DROPPED P50 MS P99 MS");
    let last = format!("\nplugin `p` dropped {} of `sleep` (drop-newest)\n", row(&ended.err, "p")[2]);
    assert!(ended.err.ends_with(&last), "{}", ended.err);
    desk.leaves_nothing();
}

#[test]
fn restarts_and_quarantine_are_told_as_they_happen() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "[restart]\ndeaths = 2\n", PLUGIN);
    let ended = run(&desk, &["--json", "--topic", "die"], "1\n").with(0);
    let states: Vec<Value> = of_type(&ended.lines(), "state").into_iter().cloned().collect();
    let names: Vec<_> = states.iter().map(|line| line["state"].as_str().expect("a name")).collect();
    assert_eq!(names, ["restarting", "starting", "ready", "stopped"]);
    assert_eq!((&states[0]["plugin"], &states[0]["deaths"]), (&json!("p"), &json!(1)));
    assert!(states[0]["reason"].as_str().is_some_and(|reason| reason.contains("exit code 3")), "{}", states[0]);
    assert_eq!(ended.lines().last().expect("a line")["plugins"]["p"]["restarts"], 1);
    let told: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("plugin")).collect();
    assert_eq!(
        told,
        ["plugin `p`: the kernel ended with exit code 3; restarting in 0.1 s (death 1)", "plugin `p` is back"]
    );

    let ended = run(&desk, &[], "{\"topic\":\"die\",\"data\":9}\n{\"topic\":\"sleep\",\"data\":0}\n").with(1);
    assert!(of_type(&ended.lines(), "state").is_empty());
    let told: Vec<&str> =
        ended.err.lines().filter(|line| line.contains("plugin `p` ") && !line.starts_with("event")).collect();
    assert_eq!(
        told,
        [
            "plugin `p` is back",
            "plugin `p` is in quarantine after 2 deaths: the kernel ended with exit code 3; `kernelbridge release p` takes it \
             out",
            "plugin `p` ended in quarantine",
        ]
    );
    assert!(
        ended.err.ends_with("2 events were given up and are dead letters; see `kernelbridge dead-letters list`\n"),
        "{}",
        ended.err
    );
    assert_eq!(row(&ended.err, "PLUGIN").join(" "), "PLUGIN HANDLED FAILED RETRIED RESTARTS P50 MS P99 MS");

    let ended = run(&desk, &["--state", ":memory:", "--json", "--topic", "die"], "9\n").with(1);
    let summary = ended.lines().pop().expect("a line");
    assert!(summary["quarantined"]["p"].as_str().is_some_and(|reason| reason.contains("exit code 3")), "{summary}");
    assert!(!ended.err.contains("dead letter") && !ended.err.contains("release"), "{}", ended.err);
    desk.leaves_nothing();
}

/// Nothing is lost but what was in memory, and that is counted.
#[test]
fn what_is_left_at_the_end_of_a_bounded_drain_is_counted_or_resumed() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    for (manifest, code) in [("[queue]\ncapacity = 5\nwhen-full = \"spill\"\n", 1), ("[delivery]\njournal = true\n", 0)]
    {
        let desk = Desk::new();
        desk.python("p", manifest, PLUGIN);
        let input = "0.1\n".repeat(60);
        let args = ["--topic", "sleep", "--json", "--drain-timeout", "500ms"];
        let ended = run(&desk, &args, &input).with(code);
        let summary = ended.lines().pop().expect("a line");
        let first = &summary["plugins"]["p"];
        let (handled, dropped, waiting) =
            (count(&first["handled"]), count(&first["dropped"]), count(&first["waiting"]));
        assert_eq!(handled + dropped + waiting, 60, "{summary}");
        assert!(handled > 0 && waiting > 20 && (dropped > 0) == (code == 1), "{summary}");
        assert_eq!(summary["drained"], false);
        let left = format!(
            "{waiting} events are not handled yet and in kernelbridge.db; the next run with the same plugins goes on there\n"
        );
        assert!(ended.err.ends_with(&left), "{}", ended.err);

        let source = fs::read_to_string(desk.path("p/plugin.py")).expect("readable");
        fs::write(desk.path("p/plugin.py"), source.replace("time.sleep(event.data)", "pass")).expect("written");
        let ended = run(&desk, &["--topic", "sleep", "--drain-timeout", "20s"], "").with(0);
        assert!(
            ended.err.starts_with(&format!("resuming {waiting} events from kernelbridge.db: `p` {waiting}\n")),
            "{}",
            ended.err
        );
        assert_eq!(of_type(&ended.lines(), "result").len() as u64, waiting);
        assert_eq!(row(&ended.err, "PLUGIN")[..3], ["PLUGIN", "HANDLED", "RESUMED"]);
        desk.leaves_nothing();
    }
}

/// It may be called beside a host that is at those events.
#[test]
fn a_call_leaves_events_that_wait_to_the_next_run() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let source = format!("{PLUGIN}\n@bridge.export\ndef add(a, b):\n    return a + b\n");
    desk.python("p", "[delivery]\njournal = true\n", &source);
    let args = ["--topic", "sleep", "--drain-timeout", "100ms"];
    run(&desk, &args, &"0.05\n".repeat(20));
    let waiting = || Store::open(desk.path("kernelbridge.db")).expect("opens").backlog_len("p").expect("readable");
    let left = waiting();
    assert!(left > 0);
    assert_eq!(desk.run(&["call", "p.add", "1", "2"]).with(0).out, "3\n");
    assert_eq!(waiting(), left);
    let ended = run(&desk, &["--json", "--topic", "sleep"], "").with(0);
    assert_eq!(of_type(&ended.lines(), "result").len() as u64, left);
    assert_eq!(waiting(), 0);
    desk.leaves_nothing();
}
