//! One end of a link: requests and responses both ways over one socket, matched by id.
//!
//! Knows nothing of hosts. One task owns the socket. Sending never waits: what the other side does not read is kept up to
//! a limit, and beyond it the link is closed.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout, timeout_at},
};

use crate::{
    chain::{Chain, ChainId},
    rpc::{self, ErrorKind, FrameError, Message, RpcError, take_frame},
};

/// Largest message.
pub const LARGEST_BYTES: usize = 64 << 20;
/// Largest message of one who has not said who it is.
pub const LARGEST_BEFORE_BYTES: usize = 256 << 10;
/// How much may wait for the other side to read it.
const WAITING_BYTES: usize = 128 << 20;
/// How long the last that is said has to be read, once a link ends.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long the other side may read nothing while something waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many requests of the other side may wait for whoever serves them.
const ARRIVED: usize = 1024;
/// How many messages that are none are answered before the link is closed.
const BAD: usize = 100;

/// One end of a link. The link is closed when all clones are gone.
#[derive(Debug, Clone)]
pub struct Peer {
    out: mpsc::UnboundedSender<Out>,
    table: Arc<Table>,
}

#[derive(Debug)]
enum Out {
    Message(Vec<u8>),
    Close,
}

/// Who waits for what.
#[derive(Debug)]
struct Table {
    pending: Mutex<HashMap<u64, Pending>>,
    next_id: AtomicU64,
    waiting_bytes: AtomicUsize,
    limit_bytes: AtomicUsize,
    bad: AtomicUsize,
    /// Why it is closed.
    closed: watch::Sender<Option<Arc<str>>>,
    /// Why this side is about to close it.
    dismissed: OnceLock<String>,
}

#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Result<Box<RawValue>, RpcError>>,
    chain: Option<Chain>,
}

/// What the other side wants.
#[derive(Debug)]
pub enum Arrived {
    /// To be answered with [`Peer::respond`].
    Request {
        /// To be echoed.
        id: u64,
        /// What for.
        method: String,
        /// Its parameters.
        params: Box<RawValue>,
    },
    /// Needs no answer.
    Notification {
        /// What happened.
        method: String,
        /// Its parameters.
        params: Box<RawValue>,
    },
}

/// What the other side wants, in order; the end is the link's.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Arrived>);

impl Incoming {
    /// The next; `None` when the link is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Arrived> {
        self.0.recv().await
    }

    /// The next, if it has come already.
    pub fn try_next(&mut self) -> Option<Arrived> {
        self.0.try_recv().ok()
    }
}

/// Why a request got no result.
#[derive(Debug)]
pub enum Unanswered {
    /// The link is closed, and this is why.
    Closed(String),
    /// The deadline passed.
    Late,
    /// The other side's error.
    Error(RpcError),
}

/// Forgets a request whose asker is gone.
struct Asking<'a> {
    peer: &'a Peer,
    id: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.peer.table.lock().remove(&self.id).is_some() {
            // It may stop at what nobody waits for any more.
            self.peer.notify("cancel", &format!(r#"{{"id":{}}}"#, self.id));
        }
    }
}

impl Peer {
    /// Begin to talk over a socket. Messages of more than `limit_bytes` close the link; see [`Peer::trust`].
    pub fn new(stream: UnixStream, limit_bytes: usize) -> (Self, Incoming) {
        let table = Arc::new(Table {
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
            waiting_bytes: AtomicUsize::new(0),
            limit_bytes: AtomicUsize::new(limit_bytes),
            bad: AtomicUsize::new(0),
            closed: watch::Sender::new(None),
            dismissed: OnceLock::new(),
        });
        let (out, outgoing) = mpsc::unbounded_channel();
        let (arrived, incoming) = mpsc::channel(ARRIVED);
        let (read, write) = stream.into_split();
        // The reader answers what is no message, and must not keep the link open.
        let answers = out.downgrade();
        let carrying = table.clone();
        tokio::spawn(async move {
            let reader = Reader { table: &carrying, answers: answers.clone(), arrived };
            let mut writing = std::pin::pin!(write_all(&carrying, outgoing, write));
            let reason = tokio::select! {
                reason = reader.run(read) => {
                    // Who has only ended its own side still reads what it is answered.
                    if let Some(out) = answers.upgrade() {
                        let _ = out.send(Out::Close);
                    }
                    drop(timeout(LAST_WORDS, &mut writing).await);
                    reason
                }
                reason = &mut writing => reason,
            };
            carrying.close(&reason);
        });
        (Self { out, table }, Incoming(incoming))
    }

    /// From now on messages may be as large as any.
    pub fn trust(&self) {
        self.table.limit_bytes.store(LARGEST_BYTES, Ordering::Relaxed);
    }

    /// Ask the other side, and wait for its answer.
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub async fn request(&self, method: &str, params: &str, deadline: Instant) -> Result<Box<RawValue>, Unanswered> {
        self.request_in(method, params, None, deadline).await
    }

