//! What is said at the end of a run.

use std::{
    io::{IsTerminal, Write, stderr},
    path::Path,
};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{args::DEFAULT_STATE, printer::Printed},
    client::Startup,
    host::{Host, PluginStats},
    supervision::State,
};

/// Wider tables are broken in two, also where nobody says how wide the terminal is.
const WIDTH: usize = 100;
/// Most topics and reasons of dropped events that are named for a plugin.
const DROPS: usize = 10;

/// What was read.
#[derive(Debug, Default, Serialize)]
pub struct Fed {
    /// Events that were emitted.
    pub events: u64,
    /// Lines that are no event.
    pub bad_lines: u64,
    /// Events that a filter raised on.
    pub refused: u64,
}

/// How a run ended.
#[derive(Debug)]
pub struct Summary {
    pub fed: Fed,
    /// Was everything handled or given up in time?
    pub drained: bool,
    pub stats: Vec<(String, PluginStats)>,
    /// Plugins that ended in quarantine, and why.
    quarantined: Vec<(String, String)>,
    /// How long the last start of each took, and where the time went.
    startup: Vec<(String, u64, Startup)>,
}

impl Summary {
    /// Of a host that was closed and is not shut down yet.
    pub fn of(host: &Host, fed: Fed, drained: bool) -> anyhow::Result<Self> {
        let mut stats = host.stats();
        for (plugin, stats) in &mut stats {
            stats.waiting = host.store().backlog_len(plugin)?;
        }
        let (mut quarantined, mut startup) = (Vec::new(), Vec::new());
        for plugin in host.plugins() {
            startup.push((plugin.name.clone(), plugin.about.startup_ms, plugin.about.startup));
            let reason = plugin.instances.into_iter().find_map(|state| match state {
                State::Quarantined { reason, .. } => Some(reason),
                _ => None,
            });
            quarantined.extend(reason.map(|reason| (plugin.name, reason)));
        }
        Ok(Self { fed, drained, stats, quarantined, startup })
    }

    /// Was an event not handled that no other run will handle, or is a plugin not there any more?
    pub fn is_failure(&self, state: &Path) -> bool {
        let total = |count: fn(&PluginStats) -> u64| self.total(count);
        let lost = if is_kept(state) { 0 } else { total(|stats| stats.waiting) };
        total(|stats| stats.failed) + total(at_the_end) + lost + self.fed.refused > 0 || !self.quarantined.is_empty()
    }

