//! Events that were given up: looked at, delivered again, dropped; and plugins that are released from quarantine.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cli::{Desk, Running, one_at_a_time},
    support::Installed,
};

/// Refuses what is negative until the state says otherwise.
const PICKY: &str = r#"
import os

@bridge.on("number")
def double(event):
    if event.data < 0 and not bridge.state.get("lenient"):
        raise ValueError(f"{event.data} is negative\nand that is not all")
    return event.data * 2

@bridge.on("die")
def die(event):
    if not bridge.state.get("lenient"):
        os._exit(3)
    return "alive"
"#;
const ONCE: &str = "[delivery]\nattempts = 2\n[restart]\ndeaths = 2\n";

const RUN: [&str; 7] = ["run", "p", "--topic", "number", "--out", "out.ndjson", "--events"];

fn letters(desk: &Desk, args: &[&str]) -> Vec<Value> {
    desk.run(&[&["dead-letters", "list", "--json"], args].concat()).with(0).lines()
}

#[test]
fn dead_letters_are_listed_shown_retried_and_dropped() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", ONCE, PICKY);
    let args = &[&RUN[..], &["-"]].concat();
    desk.run_with(args, "1\n-1\n-2\n-3\n").with(1);

    let found = letters(&desk, &[]);
    let key = |name: &str| found.iter().map(|letter| letter[name].clone()).collect::<Vec<_>>();
    assert_eq!(key("id"), [1, 2, 3]);
    assert_eq!(key("data"), [-1, -2, -3]);
    assert_eq!(
        (&found[0]["plugin"], &found[0]["topic"], &found[0]["attempts"]),
        (&json!("p"), &json!("number"), &json!(2))
    );
    assert_eq!(found[0]["error"]["data"]["ename"], "ValueError");
    assert_eq!(letters(&desk, &["--plugin", "p"]).len(), 3);

    let table = desk.run(&["dead-letters", "list"]).with(0).out;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PLUGIN", "TOPIC", "EVENT", "ATTEMPTS", "WHEN", "(UTC)", "ERROR"]);
    let id = found[1]["event_id"].as_str().expect("an id");
    assert_eq!(
        (rows[2][..5].join(" "), rows[2][7..].join(" ")),
        (format!("2 p number {id} 2"), "ValueError: -2 is negative".into())
    );
    assert_eq!(rows.len(), 4, "a row each: {table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let none = desk.run(&["dead-letters", "list", "--plugin", "q"]).with(0);
    assert_eq!((&*none.out, &*none.err), ("", "no dead letters of plugin `q` in kernelbridge.db; `p` has 3\n"));

    let shown = desk.run(&["dead-letters", "show", "2"]).with(0).out;
    let expected = [
        "id        2\nplugin    p\nhandler   double, for `number`\n",
        &format!("event     {id}\ntopic     number\nemitted   20"),
        "Z after 2 attempts\ndata      -2\nerror     plugin `p`: ValueError: -2 is negative\nand that is not all\n",
        "    Traceback (most recent call last):\n",
        "line 7, in double\n",
    ];
    for part in expected {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }
    let whole: Value =
        serde_json::from_str(&desk.run(&["dead-letters", "show", "2", "--json"]).with(0).out).expect("JSON");
    assert_eq!(whole, found[1]);

    // If one is not there, none is touched.
    for command in ["retry", "drop"] {
        let ended = desk.run(&["dead-letters", command, "1", "7", "9"]).with(2);
        assert_eq!(ended.err, "error: there is no dead letter 7, 9 in kernelbridge.db\n");
    }
    assert_eq!(
        desk.run(&["dead-letters", "show", "9"]).with(2).err,
        "error: there is no dead letter 9 in kernelbridge.db\n"
    );
    assert_eq!(letters(&desk, &[]).len(), 3);

    assert_eq!(desk.run(&["dead-letters", "drop", "3"]).with(0).out, "dropped 1 dead letter\n");
    let retried = desk.run(&["dead-letters", "retry", "--all", "--plugin", "p"]).with(0);
    assert_eq!(
        retried.out,
        "2 dead letters of plugin `p` are put back: no host runs it with kernelbridge.db, so the next \
         `kernelbridge run` will deliver them\n"
    );
    assert_eq!(letters(&desk, &[]), [] as [Value; 0]);
    let none = desk.run(&["dead-letters", "drop", "--all"]).with(0);
    assert_eq!((&*none.out, &*none.err), ("", "no dead letters in kernelbridge.db\n"));

    desk.run(&["state", "set", "lenient", "true"]).with(0);
    desk.run_with(args, "5\n").with(0);
    let lines = desk.lines("out.ndjson");
    let results: Vec<_> = lines.iter().filter(|line| line["type"] == "result").map(|line| &line["result"]).collect();
    assert_eq!(results, [&json!(-2), &json!(-4), &json!(10)], "as if for the first time, before what is new");
    assert_eq!(lines[1]["id"], id);
    desk.leaves_nothing();
}