    /// As [`Peer::request`], on behalf of a chain that the other side's own calls may continue ([`Peer::chain_of`]).
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub async fn request_in(
        &self,
        method: &str,
        params: &str,
        chain: Option<Chain>,
        deadline: Instant,
    ) -> Result<Box<RawValue>, Unanswered> {
        let id = self.table.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.table.lock().insert(id, Pending { reply, chain });
        let asking = Asking { peer: self, id };
        let mut message = String::new();
        rpc::write_request(&mut message, id, method, params);
        if let Some(reason) = self.send(&message) {
            return Err(Unanswered::Closed(reason));
        }
        let answered = timeout_at(deadline.into(), answer).await;
        drop(asking);
        match answered {
            Ok(Ok(result)) => result.map_err(Unanswered::Error),
            Ok(Err(_)) => Err(Unanswered::Closed(self.why_closed())),
            Err(_) => Err(Unanswered::Late),
        }
    }

    /// Tell the other side something.
    pub fn notify(&self, method: &str, params: &str) {
        // If it is closed there is nobody to tell.
        let _ = self.send(&format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#));
    }

    /// Answer a request.
    pub fn respond(&self, id: u64, result: Result<&str, &RpcError>) {
        // If it is closed nobody waits.
        let _ = self.send(&rpc::response(id, result));
    }

    /// The chain of a request that the other side has not answered yet.
    pub fn chain_of(&self, id: u64) -> Option<Chain> {
        self.table.lock().get(&id)?.chain.clone()
    }

    /// How many requests the other side has not answered yet.
    pub fn unanswered(&self) -> usize {
        self.table.lock().len()
    }

    /// How many bytes wait for the other side to read them.
    pub fn waiting_bytes(&self) -> usize {
        self.table.waiting_bytes.load(Ordering::Relaxed)
    }

    /// How many messages came that were none.
    pub fn bad(&self) -> usize {
        self.table.bad.load(Ordering::Relaxed)
    }

    /// Does the other side serve a request of this chain?
    pub fn is_at(&self, chain: ChainId) -> bool {
        self.table.lock().values().any(|pending| pending.chain.as_ref().is_some_and(|other| other.id == chain))
    }

    /// Close the link, and say why first. Whoever waits for an answer is told at once.
    pub fn dismiss(&self, reason: &str) {
        // The first reason holds.
        let _ = self.table.dismissed.set(reason.to_owned());
        let reason = serde_json::Value::from(reason);
        self.notify("detached", &format!(r#"{{"reason":{reason}}}"#));
        self.close();
        self.table.lock().clear();
    }

    /// Close the link of one who has asked for nothing that could be answered.
    pub fn refuse(&self, reason: &str) {
        let error = RpcError::new(ErrorKind::Denied, reason).to_json();
        // If it is closed nobody waits.
        let _ = self.send(&format!(r#"{{"jsonrpc":"2.0","id":null,"error":{error}}}"#));
        self.close();
    }

    /// Close the link once what waits was written.
    pub fn close(&self) {
        // It may be closed already.
        let _ = self.out.send(Out::Close);
    }

    /// Wait until the link is closed; says why.
    pub async fn closed(&self) -> String {
        let mut closed = self.table.closed.subscribe();
        // The sender is in the table, which we hold.
        let _ = closed.wait_for(Option::is_some).await;
        self.why_closed()
    }

    /// Is it closed, or about to be?
    pub fn is_closed(&self) -> bool {
        self.table.dismissed.get().is_some() || self.table.closed.borrow().is_some()
    }

    fn why_closed(&self) -> String {
        if let Some(reason) = self.table.dismissed.get() {
            return reason.clone();
        }
        self.table.closed.borrow().as_deref().unwrap_or("nobody is there").to_owned()
    }

    /// Why it cannot be sent, if so.
    fn send(&self, message: &str) -> Option<String> {
        if self.table.closed.borrow().is_some() {
            return Some(self.why_closed());
        }
        // No message alone is too large for the queue, so that this says something about the reader.
        let frame = framed(message);
        let waiting = self.table.waiting_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        if waiting > 0 && waiting + frame.len() > WAITING_BYTES {
            self.table.close("the other side does not read what is sent to it");
            return Some(self.why_closed());
        }
        self.out.send(Out::Message(frame)).err().map(|_| self.why_closed())
    }
}

/// As on the wire: the body ends with a line feed that is counted in its length.
fn framed(message: &str) -> Vec<u8> {
    let mut frame = format!("{}\n", message.len() + 1).into_bytes();
    frame.reserve(message.len() + 1);
    frame.extend_from_slice(message.as_bytes());
    frame.push(b'\n');
    frame
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody who waits is told; the first reason holds.
    fn close(&self, reason: &str) {
        self.closed.send_if_modified(|closed| {
            let is_first = closed.is_none();
            if is_first {
                *closed = Some(reason.into());
            }
            is_first
        });
        self.lock().clear();
    }
}

async fn write_all(table: &Table, mut outgoing: mpsc::UnboundedReceiver<Out>, mut socket: OwnedWriteHalf) -> String {
    let mut closed = table.closed.subscribe();
    loop {
        let out = tokio::select! {
            out = outgoing.recv() => out,
            _ = closed.wait_for(Option::is_some) => return String::new(),
        };
        let Some(Out::Message(frame)) = out else {
            // What the other side has not read yet stays readable for it.
            let _ = socket.shutdown().await;
            return "this side closed it".into();
        };
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match timeout(PATIENCE, socket.write(rest)).await {
                Ok(Ok(0)) => return "the other side is gone".into(),
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(error)) => return gone(&error),
                Err(_) => return "the other side does not read what is sent to it".into(),
            }
        }
        table.waiting_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
    }
}

fn gone(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => "the other side is gone".into(),
        _ => format!("the socket failed: {error}"),
    }
}

struct Reader<'a> {
    table: &'a Table,
    answers: mpsc::WeakUnboundedSender<Out>,
    arrived: mpsc::Sender<Arrived>,
}

impl Reader<'_> {
    async fn run(&self, mut socket: OwnedReadHalf) -> String {
        let mut read = BytesMut::with_capacity(64 << 10);
        loop {
            match socket.read_buf(&mut read).await {
                Ok(0) => {
                    let is_whole = socket.ready(Interest::WRITABLE).await.is_ok_and(|ready| !ready.is_write_closed());
                    if is_whole {
                        // It has ended its own side only, and may wait for an answer.
                        sleep(LAST_WORDS).await;
                    }
                    return "the other side is gone".into();
                }
                Ok(_) => {}
                Err(error) => return gone(&error),
            }
            loop {
                let limit = self.table.limit_bytes.load(Ordering::Relaxed);
                match take_frame(&mut read, limit) {
                    Ok(Some(body)) => {
                        for message in Message::parse(&body) {
                            if let Some(reason) = self.receive(message) {
                                return reason;
                            }
                        }
                    }
                    Ok(None) => break,
                    // Nothing after it can be trusted.
                    Err(error) => {
                        self.table.bad.fetch_add(1, Ordering::Relaxed);
                        let reason = match error {
                            FrameError::TooLarge { size_bytes } => {
                                format!("a message of {size_bytes} bytes; at most {limit} are taken here")
                            }
                            error => error.to_string(),
                        };
                        self.answer_bad(&reason);
                        // The one who is told gets a moment to read it.
                        drop(timeout(LAST_WORDS, self.drain(&mut socket)).await);
                        return reason;
                    }
                }
            }
        }
    }

