//! A console's requests: code in a plugin's interpreter, and questions to it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::time::{interval, timeout, timeout_at};

use crate::{
    blob::Parcel,
    client::Output,
    host::{instance::Loaded, lane::Entry},
    link::Peer,
    plugin::{About, CellEvent, Look},
    rpc::{ErrorKind, RpcError},
    supervision::State,
    wire::content::{ExecuteReply, Status},
};

/// How long the plugin may be on its way back.
const READY: Duration = Duration::from_secs(10);
/// How long a kernel may take for completions and the like, once it is asked.
const LOOK: Duration = Duration::from_secs(10);
/// And how long until it is: as long as handlers take.
const TURN: Duration = Duration::from_secs(60);
/// How long a cell may run that says nothing.
const CELL: Duration = Duration::from_secs(3600);
/// How long an interrupted cell may take to end; its console gets no further word then.
const INTERRUPTED: Duration = Duration::from_secs(10);
/// How often those who wait are counted.
const COUNT: Duration = Duration::from_millis(50);
/// No further output is passed on while more than this waits for the console to read it.
const BEHIND_BYTES: usize = 4 << 20;

/// A console at a plugin.
pub(super) struct Console {
    pub entry: Arc<Entry>,
    pub allows_code: bool,
}

#[derive(Deserialize)]
struct Execute {
    code: String,
    within_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct At {
    code: String,
    cursor: usize,
    #[serde(default)]
    detail: u8,
}

/// How the plugin is doing.
#[derive(Serialize)]
struct Doing {
    state: State,
    about: Option<About>,
    /// Events and calls that wait or are being served.
    waiting: usize,
}

/// What came of a cell.
#[derive(Default, Serialize)]
struct Ran {
    /// `ok` or `error`.
    status: &'static str,
    ename: String,
    evalue: String,
    traceback: Vec<String>,
    ms: u64,
    /// Until nothing else ran.
    waited_ms: u64,
    /// Events and calls that waited while it ran, and for how long the first of them did.
    delayed: usize,
    delayed_ms: u64,
    /// Outputs that were left out.
    dropped: u64,
}

impl Console {
    /// The request of a console, if it is one.
    pub fn begin(
        &self,
        peer: &Peer,
        id: u64,
        method: &str,
        params: &RawValue,
    ) -> Option<Result<super::session::Call, RpcError>> {
        let begun = match method {
            "execute" => read(method, params).and_then(|execute| self.execute(peer, id, execute)),
            "complete" => {
                read(method, params).map(|At { code, cursor, .. }| self.look(id, Look::Complete { code, cursor }))
            }
            "inspect" => read(method, params)
                .map(|At { code, cursor, detail }| self.look(id, Look::Inspect { code, cursor, detail })),
            "is_complete" => read(method, params).map(|Code { code }| self.look(id, Look::IsComplete { code })),
            "interrupt" => Ok(self.interrupt(id)),
            "state" => Ok(self.state(id)),
            _ => return None,
        };
        Some(begun)
    }

