//! Tables of Apache Arrow: as argument and result, and as batches of events.

use std::{fs, path::Path, sync::Arc};

use arrow_array::{
    Array, BooleanArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray,
    cast::AsArray,
};
use kernelbridge::{
    discover::Environment,
    host::{Host, News},
    rpc::ErrorKind,
};
use serde_json::{Value, json};

use super::{DEADLINE, python};
use crate::{
    host::plugin,
    support::{Installed, is_required},
};

const TABLES: &str = r#"
import sys
started_with = {"pyarrow", "pandas"} & sys.modules.keys()

@bridge.export
def early():
    return sorted(started_with)

@bridge.export
def change(table):
    import pyarrow.compute as pc
    table = table.set_column(1, "text", pc.utf8_upper(table["text"]))
    return table.set_column(2, "value", pc.add(table["value"], 1.0))

@bridge.export
def frame(table):
    return table.to_pandas()

@bridge.export
def number(table):
    return table.num_rows

@bridge.export
def fail(table):
    raise ValueError("no")

@bridge.on("arrow", batch="arrow")
def arrow(table, head):
    assert type(table).__name__ == "Table", table
    return table.set_column(0, "id", [head.ids])

@bridge.on("pandas", batch="pandas")
def pandas(frame):
    frame["value"] += 1
    return frame

@bridge.on("series", batch="pandas")
def series(frame):
    return frame["value"] * 2

@bridge.on("types", batch="arrow")
def types(table):
    return [[str(field.type) for field in table.schema]] * len(table)

@bridge.on("frame.types", batch="pandas")
def frame_types(frame):
    return [[str(kind) for kind in frame.dtypes]] * len(frame)

@bridge.on("dates", batch="pandas")
def dates(frame):
    import pandas
    return frame.assign(date=pandas.to_datetime(frame["date"]))
"#;

/// A host whose Python has pyarrow and pandas; `KERNELBRIDGE_TEST_ARROW` names it.
async fn with_tables(dir: &Path, carrier: &str) -> Option<Host> {
    let Some(python) = std::env::var_os("KERNELBRIDGE_TEST_ARROW") else {
        assert!(!is_required("python"), "KERNELBRIDGE_TEST_ARROW is required");
        println!("skipped: KERNELBRIDGE_TEST_ARROW is not set");
        return None;
    };
    let folder = dir.join("kernels/with-arrow");
    fs::create_dir_all(&folder).expect("a folder");
    let argv = json!([python.to_string_lossy(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]);
    let kernelspec = json!({ "argv": argv, "display_name": "with pyarrow", "language": "python" });
    fs::write(folder.join("kernel.json"), kernelspec.to_string()).expect("written");
    let manifest = "[delivery]\nlinger = \"100ms\"\n[limits]\ntimeout = \"60s\"\nstartup = \"120s\"\n";
    let folder = plugin(dir, "p", "python", TABLES, manifest);
    let file = folder.join("plugin.toml");
    let text = fs::read_to_string(&file)
        .expect("written")
        .replace("bridge = \"1\"\n", &format!("bridge = \"1\"\nkernel = \"with-arrow\"\ncarrier = \"{carrier}\"\n"));
    fs::write(&file, text).expect("written");
    let environment = Environment::capture().with_kernels_in(dir.join("kernels"));
    Some(Host::builder().environment(environment).plugin(folder).build().await.expect("a host"))
}

fn table(rows: usize) -> RecordBatch {
    let columns: [(&str, Arc<dyn Array>); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
        ("text", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("é row {n}"))))),
        ("value", Arc::new(Float64Array::from_iter((0..rows).map(|n| (n % 7 != 3).then_some(n as f64 / 2.0))))),
    ];
    RecordBatch::try_from_iter(columns).expect("a table")
}

#[tokio::test]
async fn tables_come_back_as_tables() {
    for carrier in ["pipe", "jupyter"] {
        let dir = tempfile::tempdir().expect("a folder");
        let Some(host) = with_tables(dir.path(), carrier).await else { return };
        let early: Vec<String> = host.call("p.early", ()).await.expect("it answers");
        assert!(early.is_empty(), "imported although nobody asked: {early:?}");
        for rows in [0, 1, 5000] {
            let sent = table(rows);
            let back = host.call_table("p.change", &sent).await.expect("a table");
            let column = |name| back.column_by_name(name).expect("a column");
            let texts: &StringArray = column("text").as_string();
            let values: &Float64Array = column("value").as_primitive();
            assert_eq!((back.num_rows(), column("id")), (rows, sent.column(0)));
            for row in 0..rows {
                assert_eq!(texts.value(row), format!("É ROW {row}"));
                assert_eq!(values.is_null(row), row % 7 == 3);
                assert!(values.is_null(row) || values.value(row) == row as f64 / 2.0 + 1.0);
            }
        }
        assert_eq!(host.call_table("p.frame", &table(3)).await.expect("a frame is a table, too").num_rows(), 3);
        let error = host.call_table("p.number", &table(3)).await.expect_err("no table");
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::Invalid, "`p.number`: it returned no table but 3")
        );
        let error = host.call_table("p.fail", &table(3)).await.expect_err("raised");
        assert_eq!((error.kind, error.evalue.as_str()), (ErrorKind::Raised, "no"));
        host.shutdown().await;
    }
}

