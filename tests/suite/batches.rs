//! Events that are handed over together: when, in which shape, and what becomes of those that fail.

mod forms;
#[cfg(feature = "arrow")]
mod tables;

use std::time::Duration;

use kernelbridge::host::{Host, News};
use serde_json::{Value, json};

use crate::{host::plugin, support::Installed};

const DEADLINE: Duration = Duration::from_secs(60);

const PYTHON: &str = r#"
import os

@bridge.on("size", batch=100)
def size(events):
    return [len(events)] * len(events)

@bridge.on("head", batch=100)
def head(events):
    return [[e.id, e["topic"], e.time, e.attempt, e.key, e.data, list(e)] for e in events]

@bridge.on("table", batch="columns")
def table(c, head):
    return [[*it] for it in zip(head.ids, head.topics, head.times, head.attempts, head.keys, c["n"])]

@bridge.on("some", batch="columns")
def some(c, head):
    return [ValueError("odd, first") if n % 2 and a == 1 else [n, a] for n, a in zip(c["n"], head.attempts)]

@bridge.on("all", batch="columns")
def all(c, head):
    if head.attempts[0] == 1:
        raise RuntimeError("not the first time")
    return [[n, a] for n, a in zip(c["n"], head.attempts)]

@bridge.on("never", batch="columns")
def never(c):
    raise RuntimeError("never")

@bridge.on("die", batch="columns")
def die(c, head):
    if 7 in c["n"] and head.attempts[0] < 2:
        os._exit(3)
    return [len(c["n"])] * len(c["n"])

@bridge.on("shape", batch="columns")
def shape(c):
    return {"seen": [c] * len(c["n"])} if c["n"][0] else None

@bridge.on("odd", batch="columns")
def odd(c):
    return {"n": c["n"], "short": [1]}
"#;

/// What came of the events of one topic, in the order in which they were done: results, or what was raised.
async fn done(host: Host, events: Vec<(&str, Value, Option<&str>)>) -> Vec<(String, Value)> {
    let mut news = host.subscribe_lossless();
    for (topic, data, key) in events {
        let mut event = kernelbridge::host::Event::new(topic, &data).expect("an event");
        if let Some(key) = key {
            event = event.with_key(key);
        }
        host.emit_event(event).await.expect("accepted");
    }
    tokio::time::timeout(DEADLINE, host.drain()).await.expect("it never hangs");
    host.shutdown().await;
    let mut done = Vec::new();
    while let Some(news) = news.next().await {
        match news {
            News::Handled { event, result, .. } => {
                done.push((event.id.to_string(), serde_json::from_str(result.get()).expect("JSON")));
            }
            News::Failed { event, error, attempts, .. } => {
                done.push((event.id.to_string(), json!([error.evalue, attempts])));
            }
            _ => {}
        }
    }
    done
}