    fn execute(&self, peer: &Peer, id: u64, execute: Execute) -> Result<super::session::Call, RpcError> {
        if !self.allows_code {
            let message = "this host lets consoles look, but run no code; start it with `--allow-console`";
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let within = execute.within_ms.map_or(CELL, Duration::from_millis).min(CELL);
        let (entry, peer) = (self.entry.clone(), peer.clone());
        Ok(Box::pin(async move { (id, run(&entry, &peer, id, &execute.code, within).await) }))
    }

    fn look(&self, id: u64, look: Look) -> super::session::Call {
        let entry = self.entry.clone();
        Box::pin(async move {
            let looked = async {
                let loaded = ready(&entry).await?;
                match timeout(TURN, loaded.plugin.look(look, LOOK)).await {
                    Ok(answer) => answer.map(Parcel::from),
                    Err(_) => Err(RpcError::new(ErrorKind::Timeout, "the plugin was busy all the time")),
                }
            };
            (id, looked.await)
        })
    }

    fn interrupt(&self, id: u64) -> super::session::Call {
        let entry = self.entry.clone();
        Box::pin(async move {
            if let Some(loaded) = entry.lanes[0].instance.loaded() {
                loaded.plugin.interrupt_cell().await;
            }
            (id, pack(&Value::Null))
        })
    }

    fn state(&self, id: u64) -> super::session::Call {
        let instance = &self.entry.lanes[0].instance;
        let about = instance.loaded().map(|loaded| loaded.plugin.about().clone());
        let doing = Doing { state: instance.state(), about, waiting: waiting(&self.entry) };
        Box::pin(std::future::ready((id, pack(&doing))))
    }
}

/// Events and calls that wait or are being served.
fn waiting(entry: &Entry) -> usize {
    entry.lanes[0].queue.len() + entry.lanes[0].instance.requests()
}

async fn ready(entry: &Entry) -> Result<Arc<Loaded>, RpcError> {
    match timeout(READY, entry.lanes[0].instance.ready()).await {
        Ok(ready) => ready,
        Err(_) => {
            let message = format!("its kernel did not come back within {READY:?}");
            Err(RpcError::new(ErrorKind::Timeout, message).in_plugin(&entry.name))
        }
    }
}

async fn run(entry: &Entry, peer: &Peer, id: u64, code: &str, within: Duration) -> Result<Parcel, RpcError> {
    let loaded = ready(entry).await?;
    let mut events = loaded.plugin.execute(code).await?;
    let asked = Instant::now();
    let (mut began, mut first, mut lost, mut until) = (None::<Instant>, None::<Instant>, 0u64, asked + within);
    let (mut count, mut most, mut is_interrupted) = (interval(COUNT), 0, false);
    loop {
        let event = tokio::select! {
            event = timeout_at(until.into(), events.recv()) => event,
            _ = count.tick(), if began.is_some() => {
                most = most.max(waiting(entry));
                first = first.or_else(|| (most > 0).then(Instant::now));
                continue;
            }
        };
        match event {
            Ok(Some(CellEvent::Began)) => began = Some(Instant::now()),
            Ok(Some(CellEvent::Output(_))) if peer.waiting_bytes() > BEHIND_BYTES => lost += 1,
            Ok(Some(CellEvent::Output(output))) => peer.notify("output", &shown(id, &output).to_string()),
            Ok(Some(CellEvent::Done { reply, dropped })) => {
                let reply =
                    reply.map_err(|error| RpcError::new(ErrorKind::Gone, error.to_string()).in_plugin(&entry.name))?;
                let ran = Ran {
                    ms: milliseconds(began.unwrap_or(asked).elapsed()),
                    waited_ms: milliseconds(began.unwrap_or(asked).duration_since(asked)),
                    // They may be on their way already.
                    delayed: most,
                    delayed_ms: first.map_or(0, |first| milliseconds(first.elapsed())),
                    dropped: dropped + lost,
                    ..ended(reply)
                };
                return pack(&ran);
            }
            Ok(None) => {
                let message = "nobody ran it: the plugin was shut down, or has no shim (basic level)";
                return Err(RpcError::new(ErrorKind::Gone, message).in_plugin(&entry.name));
            }
            Err(_) if is_interrupted => {
                let message = format!("it ran for {within:?} and does not react to an interrupt; events wait for it");
                return Err(RpcError::new(ErrorKind::Timeout, message).in_plugin(&entry.name));
            }
            Err(_) => {
                (is_interrupted, until) = (true, Instant::now() + INTERRUPTED);
                loaded.plugin.interrupt_cell().await;
            }
        }
    }
}

fn ended(reply: ExecuteReply) -> Ran {
    let status = if reply.status == Status::Ok { "ok" } else { "error" };
    Ran { status, ename: reply.ename, evalue: reply.evalue, traceback: reply.traceback, ..Ran::default() }
}

/// An output as its notification has it.
fn shown(id: u64, output: &Output) -> Value {
    match output {
        Output::Stream { name, text } => json!({ "id": id, "kind": "stream", "name": name, "text": text }),
        Output::Display { data, metadata } => {
            json!({ "id": id, "kind": "display", "data": data, "metadata": metadata })
        }
        Output::Error { ename, evalue, traceback } => {
            json!({ "id": id, "kind": "error", "ename": ename, "evalue": evalue, "traceback": traceback })
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(method: &str, params: &RawValue) -> Result<T, RpcError> {
    serde_json::from_str(params.get())
        .map_err(|error| RpcError::new(ErrorKind::Invalid, format!("parameters of `{method}`: {error}")))
}

fn pack(value: &impl Serialize) -> Result<Parcel, RpcError> {
    let json = to_raw_value(value).map_err(|error| RpcError::new(ErrorKind::Host, error.to_string()))?;
    Ok(json.into())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
