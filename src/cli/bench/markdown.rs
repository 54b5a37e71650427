//! The report in docs/performance.md, between two marks; what people wrote around them stays.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context;

use super::{
    chart::{self, CHARTS},
    plan::SECTIONS,
    report::Report,
    system::Measure,
    table::{best, number, ratio},
    targets::targets,
};

const BEGIN: &str = "<!-- kernelbridge bench: begin -->";
const END: &str = "<!-- kernelbridge bench: end -->";

/// Put tables into the file, and charts beside it.
pub(super) fn write(report: &Report, path: &Path) -> anyhow::Result<()> {
    let old = fs::read_to_string(path).unwrap_or_else(|_| format!("# Performance\n\n{BEGIN}\n{END}\n"));
    let (before, rest) = old.split_once(BEGIN).with_context(|| format!("{} has no line `{BEGIN}`", path.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{} has no line `{END}`", path.display()))?;
    let charts = path.with_extension("");
    let text = format!("{before}{BEGIN}\n{}{END}{after}", render(report, &charts));
    chart::draw(report, &charts)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn render(report: &Report, charts: &Path) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let versions: Vec<_> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let load: Vec<_> = machine.load.iter().map(|load| format!("{load:.1}")).collect();
    let _ = writeln!(
        text,
        "\nMachine: {}, {} cores, {:.0} GB, {}, Linux {}, load average {}.\nDate: {}.\nRounds: {}.\nVersions: {}.\n",
        machine.processor,
        machine.cores,
        machine.memory_gb,
        machine.system,
        machine.kernel,
        load.join(" to "),
        machine.date,
        report.rounds,
        versions.join(", "),
    );
    let folder = charts.file_name().unwrap_or_default().to_string_lossy();
    for (file, section, measure) in CHARTS {
        if report.rows_of(section, measure).next().is_some() {
            let _ = writeln!(text, "![{measure}, {section}]({folder}/{file})\n");
        }
    }
    text.push_str("### Targets\n\n| target | ours | peer | ratio | needed | |\n|---|--:|--:|--:|---|---|\n");
    for target in targets(report) {
        let unit = target.unit.name();
        let with_unit = |value: Option<f64>| value.map(|value| format!("{} {unit}", number(value))).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            target.name,
            with_unit(target.ours),
            with_unit(target.peer),
            target.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            target.needed(),
            target.verdict().name(),
        );
    }
    for (section, about) in SECTIONS {
        let measures = report.measures(section);
        if !measures.is_empty() {
            let _ = writeln!(text, "\n### Section `{section}`\n\n{}.", capital(about));
        }
        for measure in measures {
            let about = Measure::all().into_iter().find(|other| other.name() == measure).map(Measure::about);
            let _ = writeln!(
                text,
                "\n**{}**{}\n",
                capital(measure),
                about.map(|it| format!(": {it}.")).unwrap_or_default()
            );
            text.push_str("| system | median | range of rounds | p99 | ratio to best | |\n|---|--:|--:|--:|--:|---|\n");
            let best = best(report.rows_of(section, measure));
            for row in report.rows_of(section, measure) {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} |",
                    row.system,
                    row.median.map(|median| format!("{} {}", number(median), row.unit.name())).unwrap_or_default(),
                    row.range.map(|(least, most)| format!("{} to {}", number(least), number(most))).unwrap_or_default(),
                    row.p99.map(number).unwrap_or_default(),
                    ratio(row, best).map(|ratio| format!("{ratio:.1}")).unwrap_or_default(),
                    row.note.as_deref().unwrap_or_default(),
                );
            }
        }
    }
    text.push('\n');
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
