//! Peer: bytes over a unix socket, there and back. The floor that nothing can go below.
//!
//! A frame is its length in four bytes, little endian, and the body.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream as Blocking,
    path::Path,
    process::Stdio,
};

use anyhow::{bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
};

use super::{Kit, python::end};
use crate::cli::bench::{
    record::Record,
    system::{Doing, Measure, System, timed},
};

/// Who is on the other side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cli::bench) enum Raw {
    /// This program, sending back what came.
    RustEcho,
    /// Python, sending back what came.
    PythonEcho,
    /// Python, with the handler.
    PythonWork,
}

struct Socket {
    raw: Raw,
    child: Child,
    source: BufReader<OwnedReadHalf>,
    sink: OwnedWriteHalf,
    frame: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Raw {
    pub fn name(self) -> &'static str {
        match self {
            Self::RustEcho => "unix socket, Rust echo",
            Self::PythonEcho => "unix socket, Python echo",
            Self::PythonWork => "unix socket, Python handler",
        }
    }

    pub async fn start(self, kit: &Kit) -> anyhow::Result<Box<dyn System>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let mut command = match self {
            Self::RustEcho => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["bench", "--worker", "echo", "--socket"]).arg(&path);
                command
            }
            Self::PythonEcho | Self::PythonWork => {
                let mut command = kit.command("socket_echo.py");
                command.arg(&path).arg(if self == Self::PythonEcho { "echo" } else { "work" });
                command
            }
        };
        let child = command.kill_on_drop(true).stdin(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
        let (stream, _) = listener.accept().await?;
        let (source, sink) = stream.into_split();
        let source = BufReader::new(source);
        Ok(Box::new(Socket { raw: self, child, source, sink, frame: Vec::new(), _dir: dir }))
    }
}

impl Socket {
    async fn exchange(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.frame.clear();
        self.frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.frame.extend_from_slice(body);
        self.sink.write_all(&self.frame).await?;
        let size = self.source.read_u32_le().await? as usize;
        self.frame.resize(size, 0);
        self.source.read_exact(&mut self.frame).await?;
        Ok(())
    }

    async fn unary(&mut self, record: &Record) -> anyhow::Result<()> {
        let body = serde_json::to_vec(record)?;
        self.exchange(&body).await?;
        if self.raw == Raw::PythonWork {
            record.check(&serde_json::from_slice(&self.frame)?)
        } else {
            ensure!(self.frame == body, "not an echo");
            Ok(())
        }
    }
}

impl System for Socket {
    fn name(&self) -> String {
        self.raw.name().into()
    }

    fn measures(&self) -> Vec<Measure> {
        vec![Measure::Unary]
    }

    fn run(&mut self, measure: Measure, count: usize) -> Doing<'_, Vec<f64>> {
        Box::pin(async move {
            let Measure::Unary = measure else { bail!("a raw socket does not do {}", measure.name()) };
            let record = Record::new(7);
            timed!(count, self.unary(&record).await?)
        })
    }

    fn stop(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move {
            end(self.child).await;
            Ok(())
        })
    }
}

/// The other side in Rust, blocking: send back what comes until nothing comes.
pub(in crate::cli::bench) fn echo(path: &Path) -> anyhow::Result<()> {
    let mut stream = Blocking::connect(path)?;
    let mut frame = vec![0; 64 * 1024];
    loop {
        let size = stream.read(&mut frame)?;
        if size == 0 {
            return Ok(());
        }
        stream.write_all(&frame[..size])?;
    }
}
