//! The report for people: properties down, languages across, as many as fit.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    cli::doctor::{Outcome, Patient},
    doctor::Finding,
    language::Interrupt,
};

/// Languages in one table; with six the lines would be longer than 100 characters.
const ACROSS: usize = 5;

/// Tables, then what "no" and "?" mean in them.
pub(super) fn render(patients: &[Patient]) -> String {
    let mut text = String::new();
    let starting: Vec<_> = patients.iter().filter(|patient| patient.examination().is_some()).collect();
    for chunk in starting.chunks(ACROSS) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(std::iter::once(String::new()).chain(chunk.iter().map(|patient| patient.language.clone())));
        for (name, value) in rows() {
            table.add_row(std::iter::once(name.to_owned()).chain(chunk.iter().map(|patient| value(patient))));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.to_string().lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
    }
    for patient in patients {
        if let Outcome::DoesNotStart { error, .. } = &patient.outcome {
            let _ =
                writeln!(text, "{}: does not start: {}", patient.language, error.lines().next().unwrap_or_default());
        }
        for (name, reason) in remarks(patient) {
            let _ = writeln!(text, "{}: {name}: {reason}", patient.language);
        }
    }
    text
}

type Row = (&'static str, fn(&Patient) -> String);

fn rows() -> [Row; 16] {
    [
        ("kernelspec", |patient| short(patient.kernelspec.as_deref().unwrap_or("none"))),
        ("startup ms", |patient| of(patient, |examination| examination.startup_ms.to_string())),
        ("of it our own", |patient| of(patient, |examination| format!("{:.0}", examination.startup.host_ms))),
        ("memory MB", |patient| of(patient, |examination| format!("{:.0}", examination.memory_bytes as f64 / 1e6))),
        ("processes", |patient| of(patient, |examination| examination.processes.to_string())),
        ("protocol", |patient| of(patient, |examination| examination.protocol_version.clone())),
        ("stdin", |patient| of(patient, |examination| shown(&examination.stdin))),
        ("carrier pipe", |patient| of(patient, |examination| shown(&examination.pipe))),
        ("carrier jupyter", |patient| of(patient, |examination| shown(&examination.jupyter))),
        ("comm", |patient| of(patient, |examination| shown(&examination.comm))),
        ("iopub_welcome", |patient| of(patient, |examination| shown(&examination.iopub_welcome))),
        ("control while busy", |patient| of(patient, |examination| shown(&examination.control_while_busy))),
        ("heartbeat while busy", |patient| of(patient, |examination| shown(&examination.heartbeat_while_busy))),
        ("interrupt", |patient| {
            of(patient, |examination| match &examination.interrupted {
                Finding::Yes { .. } => mechanism(examination.interrupt).into(),
                other => shown(other),
            })
        }),
        ("ipc", |patient| of(patient, |examination| shown(&examination.ipc))),
        ("dies with its parent", |patient| match &patient.outcome {
            Outcome::Starts { nothing_survives, .. } => shown(nothing_survives),
            Outcome::DoesNotStart { .. } => String::new(),
        }),
    ]
}

fn of(patient: &Patient, value: impl Fn(&crate::doctor::Examination) -> String) -> String {
    patient.examination().map(value).unwrap_or_default()
}

/// Kernelspecs that `kernelbridge install` made have long names.
fn short(name: &str) -> String {
    name.replacen("kernelbridge-", "kb-", 1).chars().take(14).collect()
}

fn shown(finding: &Finding) -> String {
    match finding {
        Finding::Yes { ms: Some(ms) } if *ms < 10.0 => format!("{ms:.1} ms"),
        Finding::Yes { ms: Some(ms) } => format!("{ms:.0} ms"),
        Finding::Yes { ms: None } => "yes".into(),
        Finding::No { .. } => "no".into(),
        Finding::Unknown { .. } => "?".into(),
    }
}

fn mechanism(interrupt: Interrupt) -> &'static str {
    match interrupt {
        Interrupt::Signal => "SIGINT",
        Interrupt::Message => "message",
        Interrupt::SignalChild => "SIGINT to child",
        Interrupt::CancelFile => "cancel file",
        Interrupt::None => "none",
    }
}

/// Why something is "no" or "?"; what many kernels never had is said by "no" alone.
fn remarks(patient: &Patient) -> Vec<(&'static str, &str)> {
    let Outcome::Starts { examination, nothing_survives } = &patient.outcome else { return Vec::new() };
    let findings = [
        ("stdin", &examination.stdin),
        ("carrier pipe", &examination.pipe),
        ("carrier jupyter", &examination.jupyter),
        ("comm", &examination.comm),
        ("control while busy", &examination.control_while_busy),
        ("heartbeat while busy", &examination.heartbeat_while_busy),
        ("interrupt", &examination.interrupted),
        ("ipc", &examination.ipc),
        ("dies with its parent", nothing_survives),
    ];
    let reasons = findings.into_iter().filter_map(|(name, finding)| match finding {
        Finding::Yes { .. } => None,
        Finding::No { reason } | Finding::Unknown { reason } => Some((name, reason.as_str())),
    });
    reasons.collect()
}
