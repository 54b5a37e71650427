//! `kernelbridge run`: events in, results out.

use std::{
    convert::Infallible,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
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
        summary::{Fed, Summary, is_kept, resumed, state_option},
        watch::Watch,
    },
    discover::{Environment, Languages},
    host::{Event, Host, ListenOptions},
    link::RunningHost,
};

/// Topic of events for which none was given.
const DEFAULT_TOPIC: &str = "event";
/// How much of a bad line is shown.
const EXCERPT: usize = 60;

/// How long accepted events may take after Ctrl-C, if `--drain-timeout` does not say.
const AFTER_CTRL_C: Duration = Duration::from_secs(30);

/// Stream events through plugins.
pub async fn run(args: RunArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let mut builder = Host::builder().state(&args.state);
    let manifests = plugins::all_manifests(&args.plugins)?;
    for manifest in &manifests {
        builder = builder.plugin(manifest);
    }
    for dir in kernelspecs {
        builder = builder.kernelspecs(dir);
    }
    if let Some(path) = &args.listen {
        builder = builder.listen(ListenOptions {
            path: path.clone(),
            name: args.name.clone(),
            call: args.listen_call.clone(),
            emit: args.listen_emit.clone(),
            allow_console: args.allow_console,
        });
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
    // Before the plugins are read, so that no change is missed.
    let watch = if args.watch {
        let languages = Languages::load(&Environment::capture(), kernelspecs);
        Some(Watch::new(&manifests, &languages, &own_files(&args))?)
    } else {
        None
    };
    let mut interrupts = Interrupts::new()?;
    let spinner = progress("starting kernels");
    let mut host = tokio::select! {
        host = builder.build() => host?,
        () = interrupts.next() => anyhow::bail!("interrupted"),
    };
    spinner.finish_and_clear();
    if let Some(RunningHost { about, socket, .. }) = host.listening() {
        eprintln!("listening as `{}` at {}", about.name, socket.display());
    }
    if let Some(text) = resumed(&host.stats(), &args.state) {
        eprintln!("{text}");
    }

    let bar = progress("");
    let mut printer = Printer::new(host.subscribe_lossless(), images);
    printer.out = Some(out);
    printer.bar = bar.clone();
    printer.states = args.json;
    printer.release = is_kept(&args.state).then(|| format!("kernelbridge release{}", state_option(&args.state)));
    let mut printer = tokio::spawn(printer.run());
    let mut fed = Fed::default();
    let (fed_all, drained) = tokio::select! {
        done = work(&host, input, &args, &mut fed, &mut interrupts, &bar) => done,
        never = watching(watch, &host, &bar) => match never {},
        // It ends before the host only if it cannot write.
        printed = &mut printer => {
            drop(host);
            bar.finish_and_clear();
            return reader_left(printed.context("the printing task failed")?);
        }
    };
    host.close().await;
    let summary = Summary::of(&host, fed, drained == Drained::All)?;
    if drained == Drained::Killed {
        drop(host);
    } else {
        tokio::select! {
            () = host.shutdown() => {}
            () = interrupts.next() => {}
        }
    }
    bar.finish_and_clear();
    let printed = printer.await.context("the printing task failed")??;
    fed_all?;
    summary.show(printed, &args.state, args.json)?;
    let failed = summary.is_failure(&args.state) || drained == Drained::Killed;
    Ok(if failed { Ending::PluginFailed } else { Ending::Done })
}

/// What the run itself reads and writes.
fn own_files(args: &RunArgs) -> Vec<&Path> {
    let maybe = args.events.as_deref().into_iter().chain(args.outputs.as_deref());
    maybe.chain([args.out.as_path(), args.state.as_path()]).collect()
}

async fn watching(watch: Option<Watch>, host: &Host, bar: &ProgressBar) -> Infallible {
    match watch {
        Some(watch) => watch.run(host, bar).await,
        None => std::future::pending().await,
    }
}

/// How the wait for accepted events ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// All were handled or given up.
    All,
    /// Time is up.
    TimeUp,
    /// A second Ctrl-C came.
    Killed,
}

/// Until the input has ended, or Ctrl-C, and what was accepted is done.
async fn work(
    host: &Host,
    input: Option<Input>,
    args: &RunArgs,
    fed: &mut Fed,
    interrupts: &mut Interrupts,
    bar: &ProgressBar,
) -> (anyhow::Result<()>, Drained) {
    let (fed_all, mut is_stopping) = tokio::select! {
        fed_all = feed(host, input, args, fed, bar) => (fed_all, false),
        () = interrupts.next() => (Ok(()), true),
    };
    let mut drain = std::pin::pin!(host.drain());
    loop {
        if is_stopping {
            say(bar, "stopping; Ctrl-C again to kill");
        }
        let within = args.drain_timeout.or(is_stopping.then_some(AFTER_CTRL_C));
        let time_up = async {
            match within {
                Some(within) => tokio::time::sleep(within).await,
                None => std::future::pending().await,
            }
        };
        let drained = tokio::select! {
            () = &mut drain => Drained::All,
            () = time_up => Drained::TimeUp,
            () = interrupts.next() => {
                if !is_stopping {
                    is_stopping = true;
                    continue;
                }
                Drained::Killed
            }
        };
        return (fed_all, drained);
    }
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

/// A whole event as a line.
#[derive(Deserialize)]
struct Envelope {
    topic: String,
    #[serde(default)]
    key: Option<String>,
    data: Box<RawValue>,
}

async fn feed(
    host: &Host,
    input: Option<Input>,
    args: &RunArgs,
    fed: &mut Fed,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let Some(mut input) = input else {
        // Plugins live on their own events.
        return std::future::pending().await;
    };
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
    Ok(())
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

/// A file, or stdout for `-`.
pub fn open_out(path: &Path) -> anyhow::Result<Box<dyn Write + Send>> {
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
    bar.enable_steady_tick(Duration::from_millis(100));
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
