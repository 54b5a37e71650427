//! `kernelbridge kernel`: what Jupyter starts for a notebook with `bridge` in it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    cli::{Ending, args::KernelArgs},
    connection::ConnectionInfo,
    discover::{Discovery, Environment, Found, Languages, discover},
    host::{manifest_at, runtime_for},
    relay::{Relay, RelayOptions},
};

/// How often it is looked whether Jupyter is still there.
const PARENT: Duration = Duration::from_secs(1);
/// What lies beside a plugin's notebook.
const MANIFEST: &str = "plugin.toml";
/// How long the stock kernel may take; Jupyter gives up after a minute.
const STARTUP: Duration = Duration::from_secs(55);

/// Be a kernel, until a frontend or the stock kernel ends it.
pub async fn kernel(args: KernelArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let KernelArgs { language, kernel, plugins, connect, connection_file } = args;
    let connection = read(&connection_file)?;
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, kernelspecs));
    let found = stock(&discovery, &languages, &language, kernel.as_deref())?;
    let env = environment.vars().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    // Before the kernel, which takes its time: Jupyter may have thought better of it.
    let orphaned = orphaned();
    tokio::pin!(orphaned);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let starting = Relay::start(RelayOptions {
        connection,
        runtime: runtime_for(found, &languages, &environment),
        plugins,
        kernelspecs: kernelspecs.to_vec(),
        config: config(Path::new(MANIFEST)),
        env,
        startup: STARTUP,
    });
    let mut relay = tokio::select! {
        relay = starting => relay?,
        _ = terminate.recv() => return Ok(Ending::Done),
        _ = hangup.recv() => return Ok(Ending::Done),
        () = &mut orphaned => return Ok(Ending::Done),
    };
    if let Some(host) = connect {
        relay.attach(host);
    }
    loop {
        tokio::select! {
            reason = relay.ended() => {
                tracing::info!(reason, "the stock kernel has ended");
                break;
            }
            _ = interrupt.recv() => relay.interrupt().await,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            () = &mut orphaned => break,
        }
    }
    relay.shutdown().await;
    Ok(Ending::Done)
}

/// Returns when Jupyter, which has started us and says so, is no more: a kernel that nobody can end would stay for ever.
async fn orphaned() {
    let parent = nix::unistd::getppid();
    let said = std::env::var("JPY_PARENT_PID").ok().and_then(|id| id.parse().ok());
    if said != Some(parent.as_raw()) {
        return std::future::pending().await;
    }
    while nix::unistd::getppid() == parent {
        sleep(PARENT).await;
    }
}

/// Of the manifest beside the notebook, where Jupyter starts us.
fn config(manifest: &Path) -> serde_json::Map<String, serde_json::Value> {
    if !manifest.is_file() {
        return serde_json::Map::new();
    }
    match manifest_at(manifest) {
        Ok(manifest) => manifest.config,
        Err(error) => {
            tracing::warn!(%error, "the notebook has no configuration");
            serde_json::Map::new()
        }
    }
}

/// A connection file.
pub fn read(file: &Path) -> anyhow::Result<ConnectionInfo> {
    let text = std::fs::read(file).with_context(|| format!("cannot read the connection file {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no connection file", file.display()))
}

/// The kernelspec that runs behind a notebook of this language.
pub fn stock<'a>(
    discovery: &'a Discovery,
    languages: &Languages,
    language: &str,
    kernel: Option<&str>,
) -> anyhow::Result<&'a Found> {
    let folder = languages.find(language)?;
    let name = &folder.language.display_name;
    if !folder.language.shim.as_ref().is_some_and(|shim| shim.cells) {
        let able =
            languages.folders.iter().filter(|folder| folder.language.shim.as_ref().is_some_and(|shim| shim.cells));
        let able: Vec<&str> = able.map(|folder| &*folder.language.name).collect();
        bail!(
            "{name} has no notebook kernel: cells could not call the host there; these languages have one: {}",
            able.join(", ")
        );
    }
    let found = match kernel {
        Some(kernel) => discovery.find(kernel)?,
        None => languages.kernelspec_for(discovery, language)?,
    };
    match folder.support(&found.kernelspec) {
        Some(crate::discover::Support::Full) => Ok(found),
        _ => bail!(
            "kernelspec `{}` is none that {name} notebooks can run on: its `argv` starts something else than {}",
            found.kernelspec.name,
            folder.language.kernelspec.argv.join(" or ")
        ),
    }
}
