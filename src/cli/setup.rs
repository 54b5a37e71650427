//! `kernelbridge install`, with the verification that only a running kernel gives.

use std::{
    collections::BTreeMap,
    io::stdout,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cli::{Ending, args::InstallArgs, install},
    client::{KernelClient, LaunchOptions},
    discover::{Environment, LanguageFolder, Languages, discover},
    host::runtime_for,
    install::{Files, Installed},
    language::Language,
    plugin::launch_options,
};

/// How long a kernel may take to start for the first time; Octave compiles fonts, R reads a cold disk.
const STARTUP: Duration = Duration::from_secs(120);
/// How long it gets to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Install languages.
pub async fn install(args: InstallArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let InstallArgs { languages, all, yes, reinstall, json } = args;
    let wanted = install::Wanted { languages, all, yes, json, reinstall };
    let environment = Environment::capture();
    let folders = Languages::load(&environment, kernelspecs);
    for problem in &folders.problems {
        eprintln!("warning: {}: {}", problem.path.display(), problem.reason);
    }
    let known: Vec<(Language, Files)> =
        folders.folders.iter().map(|folder| (folder.language.clone(), files(folder))).collect();
    let verify = async |installed: &Installed| verify(installed, &environment, &folders).await;
    let status = install::run(&wanted, &known, install::options()?, verify, &mut stdout()).await?;
    if status == 0 { Ok(Ending::Done) } else { anyhow::bail!("not everything was installed") }
}

/// The recipe's files of a language folder.
fn files(folder: &LanguageFolder) -> Files {
    let names = ["kernel.json", "requirements.txt", "package.json", "package-lock.json"];
    let text = |name: &str| String::from_utf8(folder.file(name).ok()?.into_owned()).ok();
    let files: BTreeMap<String, String> =
        names.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?))).collect();
    files.into_iter().collect()
}

/// Start the kernel once.
async fn verify(installed: &Installed, environment: &Environment, languages: &Languages) -> Result<String, String> {
    let folder = Path::new(&installed.kernelspec_folder);
    // Registered where Jupyter looks; found even if another one hides it.
    let discovery = discover(environment);
    let hidden = discovery.shadowed.iter().map(|shadowed| &shadowed.found);
    let found = discovery.kernelspecs.iter().chain(hidden).find(|found| found.dir == folder);
    let found = found.ok_or_else(|| format!("{} is not among the folders that Jupyter searches", folder.display()))?;
    let options =
        LaunchOptions { startup: STARTUP, ..launch_options(&runtime_for(found, languages, environment), None) };
    let client = KernelClient::launch(options).await.map_err(|error| error.to_string())?;
    let info = client.info();
    let seen = format!("{} {} answers", info.implementation, info.implementation_version);
    client.shutdown(GRACE).await;
    Ok(seen)
}
