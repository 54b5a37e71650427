//! Many records at once travel in forms that are read more quickly than JSON, and must mean the same.

use kernelbridge::{host::Host, rpc::ErrorKind};
use serde_json::{Value, json};

use super::{done, results};
use crate::{host::plugin, support::Installed};

const R: &str = r#"
bridge$on("echo", batch = "columns", function(table) table)

bridge$on("seen", batch = "columns", function(table) {
  lapply(seq_len(nrow(table)), function(row) paste(vapply(table, function(x) class(x)[1], ""), collapse = " "))
})

bridge$on("odd", batch = "columns", function(table) list(
  id = table$id,
  factor = factor(rep(c("x", "y"), length.out = nrow(table))),
  date = rep(as.Date("2020-01-02"), nrow(table)),
  infinite = rep(c(Inf, NaN, NA, 1e20), length.out = nrow(table)),
  text = rep(c("a\"\\\n", NA, "é", ""), length.out = nrow(table)),
  list = I(lapply(table$id, function(id) list(id)))))
"#;

/// A host with one plugin whose events wait for a batch.
async fn host(language: &str, source: &str) -> Option<(tempfile::TempDir, Host)> {
    if !Installed::look().has(language) {
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folder = plugin(dir.path(), "p", language, source, "[delivery]\nlinger = \"300ms\"\nbatch = 100\n");
    let host = Host::builder().plugin(folder).build().await.expect("a host");
    Some((dir, host))
}

/// A row of many kinds; some have nothing but null in places.
fn row(n: i64) -> Value {
    let some = |value: Value| if n % 5 == 2 { Value::Null } else { value };
    json!({
        "id": n,
        "integer": some(json!(n - 50)),
        "smallest": if n == 0 { i64::from(i32::MIN) } else { n },
        "large": some(json!(4_000_000_000_i64 + n)),
        "float": some(json!((n as f64 + 0.5) / 7.0)),
        "tiny": 5e-324,
        "flag": some(json!(n % 2 == 0)),
        "text": some(json!(format!("{n} é \" \\ \u{1} \n 漢 \u{1f30d}"))),
        "plain": some(json!(format!("row {n}"))),
        "empty": "",
        "none": null,
        "mixed": if n % 2 == 0 { json!(n) } else { json!("x") },
    })
}

#[tokio::test]
async fn columns_of_r_mean_the_same_as_bytes_and_as_json() {
    // A few rows are JSON, many are bytes.
    for count in [5, 100] {
        let Some((_dir, r)) = host("r", R).await else { return };
        let events = (0..count).map(|n| ("echo", row(n), None)).collect();
        let back = results(done(r, events).await);
        assert_eq!(back, (0..count).map(row).collect::<Vec<_>>());
    }
    let Some((_dir, r)) = host("r", R).await else { return };
    let seen = results(done(r, (0..100).map(|n| ("seen", row(n), None)).collect()).await);
    let expected = "integer integer numeric numeric numeric numeric logical character character character logical list";
    assert_eq!(seen, vec![json!(expected); 100]);
}

#[tokio::test]
async fn what_r_gives_back_by_columns_need_not_be_what_it_got() {
    let Some((_dir, r)) = host("r", R).await else { return };
    let back = results(done(r, (0..40).map(|n| ("odd", json!({ "id": n }), None)).collect()).await);
    assert_eq!(back.len(), 40);
    for (n, back) in back.into_iter().enumerate() {
        let infinite = if n % 4 == 3 { json!(1e20) } else { Value::Null };
        let text = [json!("a\"\\\n"), Value::Null, json!("é"), json!("")][n % 4].clone();
        let factor = ["x", "y"][n % 2];
        let expected = json!({ "id": n, "factor": factor, "date": "2020-01-02", "infinite": infinite,
            "text": text, "list": [[n]] });
        assert_eq!((back["infinite"].as_f64(), &back["text"]), (infinite.as_f64(), &text));
        let but_numbers = |mut value: Value| {
            value["infinite"] = Value::Null;
            value
        };
        assert_eq!(but_numbers(back), but_numbers(expected));
    }
}

const PYTHON: &str = r#"
import datetime, math

@bridge.export
def echo(records):
    return records

@bridge.on("echo", batch=100)
def echo_events(events):
    return [event.data for event in events]

@bridge.on("events", batch=100)
def themselves(events):
    return events

@bridge.on("columns", batch="columns")
def columns(table):
    return table

def records(value):
    return [{"value": value}] * 40

@bridge.export
def odd(kind):
    return records({
        "tuple": (1, (), (2, 3, 4, 5)), "nan": [math.nan, math.inf, -0.0], "integer": [2**64, -2**100, 2**31, -2**31],
        "keys": {1: "a", True: "b", None: "c", 2.5: "d"}, "half": "a\ud83d", "bytes": b"abc", "array": bytearray(b"abc"),
        "date": datetime.date(2020, 1, 2), "set": {1}, "object": object(), "cycle": cycle(),
        "text": "x" * 300 + "é\0\n", "empty": [{}, [], ""], "kind": type("Number", (int,), {})(7),
    }[kind])

def cycle():
    value = []
    value.append(value)
    return value

@bridge.export
def fail(records):
    raise ValueError(len(records))

@bridge.export
def nested(records):
    return [bridge.call("p.echo", records), records]
"#;

#[tokio::test]
async fn many_records_mean_the_same_to_python_as_one() {
    let Some((_dir, python)) = host("python", PYTHON).await else { return };
    let records: Vec<Value> = (0..200).map(row).collect();
    for count in [1, 40, 200] {
        let back: Vec<Value> = python.call("p.echo", (&records[..count],)).await.expect("an answer");
        assert_eq!(back, records[..count]);
        let back: Vec<Vec<Value>> = python.call("p.nested", (&records[..count],)).await.expect("an answer");
        assert_eq!(back, [&records[..count]; 2]);
    }
    let error = python.call::<Value>("p.fail", (&records,)).await.expect_err("raised");
    assert_eq!((error.kind, error.evalue.as_str()), (ErrorKind::Raised, "200"));
    // What has no place in a pickle goes as JSON.
    let huge: Value = serde_json::from_str("123456789012345678901234567890").unwrap_or_default();
    let large = json!([{ "n": huge, "bytes": { "$bytes": "AAEC" }, "text": "x".repeat(10_000) }]);
    let back: Value = python.call("p.echo", (&large,)).await.expect("an answer");
    assert_eq!(back, large);
    python.shutdown().await;
}

#[tokio::test]
async fn what_python_answers_is_what_json_would_be() {
    let Some((_dir, python)) = host("python", PYTHON).await else { return };
    let check = async |kind: &str, expected: &str| {
        let back: Result<Vec<Value>, _> = python.call("p.odd", (kind,)).await;
        let back = back.map(|back| (back.len(), back[0]["value"].to_string(), back[39] == back[0]));
        assert_eq!(back.map_err(|error| error.report()), Ok((40, expected.to_owned(), true)), "{kind}");
    };
    check("tuple", "[1,[],[2,3,4,5]]").await;
    check("nan", "[null,null,-0.0]").await;
    check("keys", r#"{"1":"b","null":"c","2.5":"d"}"#).await;
    check("bytes", r#"{"$bytes":"YWJj"}"#).await;
    check("array", r#"{"$bytes":"YWJj"}"#).await;
    check("date", r#""2020-01-02""#).await;
    check("empty", r#"[{},[],""]"#).await;
    check("kind", "7").await;
    check("text", &format!("\"{}é\\u0000\\n\"", "x".repeat(300))).await;
    let integers: String =
        python.call::<Box<serde_json::value::RawValue>>("p.odd", ("integer",)).await.expect("fits").get().into();
    assert!(
        integers.starts_with(
            r#"[{"value":[18446744073709551616,-1267650600228229401496703205376,2147483648,-2147483648]}"#
        ),
        "{integers:.200}"
    );
    let half: Vec<Value> = python.call("p.odd", ("half",)).await.expect("text");
    assert!(["a?", "a\u{fffd}"].contains(&half[0]["value"].as_str().unwrap_or_default()), "{}", half[0]);
    for kind in ["set", "object", "cycle"] {
        let error = python.call::<Value>("p.odd", (kind,)).await.expect_err(kind);
        assert_eq!(error.kind, ErrorKind::Invalid, "{}", error.report());
    }
    python.shutdown().await;
}

#[tokio::test]
async fn events_and_their_results_mean_the_same_to_python() {
    for topic in ["echo", "columns"] {
        let Some((_dir, python)) = host("python", PYTHON).await else { return };
        let back = results(done(python, (0..100).map(|n| (topic, row(n), None)).collect()).await);
        assert_eq!(back, (0..100).map(row).collect::<Vec<_>>(), "{topic}");
    }
    let Some((_dir, python)) = host("python", PYTHON).await else { return };
    let back = results(done(python, (0..100).map(|n| ("events", row(n), None)).collect()).await);
    for (n, back) in (0..100).zip(back) {
        assert_eq!((&back["topic"], &back["data"]), (&json!("events"), &row(n)));
    }
}
