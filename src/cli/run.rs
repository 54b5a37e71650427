//! `kernelbridge run`: events in, results out.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader},
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{
        Ending,
        args::RunArgs,
        plugins,
        printer::{Images, Printed, Printer, say},
    },
    host::{Event, Host, PluginStats},
};

/// Topic of events for which none was given.
const DEFAULT_TOPIC: &str = "event";
/// How much of a bad line is shown.
const EXCERPT: usize = 60;

/// Stream events through plugins.
pub async fn run(args: RunArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let mut builder = Host::builder().state(&args.state);
    for manifest in plugins::all_manifests(&args.plugins)? {
        builder = builder.plugin(manifest);
    }
    for dir in kernelspecs {
        builder = builder.kernelspecs(dir);
    }
    let input = match &args.events {
        Some(path) => Some(Input::open(path).await?),
        None => None,
    };
    let out = open_out(&args.out)?;
    let images = match &args.outputs {
        Some(dir) => Some(Images::new(dir)?),
        None => None,
    };
    let mut interrupts = Interrupts::new()?;
    let spinner = progress("starting kernels");
    let host = tokio::select! {
        host = builder.build() => host?,
        () = interrupts.next() => anyhow::bail!("interrupted"),
    };
    spinner.finish_and_clear();

    let bar = progress("");
    let mut printer = Printer::new(host.subscribe_lossless(), images);
    printer.out = Some(out);
    printer.bar = bar.clone();
    let mut printer = tokio::spawn(printer.run());
    let fed = tokio::select! {
        fed = feed(&host, input, &args, &bar) => fed,
        () = interrupts.next() => {
            say(&bar, "stopping; Ctrl-C again to kill");
            Ok(Fed::default())
        }
        // It ends before the host only if it cannot write.
        printed = &mut printer => {
            drop(host);
            bar.finish_and_clear();
            return reader_left(printed.context("the printing task failed")?);
        }
    };
    let drained = tokio::select! {
        () = host.drain() => true,
        () = interrupts.next() => false,
    };
    let stats = host.stats();
    if drained {
        tokio::select! {
            () = host.shutdown() => {}
            () = interrupts.next() => {}
        }
    } else {
        drop(host);
    }
    bar.finish_and_clear();
    let printed = printer.await.context("the printing task failed")??;
    let fed = fed?;
    summarise(&stats, &fed, printed, &args)?;
    let failed = stats.iter().any(|(_, stats)| stats.failed > 0) || fed.refused > 0;
    Ok(if failed || !drained { Ending::PluginFailed } else { Ending::Done })
}

/// Whoever reads the output may have seen enough (`| head`); any other trouble with it is an error.
fn reader_left(printed: anyhow::Result<Printed>) -> anyhow::Result<Ending> {
    let is_broken_pipe = |error: &anyhow::Error| {
        let kind = error.chain().find_map(|cause| {
            let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
            json.or_else(|| Some(cause.downcast_ref::<std::io::Error>()?.kind()))
        });
        kind == Some(std::io::ErrorKind::BrokenPipe)
    };
    match printed {
        Err(error) if !is_broken_pipe(&error) => Err(error),
        _ => Ok(Ending::Done),
    }
}

/// Where events come from.
struct Input {
    name: String,
    lines: Box<dyn AsyncBufRead + Send + Unpin>,
}

impl Input {
    async fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self { name: "stdin".into(), lines: Box::new(BufReader::new(tokio::io::stdin())) });
        }
        let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name: path.display().to_string(), lines: Box::new(BufReader::with_capacity(1 << 16, file)) })
    }
}

/// What was read.
#[derive(Debug, Default, Serialize)]
struct Fed {
    /// Events that were emitted.
    events: u64,
    /// Lines that are no event.
    bad_lines: u64,
    /// Events that a filter raised on.
    refused: u64,
}

/// A whole event as a line.
#[derive(Deserialize)]
struct Envelope {
    topic: String,
    #[serde(default)]
    key: Option<String>,
    data: Box<RawValue>,
}

