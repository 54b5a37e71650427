//! `kernelbridge bench`: kernelbridge and its peers on this machine, in one run.
//!
//! Each section is measured by a process of its own, whose rows this one collects. Within a section all systems run at
//! the same time and take turns in each round, so that noise hits all alike.

mod chart;
mod machine;
mod markdown;
mod peers;
mod plan;
mod record;
mod report;
mod rounds;
mod row;
mod sections;
mod system;
mod table;
mod targets;

use std::{fs, io::Write, path::PathBuf, process::Stdio};

use anyhow::{Context, bail};
use directories::BaseDirs;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::cli::{Ending, args::BenchArgs};
use machine::{Machine, load, pin};
use peers::{Kit, echo};
use plan::{Plan, SECTIONS};
use report::Report;
use row::Row;

/// Measure, then show.
pub async fn bench(args: &BenchArgs) -> anyhow::Result<Ending> {
    match (&args.worker, &args.socket) {
        (Some(worker), Some(socket)) if worker == "echo" => {
            echo(socket)?;
            return Ok(Ending::Done);
        }
        (Some(section), _) => return work(section, args).await,
        _ => {}
    }
    let report = match &args.from {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))?
        }
        None => measure(args).await?,
    };
    show(&report, args)?;
    Ok(Ending::Done)
}

/// All sections that are wanted, one after the other.
async fn measure(args: &BenchArgs) -> anyhow::Result<Report> {
    let (plan, kit) = (Plan::new(args)?, Kit::new(peers_dir(args)?)?);
    let mut machine = Machine::describe(&kit.python());
    let mut rows = Vec::new();
    for (section, _) in SECTIONS {
        if plan.wants_section(section) {
            rows.extend(delegate(section, args).await?);
        }
    }
    machine.load.push(load());
    Ok(Report { machine, rounds: plan.rounds, rows })
}

/// One section, by a process of its own.
async fn delegate(section: &str, args: &BenchArgs) -> anyhow::Result<Vec<Row>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bench").args(args.quick.then_some("--quick"));
    for name in &args.only {
        command.arg("--only").arg(name);
    }
    if let Some(rounds) = args.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    command.args(["--worker", section]).arg("--peers").arg(peers_dir(args)?);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let mut rows = Vec::new();
    while let Some(line) = lines.next_line().await? {
        rows.push(serde_json::from_str(&line).with_context(|| format!("{section} printed {line:?}"))?);
    }
    let status = child.wait().await?;
    if !status.success() {
        bail!("section `{section}` ended with {status}");
    }
    Ok(rows)
}

/// In that process: measure, and print the rows.
async fn work(section: &str, args: &BenchArgs) -> anyhow::Result<Ending> {
    let (plan, kit) = (Plan::new(args)?, Kit::new(peers_dir(args)?)?);
    if section == "pinned" {
        pin()?;
    }
    // A task of its own: tokio wakes the future of `block_on` by a system call, and tasks by none.
    let name = section.to_owned();
    let task = tokio::spawn(async move {
        match name.as_str() {
            "pinned" | "unpinned" => sections::exchange(&name, &kit, &plan).await,
            "start" => sections::start(&kit, &plan).await,
            "crowd" => sections::crowd(&kit, &plan).await,
            "scale" => sections::scale(&kit, &plan).await,
            other => bail!("no section `{other}`"),
        }
    });
    let rows = task.await??;
    let mut stdout = std::io::stdout().lock();
    for row in rows {
        serde_json::to_writer(&mut stdout, &row)?;
        stdout.write_all(b"\n")?;
    }
    Ok(Ending::Done)
}

fn show(report: &Report, args: &BenchArgs) -> anyhow::Result<()> {
    let is_stdout = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if is_stdout {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", table::render(report));
        if let Some(path) = &args.json {
            let text = serde_json::to_string_pretty(report)?;
            fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if let Some(dir) = &args.chart {
        chart::draw(report, dir)?;
    }
    if let Some(path) = &args.write {
        markdown::write(report, path)?;
    }
    Ok(())
}

/// Beside what the tests set up.
fn peers_dir(args: &BenchArgs) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &args.peers {
        return Ok(dir.clone());
    }
    let data = std::env::var_os("KERNELBRIDGE_DATA").filter(|data| !data.is_empty()).map(PathBuf::from);
    let data = data.or_else(|| BaseDirs::new().map(|dirs| dirs.data_dir().join("kernelbridge")));
    Ok(data.context("no home folder; set KERNELBRIDGE_DATA")?.join("bench"))
}
