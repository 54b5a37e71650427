//! `run --watch`: the author edits while events flow.

use std::{cell::Cell, fs};

use serde_json::{Value, json};

use crate::{
    cli::{Desk, Running, one_at_a_time},
    support::Installed,
};

const SLOW: &str = r#"
import time
from helper import VERSION

@bridge.on("n")
def handle(event):
    time.sleep(0.03)
    open("product.csv", "a").write("line\n")
    return [VERSION, event.data]
"#;

fn events(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("{n}\n")).collect()
}

/// What handlers returned: version and number.
fn results(desk: &Desk) -> Vec<(String, u64)> {
    let pair =
        |result: &Value| (result[0].as_str().expect("a version").to_owned(), result[1].as_u64().expect("a number"));
    desk.lines("out.ndjson").iter().filter(|line| line["type"] == "result").map(|line| pair(&line["result"])).collect()
}

#[test]
fn edits_are_loaded_while_events_flow_and_none_is_lost() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "[queue]\ncapacity = 10\n", SLOW);
    desk.write("p/helper.py", "VERSION = \"first\"\n");
    let running =
        Running::start(&desk, &["run", "p", "--watch", "--events", "-", "--topic", "n", "--out", "out.ndjson"]);
    // Two events for each look at what came of them, which is more than the handler can do.
    let sent = Cell::new(0);
    let look = |is_so: fn(&[(String, u64)]) -> bool| {
        running.write(&events(sent.get()..sent.get() + 2));
        sent.set(sent.get() + 2);
        is_so(&results(&desk))
    };
    running.wait_for("the first are handled", |_| look(|handled| handled.len() >= 5));
    desk.write("p/helper.py", "VERSION = \"second\"\n");
    running.wait_for("the new code handles events", |_| look(|handled| handled.iter().any(|(v, _)| v == "second")));
    let sent = sent.get();
    running.wait_for("all are handled", |desk| results(desk).len() as u64 >= sent);
    let handled = results(&desk);
    assert_eq!(handled.iter().map(|(_, n)| *n).collect::<Vec<_>>(), (0..sent).collect::<Vec<_>>());
    assert!(handled.is_sorted_by_key(|(version, _)| version == "second"), "{handled:?}");

    // A slip: what was loaded goes on.
    running.write(&events(sent..sent + 40));
    desk.write("p/plugin.py", "@bridge.on(\"n\"\ndef handle(event):\n    return [\"broken\", 0]\n");
    let told = |desk: &Desk, text: &str| fs::read_to_string(desk.path("err")).expect("a file").contains(text);
    running
        .wait_for("the slip is told", |desk| told(desk, "plugin `p` goes on as before: plugin.py has changed, but "));
    assert!(running.err().contains("SyntaxError") && running.err().contains("line 1"), "{}", running.err());
    running.write(&events(sent + 40..sent + 50));
    running.wait_for("the old code handles them", |desk| results(desk).len() as u64 == sent + 50);
    assert!(results(&desk).iter().skip_while(|(_, n)| *n < sent).all(|(version, _)| version == "second"));

    // Mended; and what only the next run takes up.
    desk.write("p/plugin.py", &SLOW.replace("VERSION, event", "\"third\", event"));
    running.wait_for("it is loaded", |desk| {
        fs::read_to_string(desk.path("err")).expect("a file").matches("anew").count() == 2
    });
    let manifest = fs::read_to_string(desk.path("p/plugin.toml")).expect("readable");
    desk.write("p/plugin.toml", &manifest.replace("10", "20"));
    running.wait_for("the manifest is told", |desk| {
        told(desk, "plugin.toml has changed, which takes effect with the next run")
    });
    running.write(&events(sent + 50..sent + 51));
    let ended = running.end().with(0);
    assert_eq!(results(&desk).pop().expect("a result"), ("third".to_owned(), sent + 50));
    let about: Vec<&str> = ended.err.lines().filter(|line| line.contains("anew") || line.contains("restart")).collect();
    assert_eq!(
        about,
        ["plugin `p` is loaded anew: helper.py has changed", "plugin `p` is loaded anew: plugin.py has changed"],
        "neither what the plugin writes nor what its interpreter caches counts: {}",
        ended.err
    );
    desk.leaves_nothing();
}

