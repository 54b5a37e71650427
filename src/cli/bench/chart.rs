//! Charts: one bar a system, on a logarithmic axis, since systems are orders of magnitude apart.

use std::{fs, path::Path};

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use super::{
    report::Report,
    row::Row,
    table::{more_is_better, number},
};

/// File, section and measure of each.
pub(super) const CHARTS: [(&str, &str, &str); 7] = [
    ("unary.svg", "pinned", "unary"),
    ("batch-1000.svg", "pinned", "batch 1000"),
    ("in-flight.svg", "pinned", "64 in flight"),
    ("host-call.svg", "pinned", "host call"),
    ("floats-10.svg", "pinned", "10 MB floats"),
    ("start.svg", "start", "start to first answer"),
    ("memory.svg", "start", "memory"),
];

const WIDTH: u32 = 900;
const BAR: u32 = 22;
const OURS: RGBColor = RGBColor(31, 119, 180);
const PEER: RGBColor = RGBColor(160, 160, 160);

/// Draw all that the report has numbers for.
pub(super) fn draw(report: &Report, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (file, section, measure) in CHARTS {
        let mut rows: Vec<(&Row, f64)> =
            report.rows_of(section, measure).filter_map(|row| Some((row, row.median?))).collect();
        // The best on top.
        rows.sort_by(|(one, a), (_, b)| if more_is_better(one.unit) { b.total_cmp(a) } else { a.total_cmp(b) });
        if !rows.is_empty() {
            let path = dir.join(file);
            bars(&format!("{measure}, {section}"), &rows, &path)
                .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn bars(title: &str, rows: &[(&Row, f64)], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let unit = rows[0].0.unit;
    let height = 70 + rows.len() as u32 * BAR;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let least = rows.iter().map(|(_, median)| *median).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|(_, median)| *median).fold(0.0, f64::max);
    // A bar that is too short to be seen says nothing, and a number needs room behind the longest.
    let (from, to) = ((least / 2.0).max(1e-6), most * 3.0);
    let direction = if more_is_better(unit) { "more is better" } else { "less is better" };
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{title} ({}, {direction}, logarithmic)", unit.name()), ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(24)
        .y_label_area_size(240)
        .build_cartesian_2d((from..to).log_scale(), 0.0..rows.len() as f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_label_formatter(&|value| number(*value)).draw()?;
    for (index, (row, median)) in rows.iter().enumerate() {
        let top = rows.len() as f64 - index as f64;
        let color = if row.system.starts_with("kernelbridge") { OURS } else { PEER };
        let corners = [(from, top - 0.85), (*median, top - 0.15)];
        chart.draw_series(std::iter::once(Rectangle::new(corners, color.filled())))?;
        let style = ("sans-serif", 13).into_font();
        let label = Text::new(format!(" {}", number(*median)), (*median, top - 0.25), style.clone());
        chart.draw_series(std::iter::once(label))?;
        let (_, y) = chart.backend_coord(&(from, top - 0.25));
        area.draw(&Text::new(row.system.clone(), (12, y), style))?;
    }
    area.present()?;
    Ok(())
}
