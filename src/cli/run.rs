//! `kernelbridge run`: events in, results out.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader},
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{Ending, args::RunArgs, plugins},
    client::Output,
    host::{Event, Host, News, PluginStats, Subscription},
    plugin::PluginNews,
    rpc::RpcError,
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
    let printer = tokio::spawn(printer.run());
    let fed = tokio::select! {
        fed = feed(&host, input, &args, &bar) => fed,
        () = interrupts.next() => {
            say(&bar, "stopping; Ctrl-C again to kill");
            Ok(Fed::default())
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

/// Saves images.
pub struct Images {
    dir: PathBuf,
    counts: HashMap<Arc<str>, u32>,
    /// What was saved.
    pub saved: Vec<PathBuf>,
}

impl Images {
    /// Into this folder, which is made if it is not there.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), counts: HashMap::new(), saved: Vec::new() })
    }

    fn save(&mut self, plugin: &Arc<str>, data: &serde_json::Map<String, serde_json::Value>) -> anyhow::Result<bool> {
        let kinds = [("image/png", "png"), ("image/jpeg", "jpg"), ("image/svg+xml", "svg")];
        for (mime, extension) in kinds {
            let Some(text) = data.get(mime).and_then(|value| value.as_str()) else { continue };
            let bytes = if extension == "svg" {
                text.as_bytes().to_vec()
            } else {
                // Kernels break the lines of base64.
                let packed: String = text.split_ascii_whitespace().collect();
                BASE64_STANDARD.decode(packed).with_context(|| format!("plugin `{plugin}` showed a broken {mime}"))?
            };
            let count = self.counts.entry(plugin.clone()).or_default();
            *count += 1;
            let path = self.dir.join(format!("{plugin}-{count}.{extension}"));
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            self.saved.push(path);
            return Ok(true);
        }
        Ok(false)
    }
}

/// Shows news as it comes: data to the output, what plugins print to stderr, images to files.
pub struct Printer {
    news: Subscription,
    images: Option<Images>,
    /// Where results and events go.
    pub out: Option<Box<dyn Write + Send>>,
    /// Lines are shown above it.
    pub bar: ProgressBar,
    /// The last unfinished line that each plugin printed.
    unfinished: HashMap<Arc<str>, String>,
}

/// What was printed.
#[derive(Default)]
pub struct Printed {
    /// The output, to go on with.
    pub out: Option<Box<dyn Write + Send>>,
    /// Images that were saved.
    pub images: Vec<PathBuf>,
}

/// A line of the output.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Event {
        from: &'a str,
        #[serde(flatten)]
        event: &'a Event,
    },
    Result {
        plugin: &'a str,
        topic: &'a str,
        id: &'a str,
        result: &'a RawValue,
    },
    Failure {
        plugin: &'a str,
        topic: &'a str,
        id: &'a str,
        attempts: u32,
        error: serde_json::Value,
    },
}

impl Printer {
    /// Show this news.
    pub fn new(news: Subscription, images: Option<Images>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { news, images, out: None, bar, unfinished: HashMap::new() }
    }

    /// Until the host is shut down.
    pub async fn run(mut self) -> anyhow::Result<Printed> {
        while let Some(news) = self.news.next().await {
            match news {
                News::Plugin { plugin, news } => self.plugin(&plugin, news)?,
                News::Emitted { plugin, event } if !plugin.is_empty() => {
                    self.write(&Line::Event { from: &plugin, event: &event })?;
                }
                News::Handled { plugin, event, result, .. } if result.get() != "null" => {
                    self.write(&Line::Result { plugin: &plugin, topic: &event.topic, id: &event.id, result: &result })?;
                }
                News::Failed { plugin, event, error, attempts } => {
                    self.failure(&event, &error);
                    let (topic, id, error) = (&*event.topic, &*event.id, error.to_json());
                    self.write(&Line::Failure { plugin: &plugin, topic, id, attempts, error })?;
                }
                News::Missed(count) => self.say(&format!("warning: {count} messages of plugins were not shown")),
                _ => {}
            }
        }
        for (plugin, text) in std::mem::take(&mut self.unfinished) {
            self.say(&format!("[{plugin}] {text}"));
        }
        if let Some(out) = &mut self.out {
            out.flush().context("cannot write the output")?;
        }
        Ok(Printed { out: self.out, images: self.images.map(|images| images.saved).unwrap_or_default() })
    }

    fn write(&mut self, line: &Line<'_>) -> anyhow::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        serde_json::to_writer(&mut *out, line).context("cannot write the output")?;
        out.write_all(b"\n").context("cannot write the output")
    }

    fn failure(&self, event: &Event, error: &RpcError) {
        self.say(&format!("event {} ({}) failed: {}", event.id, event.topic, error.report()));
    }

    fn plugin(&mut self, plugin: &Arc<str>, news: PluginNews) -> anyhow::Result<()> {
        match news {
            PluginNews::Output(Output::Stream { text, .. }) => {
                let mut text = self.unfinished.remove(plugin).unwrap_or_default() + &text;
                let rest = text.split_off(text.rfind('\n').map_or(0, |end| end + 1));
                for line in text.lines() {
                    self.say(&format!("[{plugin}] {line}"));
                }
                if !rest.is_empty() {
                    self.unfinished.insert(plugin.clone(), rest);
                }
            }
            PluginNews::Output(Output::Display { data, .. }) => {
                let saved = match &mut self.images {
                    Some(images) => images.save(plugin, &data)?,
                    None => false,
                };
                match data.get("text/plain").and_then(|text| text.as_str()) {
                    Some(text) if !saved => self.say(&format!("[{plugin}] {text}")),
                    None if !saved => self.say(&format!("[{plugin}] showed an image; --outputs DIR saves such")),
                    _ => {}
                }
            }
            PluginNews::Output(Output::Error { ename, evalue, .. }) => {
                self.say(&format!("[{plugin}] {ename}: {evalue}"))
            }
            PluginNews::Log { level, message, fields } => {
                let fields = if fields.as_object().is_some_and(|fields| !fields.is_empty()) {
                    format!(" {fields}")
                } else {
                    String::new()
                };
                self.say(&format!("[{plugin}] {}: {message}{fields}", format!("{level:?}").to_lowercase()));
            }
            PluginNews::Progress { done, total, message } => {
                let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
                self.say(&format!("[{plugin}] {done}{total} {message}"));
            }
            PluginNews::Gone { reason } => self.say(&format!("plugin `{plugin}`: {reason}")),
            PluginNews::Odd { reason } => self.say(&format!("warning: plugin `{plugin}`: {reason}")),
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        say(&self.bar, text);
    }
}

/// A line on stderr, above the bar if one is shown; a hidden bar would swallow it.
fn say(bar: &ProgressBar, text: &str) {
    if bar.is_hidden() {
        eprintln!("{text}");
    } else {
        bar.println(text);
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
