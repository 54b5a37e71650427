//! Peer: JSON lines over a subprocess's pipes. What everybody's plugin could cost at best.

use std::{process::Stdio, time::Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{json, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
};

use super::{Kit, python::end};
use crate::cli::bench::{
    record::{Record, check_all, check_sum, floats},
    system::{Doing, Measure, System, WINDOW, shared, timed},
};

pub(in crate::cli::bench) struct Lines {
    child: Child,
    sink: ChildStdin,
    source: BufReader<ChildStdout>,
    line: Vec<u8>,
    text: Vec<u8>,
    next: u64,
}

#[derive(Serialize)]
struct Request<'a, T> {
    id: u64,
    method: &'a str,
    params: T,
}

/// An answer, or a request of the plugin's.
#[derive(Deserialize)]
struct Answer<'a> {
    id: u64,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

impl Lines {
    pub const NAME: &str = "JSON lines over pipes";

    pub async fn start(kit: &Kit) -> anyhow::Result<Self> {
        let mut child = kit.command("lines.py").stderr(Stdio::inherit()).spawn()?;
        let sink = child.stdin.take().context("stdin is piped")?;
        let source = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut lines = Self { child, sink, source, line: Vec::new(), text: Vec::new(), next: 0 };
        lines.unary(&Record::new(1)).await?;
        Ok(lines)
    }

    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Put a request into the buffer.
    fn push(&mut self, method: &str, params: impl Serialize) -> anyhow::Result<u64> {
        self.next += 1;
        serde_json::to_writer(&mut self.text, &Request { id: self.next, method, params })?;
        self.text.push(b'\n');
        Ok(self.next)
    }

    /// Write the buffer.
    async fn flush(&mut self) -> anyhow::Result<()> {
        self.sink.write_all(&self.text).await?;
        self.text.clear();
        Ok(())
    }

    /// The answer to request `id`, serving what the plugin asks meanwhile.
    async fn answer<T: DeserializeOwned + Send>(&mut self, id: u64) -> anyhow::Result<T> {
        loop {
            self.line.clear();
            ensure!(self.source.read_until(b'\n', &mut self.line).await? > 0, "the plugin has ended");
            let answer: Answer = serde_json::from_slice(&self.line)?;
            let Some(method) = answer.method else {
                ensure!(answer.id == id, "answer {} instead of {id}", answer.id);
                return Ok(serde_json::from_str(answer.result.context("no result")?.get())?);
            };
            let (number,): (i64,) = serde_json::from_str(answer.params.context("no params")?.get())?;
            let asked = answer.id;
            let is_nest = match method {
                "plus_one" => false,
                "nest" => true,
                other => bail!("the plugin calls `{other}`"),
            };
            let result = if is_nest { self.nest(number).await? } else { number + 1 };
            serde_json::to_writer(&mut self.text, &json!({ "id": asked, "result": result }))?;
            self.text.push(b'\n');
            self.flush().await?;
        }
    }

    async fn request<T: DeserializeOwned + Send>(&mut self, method: &str, params: impl Serialize) -> anyhow::Result<T> {
        let id = self.push(method, params)?;
        self.flush().await?;
        self.answer(id).await
    }

    /// Boxed, because a call inside a call may be one again.
    fn nest(&mut self, depth: i64) -> Doing<'_, i64> {
        Box::pin(self.request("nest", depth))
    }

    async fn unary(&mut self, record: &Record) -> anyhow::Result<()> {
        record.check(&self.request("work", record).await?)
    }

    async fn window(&mut self, count: usize) -> anyhow::Result<Vec<f64>> {
        let records = Record::many(count);
        let (mut sent, mut read) = (0, 0);
        let began = Instant::now();
        let start = self.next;
        while read < count {
            while sent < count && sent - read < WINDOW {
                self.push("work", &records[sent])?;
                sent += 1;
            }
            self.flush().await?;
            // At least one, and whatever else has arrived with it.
            loop {
                let answer: Record = self.answer(start + read as u64 + 1).await?;
                records[read].check(&answer)?;
                read += 1;
                if read == count || !self.source.buffer().contains(&b'\n') {
                    break;
                }
            }
        }
        Ok(shared(began, count))
    }

    async fn floats(&mut self, bytes: &[u8]) -> anyhow::Result<f64> {
        self.next += 1;
        let head = json!({ "id": self.next, "bytes": bytes.len() });
        serde_json::to_writer(&mut self.text, &head)?;
        self.text.push(b'\n');
        self.flush().await?;
        self.sink.write_all(bytes).await?;
        self.answer(self.next).await
    }
}

impl System for Lines {
    fn name(&self) -> String {
        Self::NAME.into()
    }

    fn measures(&self) -> Vec<Measure> {
        let mut measures = vec![Measure::Unary, Measure::Window, Measure::Nested, Measure::HostCall];
        measures.extend([1, 10, 100, 1000].map(Measure::Batch));
        measures.extend([1, 10, 50].map(Measure::Nest));
        measures.extend([10, 100].map(Measure::Floats));
        measures
    }

    fn run(&mut self, measure: Measure, count: usize) -> Doing<'_, Vec<f64>> {
        Box::pin(async move {
            match measure {
                Measure::Unary => {
                    let record = Record::new(7);
                    timed!(count, self.unary(&record).await?)
                }
                Measure::Batch(size) => {
                    let records = Record::many(size);
                    timed!(count, check_all(&records, &self.request::<Vec<Record>>("work", &records).await?)?)
                }
                Measure::Window => self.window(count).await,
                Measure::Nested => {
                    let record = Record::new(7);
                    timed!(count, record.check(&self.request("nested", &record).await?)?)
                }
                Measure::HostCall => {
                    let began = Instant::now();
                    let value: usize = self.request("calls", count).await?;
                    ensure!(value == count, "{value} calls instead of {count}");
                    Ok(shared(began, count))
                }
                Measure::Nest(depth) => {
                    timed!(count, {
                        let reached = self.nest(depth as i64).await?;
                        ensure!(reached == depth as i64, "nested {reached} deep");
                    })
                }
                Measure::Floats(megabytes) => {
                    let (bytes, sum) = floats(megabytes);
                    timed!(count, check_sum(sum, self.floats(&bytes).await?)?)
                }
                other => bail!("JSON lines do not do {}", other.name()),
            }
        })
    }

    fn stop(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move {
            drop(self.sink);
            end(self.child).await;
            Ok(())
        })
    }
}
