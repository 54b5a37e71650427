//! Tables of Apache Arrow: as argument and result, and as batches of events.

use std::{fs, path::Path, sync::Arc};

use arrow_array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, cast::AsArray};
use kernelbridge::{
    discover::Environment,
    host::{Host, News},
    rpc::ErrorKind,
};
use serde_json::{Value, json};

use super::{DEADLINE, python};
use crate::{host::plugin, support::is_required};

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
