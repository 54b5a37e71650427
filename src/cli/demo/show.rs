//! The report, for people.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use crate::cli::demo::report::{Counts, Missing, Report};

/// How many alerts are shown.
const ALERTS: usize = 10;

/// Write the report.
pub fn report(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let tale = &report.tale;
    write!(out, "{} events in {:.1} s: {} passed", report.events, report.seconds, tale.accepted)?;
    if !tale.duplicates.is_empty() {
        write!(out, ", {} duplicates", tale.duplicates.len())?;
    }
    if !tale.rejected.is_empty() {
        write!(out, ", {} no earthquakes ({})", total(&tale.rejected), list(&tale.rejected))?;
    }
    writeln!(out, "\n\n{}\n", table(report))?;
    if !tale.alerts.is_empty() {
        writeln!(out, "{} alerts, the most severe first:", tale.alerts.len())?;
        for alert in tale.alerts.iter().take(ALERTS) {
            // What happened, and below it what the other plugins made of it.
            writeln!(out, "  {}", alert.text.replacen("; ", "\n        ", 1))?;
        }
        if tale.alerts.len() > ALERTS {
            writeln!(out, "  and {} more in {}", tale.alerts.len() - ALERTS, report.results.display())?;
        }
        writeln!(out)?;
    }
    if let Some(fit) = &report.fit {
        let networks = if fit.networks.is_empty() { "all networks".to_owned() } else { fit.networks.join(", ") };
        writeln!(
            out,
            "b-value   {:.2} ± {:.2}, from {} of {} earthquakes of {networks}, complete from M {:.1}",
            fit.b, fit.error, fit.n, fit.of, fit.mc
        )?;
    }
    let counted = [("classes", Some(&tale.classes)), ("rules", Some(&tale.rules)), ("networks", report.tally.as_ref())];
    for (name, counts) in counted {
        if let Some(counts) = counts.filter(|counts| !counts.is_empty()) {
            writeln!(out, "{name:<9} {}", list(counts))?;
        }
    }
    for plot in &report.plots {
        writeln!(out, "plot      {}", plot.display())?;
    }
    writeln!(out, "database  {}", report.database.display())?;
    writeln!(out, "results   {}", report.results.display())?;
    left_out(&report.left_out, out)
}

/// Say who is missing, and what to do about it.
pub fn left_out(missing: &[Missing], out: &mut impl Write) -> io::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|missing| format!("{} ({})", missing.name, missing.display_name)).collect();
    writeln!(out, "left out  {}", names.join(", "))?;
    hints(missing).iter().try_for_each(|hint| writeln!(out, "{hint}"))
}

/// What to do about those who are missing, a line each.
pub fn hints(missing: &[Missing]) -> Vec<String> {
    let mut hints: Vec<&str> = missing.iter().map(|missing| missing.hint.as_str()).collect();
    hints.dedup();
    // One command instead of one for each, where that is all there is to do.
    let languages: Option<Vec<&str>> =
        hints.iter().map(|hint| hint.strip_prefix("run `kernelbridge install ")?.strip_suffix('`')).collect();
    match languages {
        Some(languages) => vec![format!("hint: run `kernelbridge install {}`", languages.join(" "))],
        None => hints.iter().map(|hint| format!("hint: {hint}")).collect(),
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PLUGIN", "LANGUAGE", "HANDLED", "FAILED", "CALLED", "CALLS", "EMITTED", "P50 MS", "P99 MS"]);
    for part in &report.plugins {
        let stats = &part.stats;
        // A filter handles what it passes on and what it drops.
        let handled = stats.handled + stats.filtered + stats.filtered_out;
        let mut row = vec![part.name.clone(), part.language.clone()];
        row.extend([handled, stats.failed, stats.called, stats.calls, stats.emitted].map(|number| number.to_string()));
        row.extend([stats.p50_ms, stats.p99_ms].map(|ms| format!("{ms:.2}")));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// The most frequent first.
fn list(counts: &Counts) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
