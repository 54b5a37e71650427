//! Peer: gRPC over a unix socket, a tonic host with a plugin in Python by grpcio (`benches/peers/bench.proto`).

use std::{process::Stdio, time::Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{process::Child, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Kit,
    messages::{Batch, Chunk, Message, Number},
    python::{end, ready},
    rpc::{Calls, HostService, next},
};
use crate::cli::bench::{
    record::{Record, check_all, check_sum, floats},
    system::{Doing, Measure, System, WINDOW, shared, timed},
};

/// Bytes in a message of a stream of floats.
const CHUNK_BYTES: usize = 1 << 20;

/// One plugin, and how it is called.
pub(in crate::cli::bench) struct Grpc {
    /// `sync` (threads) or `aio` (asyncio).
    kind: &'static str,
    calls: Calls,
    /// Where one call carries everything.
    stream: Option<(mpsc::Sender<Batch>, Streaming<Batch>)>,
    child: Child,
    host: JoinHandle<()>,
    /// An Arrow stream and the right answer, made by `scripts/bench`.
    tables: Option<(Vec<u8>, Vec<u8>)>,
    _dir: tempfile::TempDir,
}

impl Grpc {
    pub async fn start(kit: &Kit, kind: &'static str, is_stream: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (socket, host_socket) = (dir.path().join("plugin"), dir.path().join("host"));
        let service = HostService::default();
        let host = service.serve(&host_socket)?;
        let mut command = kit.command("grpc_plugin.py");
        command.arg(kind).arg(&socket).arg(&host_socket).stdin(Stdio::null());
        let mut child = command.spawn()?;
        ready(&mut child, "ready").await?;
        let mut calls = Calls::connect(&socket).await?;
        // Set once, here.
        let _ = service.plugin.set(calls.clone());
        let stream = if is_stream {
            let (sender, receiver) = mpsc::channel(WINDOW);
            let mut stream =
                calls.stream("/kernelbridge.bench.v1.Processor/Stream", ReceiverStream::new(receiver)).await?;
            next::<Batch>(&mut stream).await?;
            Some((sender, stream))
        } else {
            None
        };
        let tables = kit.file("records.arrow").ok().zip(kit.file("answers.arrow").ok());
        let mut grpc = Self { kind, calls, stream, child, host, tables, _dir: dir };
        grpc.run(Measure::Unary, 1).await?;
        Ok(grpc)
    }

    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    async fn process(&mut self, batch: Batch) -> anyhow::Result<Batch> {
        match &mut self.stream {
            Some((sender, stream)) => {
                sender.send(batch).await.context("the stream has ended")?;
                next(stream).await
            }
            None => self.calls.unary("/kernelbridge.bench.v1.Processor/Process", batch).await,
        }
    }

    async fn window(&mut self, count: usize) -> anyhow::Result<Vec<f64>> {
        let records = Record::many(count);
        let began = Instant::now();
        if let Some((sender, stream)) = &mut self.stream {
            let mut sent = 0;
            for record in &records {
                while sent < count && sent as u64 <= record.id + WINDOW as u64 {
                    sender.send(one(&records[sent])?).await.context("the stream has ended")?;
                    sent += 1;
                }
                record.check(&first(&next(stream).await?)?)?;
            }
            return Ok(shared(began, count));
        }
        let mut left = records.iter();
        let call = |record| {
            let mut calls = self.calls.clone();
            async move {
                let answer = calls.unary("/kernelbridge.bench.v1.Processor/Process", one(record)?).await?;
                record.check(&first(&answer)?)
            }
        };
        let mut flying: FuturesUnordered<_> = left.by_ref().take(WINDOW).map(call).collect();
        while let Some(result) = flying.next().await {
            result?;
            flying.extend(left.next().map(call));
        }
        Ok(shared(began, count))
    }

    async fn floats(&mut self, bytes: &[u8]) -> anyhow::Result<f64> {
        let number: Number = if self.stream.is_some() {
            let chunks: Vec<Chunk> = bytes.chunks(CHUNK_BYTES).map(|data| Chunk { data: data.to_vec() }).collect();
            let path = "/kernelbridge.bench.v1.Processor/TotalOfChunks";
            self.calls.client_stream(path, futures_util::stream::iter(chunks)).await?
        } else {
            let chunk = Chunk { data: bytes.to_vec() };
            self.calls.unary("/kernelbridge.bench.v1.Processor/Total", chunk).await?
        };
        Ok(number.value)
    }
}

impl System for Grpc {
    fn name(&self) -> String {
        let stream = if self.stream.is_some() { ", stream" } else { "" };
        format!("gRPC {}{stream}", self.kind)
    }

    fn measures(&self) -> Vec<Measure> {
        let mut measures = vec![Measure::Unary, Measure::Window, Measure::Floats(10), Measure::Floats(100)];
        if self.stream.is_none() {
            measures.extend([1, 10, 100, 1000].map(Measure::Batch));
            measures.extend([1, 10, 100, 1000].map(Measure::Messages));
            measures.extend([1, 10, 50].map(Measure::Nest));
            measures.extend([Measure::Nested, Measure::HostCall]);
            measures.extend(self.tables.is_some().then_some(Measure::Arrow(1000)));
        }
        measures
    }

    fn run(&mut self, measure: Measure, count: usize) -> Doing<'_, Vec<f64>> {
        Box::pin(async move {
            match measure {
                Measure::Unary => {
                    let record = Record::new(7);
                    timed!(count, record.check(&first(&self.process(one(&record)?).await?)?)?)
                }
                Measure::Batch(size) => {
                    let records = Record::many(size);
                    timed!(count, {
                        let answer = self.process(message(serde_json::to_vec(&records)?)).await?;
                        check_all(&records, &read::<Vec<_>>(&answer)?)?
                    })
                }
                Measure::Messages(size) => {
                    let records = Record::many(size);
                    timed!(count, {
                        let messages = records.iter().map(body).collect::<anyhow::Result<_>>()?;
                        let answer = self.process(Batch { messages }).await?;
                        let answers = answer.messages.iter().map(|it| Ok(serde_json::from_slice(&it.body)?));
                        check_all(&records, &answers.collect::<anyhow::Result<Vec<_>>>()?)?
                    })
                }
                Measure::Window => self.window(count).await,
                Measure::Nested => {
                    let record = Record::new(7);
                    timed!(count, {
                        let path = "/kernelbridge.bench.v1.Processor/Nested";
                        record.check(&first(&self.calls.unary(path, one(&record)?).await?)?)?
                    })
                }
                Measure::HostCall => {
                    let began = Instant::now();
                    let asked = Number { value: count as f64 };
                    let made: Number = self.calls.unary("/kernelbridge.bench.v1.Processor/Calls", asked).await?;
                    ensure!(made.value == count as f64, "{} calls instead of {count}", made.value);
                    Ok(shared(began, count))
                }
                Measure::Nest(depth) => {
                    timed!(count, {
                        let asked = Number { value: depth as f64 };
                        let path = "/kernelbridge.bench.v1.Processor/Nest";
                        let reached: Number = self.calls.unary(path, asked).await?;
                        ensure!(reached.value == depth as f64, "nested {} deep", reached.value);
                    })
                }
                Measure::Floats(megabytes) => {
                    let (bytes, sum) = floats(megabytes);
                    timed!(count, check_sum(sum, self.floats(&bytes).await?)?)
                }
                Measure::Arrow(_) => {
                    let (table, expected) = self.tables.clone().context("no table")?;
                    timed!(count, {
                        let chunk = Chunk { data: table.clone() };
                        let answer: Chunk = self.calls.unary("/kernelbridge.bench.v1.Processor/Table", chunk).await?;
                        ensure!(answer.data == expected, "a wrong table");
                    })
                }
                other => bail!("gRPC does not do {}", other.name()),
            }
        })
    }

    fn stop(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move {
            end(self.child).await;
            self.host.abort();
            Ok(())
        })
    }
}

fn body(record: &Record) -> anyhow::Result<Message> {
    Ok(Message { body: serde_json::to_vec(record)?, ..Message::default() })
}

fn message(body: Vec<u8>) -> Batch {
    Batch { messages: vec![Message { body, ..Message::default() }] }
}

/// A batch of one record.
fn one(record: &Record) -> anyhow::Result<Batch> {
    Ok(message(serde_json::to_vec(record)?))
}

fn first(batch: &Batch) -> anyhow::Result<Record> {
    read(batch)
}

/// The first message's body.
fn read<T: serde::de::DeserializeOwned>(batch: &Batch) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(&batch.messages.first().context("an empty batch")?.body)?)
}