#[tokio::test]
async fn a_python_without_pyarrow_says_so() {
    let Some((_dir, host)) = python("").await else { return };
    let error = host.call_table("p.nothing", &table(1)).await.expect_err("no such function");
    assert_eq!(error.kind, ErrorKind::NotFound);
    host.shutdown().await;
    let dir = tempfile::tempdir().expect("a folder");
    let source = "@bridge.on('x', batch='arrow')\ndef x(table): pass\n";
    let folder = plugin(dir.path(), "p", "python", source, "");
    let error = Host::builder().plugin(folder).build().await.map(drop).expect_err("not loaded").to_string();
    assert!(error.contains("batch='arrow' needs pyarrow, which this Python does not have"), "{error}");
}

/// What came of the events of one topic.
async fn results(host: &Host, news: &mut kernelbridge::host::Subscription, count: usize) -> Vec<Value> {
    tokio::time::timeout(DEADLINE, host.drain()).await.expect("it never hangs");
    let mut results = Vec::new();
    while results.len() < count {
        match tokio::time::timeout(DEADLINE, news.next()).await.expect("news").expect("the host lives") {
            News::Handled { result, .. } => results.push(serde_json::from_str(result.get()).expect("JSON")),
            News::Failed { error, .. } => panic!("{}", error.report()),
            _ => {}
        }
    }
    results
}

#[tokio::test]
async fn tables_have_the_types_that_they_were_emitted_with_and_any_other_events_those_of_their_values() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(host) = with_tables(dir.path(), "pipe").await else { return };
    let mut news = host.subscribe_lossless();
    let columns: [(&str, Arc<dyn Array>); 3] = [
        ("small", Arc::new(Int8Array::from(vec![Some(1), None, Some(3)]))),
        ("single", Arc::new(Float32Array::from(vec![1.0, 2.0, 3.0]))),
        ("none", Arc::new(StringArray::from(vec![None::<&str>; 3]))),
    ];
    let sent = RecordBatch::try_from_iter(columns).expect("a table");
    host.emit_batch("types", &sent).await.expect("accepted");
    assert_eq!(results(&host, &mut news, 3).await, vec![json!(["int8", "float", "string"]); 3]);
    // Two tables with the same columns in one batch.
    host.emit_batch("types", &sent.slice(1, 2)).await.expect("accepted");
    host.emit_batch("types", &sent.slice(0, 1)).await.expect("accepted");
    assert_eq!(results(&host, &mut news, 3).await, vec![json!(["int8", "float", "string"]); 3]);
    for count in [2, 40] {
        for n in 0..count {
            let data = json!({ "i": n, "f": if n == 1 { json!(n) } else { json!(0.5) }, "s": "é\n", "b": n == 0, "null": null });
            host.emit("types", &data).await.expect("accepted");
        }
        let types = json!(["int64", "double", "string", "bool", "null"]);
        assert_eq!(results(&host, &mut news, count).await, vec![types; count]);
    }
    // What an Arrow table has no simple column for is made into one where the handler is.
    for n in 0..3 {
        host.emit("types", &json!({ "list": [n], "i": n })).await.expect("accepted");
        host.emit("frame.types", &json!({ "list": [n], "i": n })).await.expect("accepted");
    }
    let found = results(&host, &mut news, 6).await;
    assert_eq!(found.iter().filter(|it| **it == json!(["list<item: int64>", "int64"])).count(), 3, "{found:?}");
    assert_eq!(found.iter().filter(|it| **it == json!(["object", "int64"])).count(), 3, "{found:?}");
    // And results are, too.
    for day in 1..=3 {
        host.emit("dates", &json!({ "date": format!("2026-11-0{day}") })).await.expect("accepted");
    }
    let found = results(&host, &mut news, 3).await;
    assert_eq!(found[2]["date"], "2026-11-03T00:00:00", "{found:?}");
    host.shutdown().await;
}