#[test]
fn a_running_host_delivers_what_is_retried_and_releases_plugins() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", ONCE, PICKY);
    let running = Running::start(&desk, &["run", "p", "--events", "-", "--out", "out.ndjson", "--state", "other.db"]);
    running.wait_for("it runs", |desk| desk.path("other.db").exists());
    let nobody = desk.run(&["release", "q", "--state", "other.db"]).with(2);
    assert_eq!(
        nobody.err,
        "error: no host runs plugin `q` with other.db; only a running host has plugins in quarantine\n"
    );
    running.write(
        "{\"topic\":\"number\",\"data\":-1}\n{\"topic\":\"die\",\"data\":0}\n{\"topic\":\"number\",\"data\":-2}\n",
    );
    let state = ["--state", "other.db"];
    running.wait_for("all are given up", |desk| desk.path("other.db").exists() && letters(desk, &state).len() == 3);
    let errors: Vec<String> =
        letters(&desk, &state).iter().map(|letter| letter["error"]["message"].to_string()).collect();
    assert!(errors[0].contains("is negative"), "{errors:?}");
    assert!(errors[2].contains("in quarantine after 2 deaths of its kernel"), "{errors:?}");

    desk.run(&["state", "set", "lenient", "true", "--state", "other.db"]).with(0);
    let released = desk.run(&["release", "p", "--state", "other.db"]).with(0);
    assert_eq!(released.out, "plugin `p` is released\n");
    let retried = desk.run(&["dead-letters", "--state", "other.db", "retry", "2", "3"]).with(0);
    assert_eq!(retried.out, "2 dead letters of plugin `p` are put back: a running host delivers them now\n");
    running.wait_for("they are handled", |desk| {
        let lines = desk.lines("out.ndjson");
        let results: Vec<_> =
            lines.iter().filter(|line| line["type"] == "result").map(|line| &line["result"]).collect();
        results == [&json!("alive"), &json!(-4)]
    });
    assert_eq!(letters(&desk, &state).len(), 1);
    running.end().with(1);
    desk.leaves_nothing();
}

#[test]
fn dead_letters_need_a_database_and_a_choice() {
    let desk = Desk::new();
    for args in [&["dead-letters", "list"][..], &["release", "p"]] {
        let ended = desk.run(args).with(2);
        assert_eq!(ended.err, "error: there is no kernelbridge.db; name the database with --state FILE\n");
    }
    assert!(!desk.path("kernelbridge.db").exists());
    desk.run(&["state", "set", "a", "1"]).with(0);
    let none = desk.run(&["dead-letters", "list"]).with(0);
    assert_eq!((&*none.out, &*none.err), ("", "no dead letters in kernelbridge.db\n"));
    for (args, wrong) in [
        (&["retry"][..], "<ID>..."),
        (&["drop", "1", "--all"], "'--all'"),
        (&["drop", "1", "--plugin", "p"], "'--plugin <PLUGIN>'"),
        (&["show", "one"], "'one'"),
    ] {
        let ended = desk.run(&[&["dead-letters"], args].concat()).with(2);
        assert!(ended.err.contains(wrong), "{}", ended.err);
    }
    let began = std::time::Instant::now();
    desk.run(&["release", "p"]).with(2);
    assert!(began.elapsed() < Duration::from_secs(10), "it does not wait for ever");
}
