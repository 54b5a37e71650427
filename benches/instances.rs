//! How work is shared among kernels, and what the host's part of an event costs: `cargo bench --bench instances [--
//! EVENTS]`.
//!
//! One Python plugin with 1, 2, 4 and 8 instances, for a handler that does nothing and for one that computes. The host's
//! processor time for each event says how many it could pass on if kernels were free: that is its ceiling, whatever else
//! the machine does meanwhile.

use std::{
    fs,
    time::{Duration, Instant},
};

use comfy_table::{CellAlignment, Table, presets};
use kernelbridge::host::Host;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use serde_json::json;

const SOURCE: &str = "
@bridge.on('nothing')
def nothing(event):
    pass

@bridge.on('computes')
def computes(event):
    total = 0
    for i in range(20_000):
        total += i * i
";

fn main() {
    let events = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(50_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(events));
}

async fn bench(events: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let manifest = "[plugin]\nname = \"p\"\nlanguage = \"python\"\nentry = \"plugin.py\"\n[delivery]\nwarm = 1\n";
    fs::write(dir.path().join("plugin.toml"), manifest).expect("written");
    fs::write(dir.path().join("plugin.py"), SOURCE).expect("written");
    let host = Host::builder().plugin(dir.path()).build().await.expect("starts");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["HANDLER", "INSTANCES", "EVENTS/S", "HOST US/EVENT", "HOST'S CEILING/S"]);
    for (handler, count) in [("nothing", events), ("computes", events / 50)] {
        for instances in [1, 2, 4, 8] {
            host.scale("p", instances).await.expect("scaled");
            let (began, before) = (Instant::now(), cpu());
            for number in 0..count {
                host.emit(handler, &json!({ "number": number })).await.expect("accepted");
            }
            host.drain().await;
            let (elapsed, used) = (began.elapsed(), cpu() - before);
            let each = used.as_secs_f64() / count as f64;
            table.add_row([
                handler.to_owned(),
                instances.to_string(),
                format!("{:.0}", count as f64 / elapsed.as_secs_f64()),
                format!("{:.2}", each * 1e6),
                format!("{:.0}", 1.0 / each),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    host.shutdown().await;
}

/// Processor time of this process.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("told");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}