async fn python(delivery: &str) -> Option<(tempfile::TempDir, Host)> {
    if !Installed::look().has("python") {
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folder = plugin(dir.path(), "p", "python", PYTHON, &format!("[delivery]\n{delivery}"));
    let host = Host::builder().plugin(folder).build().await.expect("a host");
    Some((dir, host))
}

fn numbers(topic: &'static str, numbers: std::ops::Range<i64>) -> Vec<(&'static str, Value, Option<&'static str>)> {
    numbers.map(|n| (topic, json!({ "n": n }), None)).collect()
}

fn results(done: Vec<(String, Value)>) -> Vec<Value> {
    done.into_iter().map(|(_, result)| result).collect()
}

#[tokio::test]
async fn an_idle_plugin_gets_the_first_event_at_once_and_a_busy_one_all_that_wait() {
    let Some((_dir, host)) = python("batch = 8").await else { return };
    let mut sizes = results(done(host, numbers("size", 0..20)).await);
    assert_eq!(sizes.len(), 20);
    sizes.dedup();
    assert!(sizes.iter().all(|size| size.as_i64() <= Some(8)), "{sizes:?}");
    assert!(sizes.contains(&json!(8)), "{sizes:?}");
}

#[tokio::test]
async fn a_batch_that_is_not_full_lingers_for_more() {
    for (linger, expected) in [("0ms", 1), ("2s", 3)] {
        let Some((_dir, host)) = python(&format!("batch = 3\nlinger = \"{linger}\"")).await else { return };
        let mut news = host.subscribe_lossless();
        let mut sizes = Vec::new();
        for n in 0..3 {
            host.emit("size", &json!({ "n": n })).await.expect("accepted");
            // Long enough for an event that goes alone.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::timeout(DEADLINE, host.drain()).await.expect("it never hangs");
        host.shutdown().await;
        while let Some(news) = news.next().await {
            if let News::Handled { result, .. } = news {
                sizes.push(result.get().parse::<i64>().expect("a number"));
            }
        }
        if expected == 3 {
            assert_eq!(sizes, [3, 3, 3], "a full one goes before its time is over");
        } else {
            assert_eq!(sizes[0], 1);
        }
    }
}

#[tokio::test]
async fn what_is_said_once_is_there_for_each_event() {
    let Some((_dir, host)) = python("linger = \"100ms\"").await else { return };
    let mut events: Vec<_> = numbers("head", 0..5);
    events[1].2 = Some("k");
    events[2].2 = Some("k");
    let done = done(host, events).await;
    assert_eq!(done.len(), 5);
    for (n, (id, result)) in done.into_iter().enumerate() {
        let key = if n == 1 || n == 2 { json!("k") } else { Value::Null };
        assert_eq!((&result[0], &result[1], &result[3], &result[4]), (&json!(id), &json!("head"), &json!(1), &key));
        assert!(result[2].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{result}");
        assert_eq!(result[5], json!({ "n": n }));
        assert_eq!(result[6], json!(["id", "topic", "time", "attempt", "key", "data"]));
    }
}

#[tokio::test]
async fn a_table_knows_its_events() {
    let Some((_dir, host)) = python("linger = \"100ms\"").await else { return };
    let mut events: Vec<_> = numbers("table", 0..40);
    events[3].2 = Some("k");
    for (n, (id, result)) in done(host, events).await.into_iter().enumerate() {
        let key = if n == 3 { json!("k") } else { Value::Null };
        let found = [&result[0], &result[1], &result[3], &result[4], &result[5]];
        assert_eq!(found, [&json!(id), &json!("table"), &json!(1), &key, &json!(n)]);
    }
}

#[tokio::test]
async fn of_a_table_only_rows_that_failed_are_tried_again() {
    let Some((_dir, host)) = python("batch = 6\nlinger = \"100ms\"").await else { return };
    let results = results(done(host, numbers("some", 0..6)).await);
    let expected = [[0, 1], [2, 1], [4, 1], [1, 2], [3, 2], [5, 2]];
    assert_eq!(results, expected.map(|pair| json!(pair)));
}

#[tokio::test]
async fn a_handler_that_raises_on_a_table_gets_all_of_it_again_and_then_no_more() {
    let Some((_dir, host)) = python("attempts = 2\nlinger = \"100ms\"").await else { return };
    let mut events = numbers("all", 0..4);
    events.extend(numbers("never", 4..6));
    let results = results(done(host, events).await);
    let expected =
        [json!([0, 2]), json!([1, 2]), json!([2, 2]), json!([3, 2]), json!(["never", 2]), json!(["never", 2])];
    assert_eq!(results, expected);
}

#[tokio::test]
async fn a_row_that_kills_its_kernel_is_found_and_the_others_go_on() {
    let Some((_dir, host)) = python("linger = \"100ms\"").await else { return };
    let results = results(done(host, numbers("die", 0..10)).await);
    // Nobody was blamed for the first death: each went alone until the one was found.
    assert_eq!((results.len(), &results[..8]), (10, &vec![json!(1); 8][..]));
}

#[tokio::test]
async fn rows_without_a_key_are_null_and_what_is_no_object_is_data() {
    let Some((_dir, host)) = python("linger = \"100ms\"").await else { return };
    let events = vec![
        ("shape", json!({ "n": 1, "a": "x" }), None),
        ("shape", json!({ "b": [1, { "c": null }], "n": 2 }), None),
        ("shape", json!("text"), None),
    ];
    let results = results(done(host, events).await);
    let seen = json!({ "n": [1, 2, null], "a": ["x", null, null], "b": [null, [1, { "c": null }], null],
                       "data": [null, null, "text"] });
    assert_eq!(results, vec![json!({ "seen": seen }); 3]);
}

#[tokio::test]
async fn what_is_no_result_for_each_row_is_done_without_one() {
    let Some((_dir, host)) = python("linger = \"100ms\"").await else { return };
    let mut events = numbers("shape", 0..2);
    events.extend(numbers("odd", 2..4));
    assert_eq!(results(done(host, events).await), vec![Value::Null; 4]);
}

/// Languages whose errors are values.
const FAILING: [(&str, &str); 3] = [
    (
        "javascript",
        r#"bridge.on("n", (c, { attempts }) => c.n.map((n, i) => n % 2 && attempts[i] === 1 ? new Error("odd") : [n, attempts[i]]), { batch: "columns" });"#,
    ),
    (
        "node",
        r#"bridge.on("n", (c, { attempts }) => c.n.map((n, i) => n % 2 && attempts[i] === 1 ? new Error("odd") : [n, attempts[i]]), { batch: "columns" });"#,
    ),
    (
        "r",
        "bridge$on(\"n\", batch = \"columns\", function(c, head) Map(function(n, a) if (n %% 2 == 1 && a == 1) simpleError(\"odd\") else list(n, a), c$n, head$attempts))",
    ),
];

#[tokio::test]
async fn rows_fail_one_by_one_in_other_languages_too() {
    for (language, source) in FAILING {
        if !Installed::look().has(language) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let manifest = "[delivery]\nbatch = 4\nlinger = \"100ms\"\n[limits]\nstartup = \"120s\"\n";
        let folder = plugin(dir.path(), "p", language, source, manifest);
        let host = Host::builder().plugin(folder).build().await.expect("a host");
        let results = results(done(host, numbers("n", 0..4)).await);
        assert_eq!(results, [[0, 1], [2, 1], [1, 2], [3, 2]].map(|pair| json!(pair)), "{language}");
    }
}
