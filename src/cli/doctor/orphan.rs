//! What is left of a kernel when the program that started it is killed.
//!
//! The program is this one, started anew with a hidden command that starts the kernel and then does nothing.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    cli::Ending,
    client::KernelClient,
    discover::{Environment, Languages, discover},
    doctor::Finding,
    host::runtime_for,
    plugin::launch_options,
    provision::processes_of,
};

/// How long the kernel may take to start.
const STARTUP: Duration = Duration::from_secs(90);
/// How long its processes may outlive the program.
const GONE: Duration = Duration::from_secs(3);
/// How often they are looked for.
const POLL: Duration = Duration::from_millis(50);

/// What the held program says of its kernel.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    folder: PathBuf,
    processes: Vec<u32>,
}

/// Start a kernel, say where it is, and wait to be killed.
pub async fn hold(kernelspec: &str, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    let environment = Environment::capture();
    let discovery = discover(&environment);
    let found = discovery.find(kernelspec)?;
    let languages = Languages::load(&environment, kernelspecs);
    let client = KernelClient::launch(launch_options(&runtime_for(found, &languages, &environment), None)).await?;
    let held = Held { folder: client.folder().to_owned(), processes: client.process().tree() };
    println!("{}", serde_json::to_string(&held)?);
    std::future::pending().await
}

/// Have a kernel started, kill the program that started it, and see what is left.
pub async fn nothing_survives(kernelspec: &str, kernelspecs: &[PathBuf]) -> Finding {
    let held = match timeout(STARTUP, killed(kernelspec, kernelspecs)).await {
        Ok(Ok(held)) => held,
        Ok(Err(error)) => return Finding::unknown(format!("{error:#}")),
        Err(_) => return Finding::unknown(format!("the kernel did not start within {STARTUP:?}")),
    };
    let began = Instant::now();
    loop {
        let left = processes_of(&held.folder);
        if left.is_empty() && !held.folder.exists() {
            return Finding::took(began.elapsed());
        }
        if began.elapsed() > GONE {
            return clean_up(&held.folder, &left);
        }
        sleep(POLL).await;
    }
}

async fn killed(kernelspec: &str, kernelspecs: &[PathBuf]) -> anyhow::Result<Held> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::new(program);
    for dir in kernelspecs {
        // It starts in another folder.
        command.arg("--kernelspecs").arg(std::path::absolute(dir).context("cannot tell where we are")?);
    }
    // Octave leaves a file where it was when it is killed.
    let desk = tempfile::tempdir().context("cannot make a folder")?;
    command.current_dir(desk.path());
    command.args(["hold-kernel", kernelspec]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start this program anew")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).await.context("cannot read what it says")?;
    }
    let held = serde_json::from_str(&line).context("the kernel did not start a second time")?;
    child.kill().await.context("cannot kill it")?;
    Ok(held)
}

/// The doctor leaves nothing behind either.
fn clean_up(folder: &Path, left: &[u32]) -> Finding {
    for pid in left.iter().filter_map(|&pid| i32::try_from(pid).ok()) {
        // One that has ended meanwhile is fine.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    if left.is_empty() {
        return Finding::no(format!("the folder {} was left", folder.display()));
    }
    Finding::no(format!("{} processes were left after {GONE:?}", left.len()))
}
