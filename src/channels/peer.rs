//! One connection to one socket of a kernel: the handshake, messages both ways, and what is said beside them.
//!
//! No task of its own: [`Peer::recv`] also sends what is queued and answers what the other side asks. Nothing is kept for
//! what is announced, only for what came. A connection is never opened anew: a new kernel has new sockets.

use std::{
    collections::VecDeque,
    future::pending,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::Interest,
    task::coop::consume_budget,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    channels::{Arrival, ChannelError, HandshakeError, MESSAGE_BYTES, POLL, stream::Stream},
    zmtp::{self, Command, Decoder, GREETING, Item, Limits, ProtocolError, Refusal, SocketType},
};

/// What a kernel may send.
const LIMITS: Limits = Limits {
    message_bytes: MESSAGE_BYTES,
    // Of 32 bytes each here; a widget's message has some hundred.
    frames: 16 * 1024,
    command_bytes: 64 * 1024,
    absurd_bytes: 4 << 30,
};
/// How much is read at once. A flood of outputs comes in pieces of this size, some hundred messages each.
const READ_BYTES: usize = 64 * 1024;
/// How much may wait to be sent before a further message is refused.
const OUTGOING_BYTES: usize = 64 * 1024 * 1024;
/// How long a message may wait to be queued when so much waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many pieces are sent at once.
const PIECES: usize = 16;

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Peer {
    stream: Stream,
    read: BytesMut,
    decoder: Decoder,
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    state: State,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Open,
    /// The other side does not read what it is sent.
    Stuck,
    /// The other side is gone, which was not told yet.
    Lost,
    Closed,
    /// What came was no ZeroMQ; it is not listened to any more.
    Broken(ProtocolError),
}

