//! What batches cost: events by the thousand, and calls with a thousand records as one argument, language by language:
//! `cargo bench --bench batches [-- LANGUAGE...] [--pin] [--quick]`.
//!
//! A record is `{"id": integer, "text": 64 bytes, "value": float}`; the handler makes the text upper case and adds 1 to
//! the value. Medians of several rounds. With `--pin` everything is on one core, host and kernels; the machine's noise
//! shows in the spread, so compare within one run only, and with the line for Python's own json.

use std::{fs, path::Path, process::Command, sync::Arc, time::Instant};

use arrow_array::{Array, Float64Array, RecordBatch, StringArray, UInt64Array};
use comfy_table::{CellAlignment, Table, presets};
use kernelbridge::host::Host;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Records in one round.
const RECORDS: usize = 20_000;

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    id: u64,
    text: String,
    value: f64,
}

/// A language's handlers: of lists of events and of columns, and an export of records.
struct Plugin {
    language: &'static str,
    entry: &'static str,
    source: &'static str,
    /// Rounds are this much smaller than others.
    slower: usize,
}

const PLUGINS: &[Plugin] = &[
    Plugin {
        language: "python",
        entry: "plugin.py",
        slower: 1,
        source: r#"
def change(r):
    return {"id": r["id"], "text": r["text"].upper(), "value": r["value"] + 1}

@bridge.on("one")
def one(event):
    return change(event.data)

@bridge.on("rows", batch=1)
def rows(events):
    return [change(event.data) for event in events]

@bridge.on("columns", batch="columns")
def columns(c):
    return {"id": c["id"], "text": [*map(str.upper, c["text"])], "value": [v + 1 for v in c["value"]]}

@bridge.export
def call(records):
    return [change(r) for r in records]

@bridge.export
def table(t):
    import pyarrow.compute as pc
    t = t.set_column(1, "text", pc.utf8_upper(t["text"]))
    return t.set_column(2, "value", pc.add(t["value"], 1.0))
"#,
    },
    Plugin {
        language: "r",
        entry: "plugin.R",
        slower: 10,
        source: r#"
change <- function(r) list(id = r$id, text = toupper(r$text), value = r$value + 1)
bridge$on("one", function(event) change(event$data))
bridge$on("rows", batch = 1, function(events) lapply(events, function(event) change(event$data)))
bridge$on("columns", batch = "columns", function(c) { c$text <- toupper(c$text); c$value <- c$value + 1; c })
bridge$export("call", function(records) lapply(records, change))
"#,
    },
    Plugin {
        language: "javascript",
        entry: "plugin.ts",
        slower: 1,
        source: r#"
const change = (r) => ({ id: r.id, text: r.text.toUpperCase(), value: r.value + 1 });
bridge.on("one", (event) => change(event.data));
bridge.on("rows", (events) => events.map((event) => change(event.data)), { batch: 1 });
bridge.on("columns", (c) => ({ id: c.id, text: c.text.map((t) => t.toUpperCase()), value: c.value.map((v) => v + 1) }),
  { batch: "columns" });
bridge.export("call", (records) => records.map(change));
"#,
    },
    Plugin {
        language: "octave",
        entry: "plugin.m",
        slower: 20,
        source: r#"1;
function r = change (r), r.text = toupper (r.text); r.value += 1; endfunction
function c = columns (c), c.text = toupper (c.text); c.value += 1; endfunction
bridge_on ("one", @(event) change (event.data));
bridge_on ("rows", @(events) cellfun (@(event) change (event.data), events, "UniformOutput", false), "batch", 1);
bridge_on ("columns", @columns, "batch", "columns");
bridge_export ("call", @(records) cellfun (@change, records, "UniformOutput", false));
"#,
    },
    Plugin {
        language: "lua",
        entry: "plugin.lua",
        slower: 2,
        source: r#"
local function change(r) return { id = r.id, text = r.text:upper(), value = r.value + 1 } end
local function each(list, fn)
  local changed = bridge.array()
  for i, item in ipairs(list) do changed[i] = fn(item) end
  return changed
end
bridge.on("one", function(event) return change(event.data) end)
bridge.on("rows", function(events) return each(events, function(event) return change(event.data) end) end, { batch = 1 })
bridge.on("columns", function(c)
  return { id = c.id, text = each(c.text, string.upper), value = each(c.value, function(v) return v + 1 end) }
end, { batch = "columns" })
bridge.export("call", function(records) return each(records, change) end)
"#,
    },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    if has("--pin") {
        // Kernels are started by this process and inherit it.
        let mut one = CpuSet::new();
        let pinned = one.set(1).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one));
        eprintln!("pinned to core 1: {pinned:?}");
    }
    let rounds = if has("--quick") { 3 } else { 7 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["LANGUAGE", "WAY", "BATCH", "RECORDS/S", "LEAST", "MOST"]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("Python's json, parse and dump of 1,000 records: {:.0} records/s", json_ceiling());
    for plugin in PLUGINS.iter().filter(|plugin| wanted.is_empty() || wanted.contains(&&plugin.language.to_owned())) {
        if let Err(error) = runtime.block_on(bench(plugin, rounds, &mut table)) {
            eprintln!("{}: {error}", plugin.language);
        }
    }
    println!("{table}");
}

