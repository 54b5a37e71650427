//! Five plugins in five languages under fire: `cargo bench --bench chaos [-- EVENTS [FAULTS]]`.
//!
//! As tests/suite/chaos.rs, longer: 20,000 events for each plugin, 200 faults from outside and as many from inside
//! unless told otherwise, and a table of what came of it.

use std::time::Duration;

use comfy_table::{Table, presets};
use kernelbridge::discover::{Environment, Languages, discover};

#[path = "../tests/suite/chaos/engine.rs"]
mod engine;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (events, faults) = (numbers.first().copied().unwrap_or(20_000), numbers.get(1).copied().unwrap_or(200));
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, &[]));
    let without: Vec<String> = engine::PLUGINS
        .iter()
        .map(|(language, ..)| (*language).to_owned())
        .filter(|language| languages.kernelspec_for(&discovery, language).is_err())
        .collect();
    if !without.is_empty() {
        println!("without {}", without.join(", "));
    }
    let dir = tempfile::tempdir().expect("a folder");
    let plan = engine::Plan {
        without,
        events,
        one_in: (events * 5 / faults.max(1)).max(1),
        faults: usize::try_from(faults).expect("few"),
        pause: Duration::from_millis(1500),
        seed: fastrand::u64(..),
        deadline: Duration::from_secs(4 * 3600),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(engine::run(&plan, dir.path()));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PLUGIN", "EMITTED", "HANDLED", "DEAD", "LOST", "TWICE", "DISORDERED", "REPEATED", "RESTARTS"]);
    for (name, tally) in &report.plugins {
        let numbers = [
            tally.emitted,
            tally.handled,
            tally.dead,
            tally.lost,
            tally.twice,
            tally.disordered,
            tally.repeated,
            tally.restarts,
        ];
        table.add_row([name.clone()].into_iter().chain(numbers.map(|number| number.to_string())));
    }
    println!("{table}\n");
    for (what, count) in &report.faults {
        println!("{count:>6} {what}");
    }
    println!("{:>6} faults in all", report.faults.values().sum::<u64>());
    println!(
        "worst recovery {:.1} s, {:.0} s in all",
        report.worst_recovery.as_secs_f64(),
        report.elapsed.as_secs_f64()
    );
    let megabytes = |bytes| bytes / 1_000_000;
    println!(
        "memory of the host {} MB before, {} MB after",
        megabytes(report.memory_bytes.0),
        megabytes(report.memory_bytes.1)
    );
    println!("left behind: {:?}", report.left);
}
