//! The report for people, in the terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::{
    plan::SECTIONS,
    report::Report,
    row::Row,
    system::{Measure, Unit},
    targets::{Verdict, targets},
};

/// All tables of a report.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "{}, {} cores, {:.0} GB, {}, Linux {}, load {}, {}, {} rounds",
        machine.processor,
        machine.cores,
        machine.memory_gb,
        machine.system,
        machine.kernel,
        machine.load.iter().map(|load| format!("{load:.1}")).collect::<Vec<_>>().join(" to "),
        machine.date,
        report.rounds,
    );
    for (section, about) in SECTIONS {
        for measure in report.measures(section) {
            let about = Measure::all().into_iter().find(|other| other.name() == measure).map_or(about, Measure::about);
            let _ = writeln!(text, "\n{section}, {measure}: {about}");
            let mut table = plain(["SYSTEM", "MEDIAN", "", "RANGE OF ROUNDS", "P99", "RATIO TO BEST", ""]);
            let best = best(report.rows_of(section, measure));
            for row in report.rows_of(section, measure) {
                table.add_row([
                    row.system.clone(),
                    row.median.map(number).unwrap_or_default(),
                    row.unit.name().into(),
                    row.range.map(|(least, most)| format!("{} to {}", number(least), number(most))).unwrap_or_default(),
                    row.p99.map(number).unwrap_or_default(),
                    ratio(row, best).map(|ratio| format!("{ratio:.1}")).unwrap_or_default(),
                    row.note.clone().unwrap_or_default(),
                ]);
            }
            push(&mut text, table, &[1, 3, 4, 5]);
        }
    }
    let mut table = plain(["TARGET", "OURS", "", "PEER", "", "RATIO", "NEEDED", ""]);
    for target in targets(report) {
        table.add_row([
            target.name.clone(),
            target.ours.map(number).unwrap_or_default(),
            target.unit.name().into(),
            target.peer.map(number).unwrap_or_default(),
            target.peer.map(|_| target.unit.name()).unwrap_or_default().into(),
            target.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            target.needed(),
            target.verdict().name().into(),
        ]);
    }
    let _ = writeln!(text, "\ntargets:");
    push(&mut text, table, &[1, 3, 5]);
    let missed = targets(report).iter().filter(|target| target.verdict() == Verdict::Missed).count();
    let open = targets(report).iter().filter(|target| target.verdict() == Verdict::NotMeasured).count();
    let _ = writeln!(text, "\n{missed} targets missed, {open} not measured");
    text
}

fn plain<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

fn push(text: &mut String, mut table: Table, right: &[usize]) {
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.to_string().lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Of these rows the best median.
pub(super) fn best<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<f64> {
    let mut best = None;
    for row in rows {
        if let Some(median) = row.median {
            let is_better = |best: f64| if more_is_better(row.unit) { median > best } else { median < best };
            best = Some(best.filter(|best| !is_better(*best)).unwrap_or(median));
        }
    }
    best
}

/// How many times worse than the best.
pub(super) fn ratio(row: &Row, best: Option<f64>) -> Option<f64> {
    let (median, best) = (row.median?, best?);
    Some(if more_is_better(row.unit) { best / median } else { median / best })
}

pub(super) fn more_is_better(unit: Unit) -> bool {
    unit == Unit::PerSecond
}

/// Three digits that say something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 9.995e5 => format!("{:.2}M", value / 1e6),
        size if size >= 9_995.0 => format!("{:.0}k", value / 1e3),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_the_best_is_by_unit() {
        let told = [0.5, 11.44, 99.96, 2871.0, 69_400.0, 1_250_000.0].map(number);
        assert_eq!(told, ["0.50", "11.4", "100", "2871", "69k", "1.25M"]);
        let row = |unit, median| Row::new("pinned", "unary", "x", unit, &[median]);
        let rows = [row(Unit::Micros, 3.0), row(Unit::Micros, 2.0)];
        assert_eq!(best(rows.iter()), Some(2.0));
        assert_eq!(ratio(&rows[0], Some(2.0)), Some(1.5));
        let rows = [row(Unit::PerSecond, 3.0), row(Unit::PerSecond, 6.0)];
        assert_eq!(ratio(&rows[0], best(rows.iter())), Some(2.0));
    }
}