/// Code that never ends at the top level must not keep the next edit, or the end, waiting.
#[test]
fn an_edit_that_hangs_gives_way_to_the_next_and_to_ctrl_c() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let source = |version: &str, fatal: u64| {
        format!(
            "import os\n@bridge.on(\"n\")\ndef handle(event):\n    if event.data == {fatal}:\n        os._exit(3)\n    \
             return [\"{version}\", event.data]\n"
        )
    };
    let hangs = "import time\nprint(\"hanging\")\ntime.sleep(50)\n";
    desk.python("p", "", &source("first", 99));
    let args = ["run", "p", "--watch", "--events", "-", "--topic", "n", "--out", "out.ndjson", "--json"];
    let running = Running::start(&desk, &args);
    running.write(&events(0..1));
    running.wait_for("it runs", |desk| results(desk).len() == 1);
    let hanging = |count: usize| {
        desk.write("p/plugin.py", hangs);
        running.wait_for("it hangs", |_| running.err().matches("[p] hanging").count() == count);
    };
    hanging(1);
    running.write(&events(1..2));
    running.wait_for("the old code goes on", |desk| results(desk).len() == 2);
    desk.write("p/plugin.py", &source("second", 3));
    running.wait_for("the next edit is loaded", |_| running.err().contains("plugin `p` is loaded anew"));
    running.write(&events(2..3));
    running.wait_for("it handles events", |desk| results(desk).len() == 3);
    assert_eq!(results(&desk)[1..], [("first".to_owned(), 1), ("second".to_owned(), 2)]);

    // The old kernel dies meanwhile: its event waits for the new code.
    hanging(2);
    running.write(&events(3..5));
    running.wait_for("the old kernel is gone", |desk| {
        desk.lines("out.ndjson").last().is_some_and(|line| line["state"] == "starting")
    });
    desk.write("p/plugin.py", &source("third", 99));
    running.wait_for("the new code handles it", |desk| results(desk).len() == 5);
    assert_eq!(results(&desk)[3..], [("third".to_owned(), 3), ("third".to_owned(), 4)]);

    hanging(3);
    let began = std::time::Instant::now();
    let ended = running.end().with(0);
    assert!(began.elapsed().as_secs() < 10, "{:?}: {}", began.elapsed(), ended.err);
    let summary = desk.lines("out.ndjson").pop().expect("a line");
    let plugin = &summary["plugins"]["p"];
    assert_eq!((&summary["type"], &plugin["restarts"], &plugin["failed"]), (&json!("summary"), &json!(0), &json!(0)));
    // One or two events that were with the kernel when it died, once each.
    assert!(plugin["retried"].as_u64().is_some_and(|retried| retried <= 2), "{summary}");
    desk.leaves_nothing();
}

#[test]
fn an_edit_brings_a_plugin_back_from_quarantine() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let dies = "import os\n@bridge.on(\"n\")\ndef handle(event):\n    os._exit(3)\n";
    desk.python("p", "[delivery]\ninstances = 2\n[restart]\ndeaths = 1\n", dies);
    let running =
        Running::start(&desk, &["run", "p", "--watch", "--events", "-", "--topic", "n", "--out", "out.ndjson"]);
    running.write(&events(0..20));
    for number in [1, 2] {
        let line = format!(
            "instance {number} of plugin `p` is in quarantine after 1 death: the kernel ended with exit code 3; \
             `kernelbridge release p` takes it out\n"
        );
        running.wait_for("both are in quarantine", |_| running.err().contains(&line));
    }
    desk.write("p/plugin.py", "@bridge.on(\"n\")\ndef handle(event):\n    return [\"mended\", event.data]\n");
    running.wait_for("it is loaded", |_| running.err().contains("plugin `p` is loaded anew: plugin.py has changed\n"));
    desk.run(&["dead-letters", "retry", "--all"]).with(0);
    running.wait_for("all are handled", |desk| results(desk).len() == 20);
    let ended = running.end().with(1);
    assert!(!ended.err.contains("ended in quarantine"), "{}", ended.err);
    desk.leaves_nothing();
}
