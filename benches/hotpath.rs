//! The host's own share of a call or an event, for profilers: `scripts/callgrind` counts its instructions.
//!
//! `cargo bench --bench hotpath -- ROAD COUNT`, where ROAD is `call` (an exported function), `emit` (an event to its
//! result), `burst` (events that are emitted together, then drained) or `none` (start and end only).
//! The plugin is a real one in a real kernel, and so in a process of its own, which a profiler of this one does not see.

use std::{fs, time::Instant};

use kernelbridge::host::{Host, News};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[plugin]
name = "bench"
language = "python"
entry = "plugin.py"

[queue]
capacity = 4096
"#;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let road = args.next().unwrap_or_else(|| "call".into());
    let count = args.next().and_then(|count| count.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&road, count));
}

async fn run(road: &str, count: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("plugin.toml"), MANIFEST).expect("written");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/plugins/python/plugin.py"), dir.path().join("plugin.py"))
        .expect("copied");
    let host =
        Host::builder().plugin(dir.path()).build().await.expect("the Python kernel: kernelbridge install python");
    let record =
        json!({ "id": 7, "text": "the quick brown fox jumps over the lazy dog and runs far far away", "value": 41 });
    let began = Instant::now();
    match road {
        "none" => {}
        "call" => {
            for _ in 0..count {
                let answer: Value = host.call("bench.unary", (&record,)).await.expect("an answer");
                assert_eq!(answer["value"], 42);
            }
        }
        "emit" => {
            let mut news = host.subscribe();
            for _ in 0..count {
                host.emit("bench.one", &record).await.expect("accepted");
                while !matches!(news.next().await, Some(News::Handled { .. }) | None) {}
            }
        }
        "burst" => {
            for _ in 0..count {
                host.emit("bench.one", &record).await.expect("accepted");
            }
            host.drain().await;
            assert_eq!(host.stats()[0].1.handled, u64::from(count));
        }
        other => panic!("no road `{other}`: call, emit, burst, none"),
    }
    eprintln!("{road}: {:.2} us each", began.elapsed().as_secs_f64() * 1e6 / f64::from(count.max(1)));
    host.shutdown().await;
}
