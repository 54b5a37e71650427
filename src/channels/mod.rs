//! A kernel's five channels over ZeroMQ.
//!
//! All of them are opened by one constructor with one identity: `input_request`s only arrive when stdin has shell's.
//! Nothing here parses a message. A dead kernel is silent here; only its process tells.

pub mod heartbeat;
mod listening;
mod peer;
mod stream;

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    connection::ConnectionInfo,
    zmtp::{self, GreetingError, ProtocolError, Refusal, SocketType},
};

pub use listening::process_of;
use peer::Peer;

/// Largest message that is read; a larger one is passed over.
pub const MESSAGE_BYTES: usize = 256 * 1024 * 1024;
/// How soon a socket that cannot be connected to is tried again.
const POLL: Duration = Duration::from_millis(10);

/// Why channels could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// There is no way there.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody is there, but nobody that we can speak with.
    #[error("cannot speak with {endpoint}: {source}")]
    Handshake {
        /// Where.
        endpoint: String,
        /// Why.
        source: HandshakeError,
    },
    /// A ZeroMQ identity has 255 bytes at most.
    #[error("a ZeroMQ identity of {size_bytes} bytes, more than 255")]
    Identity {
        /// How many it has.
        size_bytes: usize,
    },
    /// The kernel has closed the connection.
    #[error("the kernel has closed the connection")]
    Closed,
    /// What came from the kernel was no ZeroMQ, so that the channel was closed.
    #[error("the kernel does not keep to ZeroMQ's protocol: {0}")]
    Broken(#[from] ProtocolError),
    /// So many messages wait to be sent that no more are taken.
    #[error("the kernel does not read what it is sent")]
    Stuck,
    /// A message without frames, which ZeroMQ does not have.
    #[error("cannot send a message without frames")]
    Empty,
    /// The system's table of sockets could not be read.
    #[error("cannot tell which ports are listened on: {0}")]
    Listening(#[source] io::Error),
}

/// Why two sockets did not come together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The other side speaks something else.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// What came after its greeting is not ZeroMQ, or says no.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The first command cannot be read.
    #[error("it does not say `READY`: {0}")]
    Command(#[from] Refusal),
    /// Something else came first.
    #[error("it does not say `READY`")]
    NotReady,
    /// It is a socket of another kind.
    #[error("its socket is a {found:?}, not a `{expected}`")]
    SocketType {
        /// What belongs there.
        expected: &'static str,
        /// As it said.
        found: String,
    },
}

/// What comes over a channel.
#[derive(Debug)]
pub enum Arrival {
    /// A message's frames.
    Message(Vec<Bytes>),
    /// Something that was passed over; the channel goes on.
    Refused(Refusal),
    /// The kernel has closed the connection: it ends, or will never be heard here again. Told once.
    Closed,
}

/// The open channels of one kernel.
pub struct Channels {
    /// Requests.
    pub shell: Channel,
    /// Requests that must not wait; IRuby has none.
    pub control: Option<Channel>,
    /// Input for the kernel's user.
    pub stdin: Channel,
    /// Outputs.
    pub iopub: Iopub,
}

/// A two-way channel.
#[derive(Debug)]
pub struct Channel {
    peer: Peer,
}

/// The channel of outputs.
#[derive(Debug)]
pub struct Iopub {
    peer: Peer,
}

impl Channels {
    /// Wait until the kernel listens, for as long as it takes: the caller has a deadline and watches the process. Returns
    /// how long it may have been listening when that was noticed.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Listening`] where the system does not tell.
    pub async fn wait_until_listening(
        connection: &ConnectionInfo,
        with_control: bool,
    ) -> Result<Duration, ChannelError> {
        let mut ports = vec![connection.shell_port, connection.iopub_port, connection.stdin_port];
        if with_control {
            ports.push(connection.control_port);
        }
        let mut lookout = listening::Lookout::new();
        while !lookout.all(connection, &ports).map_err(ChannelError::Listening)? {
            sleep(lookout.pause()).await;
        }
        Ok(lookout.pause())
    }

    /// Open all channels with one identity, for as long as it takes: the caller has a deadline and watches the process.
    ///
    /// # Errors
    ///
    /// - [`ChannelError::Connect`], [`ChannelError::Handshake`] name the endpoint.
    /// - [`ChannelError::Identity`] for an identity that ZeroMQ does not take.
    pub async fn connect(
        connection: &ConnectionInfo,
        identity: &str,
        with_control: bool,
    ) -> Result<Self, ChannelError> {
        let shell = Channel::connect(&connection.endpoint(connection.shell_port), identity).await?;
        let stdin = Channel::connect(&connection.endpoint(connection.stdin_port), identity).await?;
        let control = if with_control {
            Some(Channel::connect(&connection.endpoint(connection.control_port), identity).await?)
        } else {
            None
        };
        let iopub = Iopub::connect(&connection.endpoint(connection.iopub_port)).await?;
        Ok(Self { shell, control, stdin, iopub })
    }
}

impl Channel {
    /// Open one channel.
    ///
    /// # Errors
    ///
    /// As [`Channels::connect`].
    pub async fn connect(endpoint: &str, identity: &str) -> Result<Self, ChannelError> {
        Ok(Self { peer: Peer::connect(endpoint, SocketType::Dealer, identity.as_bytes()).await? })
    }

    /// Queue a message for sending, and send what can be sent at once; the rest goes while [`Channel::recv`] waits. `Ok`
    /// says nothing about its arrival.
    ///
    /// # Errors
    ///
    /// - [`ChannelError::Stuck`], from then on always, when 64 MiB waited and the kernel read nothing for a second.
    /// - [`ChannelError::Closed`], [`ChannelError::Broken`] when the connection is known to be gone.
    /// - [`ChannelError::Empty`].
    pub async fn send(&mut self, frames: Vec<Bytes>) -> Result<(), ChannelError> {
        self.peer.send(frames).await
    }

    /// What comes next. Waits for ever on a dead kernel. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`], once, when what came was no ZeroMQ; then the channel is closed.
    pub async fn recv(&mut self) -> Result<Arrival, ProtocolError> {
        self.peer.recv().await
    }
}

impl Iopub {
    /// Open the channel and subscribe to everything: R's topic is our identity, Julia's the message type.
    ///
    /// # Errors
    ///
    /// As [`Channels::connect`].
    pub async fn connect(endpoint: &str) -> Result<Self, ChannelError> {
        let mut peer = Peer::connect(endpoint, SocketType::Sub, b"").await?;
        peer.send(vec![zmtp::subscribe_to_all()]).await?;
        Ok(Self { peer })
    }

    /// As [`Channel::recv`].
    ///
    /// # Errors
    ///
    /// As [`Channel::recv`].
    pub async fn recv(&mut self) -> Result<Arrival, ProtocolError> {
        self.peer.recv().await
    }
}

/// Does somebody listen for requests there now? Nobody is connected to.
///
/// # Errors
///
/// When the system does not say.
pub fn is_listening(connection: &ConnectionInfo) -> std::io::Result<bool> {
    listening::Lookout::new().all(connection, &[connection.shell_port])
}

#[cfg(test)]
mod tests;