async fn bench(plugin: &Plugin, rounds: usize, table: &mut Table) -> Result<(), Box<dyn std::error::Error>> {
    let count = RECORDS / plugin.slower;
    let records: Vec<Record> =
        (0..count as u64).map(|id| Record { id, text: "abcdefgh".repeat(8), value: id as f64 + 0.5 }).collect();
    for batch in [1, 10, 100, 1000] {
        let count = if batch == 1 { count / 5 } else { count };
        let dir = tempfile::tempdir()?;
        write(dir.path(), plugin, batch)?;
        let mut builder = Host::builder().plugin(dir.path());
        let mut ways: Vec<&str> = if batch == 1 { vec!["one"] } else { vec![] };
        ways.extend(["rows", "columns", "call"]);
        // A Python with pyarrow, which the one that `kernelbridge install` makes has not.
        if let Some(python) = std::env::var_os("KERNELBRIDGE_TEST_ARROW").filter(|_| plugin.language == "python") {
            let folder = dir.path().join("kernels/with-arrow");
            fs::create_dir_all(&folder)?;
            let argv = [&*python.to_string_lossy(), "-m", "ipykernel_launcher", "-f", "{connection_file}"];
            let spec = serde_json::json!({ "argv": argv, "display_name": "with pyarrow", "language": "python" });
            fs::write(folder.join("kernel.json"), spec.to_string())?;
            let file = dir.path().join("plugin.toml");
            fs::write(&file, fs::read_to_string(&file)?.replace("[queue]", "kernel = \"with-arrow\"\n\n[queue]"))?;
            let environment = kernelbridge::discover::Environment::capture();
            builder = builder.environment(environment.with_kernels_in(dir.path().join("kernels")));
            ways.push("table");
        }
        let host = builder.build().await?;
        let tables: Vec<_> = records[..count].chunks(batch).map(table_of).collect();
        for way in ways {
            eprintln!("{} {way} {batch} ...", plugin.language);
            let mut speeds = Vec::new();
            for round in 0..=rounds {
                let began = Instant::now();
                if way == "call" {
                    for some in records[..count].chunks(batch) {
                        let back: Vec<Record> = host.call("batches.call", (some,)).await?;
                        assert_eq!((back.len(), &*back[0].text), (some.len(), &*"ABCDEFGH".repeat(8)));
                    }
                } else if way == "table" {
                    for some in &tables {
                        assert_eq!(host.call_table("batches.table", some).await?.num_rows(), some.num_rows());
                    }
                } else {
                    for record in &records[..count] {
                        host.emit(way, record).await?;
                    }
                    host.drain().await;
                }
                if round > 0 {
                    speeds.push(count as f64 / began.elapsed().as_secs_f64());
                }
            }
            let stats = &host.stats()[0].1;
            assert_eq!((stats.failed, stats.retried, stats.dropped), (0, 0, 0), "{stats:?}");
            speeds.sort_by(f64::total_cmp);
            let speed = |at: usize| format!("{:.0}", speeds[at]);
            let numbers = [speed(speeds.len() / 2), speed(0), speed(speeds.len() - 1)];
            table.add_row([plugin.language.to_owned(), way.into(), batch.to_string()].into_iter().chain(numbers));
        }
        host.shutdown().await;
    }
    Ok(())
}

fn table_of(records: &[Record]) -> RecordBatch {
    let columns: [(&str, Arc<dyn Array>); 3] = [
        ("id", Arc::new(UInt64Array::from_iter_values(records.iter().map(|record| record.id)))),
        ("text", Arc::new(StringArray::from_iter_values(records.iter().map(|record| &*record.text)))),
        ("value", Arc::new(Float64Array::from_iter_values(records.iter().map(|record| record.value)))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn write(dir: &Path, plugin: &Plugin, batch: usize) -> std::io::Result<()> {
    let Plugin { language, entry, source, .. } = plugin;
    let manifest = format!(
        "[plugin]\nname = \"batches\"\nlanguage = \"{language}\"\nentry = \"{entry}\"\n\n[queue]\ncapacity = 2000\n\n\
         [delivery]\nbatch = {batch}\n"
    );
    fs::write(dir.join("plugin.toml"), manifest)?;
    fs::write(dir.join(entry), source)
}

/// What no plugin in Python can be quicker than, if it gets rows of JSON and gives them back.
fn json_ceiling() -> f64 {
    let script = r#"
import json, time
encode, decode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode, json.loads
text = encode([{"id": n, "text": "abcdefgh" * 8, "value": n + 0.5} for n in range(1000)])
times = []
for _ in range(100):
    began = time.perf_counter()
    encode(decode(text))
    times.append(time.perf_counter() - began)
print(1000 / sorted(times)[50])
"#;
    let output = Command::new("python3").args(["-c", script]).output();
    output.ok().and_then(|it| String::from_utf8_lossy(&it.stdout).trim().parse().ok()).unwrap_or(f64::NAN)
}
