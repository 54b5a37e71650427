//! `kernelbridge doctor`: which kernels were meant, what they can really do, and what to do about those that do not start.

mod orphan;
mod table;

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{
    cli::{Ending, args::DoctorArgs},
    client::ClientError,
    discover::{Discovery, Environment, Found, LanguageFolder, Languages, Support, discover, install_hint},
    doctor::{Examination, Finding, Subject, examine},
    host::runtime_for,
    provision::LaunchError,
    rpc::Cell,
};

pub use orphan::hold;

/// How many lines of a dead kernel's output are shown.
const TAIL_LINES: usize = 20;

/// Everything about one kernel.
#[derive(Debug, Serialize)]
struct Patient {
    /// The language's name; that of kernel.json where there is no language folder.
    language: String,
    kernelspec: Option<String>,
    /// The folder of its kernel.json.
    dir: Option<PathBuf>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
enum Outcome {
    Starts {
        #[serde(flatten)]
        examination: Box<Examination>,
        /// Is nothing left of it when the program that started it is killed?
        nothing_survives: Finding,
    },
    DoesNotStart {
        error: String,
        hint: String,
    },
}

impl Patient {
    fn examination(&self) -> Option<&Examination> {
        match &self.outcome {
            Outcome::Starts { examination, .. } => Some(examination),
            Outcome::DoesNotStart { .. } => None,
        }
    }

    /// It starts, plugins can run in it if there is a shim, and it leaves nothing behind.
    fn is_well(&self) -> bool {
        match &self.outcome {
            Outcome::Starts { examination, nothing_survives } => {
                let no = |finding: &Finding| matches!(finding, Finding::No { .. });
                let runs_nothing = no(&examination.pipe) && no(&examination.jupyter);
                !runs_nothing && !no(nothing_survives)
            }
            Outcome::DoesNotStart { .. } => false,
        }
    }
}

/// Examine kernels one after the other.
pub async fn doctor(args: DoctorArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let environment = Environment::capture();
    let discovery = discover(&environment);
    let languages = Languages::load(&environment, kernelspecs);
    for problem in &languages.problems {
        eprintln!("warning: {}: {}", problem.path.display(), problem.reason);
    }
    let wanted = match args.languages.as_slice() {
        [] => installed(&discovery, &languages),
        // All of them, before the first kernel starts.
        words => words.iter().map(|word| meant(word, &discovery, &languages)).collect::<anyhow::Result<_>>()?,
    };
    if wanted.is_empty() {
        bail!("no kernel of any known language is installed\nhint: run `kernelbridge install python`");
    }
    let mut patients = Vec::new();
    for wanted in wanted {
        let patient = match wanted {
            Wanted::Kernel { found, folder } => examine_one(found, folder, &languages, &environment, kernelspecs).await,
            Wanted::Missing { language, error, hint } => {
                Patient { language, kernelspec: None, dir: None, outcome: Outcome::DoesNotStart { error, hint } }
            }
        };
        if let Outcome::DoesNotStart { error, hint } = &patient.outcome {
            eprintln!("error: {error}\nhint: {hint}");
        }
        patients.push(patient);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &patients)?;
        writeln!(out)
    } else {
        write!(out, "{}", table::render(&patients))
    }
    .context("cannot write the report")?;
    Ok(if patients.iter().all(Patient::is_well) { Ending::Done } else { Ending::PluginFailed })
}

/// What a word on the command line stands for.
enum Wanted<'a> {
    Kernel { found: &'a Found, folder: Option<&'a LanguageFolder> },
    Missing { language: String, error: String, hint: String },
}

/// Every language that has a kernel here; those that have none are named on stderr.
fn installed<'a>(discovery: &'a Discovery, languages: &'a Languages) -> Vec<Wanted<'a>> {
    let (mut wanted, mut absent) = (Vec::new(), Vec::new());
    for folder in &languages.folders {
        let has = |support| !folder.kernelspecs(discovery, support).is_empty();
        if has(Support::Full) || (folder.shim_text().is_none() && has(Support::Basic)) {
            wanted.push(of_language(folder, discovery, languages));
        } else {
            absent.push(folder.language.name.as_str());
        }
    }
    if !absent.is_empty() {
        eprintln!("not installed: {}", absent.join(", "));
    }
    wanted
}

/// A language's name, a kernelspec's, or an alias of a language.
fn meant<'a>(word: &str, discovery: &'a Discovery, languages: &'a Languages) -> anyhow::Result<Wanted<'a>> {
    let language = languages.find(word);
    if let Ok(folder) = &language
        && folder.language.name == word.to_lowercase()
    {
        return Ok(of_language(folder, discovery, languages));
    }
    if let Ok(found) = discovery.find(word) {
        return Ok(of_kernelspec(found, languages));
    }
    match language {
        Ok(folder) => Ok(of_language(folder, discovery, languages)),
        Err(error) => {
            let names: Vec<_> =
                discovery.kernelspecs.iter().map(|found| format!("`{}`", found.kernelspec.name)).collect();
            bail!("{error}; nor is there a kernelspec of that name: found {}", names.join(", "))
        }
    }
}

fn of_language<'a>(folder: &'a LanguageFolder, discovery: &'a Discovery, languages: &'a Languages) -> Wanted<'a> {
    match languages.kernelspec_for(discovery, &folder.language.name) {
        Ok(found) => Wanted::Kernel { found, folder: Some(folder) },
        Err(error) => {
            let text = error.to_string();
            // The hint is a part of the text, for whoever shows nothing else.
            let (error, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
            let (error, hint) = (error.to_owned(), hint.to_owned());
            Wanted::Missing { language: folder.language.name.clone(), error, hint }
        }
    }
}