    /// Until the other side closes; a socket that is closed with something unread in it forgets what it sent.
    async fn drain(&self, socket: &mut OwnedReadHalf) {
        let mut rest = [0; 4096];
        while matches!(socket.read(&mut rest).await, Ok(1..)) {}
    }

    /// Why the link is to be closed, if so.
    fn receive(&self, message: Message) -> Option<String> {
        let arrived = match message {
            Message::Response { id, result } => {
                if let Some(pending) = self.table.lock().remove(&id) {
                    // Whoever asked may have given up.
                    let _ = pending.reply.send(result);
                }
                return None;
            }
            Message::Bad { reason } => {
                let bad = self.table.bad.fetch_add(1, Ordering::Relaxed) + 1;
                if reason.starts_with("refused: ") {
                    return Some(reason.trim_start_matches("refused: ").to_owned());
                }
                self.answer_bad(&reason);
                return (bad >= BAD).then(|| format!("{bad} messages that are none; the last: {reason}"));
            }
            Message::Request { id, method, params } => Arrived::Request { id, method, params },
            Message::Notification { method, params } => Arrived::Notification { method, params },
        };
        match self.arrived.try_send(arrived) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Arrived::Request { id, method, .. })) => {
                let message = format!("{ARRIVED} requests wait already; `{method}` was not taken");
                let mut error = RpcError::new(ErrorKind::Host, message);
                error.not_begun = true;
                self.answer(&rpc::response(id, Err(&error)));
            }
            // Nobody was promised that notifications arrive.
            Err(_) => {}
        }
        None
    }

    fn answer_bad(&self, reason: &str) {
        let error = RpcError::new(ErrorKind::Invalid, reason).to_json();
        self.answer(&format!(r#"{{"jsonrpc":"2.0","id":null,"error":{error}}}"#));
    }

    fn answer(&self, message: &str) {
        if let Some(out) = self.answers.upgrade() {
            let frame = framed(message);
            self.table.waiting_bytes.fetch_add(frame.len(), Ordering::Relaxed);
            // The writer ends with the link only.
            let _ = out.send(Out::Message(frame));
        }
    }
}