#[tokio::test]
async fn rows_of_a_table_are_events_and_come_as_tables() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(host) = with_tables(dir.path(), "pipe").await else { return };
    let mut news = host.subscribe_lossless();
    for topic in ["arrow", "pandas", "series"] {
        assert_eq!(host.emit_batch(topic, &table(10)).await.expect("accepted").accepted, 10);
    }
    tokio::time::timeout(DEADLINE, host.drain()).await.expect("it never hangs");
    host.shutdown().await;
    let mut found = Vec::new();
    while let Some(news) = news.next().await {
        match news {
            News::Handled { event, result, .. } => {
                found.push((event, serde_json::from_str::<Value>(result.get()).expect("JSON")));
            }
            News::Failed { error, .. } => panic!("{}", error.report()),
            _ => {}
        }
    }
    assert_eq!(found.len(), 30);
    for (n, (event, result)) in found.into_iter().enumerate() {
        let row = n % 10;
        let value = (row % 7 != 3).then_some(row as f64 / 2.0);
        match &*event.topic {
            "arrow" => {
                assert_eq!(result, json!({ "id": &*event.id, "text": format!("é row {row}"), "value": value }));
            }
            "pandas" => {
                let expected = json!({ "id": row, "text": format!("é row {row}"), "value": value.map(|it| it + 1.0) });
                assert_eq!(result, expected);
            }
            _ => assert_eq!(result, json!(value.map(|it| it * 2.0))),
        }
    }
}

const R: &str = r#"
bridge$export("change", function(frame) {
  stopifnot(is.data.frame(frame))
  frame$text <- toupper(frame$text)
  frame$value <- frame$value + 1
  frame$whole <- frame$id * 2L
  frame
})
bridge$export("types", function(frame) data.frame(name = names(frame), type = vapply(frame, typeof, ""), missing = vapply(frame, anyNA, NA)))
bridge$export("factor", function(frame) list(f = factor(c("b", NA, "a")), n = c(NA, NaN, Inf)))
bridge$export("number", function(frame) nrow(frame))
bridge$export("uneven", function(frame) list(a = 1:2, b = 1:3))
bridge$export("nested", function(frame) list(a = list(1, list(2))))
bridge$export("fail", function(frame) stop("no"))
"#;

#[tokio::test]
async fn r_takes_tables_as_data_frames_and_returns_them() {
    if !Installed::look().has("r") {
        return;
    }
    for carrier in ["pipe", "jupyter"] {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = plugin(dir.path(), "p", "r", R, "[limits]\ntimeout = \"60s\"\nstartup = \"120s\"\n");
        let file = folder.join("plugin.toml");
        let manifest = fs::read_to_string(&file).expect("written");
        let with = manifest.replace("bridge = \"1\"\n", &format!("bridge = \"1\"\ncarrier = \"{carrier}\"\n"));
        fs::write(&file, with).expect("written");
        let host = Host::builder().plugin(folder).build().await.expect("a host");
        for rows in [1, 40, 5000] {
            let sent = table(rows);
            let back = host.call_table("p.change", &sent).await.unwrap_or_else(|error| panic!("{}", error.report()));
            assert_eq!(back.num_rows(), rows);
            let column = |name| back.column_by_name(name).expect("a column");
            let texts: &StringArray = column("text").as_string();
            for row in 0..rows {
                assert_eq!(texts.value(row), format!("É ROW {row}"));
            }
            // Over `jupyter` the types are those of JSON.
            if carrier == "pipe" {
                let values: &Float64Array = column("value").as_primitive();
                let whole: &Int32Array = column("whole").as_primitive();
                for row in 0..rows {
                    assert_eq!(whole.value(row), 2 * row as i32);
                    assert_eq!(values.is_null(row), row % 7 == 3);
                    assert!(values.is_null(row) || values.value(row) == row as f64 / 2.0 + 1.0);
                }
            }
        }
        let columns: [(&str, Arc<dyn Array>); 5] = [
            ("i", Arc::new(Int8Array::from(vec![Some(1), None]))),
            ("large", Arc::new(Int64Array::from(vec![1, 3_000_000_000]))),
            ("f", Arc::new(Float32Array::from(vec![Some(0.5), None]))),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("s", Arc::new(StringArray::from(vec![Some("é"), None]))),
        ];
        let sent = RecordBatch::try_from_iter(columns).expect("a table");
        let types = host.call_table("p.types", &sent).await.unwrap_or_else(|error| panic!("{}", error.report()));
        let types: &StringArray = types.column(1).as_string();
        assert_eq!(types.iter().flatten().collect::<Vec<_>>(), ["integer", "double", "double", "logical", "character"]);
        let back = host.call_table("p.factor", &sent).await.unwrap_or_else(|error| panic!("{}", error.report()));
        let factor: &StringArray = back.column(0).as_string();
        assert_eq!(factor.iter().collect::<Vec<_>>(), [Some("b"), None, Some("a")]);
        if carrier == "pipe" {
            let numbers: &Float64Array = back.column(1).as_primitive();
            assert!(
                numbers.is_null(0) && numbers.value(1).is_nan() && numbers.value(2) == f64::INFINITY,
                "{numbers:?}"
            );
        }
        for name in ["p.number", "p.uneven", "p.nested"] {
            let error = host.call_table(name, &sent).await.expect_err("no table");
            assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        }
        let error = host.call_table("p.fail", &sent).await.expect_err("raised");
        assert_eq!((error.kind, error.evalue.as_str()), (ErrorKind::Raised, "no"));
        host.shutdown().await;
    }
}
