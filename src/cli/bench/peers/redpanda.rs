//! Peer: the real `redpanda-connect` SDK from PyPI, driven by a tonic host as Redpanda Connect drives it.

use std::{process::Stdio, time::Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::process::Child;

use super::{
    Kit,
    messages::redpanda::{
        InitRequest, InitResponse, Message, MessageBatch, ProcessBatchRequest, ProcessBatchResponse, Value,
    },
    python::{end, ready},
    rpc::Calls,
};
use crate::cli::bench::{
    record::{Record, check_all, check_sum, floats},
    system::{Doing, Measure, System, WINDOW, shared, timed},
};

const INIT: &str = "/redpanda.runtime.v1alpha1.BatchProcessorService/Init";
const PROCESS_BATCH: &str = "/redpanda.runtime.v1alpha1.BatchProcessorService/ProcessBatch";

pub(in crate::cli::bench) struct Redpanda {
    calls: Calls,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Redpanda {
    pub const NAME: &str = "Redpanda SDK";

    pub async fn start(kit: &Kit) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("plugin");
        let mut command = kit.command("redpanda_plugin.py");
        command.env("REDPANDA_CONNECT_PLUGIN_VERSION", "1").stdin(Stdio::null());
        command.env("REDPANDA_CONNECT_PLUGIN_ADDRESS", format!("unix:{}", socket.display()));
        let mut child = command.spawn()?;
        ready(&mut child, "Successfully loaded Redpanda Connect RPC plugin").await?;
        let mut calls = Calls::connect(&socket).await?;
        let config = Some(Value { null_value: Some(0) });
        let response: InitResponse = calls.unary(INIT, InitRequest { config }).await?;
        if let Some(error) = response.error {
            bail!("the SDK does not start: {}", error.message);
        }
        let mut redpanda = Self { calls, child, _dir: dir };
        redpanda.run(Measure::Unary, 1).await?;
        Ok(redpanda)
    }

    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    async fn window(&mut self, count: usize) -> anyhow::Result<Vec<f64>> {
        let records = Record::many(count);
        let began = Instant::now();
        let mut left = records.iter();
        let call = |record| {
            let mut calls = self.calls.clone();
            async move { unary(&mut calls, record).await }
        };
        let mut flying: FuturesUnordered<_> = left.by_ref().take(WINDOW).map(call).collect();
        while let Some(result) = flying.next().await {
            result?;
            flying.extend(left.next().map(call));
        }
        Ok(shared(began, count))
    }
}

impl System for Redpanda {
    fn name(&self) -> String {
        Self::NAME.into()
    }

    fn measures(&self) -> Vec<Measure> {
        let mut measures = vec![Measure::Unary, Measure::Window, Measure::Floats(10), Measure::Floats(100)];
        measures.extend([1, 10, 100, 1000].map(Measure::Batch));
        measures.extend([1, 10, 100, 1000].map(Measure::Messages));
        measures
    }

    fn run(&mut self, measure: Measure, count: usize) -> Doing<'_, Vec<f64>> {
        Box::pin(async move {
            match measure {
                Measure::Unary => {
                    let record = Record::new(7);
                    timed!(count, unary(&mut self.calls, &record).await?)
                }
                Measure::Batch(size) => {
                    let records = Record::many(size);
                    timed!(count, {
                        let answers = process(&mut self.calls, vec![serde_json::to_vec(&records)?]).await?;
                        check_all(&records, &serde_json::from_slice::<Vec<_>>(&answers[0])?)?
                    })
                }
                Measure::Messages(size) => {
                    let records = Record::many(size);
                    timed!(count, {
                        let bodies = records.iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
                        let answers = process(&mut self.calls, bodies).await?;
                        let answers = answers.iter().map(|body| serde_json::from_slice(body));
                        check_all(&records, &answers.collect::<Result<Vec<_>, _>>()?)?
                    })
                }
                Measure::Window => self.window(count).await,
                Measure::Floats(megabytes) => {
                    let (bytes, sum) = floats(megabytes);
                    timed!(count, {
                        let answers = process(&mut self.calls, vec![bytes.clone()]).await?;
                        check_sum(sum, serde_json::from_slice(&answers[0])?)?
                    })
                }
                other => bail!("the Redpanda SDK does not do {}", other.name()),
            }
        })
    }

    fn stop(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move {
            end(self.child).await;
            Ok(())
        })
    }
}

async fn unary(calls: &mut Calls, record: &Record) -> anyhow::Result<()> {
    let answers = process(calls, vec![serde_json::to_vec(record)?]).await?;
    record.check(&serde_json::from_slice(&answers[0])?)
}

/// One batch in, one batch out; never empty.
async fn process(calls: &mut Calls, bodies: Vec<Vec<u8>>) -> anyhow::Result<Vec<Vec<u8>>> {
    let messages = bodies.into_iter().map(|bytes| Message { bytes: Some(bytes) }).collect();
    let request = ProcessBatchRequest { batch: Some(MessageBatch { messages }) };
    let response: ProcessBatchResponse = calls.unary(PROCESS_BATCH, request).await?;
    if let Some(error) = response.error {
        bail!("the SDK failed: {}", error.message);
    }
    let batch = response.batches.into_iter().next().context("no batch in the answer")?;
    let bodies: Vec<_> = batch.messages.into_iter().map(|message| message.bytes.unwrap_or_default()).collect();
    anyhow::ensure!(!bodies.is_empty(), "an empty batch in the answer");
    Ok(bodies)
}