async fn feed(host: &Host, input: Option<Input>, args: &RunArgs, bar: &ProgressBar) -> anyhow::Result<Fed> {
    let Some(mut input) = input else {
        // Plugins live on their own events.
        return std::future::pending().await;
    };
    let mut fed = Fed::default();
    let mut line = String::new();
    for number in 1u64.. {
        line.clear();
        if input.lines.read_line(&mut line).await.with_context(|| format!("cannot read {}", input.name))? == 0 {
            break;
        }
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        match event(text, args.topic.as_deref()) {
            Ok(event) => {
                if let Err(error) = host.emit_event(event).await {
                    fed.refused += 1;
                    say(bar, &format!("{}:{number}: {}", input.name, error.report()));
                }
                fed.events += 1;
                bar.set_position(fed.events);
            }
            Err(error) => {
                let message = format!("{}:{number}: {error}: {}", input.name, excerpt(text));
                anyhow::ensure!(!args.strict, "{message}");
                fed.bad_lines += 1;
                say(bar, &format!("warning: {message}"));
            }
        }
    }
    Ok(fed)
}

fn event(line: &str, topic: Option<&str>) -> anyhow::Result<Event> {
    let data: Box<RawValue> = serde_json::from_str(line).map_err(|error| anyhow::anyhow!("not JSON ({error})"))?;
    if let Some(topic) = topic {
        return Ok(Event::from_raw(topic, data, None)?);
    }
    match serde_json::from_str::<Envelope>(line) {
        Ok(Envelope { topic, key, data }) => Ok(Event::from_raw(&topic, data, key)?),
        Err(_) => Ok(Event::from_raw(DEFAULT_TOPIC, data, None)?),
    }
}

fn excerpt(line: &str) -> String {
    match line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

fn open_out(path: &Path) -> anyhow::Result<Box<dyn Write + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::BufWriter::new(std::io::stdout())));
    }
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(std::io::BufWriter::new(file)))
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress(message: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new_spinner();
    let template = if message.is_empty() { "{spinner} {pos} events, {per_sec}, {elapsed}" } else { "{spinner} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(message);
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// SIGINT and SIGTERM.
pub struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// From now on signals do not end the process.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Wait for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn summarise(stats: &[(String, PluginStats)], fed: &Fed, printed: Printed, args: &RunArgs) -> anyhow::Result<()> {
    for path in &printed.images {
        eprintln!("saved {}", path.display());
    }
    if args.json
        && let Some(mut out) = printed.out
    {
        let plugins: serde_json::Map<_, _> = stats
            .iter()
            .map(|(name, stats)| Ok((name.clone(), serde_json::to_value(stats)?)))
            .collect::<serde_json::Result<_>>()?;
        let summary = serde_json::json!({ "type": "summary", "input": fed, "plugins": plugins });
        writeln!(out, "{summary}").and_then(|()| out.flush()).context("cannot write the output")?;
        return Ok(());
    }
    eprintln!("{}", stats_table(stats));
    if fed.bad_lines > 0 {
        let (lines, were) = if fed.bad_lines == 1 { ("line", "was no event") } else { ("lines", "were no events") };
        eprintln!("{} {lines} of the input {were}", fed.bad_lines);
    }
    Ok(())
}

/// What the plugins did, as a table.
pub fn stats_table(stats: &[(String, PluginStats)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "PLUGIN", "HANDLED", "FAILED", "RETRIED", "DROPPED", "FILTERED", "OUT", "CALLED", "CALLS", "EMITTED", "P50 MS",
        "P99 MS",
    ]);
    for (name, stats) in stats {
        let numbers = [
            stats.handled,
            stats.failed,
            stats.retried,
            stats.dropped,
            stats.filtered,
            stats.filtered_out,
            stats.called,
            stats.calls,
            stats.emitted,
        ];
        let mut row = vec![name.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row.extend([stats.p50_ms, stats.p99_ms].map(|ms| format!("{ms:.2}")));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
