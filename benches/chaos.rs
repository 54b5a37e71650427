//! Five plugins in five languages under fire: `cargo bench --bench chaos [-- EVENTS [FAULTS [KILLS]]]`.
//!
//! As tests/suite/chaos.rs, longer: 20,000 events for each plugin, 220 faults from outside, 22 of which are `kill -9` of
//! the host, and as many from inside unless told otherwise, and a table of what came of it.
//!
//! `-- crowd [KERNELS [TIMES]]` starts 50 ipykernels at the same time, five times.

use std::{process::Command, time::Duration};

use comfy_table::{Table, presets};
use kernelbridge::discover::{Environment, Languages, discover};

#[path = "chaos/crowd.rs"]
mod crowd;
#[path = "../tests/suite/chaos/engine.rs"]
mod engine;

/// This program, which is the host if it is ordered to be.
fn program() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Some(orders) = engine::ordered() {
        return runtime.block_on(engine::obey(&orders));
    }
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    if std::env::args().any(|arg| arg == "crowd") {
        return runtime.block_on(crowd::run(number(0, 50), number(1, 5)));
    }
    let (events, faults) = (number(0, 20_000), number(1, 220));
    let kills = number(2, faults / 10).min(faults);
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
        program,
        without,
        events,
        one_in: (events * 5 / faults.max(1)).max(1),
        faults: usize::try_from(faults).expect("few"),
        kills: usize::try_from(kills).expect("few"),
        pause: Duration::from_millis(1000),
        seed: fastrand::u64(..),
        deadline: Duration::from_secs(4 * 3600),
    };
    println!("seed {}", plan.seed);
    let report = runtime.block_on(engine::run(&plan, dir.path()));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let columns = "PLUGIN ACCEPTED HANDLED DEAD LOST TWICE DISORDERED REPEATED REDELIVERED AGAIN RESTARTS";
    table.set_header(columns.split(' '));
    for (name, tally) in &report.plugins {
        let numbers = [
            tally.accepted,
            tally.handled,
            tally.dead,
            tally.lost,
            tally.twice,
            tally.disordered,
            tally.repeated,
            tally.redelivered,
            tally.handled_again,
            tally.restarts,
        ];
        table.add_row([name.clone()].into_iter().chain(numbers.map(|number| number.to_string())));
    }
    println!("{table}\n");
    println!(
        "REDELIVERED: by more than one host, AGAIN: and handled by both; the first was killed before the acknowledgement"
    );
    println!("{} events were on their way to the plugins when the host was killed\n", report.unsure);
    if report.not_started > 0 {
        println!("{} hosts did not come up in time and were started again\n", report.not_started);
    }
    for (what, count) in &report.faults {
        println!("{count:>6} {what}");
    }
    println!("{:>6} faults in all", report.faults.values().sum::<u64>());
    let seconds = |duration: Duration| duration.as_secs_f64();
    println!(
        "worst recovery {:.1} s after a kernel, {:.1} s after the host; its kernels, folders and guardian gone after {:.1} s; {:.0} s in all",
        seconds(report.worst_recovery),
        seconds(report.worst_host_recovery),
        seconds(report.worst_clearing),
        seconds(report.elapsed)
    );
    let (before, after, most) = report.memory_bytes;
    let megabytes = |bytes| bytes / 1_000_000;
    println!(
        "memory of the host {} MB before, {} MB after, {} MB at most",
        megabytes(before),
        megabytes(after),
        megabytes(most)
    );
    println!("left behind: {:?}", report.left);
    let is_lost = report.plugins.values().any(|tally| tally.lost + tally.twice + tally.disordered > 0);
    assert!(!is_lost && report.left.is_empty(), "see above");
}