    /// Show it, for programs or for people.
    pub fn show(&self, printed: Printed, state: &Path, json: bool) -> anyhow::Result<()> {
        for path in &printed.images {
            eprintln!("saved {}", path.display());
        }
        match printed.out {
            Some(mut out) if json => {
                writeln!(out, "{}", self.json()).and_then(|()| out.flush()).context("cannot write the output")?;
            }
            _ => {
                let width = Table::new().use_stderr().width().filter(|_| stderr().is_terminal());
                eprint!("{}", tables(&self.stats, width.map_or(WIDTH, usize::from)));
            }
        }
        for line in self.remarks(state) {
            eprintln!("{line}");
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let plugins: serde_json::Map<_, _> =
            self.stats.iter().map(|(name, stats)| (name.clone(), json!(stats))).collect();
        let quarantined: serde_json::Map<_, _> =
            self.quarantined.iter().map(|(name, reason)| (name.clone(), json!(reason))).collect();
        let startup =
            self.startup.iter().map(|(name, ms, phases)| (name.clone(), json!({ "startup_ms": ms, "phases": phases })));
        let startup: serde_json::Map<_, _> = startup.collect();
        json!({
            "type": "summary",
            "input": self.fed,
            "drained": self.drained,
            "quarantined": quarantined,
            "plugins": plugins,
            "startup": startup,
        })
    }

    /// What a table does not say.
    fn remarks(&self, state: &Path) -> Vec<String> {
        let mut lines: Vec<String> = self.stats.iter().filter_map(|(name, stats)| drops(name, stats)).collect();
        if self.fed.bad_lines > 0 {
            let were = if self.fed.bad_lines == 1 { "was no event" } else { "were no events" };
            lines.push(format!("{} of the input {were}", counted(self.fed.bad_lines, "line")));
        }
        let names: Vec<_> = self.quarantined.iter().map(|(name, _)| format!("`{name}`")).collect();
        match &names[..] {
            [] => {}
            [name] => lines.push(format!("plugin {name} ended in quarantine")),
            names => lines.push(format!("plugins {} ended in quarantine", names.join(", "))),
        }
        let (failed, waiting) = (self.total(|stats| stats.failed), self.total(|stats| stats.waiting));
        match (waiting, is_kept(state)) {
            (0, _) => {}
            (_, true) => lines.push(format!(
                "{} not handled yet and in {}; the next run with the same plugins goes on there",
                are(waiting),
                state.display()
            )),
            (_, false) => lines.push(format!("{} not handled and lost with the state in memory", are(waiting))),
        }
        if failed > 0 && is_kept(state) {
            let now =
                if failed == 1 { "was given up and is a dead letter" } else { "were given up and are dead letters" };
            let command = format!("kernelbridge dead-letters list{}", state_option(state));
            lines.push(format!("{} {now}; see `{command}`", counted(failed, "event")));
        }
        lines
    }

    fn total(&self, count: impl Fn(&PluginStats) -> u64) -> u64 {
        self.stats.iter().map(|(_, stats)| count(stats)).sum()
    }
}

/// `1 event`, `2 events`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The end of a command line that means this database.
pub fn state_option(path: &Path) -> String {
    if path == Path::new(DEFAULT_STATE) { String::new() } else { format!(" --state {}", path.display()) }
}

/// Is it a file that outlives the run?
pub fn is_kept(state: &Path) -> bool {
    state != Path::new(":memory:")
}

/// What the earlier runs left, if anything.
pub fn resumed(stats: &[(String, PluginStats)], state: &Path) -> Option<String> {
    let all: u64 = stats.iter().map(|(_, stats)| stats.resumed).sum();
    let some = stats.iter().filter(|(_, stats)| stats.resumed > 0);
    let each: Vec<_> = some.map(|(name, stats)| format!("`{name}` {}", stats.resumed)).collect();
    (all > 0).then(|| format!("resuming {} from {}: {}", counted(all, "event"), state.display(), each.join(", ")))
}

fn are(count: u64) -> String {
    format!("{} {}", counted(count, "event"), if count == 1 { "is" } else { "are" })
}

/// Events that were dropped because the run ended.
fn at_the_end(stats: &PluginStats) -> u64 {
    stats.drops.iter().filter(|drops| drops.reason == "shutdown").map(|drops| drops.count).sum()
}

fn drops(plugin: &str, stats: &PluginStats) -> Option<String> {
    let mut named: Vec<_> = stats.drops.iter().collect();
    named.sort_by_key(|drops| std::cmp::Reverse(drops.count));
    let rest: u64 = named.iter().skip(DROPS).map(|drops| drops.count).sum();
    let named =
        named.iter().take(DROPS).map(|drops| format!("{} of `{}` ({})", drops.count, drops.topic, drops.reason));
    let rest = (rest > 0).then(|| format!("{rest} of other topics"));
    let all: Vec<_> = named.chain(rest).collect();
    (!all.is_empty()).then(|| format!("plugin `{plugin}` dropped {}", all.join(", ")))
}

type Count = fn(&PluginStats) -> u64;
type Time = fn(&PluginStats) -> f64;

/// What became of events.
const DELIVERY: [(&str, Count); 8] = [
    ("HANDLED", |stats| stats.handled),
    ("FAILED", |stats| stats.failed),
    ("RETRIED", |stats| stats.retried),
    ("DROPPED", |stats| stats.dropped),
    ("SPILLED", |stats| stats.spilled),
    ("RESUMED", |stats| stats.resumed),
    ("WAITING", |stats| stats.waiting),
    ("RESTARTS", |stats| stats.restarts),
];
/// What else was done.
const WORK: [(&str, Count); 5] = [
    ("FILTERED", |stats| stats.filtered),
    ("OUT", |stats| stats.filtered_out),
    ("CALLED", |stats| stats.called),
    ("CALLS", |stats| stats.calls),
    ("EMITTED", |stats| stats.emitted),
];
const TIMES: [(&str, Time); 2] = [("P50 MS", |stats| stats.p50_ms), ("P99 MS", |stats| stats.p99_ms)];

/// What the plugins did, without columns that are zero everywhere; two tables if one would be too wide.
fn tables(stats: &[(String, PluginStats)], width: usize) -> String {
    let column = |header: &str, cells: &mut dyn Iterator<Item = String>| -> Vec<String> {
        std::iter::once(header.to_owned()).chain(cells).collect()
    };
    let counts = |counts: &[(&str, Count)]| -> Vec<Vec<String>> {
        let is_shown =
            |header: &str, count: Count| header == "HANDLED" || stats.iter().any(|(_, stats)| count(stats) > 0);
        let shown = counts.iter().filter(|(header, count)| is_shown(header, *count));
        shown
            .map(|(header, count)| column(header, &mut stats.iter().map(|(_, stats)| count(stats).to_string())))
            .collect()
    };
    let names = column("PLUGIN", &mut stats.iter().map(|(name, _)| name.clone()));
    let (delivery, mut work) = (counts(&DELIVERY), counts(&WORK));
    for (header, time) in TIMES {
        if stats.iter().any(|(_, stats)| time(stats) > 0.0) {
            work.push(column(header, &mut stats.iter().map(|(_, stats)| format!("{:.2}", time(stats)))));
        }
    }
    // A space on either side.
    let wide = |column: &Vec<String>| column.iter().map(|cell| cell.chars().count() + 2).max().unwrap_or_default();
    let all = std::iter::once(&names).chain(&delivery).chain(&work).map(wide).sum::<usize>();
    let parts = if all <= width { vec![[delivery, work].concat()] } else { vec![delivery, work] };
    parts.iter().map(|columns| format!("{}\n", table(&names, columns))).collect()
}

fn table(names: &[String], columns: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let row = |index: usize| {
        let cells = columns.iter().map(move |column| column[index].clone());
        std::iter::once(names[index].clone()).chain(cells).collect::<Vec<_>>()
    };
    table.set_header(row(0));
    for index in 1..names.len() {
        table.add_row(row(index));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Drops;

    fn shown(stats: &[(String, PluginStats)], width: usize) -> Vec<String> {
        let text = tables(stats, width);
        assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn columns_that_are_zero_everywhere_are_left_out() {
        let idle = PluginStats::default();
        let busy = PluginStats { handled: 7, restarts: 2, p50_ms: 1.234, p99_ms: 5.0, ..PluginStats::default() };
        assert_eq!(shown(&[("p".into(), idle.clone())], 80), ["PLUGIN HANDLED", "p 0"]);
        assert_eq!(
            shown(&[("p".into(), busy), ("q".into(), idle)], 80),
            ["PLUGIN HANDLED RESTARTS P50 MS P99 MS", "p 7 2 1.23 5.00", "q 0 0 0.00 0.00"]
        );
    }

    #[test]
    fn a_table_that_is_too_wide_goes_on_below() {
        let stats = PluginStats {
            handled: 1_000_000,
            failed: 1,
            retried: 2,
            dropped: 3,
            drops: Vec::new(),
            spilled: 4,
            resumed: 5,
            restarts: 6,
            spares: 0,
            spares_used: 0,
            spares_died: 0,
            filtered: 7,
            filtered_out: 8,
            called: 9,
            calls: 10,
            emitted: 11,
            waiting: 12,
            p50_ms: 0.1,
            p99_ms: 1234.5,
        };
        let expected = [
            "PLUGIN HANDLED FAILED RETRIED DROPPED SPILLED RESUMED WAITING RESTARTS",
            "quake-alert 1000000 1 2 3 4 5 12 6",
            "PLUGIN FILTERED OUT CALLED CALLS EMITTED P50 MS P99 MS",
            "quake-alert 7 8 9 10 11 0.10 1234.50",
        ];
        assert_eq!(shown(&[("quake-alert".into(), stats)], 100), expected);
    }

    #[test]
    fn remarks_say_what_was_dropped_what_is_left_and_what_was_given_up() {
        let drop = |topic: &str, reason, count| Drops { topic: topic.into(), reason, count };
        let drops = vec![drop("tick", "drop-oldest", 2), drop("tock", "shutdown", 30)];
        let stats = PluginStats { failed: 1, dropped: 32, drops, waiting: 4, ..PluginStats::default() };
        let summary = Summary {
            fed: Fed { events: 9, bad_lines: 2, refused: 0 },
            drained: false,
            stats: vec![("p".into(), stats)],
            quarantined: vec![("p".into(), "it died".into())],
            startup: Vec::new(),
        };
        let expected = [
            "plugin `p` dropped 30 of `tock` (shutdown), 2 of `tick` (drop-oldest)",
            "2 lines of the input were no events",
            "plugin `p` ended in quarantine",
            "4 events are not handled yet and in x.db; the next run with the same plugins goes on there",
            "1 event was given up and is a dead letter; see `kernelbridge dead-letters list --state x.db`",
        ];
        assert_eq!(summary.remarks(Path::new("x.db")), expected);
        assert_eq!(
            summary.remarks(Path::new(":memory:"))[3..],
            ["4 events are not handled and lost with the state in memory"]
        );
        assert!(summary.is_failure(Path::new("x.db")));
    }
}
