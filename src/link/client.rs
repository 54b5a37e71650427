//! The peer's end of a link.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};
use tokio::{net::UnixStream, time::timeout};

use crate::{
    link::{
        LinkError,
        peer::{Arrived, Incoming, LARGEST_BYTES, Peer, Unanswered},
        place::Address,
    },
    rpc::{self, Attach, Attached, ErrorKind, Handler, RpcError, SetHandlers},
};

/// How long a host may take to accept a connection and to answer `attach` and `handlers`.
const ATTACH: Duration = Duration::from_secs(10);
/// How long a host may take beyond the time that a call is given, before it counts as gone.
const SPARE: Duration = Duration::from_secs(2);

/// A link to a running host. Cheap to clone; the link is closed when all clones and the [`Requests`] are gone.
#[derive(Debug, Clone)]
pub struct Link {
    peer: Peer,
    token: Arc<str>,
}

/// What the host wants of a peer, in order.
#[derive(Debug)]
pub struct Requests {
    link: Link,
    incoming: Incoming,
    /// Why the host ended the link, if it said so.
    detached: Option<String>,
}

/// Something that the host wants of a peer, or tells it.
#[derive(Debug)]
pub enum Wanted {
    /// To be served and answered.
    Request(LinkRequest),
    /// The host gave up waiting for the answer to this request.
    Cancelled {
        /// [`LinkRequest::id`].
        id: u64,
    },
    /// A mirror was too slow: so many events were dropped since the last time, and in all.
    Dropped {
        /// Since the last time.
        events: u64,
        /// In all.
        total: u64,
    },
    /// What a cell of a console printed or showed.
    Output(Box<RawValue>),
}

/// A request of the host. Dropped without an answer, it is answered with an error.
#[derive(Debug)]
pub struct LinkRequest {
    id: u64,
    method: String,
    params: Box<RawValue>,
    link: Link,
    is_answered: bool,
}

/// The parameters of `event` and `filter`.
#[derive(Debug, Clone, Deserialize)]
pub struct LinkEvent {
    /// Which handler, as the peer numbered them.
    pub handler: u64,
    /// The event's id.
    pub id: String,
    /// The event's topic.
    pub topic: String,
    /// When it was emitted.
    pub time: String,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// The event's key.
    pub key: Option<String>,
    /// From the root down to here.
    pub chain: Vec<String>,
    /// The event's data.
    pub data: Box<RawValue>,
}

/// The parameters of `call`.
#[derive(Debug, Clone, Deserialize)]
pub struct LinkCall {
    /// The export's name.
    pub name: String,
    /// From the root down to here.
    pub chain: Vec<String>,
    /// A JSON array.
    pub args: Box<RawValue>,
}

#[derive(Serialize)]
struct CallParams<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    during: Option<u64>,
    name: &'a str,
    args: &'a RawValue,
    within_ms: u64,
}

#[derive(Serialize)]
struct EmitParams<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    during: Option<u64>,
    topic: &'a str,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

#[derive(Deserialize)]
struct CancelParams {
    id: u64,
}

#[derive(Deserialize)]
struct DroppedParams {
    events: u64,
    total: u64,
}

#[derive(Deserialize)]
struct DetachedParams {
    reason: String,
}

impl Link {
    /// Connect to a host that [`Address::find`] found. The host knows nothing of the peer until [`Link::attach`].
    ///
    /// # Errors
    ///
    /// - [`LinkError::Connect`] when nobody listens there.
    /// - [`LinkError::File`] when its token cannot be read.
    pub async fn connect(address: &Address) -> Result<(Self, Requests), LinkError> {
        let token = std::fs::read_to_string(&address.token);
        let token = token.map_err(|source| LinkError::File {
            what: "cannot read the host's token",
            path: address.token.clone(),
            source,
        });
        // That nobody listens says more than that there is no token.
        let stream = open(&address.socket).await?;
        Ok(Self::over(stream, token?.trim()))
    }

    /// As [`Link::connect`], with a token that is known.
    ///
    /// # Errors
    ///
    /// [`LinkError::Connect`].
    pub async fn connect_with(socket: &Path, token: &str) -> Result<(Self, Requests), LinkError> {
        Ok(Self::over(open(socket).await?, token))
    }

    fn over(stream: UnixStream, token: &str) -> (Self, Requests) {
        let (peer, incoming) = Peer::new(stream, LARGEST_BYTES);
        let link = Self { peer, token: token.into() };
        (link.clone(), Requests { link, incoming, detached: None })
    }