fn of_kernelspec<'a>(found: &'a Found, languages: &'a Languages) -> Wanted<'a> {
    let folder = languages.for_kernelspec(&found.kernelspec).map(|(folder, _)| folder);
    match &found.missing_program {
        None => Wanted::Kernel { found, folder },
        Some(program) => Wanted::Missing {
            language: folder.map_or(&found.kernelspec.language, |folder| &folder.language.name).clone(),
            error: format!(
                "kernelspec `{}` starts `{program}`, which is not installed: {}",
                found.kernelspec.name,
                found.dir.join("kernel.json").display()
            ),
            hint: hint(found, folder, None),
        },
    }
}

async fn examine_one(
    found: &Found,
    folder: Option<&LanguageFolder>,
    languages: &Languages,
    environment: &Environment,
    kernelspecs: &[PathBuf],
) -> Patient {
    let runtime = runtime_for(found, languages, environment);
    let busy = runtime.shim.as_ref().and(folder).and_then(busy_plugin);
    let name = found.kernelspec.name.clone();
    let language = folder.map_or(&found.kernelspec.language, |folder| &folder.language.name).clone();
    let say = |what: &str| eprintln!("{language}: {what}");
    let examination = examine(&Subject { runtime, busy }, say).await;
    let outcome = match examination {
        Ok(examination) => {
            say("killing the program that started it");
            let nothing_survives = orphan::nothing_survives(&name, kernelspecs).await;
            Outcome::Starts { examination: Box::new(examination), nothing_survives }
        }
        Err(error) => Outcome::DoesNotStart { error: shortened(&error), hint: hint(found, folder, Some(&error)) },
    };
    Patient { language, kernelspec: Some(name), dir: Some(found.dir.clone()), outcome }
}

/// The folder's conformance plugin, which exports `busy`.
fn busy_plugin(folder: &LanguageFolder) -> Option<Cell> {
    let name = format!("plugin.{}", folder.language.extension);
    let bytes = folder.file(&format!("conformance/{name}")).ok()?;
    Some(Cell { name, source: String::from_utf8(bytes.into_owned()).ok()? })
}

/// The error with the end of the kernel's output, which is where the reason is.
fn shortened(error: &ClientError) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    let Some((head, tail)) = lines.split_first().filter(|(_, tail)| !tail.is_empty()) else {
        return text.trim_end_matches('\n').to_owned();
    };
    let shown = &tail[tail.len().saturating_sub(TAIL_LINES)..];
    let cut = if shown.len() < tail.len() { "    ...\n" } else { "" };
    let shown = shown.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
    format!("{head}\n{cut}{shown}")
}

/// What to do about a kernel that does not start.
fn hint(found: &Found, folder: Option<&LanguageFolder>, error: Option<&ClientError>) -> String {
    let file = found.dir.join("kernel.json");
    let program = found.kernelspec.argv.first().cloned().unwrap_or_default();
    let install = folder
        .filter(|folder| folder.language.is_installable())
        .map(|folder| format!("`kernelbridge install {}` brings a kernel of its own", folder.language.name));
    let instead = install.as_ref().map(|install| format!("; or {install}")).unwrap_or_default();
    match error {
        Some(ClientError::DiedAtLaunch { output_tail, .. }) => match missing_package(output_tail) {
            Some(package) => format!("`{program}` does not find the package `{package}`: install it there{instead}"),
            None => format!("the last lines above say why; what was started is in {}{instead}", file.display()),
        },
        Some(ClientError::Launch(LaunchError::Program { .. })) | None => match (install, folder) {
            (Some(_), Some(folder)) => install_hint(&folder.language),
            _ => format!("install `{program}`, or correct or remove {}", file.display()),
        },
        Some(_) => format!(
            "start it by hand to see what it waits for: `jupyter console --kernel {}`{instead}",
            found.kernelspec.name
        ),
    }
}

/// The package that the kernel's last output says is missing.
fn missing_package(tail: &str) -> Option<String> {
    // Python; R, with typographic quotes or plain ones; Node; Lua.
    let beginnings = ["No module named ", "there is no package called ", "Cannot find module ", "module "];
    tail.lines().rev().find_map(|line| {
        let rest = beginnings.iter().find_map(|beginning| Some(line.split_once(beginning)?.1))?;
        let name = rest.trim_start_matches(['\'', '"', '`', '\u{2018}']);
        let end = name.find(['\'', '"', '`', '\u{2019}', ' ']).unwrap_or(name.len());
        let quoted = name.len() < rest.len() || rest.trim_end() == &name[..end];
        (quoted && end > 0).then(|| name[..end].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_found_in_what_a_kernel_said_last() {
        let check = |tail: &str, package: Option<&str>| assert_eq!(missing_package(tail).as_deref(), package, "{tail}");
        check("Traceback:\nModuleNotFoundError: No module named 'ipykernel'", Some("ipykernel"));
        check("/usr/bin/python3: No module named bash_kernel", Some("bash_kernel"));
        check("Error in loadNamespace(x) : there is no package called \u{2018}IRkernel\u{2019}", Some("IRkernel"));
        check("Error: Cannot find module 'zeromq'\nRequire stack:", Some("zeromq"));
        check("lua: module 'json' not found:", Some("json"));
        check("the module said nothing of use", None);
        check("Segmentation fault", None);
    }
}
