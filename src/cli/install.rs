//! `kernelbridge install`: which languages were meant, what will run, what came of it.
//!
//! Data goes to `out` (stdout), everything else to stderr.

use std::{
    collections::BTreeSet,
    env,
    io::{self, IsTerminal, Write, stderr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use directories::{BaseDirs, ProjectDirs};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::{
    select,
    sync::mpsc::{Receiver, channel},
    task::JoinHandle,
};

use crate::{
    install::{Command, Files, InstallError, Installed, Options, Plan, Progress, System, plan},
    language::{Language, nearest},
};

/// As `eprintln!`, but a reader that went away (`2>&1 | head`) must not end an installation half-way.
#[cfg(not(test))]
macro_rules! say {
    ($($word:tt)*) => {{ let _ = writeln!(stderr(), $($word)*); }};
}
/// The test runner keeps the output of tests that pass to itself, but only `eprintln!`'s.
#[cfg(test)]
macro_rules! say {
    ($($word:tt)*) => { eprintln!($($word)*) };
}

/// What was typed.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Names or aliases of languages.
    pub languages: Vec<String>,
    /// Every language that can be installed here; what cannot is left out and said.
    pub all: bool,
    /// Debian packages may be installed.
    pub yes: bool,
    /// Print a JSON array instead of a table.
    pub json: bool,
    /// Make the environments anew.
    pub reinstall: bool,
}

/// What came of one language.
#[derive(Debug, Serialize)]
struct Outcome {
    language: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    installed: Option<Installed>,
    seconds: f64,
    /// What the verification saw, or why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Installed,
    AlreadyInstalled,
    LeftOut,
    Failed,
}

/// Where things go, from the environment: `KERNELBRIDGE_DATA`, `JUPYTER_DATA_DIR` and `KERNELBRIDGE_PYTHON`.
///
/// # Errors
///
/// When there is no home folder and the variables do not say where to go.
pub fn options() -> anyhow::Result<Options> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| format!("no folder {}", path.display()));
    let data = set("KERNELBRIDGE_DATA")
        .map(PathBuf::from)
        .or_else(|| Some(ProjectDirs::from("", "", "kernelbridge")?.data_dir().into()))
        .context("no home folder; set KERNELBRIDGE_DATA")?;
    let jupyter = set("JUPYTER_DATA_DIR")
        .map(PathBuf::from)
        .or_else(|| {
            let dirs = BaseDirs::new()?;
            Some(match cfg!(target_os = "macos") {
                true => dirs.home_dir().join("Library/Jupyter"),
                false => dirs.data_dir().join("jupyter"),
            })
        })
        .context("no home folder; set JUPYTER_DATA_DIR")?;
    let mut options = Options::new(absolute(data)?, absolute(jupyter)?);
    if let Some(python) = set("KERNELBRIDGE_PYTHON") {
        options.python = python.to_string_lossy().into_owned();
    }
    Ok(options)
}

/// Install what was asked for, verify each kernel with `verify` (start it, and say what was seen), and print.
///
/// Returns the exit code: 0 when everything asked for is installed, 2 otherwise.
///
/// # Errors
///
/// When a language does not exist, or nothing was asked for.
pub async fn run(
    wanted: &Wanted,
    languages: &[(Language, Files)],
    options: Options,
    verify: impl AsyncFn(&Installed) -> Result<String, String>,
    out: &mut impl Write,
) -> anyhow::Result<u8> {
    let chosen = choose(wanted, languages)?;
    let options = Options { yes: wanted.yes, reinstall: wanted.reinstall, ..options };
    // A second Ctrl-C is not needed: dropping the work ends its commands, and the next run repairs what they left.
    let outcomes = select! {
        outcomes = work(&chosen, &options, verify) => outcomes,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; run it again to go on"),
    };
    match wanted.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&outcomes)?)?,
        false => show(&outcomes, out)?,
    }
    let is_bad = |outcome: &Outcome| match outcome.status {
        Status::Installed | Status::AlreadyInstalled => false,
        Status::LeftOut => !wanted.all,
        Status::Failed => true,
    };
    Ok(if outcomes.iter().any(is_bad) { 2 } else { 0 })
}

