//! `doctor` on real kernels.

use serde_json::Value;

use crate::{
    cli::{Desk, one_at_a_time},
    support::Installed,
};

fn examine(language: &str) -> Option<Value> {
    if !Installed::look().has(language) {
        return None;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let ended = desk.run(&["doctor", language, "--json"]).with(0);
    desk.leaves_nothing();
    let mut report: Vec<Value> = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(report.len(), 1);
    let report = report.remove(0);
    assert_eq!(report["status"], "starts");
    assert_eq!(report["language"], language);
    assert!(report["startup_ms"].as_u64() > Some(50) && report["memory_bytes"].as_u64() > Some(5_000_000), "{report}");
    answers(&report, "nothing_survives", "yes");
    Some(report)
}

#[track_caller]
fn answers(report: &Value, what: &str, answer: &str) {
    assert_eq!(report[what]["answer"], answer, "{what}: {report}");
}

#[test]
fn python_can_do_everything() {
    let Some(report) = examine("python") else { return };
    let all = ["stdin", "pipe", "jupyter", "comm", "control_while_busy", "heartbeat_while_busy", "interrupted", "ipc"];
    for what in all {
        answers(&report, what, "yes");
    }
    assert_eq!(report["interrupt"], "signal");
    assert!(report["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("ipython ")), "{report}");
    assert!(report["protocol_version"].as_str().is_some_and(|version| version.starts_with("5.")), "{report}");
}

#[test]
fn lua_has_no_stdin_and_is_interrupted_by_a_file() {
    let Some(report) = examine("lua") else { return };
    for what in ["stdin", "jupyter", "comm", "ipc"] {
        answers(&report, what, "no");
    }
    for what in ["pipe", "interrupted"] {
        answers(&report, what, "yes");
    }
    assert_eq!(report["interrupt"], "cancel-file");
    assert_eq!(report["processes"], 2);
}

#[test]
fn the_table_fits_into_100_columns() {
    if !Installed::look().has("scheme") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.kernelspec("doomed", &["python3", "-c", "raise SystemExit('no')"], "python");
    let ended = desk.run(&["doctor", "scheme", "doomed"]).with(1);
    assert!(ended.out.lines().all(|line| line.chars().count() <= 100), "{}", ended.out);
    let row = |name: &str| ended.out.lines().find(|line| line.starts_with(&format!(" {name} "))).unwrap_or_default();
    assert!(row("comm").ends_with("ms") && row("stdin").ends_with('?'), "{}", ended.out);
    assert!(ended.out.contains("\nscheme: stdin: there is no shim to try it with\n"), "{}", ended.out);
    assert!(
        ended.out.contains("\npython: does not start: kernel `doomed` ended with exit code 1 before"),
        "{}",
        ended.out
    );
    desk.leaves_nothing();
}
