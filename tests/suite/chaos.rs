//! Five plugins in five languages under fire, for some seconds. `cargo bench --bench chaos` does it for longer.

use std::time::Duration;

use crate::support::Installed;

#[path = "chaos/engine.rs"]
mod engine;

#[tokio::test]
async fn every_event_is_handled_or_a_dead_letter() {
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
        without,
        events: 600,
        one_in: 100,
        faults: 12,
        pause: Duration::from_millis(700),
        seed,
        deadline: Duration::from_secs(240),
    };
    let report = engine::run(&plan, dir.path()).await;
    println!("seed {seed}: {report:#?}");
    let faults: u64 = report.faults.values().sum();
    for (name, tally) in &report.plugins {
        assert_eq!((tally.lost, tally.twice, tally.disordered), (0, 0, 0), "{name}, seed {seed}: {report:#?}");
        assert_eq!(tally.handled + tally.dead, tally.emitted, "{name}, seed {seed}");
        // Each death may repeat one series, each fault what it hit.
        assert!(tally.repeated <= 64 * tally.restarts + 3 * faults, "{name}, seed {seed}: {report:#?}");
    }
    assert!(report.left.is_empty(), "{:?}", report.left);
    assert!(report.memory_bytes.1 < report.memory_bytes.0 + 50_000_000, "{:?}", report.memory_bytes);
}
