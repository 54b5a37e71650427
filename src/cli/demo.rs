//! `kernelbridge demo`: seven languages on one week of earthquakes.
//!
//! Data and plugins are examples/quakes. They are in the binary and are written to the run's folder, where they can be
//! read, changed and run again with `kernelbridge run`.

mod files;
mod report;
mod show;

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::value::RawValue;

use crate::{
    cli::{
        Ending,
        args::DemoArgs,
        printer::{Images, Printer},
        run::{Interrupts, progress},
    },
    discover::{Environment, Languages, NoKernelspec, discover},
    host::{Event, Host, HostBuilder},
    manifest::Manifest,
    rpc::RpcError,
};

use files::{EVENTS, Embedded, Folder, PLUGINS};
use report::{Counts, Fit, Missing, Part, Report, Tale};

/// Topic of the events.
const TOPIC: &str = "quake.new";
/// The plugin that fits, and the one that tallies.
const RATE: &str = "quake-rate";
const TALLY: &str = "quake-tally";

/// Run the demo.
pub async fn demo(args: DemoArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let (present, missing) = choose(kernelspecs)?;
    if args.all && !missing.is_empty() {
        let all: Vec<_> = missing.iter().map(|missing| format!("{}: {}", missing.language, missing.reason)).collect();
        bail!("not all languages are installed:\n{}\n{}", all.join("\n"), show::hints(&missing).join("\n"));
    }
    if present.is_empty() {
        show::left_out(&missing, &mut stderr()).context("cannot write to stderr")?;
        bail!("no language of the demo is installed");
    }
    let folder = Folder::prepare(&args.out)?;
    let mut builder = Host::builder().state(folder.database());
    for plugin in &present {
        builder = builder.plugin(folder.manifest(plugin));
    }
    for dir in kernelspecs {
        builder = builder.kernelspecs(dir);
    }
    let report = run(builder, &folder, missing).await?;
    if args.json {
        let mut out = stdout().lock();
        serde_json::to_writer_pretty(&mut out, &report).context("cannot write the report")?;
        writeln!(out).context("cannot write the report")?;
    } else {
        show::report(&report, &mut stdout().lock()).context("cannot write the report")?;
    }
    let failed = report.plugins.iter().any(|part| part.stats.failed > 0);
    let no_fit = report.fit.is_none() && report.plugins.iter().any(|part| part.name == RATE);
    Ok(if failed || no_fit || report.events < EVENTS.lines().count() as u64 {
        Ending::PluginFailed
    } else {
        Ending::Done
    })
}