fn choose<'a>(wanted: &Wanted, languages: &'a [(Language, Files)]) -> anyhow::Result<Vec<&'a (Language, Files)>> {
    if wanted.all {
        return Ok(languages.iter().collect());
    }
    let recipes = |by_hand: bool| {
        let is_by_hand = |language: &Language| {
            language.install.as_ref().is_none_or(|i| i.pypi.is_empty() && i.npm.is_empty() && i.debian.is_empty())
        };
        let names = languages.iter().filter(|(language, _)| is_by_hand(language) == by_hand);
        names.map(|(language, _)| language.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let exist = || format!("can be installed: {}; by hand: {}", recipes(false), recipes(true));
    if wanted.languages.is_empty() {
        bail!("which language? {}\nhint: or `--all`", exist());
    }
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    for word in &wanted.languages {
        let Some(found) = languages.iter().find(|(language, _)| language.is_called(word)) else {
            let near = nearest(word, languages.iter().map(|(language, _)| language));
            let meant = near.map(|near| format!("; did you mean `{}`?", near.name)).unwrap_or_default();
            bail!("no language `{word}`{meant}\n{}", exist());
        };
        if seen.insert(&found.0.name) {
            chosen.push(found);
        }
    }
    Ok(chosen)
}

async fn work(
    chosen: &[&(Language, Files)],
    options: &Options,
    verify: impl AsyncFn(&Installed) -> Result<String, String>,
) -> Vec<Outcome> {
    let mut plans = Vec::new();
    for (language, files) in chosen {
        plans.push((language.name.clone(), plan(language, files, options).await));
    }
    let packages = install_packages(&plans, options).await;
    let mut outcomes = Vec::new();
    for (language, plan) in plans {
        let started = Instant::now();
        let system = plan.as_ref().ok().and_then(Plan::system).cloned();
        let mut outcome = match (plan, system, &packages) {
            (Err(error), _, _) => Outcome::failed(language, &error),
            (Ok(_), Some(system), Err(error)) => Outcome::without_packages(language, &system, error),
            (Ok(plan), _, _) => match install_one(plan, &verify).await {
                Ok((installed, seen)) => Outcome::of(installed, seen),
                Err(error) => Outcome::failed(language, &error),
            },
        };
        outcome.seconds = (started.elapsed().as_secs_f64() * 100.0).round() / 100.0;
        say!("{}", outcome.line());
        outcomes.push(outcome);
    }
    if let Err(error) = &packages {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        say!("{error}{hint}");
    }
    outcomes
}

/// The Debian packages of all languages at once, after saying exactly what will run.
async fn install_packages(
    plans: &[(String, Result<Plan, InstallError>)],
    options: &Options,
) -> Result<(), InstallError> {
    let needing: Vec<(&str, &System)> =
        plans.iter().filter_map(|(name, plan)| Some((name.as_str(), plan.as_ref().ok()?.system()?))).collect();
    let Some(system) = System::merged(needing.iter().map(|(_, system)| *system)) else { return Ok(()) };
    system.permission(options.yes)?;
    let names = needing.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let commands = system.commands().iter().map(Command::to_string).collect::<Vec<_>>().join("\n  ");
    say!(
        "Debian packages for {names}; this runs now (again after `apt-get update`, if the lists are too old):\n  {commands}"
    );
    let (progress, news) = channel(64);
    let watcher = watch("Debian packages".into(), news);
    let ended = system.run(options.yes, &progress).await;
    drop(progress);
    // The watcher ends with the last sender; it cannot fail but by a panic of its own.
    let _ = watcher.await;
    ended
}

async fn install_one(
    plan: Plan,
    verify: &impl AsyncFn(&Installed) -> Result<String, String>,
) -> Result<(Installed, Option<Result<String, String>>), InstallError> {
    let (progress, news) = channel(64);
    let watcher = watch(plan.language().to_owned(), news);
    let ended = plan.run(&progress).await;
    let seen = match &ended {
        Ok(installed) if !installed.verified => {
            let title = format!("start {} to see that it works", installed.kernelspec_name);
            let _ = progress.send(Progress::Step { number: 1, of: 1, title }).await;
            Some(verify(installed).await)
        }
        Ok(_) | Err(_) => None,
    };
    drop(progress);
    let _ = watcher.await;
    let mut installed = ended?;
    if let Some(Ok(_)) = seen {
        installed.mark_verified()?;
    }
    Ok((installed, seen))
}

impl Outcome {
    fn of(installed: Installed, seen: Option<Result<String, String>>) -> Self {
        let language = installed.language.clone();
        let status = match (&seen, installed.already) {
            (Some(Err(_)), _) => Status::Failed,
            (_, true) => Status::AlreadyInstalled,
            (_, false) => Status::Installed,
        };
        let message = seen.map(|seen| match seen {
            Ok(text) => text,
            Err(text) => format!("installed, but the kernel does not work: {text}"),
        });
        let hint =
            (status == Status::Failed).then(|| format!("`kernelbridge install {language} --reinstall` makes it anew"));
        Self { language, status, installed: Some(installed), seconds: 0.0, message, hint }
    }

    fn failed(language: String, error: &InstallError) -> Self {
        let status = if error.is_left_out() { Status::LeftOut } else { Status::Failed };
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self { language, status, installed: None, seconds: 0.0, message: Some(message), hint: error.hint() }
    }

    /// The packages of all languages come in one command, which is told once, at the end.
    fn without_packages(language: String, system: &System, error: &InstallError) -> Self {
        let message = Some(format!("needs the Debian packages {}", system.packages.join(" ")));
        let status = if error.is_left_out() { Status::LeftOut } else { Status::Failed };
        Self { language, status, installed: None, seconds: 0.0, message, hint: None }
    }

    /// For people, while the work goes on.
    fn line(&self) -> String {
        let Self { language, status, seconds, .. } = self;
        let mut line = match status {
            Status::Installed => format!("{language}: installed in {seconds:.1} s"),
            Status::AlreadyInstalled => format!("{language}: already installed"),
            Status::LeftOut => format!("{language}: left out"),
            Status::Failed => format!("{language}: failed"),
        };
        if let Some(message) = &self.message {
            line = format!("{line}: {message}");
        }
        if let Some(hint) = &self.hint {
            line = format!("{line}\nhint: {hint}");
        }
        line
    }
}

/// The table at the end.
fn show(outcomes: &[Outcome], out: &mut impl Write) -> io::Result<()> {
    for outcome in outcomes {
        let status = match outcome.status {
            Status::Installed => "installed",
            Status::AlreadyInstalled => "already installed",
            Status::LeftOut => "left out",
            Status::Failed => "failed",
        };
        let (name, folder) = match &outcome.installed {
            Some(installed) => (installed.kernelspec_name.as_str(), installed.kernelspec_folder.display().to_string()),
            None => ("-", "-".into()),
        };
        writeln!(out, "{:<11} {status:<18} {name:<24} {folder}", outcome.language)?;
    }
    Ok(())
}

/// Show the news: a spinner on a terminal, plain lines elsewhere (a log has no use for a spinner).
fn watch(name: String, mut news: Receiver<Progress>) -> JoinHandle<()> {
    let bar = stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {prefix}: {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_prefix(name.clone());
        bar
    });
    tokio::spawn(async move {
        let mut step = String::new();
        while let Some(one) = news.recv().await {
            let line = match one {
                Progress::Waiting { path } => format!("another process installs it; waiting for {}", path.display()),
                Progress::Step { number, of, title } => {
                    step = format!("[{number}/{of}]");
                    format!("{step} {title}")
                }
                Progress::Line(line) => {
                    if let Some(bar) = &bar {
                        bar.set_message(format!("{step} {line}"));
                    }
                    continue;
                }
            };
            match &bar {
                Some(bar) => bar.set_message(line),
                None => say!("{name}: {line}"),
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(name: &str, aliases: &str, install: &str) -> (Language, Files) {
        let text = format!(
            "name = \"{name}\"\naliases = [{aliases}]\ndisplay-name = \"x\"\nextension = \"x\"\n[kernelspec]\n\
             languages = []\n{install}"
        );
        let kernel = r#"{"argv": ["x", "{connection_file}"], "display_name": "x", "language": "x"}"#;
        (Language::parse(&text).expect("a language"), Files::from([("kernel.json".into(), kernel.into())]))
    }

    /// `sh` is there wherever the tests run, so that nothing but a kernelspec is missing.
    fn languages() -> Vec<(Language, Files)> {
        vec![
            language("python", "\"py\"", "[install]\ndebian = [\"x\"]\nprograms = [\"sh\"]"),
            language("julia", "", "[install]\nhint = \"do it yourself\""),
        ]
    }

    fn wanted(words: &[&str]) -> Wanted {
        Wanted { languages: words.iter().map(|word| (*word).to_owned()).collect(), ..Wanted::default() }
    }

    #[test]
    fn what_does_not_exist_is_answered_with_what_does() {
        let check = |words: &[&str], expected: &str| {
            assert_eq!(choose(&wanted(words), &languages()).expect_err("refused").to_string(), expected);
        };
        let exist = "can be installed: python; by hand: julia";
        check(&["pyton"], &format!("no language `pyton`; did you mean `python`?\n{exist}"));
        check(&["py", "cobol"], &format!("no language `cobol`\n{exist}"));
        check(&[], &format!("which language? {exist}\nhint: or `--all`"));
    }

    #[test]
    fn aliases_are_the_same_language() {
        let languages = languages();
        assert_eq!(choose(&wanted(&["Py", "python", "julia"]), &languages).expect("chosen").len(), 2);
        let all = Wanted { all: true, ..Wanted::default() };
        assert_eq!(choose(&all, &languages).expect("chosen").len(), 2);
    }

    #[tokio::test]
    async fn a_kernel_that_does_not_start_is_a_failure_until_it_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options::new(folder.path().join("data"), folder.path().join("jupyter"));
        let languages = languages();
        let chosen = choose(&wanted(&["python"]), &languages).expect("chosen");
        let outcome_of = async |seen: Result<&str, &str>| {
            let seen = seen.map(String::from).map_err(String::from);
            let mut outcomes = work(&chosen, &options, async |_| seen.clone()).await;
            assert_eq!(outcomes.len(), 1);
            let mut outcome = outcomes.remove(0);
            outcome.seconds = 0.0;
            outcome.line()
        };
        assert_eq!(
            outcome_of(Err("it died")).await,
            "python: failed: installed, but the kernel does not work: it died\n\
             hint: `kernelbridge install python --reinstall` makes it anew"
        );
        assert_eq!(outcome_of(Ok("Python 3")).await, "python: already installed: Python 3");
        assert_eq!(outcome_of(Err("never asked again")).await, "python: already installed");
    }

    #[tokio::test]
    async fn all_means_all_that_can_be_had_here() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = || Options::new(folder.path().join("data"), folder.path().join("jupyter"));
        let code = async |wanted: Wanted| {
            let mut out = Vec::new();
            let code = run(&wanted, &languages(), options(), async |_| Ok("fine".into()), &mut out).await;
            (code.expect("runs"), String::from_utf8(out).expect("text"))
        };
        let (ended, out) = code(Wanted { all: true, json: true, ..Wanted::default() }).await;
        let out: serde_json::Value = out.parse().expect("JSON");
        assert_eq!((ended, &out[0]["status"], &out[1]["status"]), (0, &"installed".into(), &"left-out".into()));
        assert_eq!(out[1]["hint"], "do it yourself");
        let (ended, out) = code(wanted(&["python"])).await;
        assert_eq!(ended, 0);
        assert!(out.starts_with("python      already installed  kernelbridge-python "), "{out}");
        assert_eq!(code(wanted(&["julia"])).await, (2, format!("julia       left out{:11}-{:24}-\n", "", "")));
    }
}