    /// Say who this is and what it wants. The token and the version need not be given.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] with the host's reason, and the link is closed.
    pub async fn attach(&self, mut attach: Attach) -> Result<Attached, LinkError> {
        if attach.token.is_empty() {
            attach.token = self.token.to_string();
        }
        if attach.bridge.is_empty() {
            attach.bridge = rpc::VERSION.to_owned();
        }
        self.ask("attach", &attach, ATTACH).await
    }

    /// These are the peer's handlers from now on, instead of all before.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] with the host's reason, and the handlers are those of before.
    pub async fn set_handlers(&self, handlers: Vec<Handler>) -> Result<(), LinkError> {
        self.ask("handlers", &SetHandlers { handlers, exports: Vec::new() }, ATTACH).await
    }

    /// Call a function of the host or of a plugin; `args` is a tuple or an array. The call begins a chain of its own; a
    /// call on behalf of what the peer serves is [`LinkRequest::call`].
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] with what came of it, [`LinkError::Timeout`], [`LinkError::Closed`].
    pub async fn call(
        &self,
        name: &str,
        args: &(impl Serialize + ?Sized),
        within: Duration,
    ) -> Result<Box<RawValue>, LinkError> {
        self.call_during(None, name, args, within).await
    }

    /// As [`Link::call`], on behalf of the host's request of this [id](LinkRequest::id), if it is not answered yet.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn call_during(
        &self,
        during: Option<u64>,
        name: &str,
        args: &(impl Serialize + ?Sized),
        within: Duration,
    ) -> Result<Box<RawValue>, LinkError> {
        let args = raw(name, args)?;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.ask("call", &CallParams { during, name, args: &args, within_ms }, within + SPARE).await
    }

    /// Put an event onto the host's bus. Returns when all who want it have it in their queues.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn emit(
        &self,
        topic: &str,
        data: &(impl Serialize + ?Sized),
        key: Option<&str>,
        within: Duration,
    ) -> Result<(), LinkError> {
        self.emit_during(None, topic, data, key, within).await
    }

    /// As [`Link::emit`], on behalf of the host's request of this [id](LinkRequest::id), if it is not answered yet.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn emit_during(
        &self,
        during: Option<u64>,
        topic: &str,
        data: &(impl Serialize + ?Sized),
        key: Option<&str>,
        within: Duration,
    ) -> Result<(), LinkError> {
        let data = raw(topic, data)?;
        self.ask("emit", &EmitParams { during, topic, data: &data, key }, within + SPARE).await
    }

    /// A line for the host's log.
    pub fn log(&self, level: &str, message: &str) {
        self.peer.notify("log", &serde_json::json!({ "level": level, "message": message }).to_string());
    }

    /// End the link in order: the host gives everything back, and says when it has.
    ///
    /// # Errors
    ///
    /// [`LinkError::Timeout`]; a link that is closed already is no error.
    pub async fn detach(&self) -> Result<(), LinkError> {
        let done = self.ask::<()>("detach", &serde_json::Map::new(), ATTACH).await;
        self.peer.close();
        match done {
            Ok(()) | Err(LinkError::Closed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Wait until the link is closed; says why.
    pub async fn closed(&self) -> String {
        self.peer.closed().await
    }

    /// Ask the host with any method of docs/protocol.md.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
        within: Duration,
    ) -> Result<T, LinkError> {
        let params = raw(method, params)?;
        match self.peer.request(method, params.get(), Instant::now() + within).await {
            Ok(result) => serde_json::from_str(result.get())
                .map_err(|source| LinkError::Answer { method: method.to_owned(), source }),
            Err(Unanswered::Closed(reason)) => Err(LinkError::Closed { reason }),
            Err(Unanswered::Late) => Err(LinkError::Timeout { method: method.to_owned(), after: within }),
            Err(Unanswered::Error(error)) => Err(LinkError::Refused(error)),
        }
    }
}

async fn open(path: &Path) -> Result<UnixStream, LinkError> {
    let error = |source| LinkError::Connect { path: path.to_owned(), source };
    match timeout(ATTACH, UnixStream::connect(path)).await {
        Ok(stream) => stream.map_err(error),
        Err(_) => Err(error(std::io::ErrorKind::TimedOut.into())),
    }
}

fn raw(what: &str, value: &(impl Serialize + ?Sized)) -> Result<Box<RawValue>, LinkError> {
    let value = to_raw_value(value).map_err(|source| LinkError::Json { method: what.to_owned(), source })?;
    // Values of others may have line feeds between their tokens.
    Ok(rpc::compact(value))
}

impl Requests {
    /// What the host wants next. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`LinkError::Closed`] with the reason, when nothing will come any more.
    pub async fn next(&mut self) -> Result<Wanted, LinkError> {
        loop {
            let Some(arrived) = self.incoming.next().await else {
                let reason = match self.detached.take() {
                    Some(reason) => reason,
                    None => self.link.closed().await,
                };
                return Err(LinkError::Closed { reason });
            };
            match arrived {
                Arrived::Request { id, method, params } => {
                    let link = self.link.clone();
                    return Ok(Wanted::Request(LinkRequest { id, method, params, link, is_answered: false }));
                }
                Arrived::Notification { method, params } => {
                    if let Some(wanted) = self.told(&method, params) {
                        return Ok(wanted);
                    }
                }
            }
        }
    }

    /// What has come already, without waiting.
    pub fn try_next(&mut self) -> Option<Wanted> {
        loop {
            match self.incoming.try_next()? {
                Arrived::Request { id, method, params } => {
                    let link = self.link.clone();
                    return Some(Wanted::Request(LinkRequest { id, method, params, link, is_answered: false }));
                }
                Arrived::Notification { method, params } => {
                    if let Some(wanted) = self.told(&method, params) {
                        return Some(wanted);
                    }
                }
            }
        }
    }

    fn told(&mut self, method: &str, params: Box<RawValue>) -> Option<Wanted> {
        match method {
            "cancel" => {
                let CancelParams { id } = serde_json::from_str(params.get()).ok()?;
                Some(Wanted::Cancelled { id })
            }
            "dropped" => {
                let DroppedParams { events, total } = serde_json::from_str(params.get()).ok()?;
                Some(Wanted::Dropped { events, total })
            }
            "detached" => {
                let DetachedParams { reason } = serde_json::from_str(params.get()).ok()?;
                self.detached = Some(reason);
                None
            }
            "output" => Some(Wanted::Output(params)),
            // Of a later version.
            _ => None,
        }
    }
}

impl LinkRequest {
    /// The host's number for it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// `event`, `filter`, `call`, or what the peer's features allow.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Its parameters, as in docs/protocol.md.
    pub fn params(&self) -> &RawValue {
        &self.params
    }

    /// The parameters of `event` or `filter`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Answer`] when it is something else.
    pub fn event(&self) -> Result<LinkEvent, LinkError> {
        self.read()
    }

    /// The parameters of `call`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Answer`] when it is something else.
    pub fn as_call(&self) -> Result<LinkCall, LinkError> {
        self.read()
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, LinkError> {
        serde_json::from_str(self.params.get())
            .map_err(|source| LinkError::Answer { method: self.method.clone(), source })
    }

    /// As [`Link::call`], as part of what this request is part of: within its deadline, and able to come back here.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn call(
        &self,
        name: &str,
        args: &(impl Serialize + ?Sized),
        within: Duration,
    ) -> Result<Box<RawValue>, LinkError> {
        self.link.call_during(Some(self.id), name, args, within).await
    }

    /// As [`Link::emit`], as part of what this request is part of.
    ///
    /// # Errors
    ///
    /// As [`Link::call`].
    pub async fn emit(
        &self,
        topic: &str,
        data: &(impl Serialize + ?Sized),
        key: Option<&str>,
        within: Duration,
    ) -> Result<(), LinkError> {
        self.link.emit_during(Some(self.id), topic, data, key, within).await
    }

    /// Answer with a value.
    ///
    /// # Errors
    ///
    /// [`LinkError::Json`], and then it is answered with that.
    pub fn answer(self, result: &(impl Serialize + ?Sized)) -> Result<(), LinkError> {
        let result = raw(&self.method, result)?;
        self.finish(Ok(result.get()));
        Ok(())
    }

    /// Answer with an error.
    pub fn fail(self, error: &RpcError) {
        self.finish(Err(error));
    }

    fn finish(mut self, result: Result<&str, &RpcError>) {
        self.is_answered = true;
        self.link.peer.respond(self.id, result);
    }
}

impl Drop for LinkRequest {
    fn drop(&mut self) {
        if !self.is_answered {
            let error = RpcError::new(ErrorKind::Cancelled, format!("the peer did not answer `{}`", self.method));
            self.link.peer.respond(self.id, Err(&error));
        }
    }
}
