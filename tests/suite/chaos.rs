//! Five plugins in five languages under fire, in a host that is killed and started anew, for some seconds.
//! `cargo bench --bench chaos` does it for longer.

use std::{process::Command, time::Duration};

use crate::support::Installed;

#[path = "chaos/engine.rs"]
mod engine;

/// This test, which is the host if it is ordered to be.
fn program() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["chaos::every_event_is_handled_or_a_dead_letter", "--exact", "--nocapture"]);
    command
}

#[tokio::test]
async fn every_event_is_handled_or_a_dead_letter() {
    if let Some(orders) = engine::ordered() {
        return engine::obey(&orders).await;
    }
    let installed = Installed::look();
    let without: Vec<String> = engine::PLUGINS
        .iter()
        .map(|(language, ..)| (*language).to_owned())
        .filter(|language| !installed.has(language))
        .collect();
    if without.len() == engine::PLUGINS.len() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let seed = fastrand::u64(..);
    let plan = engine::Plan {
        program,
        without,
        events: 600,
        one_in: 100,
        faults: 12,
        kills: 3,
        pause: Duration::from_millis(700),
        seed,
        deadline: Duration::from_secs(240),
    };
    let report = engine::run(&plan, dir.path()).await;
    println!("seed {seed}: {report:#?}");
    let faults: u64 = report.faults.values().sum();
    assert_eq!(report.faults["kill -9 host"], 3);
    assert_eq!(report.accepted + report.unsure, 600);
    assert!(report.unsure <= 3);
    for (name, tally) in &report.plugins {
        assert_eq!((tally.lost, tally.twice, tally.disordered), (0, 0, 0), "{name}, seed {seed}: {report:#?}");
        let known = tally.accepted..=tally.accepted + report.unsure;
        assert!(known.contains(&(tally.handled + tally.dead)), "{name}, seed {seed}: {report:#?}");
        // Each death may repeat one series, each fault what it hit.
        assert!(tally.repeated <= 64 * tally.restarts + 3 * faults, "{name}, seed {seed}: {report:#?}");
        // What a kernel had when its host was killed: one series, and there are two kernels at most.
        assert!(tally.handled_again <= tally.redelivered, "{name}, seed {seed}: {report:#?}");
        assert!(tally.redelivered <= 3 * 2 * 64, "{name}, seed {seed}: {report:#?}");
    }
    assert!(report.left.is_empty(), "{:?}", report.left);
    let (before, _, most) = report.memory_bytes;
    assert!(most < before + 50_000_000, "{:?}", report.memory_bytes);
}
