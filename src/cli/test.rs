//! `kernelbridge test`: cases from files and notebooks, run against plugins in a host of their own.

mod case;
mod compare;
mod files;
mod runner;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{
    cli::{Ending, args::TestArgs, plugins},
    host::manifest_at,
    manifest::Manifest,
};

use files::Tests;

/// What came of one plugin's tests.
#[derive(Debug, Serialize)]
struct PluginReport {
    plugin: String,
    cases: Vec<CaseReport>,
}

/// What came of one case.
#[derive(Debug, Serialize)]
struct CaseReport {
    /// The file it is from.
    file: PathBuf,
    name: String,
    passed: bool,
    ms: f64,
    /// What was not as expected, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    /// What the plugin printed and logged meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    output: Vec<String>,
}

/// The whole, for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    passed: usize,
    failed: usize,
    plugins: &'a [PluginReport],
}

/// Run the tests of plugins, one plugin after the other.
pub async fn test(args: TestArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let with = plugins::all_manifests(&args.with)?;
    // All files are read before the first kernel starts: a slip in the last one should not cost minutes.
    let mut all = Vec::new();
    for path in plugins::all_manifests(&args.plugins)? {
        let manifest = read(&path)?;
        let tests = Tests::of(&manifest, &path)?;
        if tests.is_empty() {
            eprintln!("warning: plugin `{}` has no tests: no *.test.json beside {}", manifest.name, path.display());
        } else {
            all.push((manifest, path, tests));
        }
    }
    if all.is_empty() {
        bail!("no tests\nhint: `kernelbridge test --help` explains *.test.json; `kernelbridge new` makes an example");
    }
    let (mut reports, mut out) = (Vec::new(), std::io::stdout().lock());
    for (manifest, path, tests) in all {
        let mut show = |case: &CaseReport| if args.json { Ok(()) } else { write!(out, "{}", shown(case)) };
        if !args.json {
            println!("{}", manifest.name);
        }
        let cases = runner::run(&manifest, &path, &with, kernelspecs, tests, &mut show).await?;
        reports.push(PluginReport { plugin: manifest.name, cases });
    }
    let count = |passed| reports.iter().flat_map(|report| &report.cases).filter(|case| case.passed == passed).count();
    let (passed, failed) = (count(true), count(false));
    if args.json {
        serde_json::to_writer_pretty(&mut out, &Report { passed, failed, plugins: &reports })?;
        writeln!(out)
    } else {
        writeln!(out, "{passed} passed, {failed} failed")
    }
    .context("cannot write the report")?;
    Ok(if failed == 0 { Ending::Done } else { Ending::PluginFailed })
}

fn read(path: &Path) -> anyhow::Result<Manifest> {
    Ok(manifest_at(path)?)
}

/// A case for people.
fn shown(case: &CaseReport) -> String {
    let mut text = format!("  {}  {}  {:.1} ms\n", if case.passed { "ok    " } else { "FAILED" }, case.name, case.ms);
    if !case.passed {
        let output = case.output.iter().map(|line| format!("printed: {line}"));
        for line in case.problems.iter().cloned().chain(output).flat_map(|text| lines(&text)) {
            text.push_str(&format!("          {line}\n"));
        }
    }
    text
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
