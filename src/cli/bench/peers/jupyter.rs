//! Peer: jupyter_client, Jupyter's own client in Python, which times itself.

use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    sync::Mutex,
};

use super::{Kit, python::ready};
use crate::cli::bench::system::{Doing, Measure, System};

/// One of its ways to send a record and get the answer; all share one kernel.
pub(in crate::cli::bench) struct Jupyter {
    what: &'static str,
    peer: std::sync::Arc<Mutex<Peer>>,
}

struct Peer {
    child: Child,
    sink: Option<ChildStdin>,
    source: BufReader<ChildStdout>,
}

impl Jupyter {
    pub async fn start(kit: &Kit) -> anyhow::Result<Vec<Box<dyn System>>> {
        let mut child = kit.command("jupyter_peer.py").stderr(Stdio::inherit()).spawn()?;
        let sink = child.stdin.take();
        let source = ready(&mut child, "ready").await?;
        let peer = std::sync::Arc::new(Mutex::new(Peer { child, sink, source }));
        let ways = ["execute", "comm", "stdin"].into_iter().map(|what| {
            let system: Box<dyn System> = Box::new(Self { what, peer: peer.clone() });
            system
        });
        Ok(ways.collect())
    }
}

impl System for Jupyter {
    fn name(&self) -> String {
        format!("jupyter_client {}", self.what)
    }

    fn measures(&self) -> Vec<Measure> {
        vec![Measure::Unary]
    }

    fn run(&mut self, _: Measure, count: usize) -> Doing<'_, Vec<f64>> {
        Box::pin(async move {
            let mut peer = self.peer.lock().await;
            let order = json!({ "what": self.what, "count": count });
            peer.sink.as_mut().context("it has ended")?.write_all(format!("{order}\n").as_bytes()).await?;
            let mut line = String::new();
            ensure!(peer.source.read_line(&mut line).await? > 0, "jupyter_client's program has ended");
            Ok(serde_json::from_str(&line)?)
        })
    }

    fn stop(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move {
            let mut peer = self.peer.lock().await;
            // The end of its input ends it, and its kernel with it.
            if peer.sink.take().is_some() {
                peer.child.wait().await?;
            }
            Ok(())
        })
    }
}
