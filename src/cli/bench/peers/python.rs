//! Where the peers' Python is, and its processes.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::discover::Environment;

/// How long a peer may take to start.
const STARTUP: Duration = Duration::from_secs(60);

/// What `scripts/bench` has set up.
#[derive(Debug, Clone)]
pub(in crate::cli::bench) struct Kit {
    data: PathBuf,
}

impl Kit {
    /// The folder where `scripts/bench` has put everything.
    pub fn new(data: PathBuf) -> anyhow::Result<Self> {
        let kit = Self { data };
        ensure!(
            kit.python().is_file(),
            "no Python of the peers in {}\nhint: run `scripts/bench`, which sets it up",
            kit.data.display()
        );
        Ok(kit)
    }

    pub fn python(&self) -> PathBuf {
        self.data.join("python/bin/python")
    }

    /// A program of `benches/peers`.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new(self.python());
        let generated = self.data.join("generated");
        command.arg("-u").arg(sources().join("peers").join(script)).env("PYTHONPATH", generated);
        command.env("JUPYTER_PATH", self.data.join("jupyter")).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Is this package there? The Redpanda SDK is for Python 3.12 and later.
    pub fn has(&self, package: &str) -> bool {
        let code = format!("import {package}");
        let status = std::process::Command::new(self.python()).args(["-c", &code]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// Kernels of the peers' Python are found before all others.
    pub fn environment(&self) -> Environment {
        Environment::capture().with_kernels_in(self.data.join("jupyter/kernels"))
    }

    /// Has `scripts/bench` registered the peers' Python as a kernel?
    pub fn environment_has_kernel(&self) -> bool {
        self.data.join("jupyter/kernels").join(Self::KERNELSPEC).join("kernel.json").is_file()
    }

    /// The kernelspec of the peers' Python.
    pub const KERNELSPEC: &str = "kernelbridge-bench";

    /// A file that `scripts/bench` has made.
    pub fn file(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.data.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// `benches/`, in the source tree that this was built from.
pub(in crate::cli::bench) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
}

/// Wait for the line that says that it serves.
pub(super) async fn ready(child: &mut Child, line: &str) -> anyhow::Result<BufReader<ChildStdout>> {
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut stdout = BufReader::new(stdout);
    let mut text = String::new();
    timeout(STARTUP, stdout.read_line(&mut text)).await.context("the peer did not start in time")??;
    if !text.trim_end().contains(line) {
        bail!("the peer did not start: it said {text:?}, not `{line}`");
    }
    Ok(stdout)
}

/// Kill it, and wait for its end.
pub(super) async fn end(mut child: Child) {
    // It may have ended by itself.
    let _ = child.kill().await;
}