/// The plugins whose languages are installed, and what keeps the others away.
fn choose(kernelspecs: &[PathBuf]) -> anyhow::Result<(Vec<&'static Embedded>, Vec<Missing>)> {
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, kernelspecs));
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for plugin in &PLUGINS {
        let manifest = Manifest::parse(plugin.manifest, PathBuf::from(plugin.name).join("plugin.toml"))?;
        let language = manifest.language().unwrap_or_default();
        let folder = languages.find(language).ok();
        let reason = match languages.kernelspec_for(&discovery, language) {
            Ok(_) if folder.is_some_and(|folder| folder.shim_text().is_some()) => {
                present.push(plugin);
                continue;
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let hint = match &reason {
            Some(
                NoKernelspec::NotInstalled { hint, .. }
                | NoKernelspec::OnlyBasic { hint, .. }
                | NoKernelspec::NoProgram { hint, .. },
            ) => hint.clone(),
            Some(NoKernelspec::Language(_)) | None => "see `kernelbridge languages`".to_owned(),
        };
        let text = reason.map_or_else(|| "it has no shim here".to_owned(), |reason| reason.to_string());
        missing.push(Missing {
            name: plugin.name.to_owned(),
            language: language.to_owned(),
            display_name: folder.map_or(language, |folder| &folder.language.display_name).to_owned(),
            // The hint goes its own way.
            reason: text.split("\nhint: ").next().unwrap_or_default().to_owned(),
            hint,
        });
    }
    Ok((present, missing))
}

async fn run(builder: HostBuilder, folder: &Folder, left_out: Vec<Missing>) -> anyhow::Result<Report> {
    let mut interrupts = Interrupts::new()?;
    let began = Instant::now();
    let spinner = progress("starting kernels");
    let host = tokio::select! {
        host = builder.build() => host?,
        () = interrupts.next() => bail!("interrupted"),
    };
    spinner.finish_and_clear();
    let startup_seconds = began.elapsed().as_secs_f64();

    let bar = events_bar();
    let mut printer = Printer::new(host.subscribe_lossless(), Some(Images::new(&folder.plots())?));
    let results = std::fs::File::create(folder.results())
        .with_context(|| format!("cannot write {}", folder.results().display()))?;
    printer.out = Some(Box::new(std::io::BufWriter::new(results)));
    printer.bar = bar.clone();
    let printer = tokio::spawn(printer.run());
    let listener = tokio::spawn(Tale::hear(host.subscribe_lossless()));
    let began = Instant::now();
    let (events, seconds, fit) = tokio::select! {
        done = async {
            let events = feed(&host, &bar).await;
            host.drain().await;
            let seconds = began.elapsed().as_secs_f64();
            (events, seconds, fit(&host, &bar).await)
        } => done,
        () = interrupts.next() => {
            bar.println("stopping; Ctrl-C again to kill");
            tokio::select! {
                () = host.shutdown() => {}
                () = interrupts.next() => {}
            }
            bail!("interrupted");
        }
    };
    let plugins = parts(&host);
    let tally = if plugins.iter().any(|part| part.name == TALLY) { Some(tally(&host)?) } else { None };
    tokio::select! {
        () = host.shutdown() => {}
        () = interrupts.next() => bail!("interrupted"),
    }
    bar.finish_and_clear();
    let printed = printer.await.context("the printing task failed")??;
    let tale =
        listener.await.context("the listening task failed")?.context("a plugin sent what the demo cannot read")?;
    Ok(Report {
        events,
        tale,
        fit,
        tally,
        plugins,
        left_out,
        plots: printed.images,
        database: folder.database(),
        results: folder.results(),
        startup_seconds,
        seconds,
    })
}

/// Emit the events. Returns how many no filter raised on.
async fn feed(host: &Host, bar: &ProgressBar) -> u64 {
    let mut events = 0;
    for line in EVENTS.lines() {
        match emit(host, line).await {
            Ok(()) => events += 1,
            Err(error) => bar.println(format!("an event was refused: {error:#}")),
        }
        bar.inc(1);
    }
    events
}

async fn emit(host: &Host, line: &str) -> anyhow::Result<()> {
    let data: Box<RawValue> = serde_json::from_str(line)?;
    host.emit_event(Event::from_raw(TOPIC, data, None)?).await.map_err(|error| anyhow::anyhow!(error.report()))?;
    Ok(())
}

async fn fit(host: &Host, bar: &ProgressBar) -> Option<Fit> {
    if !host.plugins().iter().any(|plugin| plugin.name == RATE) {
        return None;
    }
    let fit: Result<Fit, RpcError> = host.call("quake-rate.fit", ()).await;
    fit.inspect_err(|error| bar.suspend(|| eprintln!("quake-rate.fit failed: {}", error.report()))).ok()
}

fn tally(host: &Host) -> anyhow::Result<Counts> {
    let mut tally = Counts::new();
    for key in host.store().list("tally/")? {
        if let Some(value) = host.store().get(&key)? {
            let count = serde_json::from_str(value.get()).with_context(|| format!("{key} is no count"))?;
            tally.insert(key.trim_start_matches("tally/").to_owned(), count);
        }
    }
    Ok(tally)
}

fn parts(host: &Host) -> Vec<Part> {
    let parts = host.plugins().into_iter().zip(host.stats()).map(|(plugin, (name, stats))| Part {
        name,
        language: plugin.about.language,
        interpreter: plugin.about.interpreter,
        stats,
    });
    parts.collect()
}

/// A bar on a terminal, nothing elsewhere.
fn events_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    if stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    bar.set_length(EVENTS.lines().count() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} events, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    bar
}