impl Peer {
    /// Connect, for as long as it takes: a socket that nobody listens on, or that is closed before the handshake is over,
    /// is tried again, because a kernel that dies does that too, and its process tells why.
    pub async fn connect(endpoint: &str, socket_type: SocketType, identity: &[u8]) -> Result<Self, ChannelError> {
        if identity.len() > 255 {
            return Err(ChannelError::Identity { size_bytes: identity.len() });
        }
        let failed = |source| ChannelError::Handshake { endpoint: endpoint.to_owned(), source };
        loop {
            match Stream::connect(endpoint).await {
                Ok(stream) => {
                    let mut peer = Self::new(stream);
                    if peer.shake_hands(socket_type, identity).await.map_err(failed)? {
                        return Ok(peer);
                    }
                }
                Err(error) if is_passing(error.kind()) => {}
                Err(source) => return Err(ChannelError::Connect { endpoint: endpoint.to_owned(), source }),
            }
            sleep(POLL).await;
        }
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            decoder: Decoder::new(LIMITS),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            state: State::Open,
        }
    }

    /// Returns whether the other side stayed until the end.
    async fn shake_hands(&mut self, socket_type: SocketType, identity: &[u8]) -> Result<bool, HandshakeError> {
        self.queue(vec![Bytes::from_static(&GREETING)]);
        while zmtp::take_greeting(&mut self.read)?.is_none() {
            self.progress().await;
            if self.state != State::Open {
                return Ok(false);
            }
        }
        self.queue(vec![zmtp::encode_command(&zmtp::ready(socket_type, identity))]);
        // Its own `READY` may be here already; it waits for ours all the same.
        self.flush();
        loop {
            match self.decoder.take(&mut self.read)? {
                Some(Item::Command(body)) => return self.check_ready(socket_type, body).map(|()| true),
                Some(Item::Message(_)) => return Err(HandshakeError::NotReady),
                Some(Item::Refused(refusal)) => return Err(refusal.into()),
                None => self.progress().await,
            }
            if self.state != State::Open {
                return Ok(false);
            }
        }
    }

    fn check_ready(&self, socket_type: SocketType, body: Bytes) -> Result<(), HandshakeError> {
        match Command::parse(body).map_err(Refusal::from)? {
            Command::Ready { socket_type: found } => {
                let fits = socket_type.peers().iter().any(|peer| peer.as_bytes() == found);
                let found = String::from_utf8_lossy(&found).into_owned();
                if fits { Ok(()) } else { Err(HandshakeError::SocketType { expected: socket_type.peers()[0], found }) }
            }
            Command::Error { reason } => Err(ProtocolError::Refused { reason }.into()),
            Command::Ping { .. } | Command::Pong | Command::Unknown { .. } => Err(HandshakeError::NotReady),
        }
    }

    /// The next that comes; sends what is queued meanwhile. After an error, and when the other side is gone, there is
    /// never anything more. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`], once.
    pub async fn recv(&mut self) -> Result<Arrival, ProtocolError> {
        loop {
            // Before anything is taken: a flood must not keep other tasks waiting.
            consume_budget().await;
            match self.state {
                State::Open | State::Stuck => {}
                State::Lost => {
                    self.state = State::Closed;
                    return Ok(Arrival::Closed);
                }
                State::Closed | State::Broken(_) => pending().await,
            }
            let taken = match self.decoder.take(&mut self.read) {
                Ok(Some(Item::Message(frames))) => return Ok(Arrival::Message(frames)),
                Ok(Some(Item::Refused(refusal))) => return Ok(Arrival::Refused(refusal)),
                Ok(Some(Item::Command(body))) => self.obey(body),
                Ok(None) => {
                    self.progress().await;
                    continue;
                }
                Err(error) => Err(error),
            };
            match taken {
                Ok(Some(refusal)) => return Ok(Arrival::Refused(refusal)),
                Ok(None) => {}
                Err(error) => {
                    (self.read, self.stream) = (BytesMut::new(), Stream::Closed);
                    (self.outgoing, self.outgoing_bytes) = (VecDeque::new(), 0);
                    self.state = State::Broken(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// What the other side says beside messages. Returns what was not understood.
    fn obey(&mut self, body: Bytes) -> Result<Option<Refusal>, ProtocolError> {
        match Command::parse(body) {
            Ok(Command::Error { reason }) => Err(ProtocolError::Refused { reason }),
            Ok(Command::Ping { context }) => {
                // Who does not read needs no answer.
                if self.outgoing_bytes < OUTGOING_BYTES {
                    self.queue(vec![zmtp::encode_command(&zmtp::pong(&context))]);
                }
                Ok(None)
            }
            Ok(Command::Pong) => Ok(None),
            Ok(Command::Ready { .. }) => Ok(Some(Refusal::Unknown { name: "READY".into() })),
            Ok(Command::Unknown { name }) => Ok(Some(Refusal::Unknown { name })),
            Err(error) => Ok(Some(error.into())),
        }
    }

    /// Queue a message and send what can be sent at once; the rest goes while [`Peer::recv`] waits.
    pub async fn send(&mut self, frames: Vec<Bytes>) -> Result<(), ChannelError> {
        if frames.is_empty() {
            return Err(ChannelError::Empty);
        }
        let until = Instant::now() + PATIENCE;
        while self.outgoing_bytes >= OUTGOING_BYTES && self.state == State::Open {
            if timeout_at(until, self.stream.ready(Interest::WRITABLE)).await.is_err() {
                self.state = State::Stuck;
            }
            self.flush();
        }
        match &self.state {
            State::Open => {}
            State::Stuck => return Err(ChannelError::Stuck),
            State::Lost | State::Closed => return Err(ChannelError::Closed),
            State::Broken(error) => return Err(error.clone().into()),
        }
        self.queue(zmtp::encode(frames));
        self.flush();
        Ok(())
    }

    fn queue(&mut self, pieces: Vec<Bytes>) {
        self.outgoing_bytes += pieces.iter().map(Bytes::len).sum::<usize>();
        self.outgoing.extend(pieces);
    }

    /// Wait until something was read or the other side is gone; send what is queued meanwhile. Cancel safe.
    async fn progress(&mut self) {
        loop {
            self.flush();
            if self.read.capacity() - self.read.len() < READ_BYTES / 4 {
                // At most as much again as came already, whatever was announced.
                self.read.reserve(self.decoder.wanted_bytes().min(self.read.len()).max(READ_BYTES));
            }
            match self.stream.try_read(&mut self.read) {
                Ok(0) => return self.state = State::Lost,
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!(%error, "connection lost");
                    return self.state = State::Lost;
                }
            }
            let interest =
                if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            if let Err(error) = self.stream.ready(interest).await {
                tracing::debug!(%error, "connection lost");
                return self.state = State::Lost;
            }
        }
    }

    /// How much memory what came takes, at most.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.read.capacity()
    }

    /// Send what can be sent without waiting. When the other side is gone, nothing is left to be sent; reading tells.
    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let pieces = self.outgoing.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.outgoing) {
                *slice = IoSlice::new(piece);
            }
            match self.stream.try_write(&slices[..pieces]) {
                Ok(sent) => self.sent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "connection lost");
                    (self.outgoing, self.outgoing_bytes) = (VecDeque::new(), 0);
                }
            }
        }
    }

    fn sent(&mut self, mut sent: usize) {
        self.outgoing_bytes -= sent;
        while let Some(piece) = self.outgoing.front_mut() {
            let part = piece.len().min(sent);
            piece.advance(part);
            sent -= part;
            if !piece.is_empty() {
                return;
            }
            self.outgoing.pop_front();
        }
    }
}

/// A socket that nobody listens on yet, or one of whose peers too many wait.
fn is_passing(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, WouldBlock};
    matches!(kind, ConnectionRefused | ConnectionReset | NotFound | WouldBlock)
}
