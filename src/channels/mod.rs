//! A kernel's five channels over ZeroMQ.
//!
//! All of them are opened by one constructor with one identity: `input_request`s only arrive when stdin has shell's.
//! Nothing here parses a message. A dead kernel is silent here; only its process tells.

pub mod heartbeat;
mod listening;

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, Socket, SocketOptions, SocketRecv, SocketSend, SubSocket, ZmqError,
    ZmqMessage, util::PeerIdentity,
};

use crate::connection::ConnectionInfo;

/// How long a message may wait to be queued. `zeromq` keeps 100,000 for a kernel that does not read them; after that each
/// would wait for ever, and be kept all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why channels could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// Something of ZeroMQ.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why.
        source: ZmqError,
    },
    /// The identity is longer than 255 bytes or empty.
    #[error("not a ZeroMQ identity: {0}")]
    Identity(#[source] ZmqError),
    /// A message could not be sent.
    #[error("cannot send: {0}")]
    Send(#[source] ZmqError),
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
pub struct Channel {
    sender: DealerSendHalf,
    receiver: DealerRecvHalf,
    is_stuck: bool,
}

/// The channel of outputs.
pub struct Iopub {
    socket: SubSocket,
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

    /// Open all channels with one identity.
    ///
    /// # Errors
    ///
    /// - [`ChannelError::Connect`] names the endpoint.
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
        let endpoint = connection.endpoint(connection.iopub_port);
        let mut socket = SubSocket::new();
        let connected = async {
            socket.connect(&endpoint).await?;
            // Everything: R's topic is our identity, Julia's the message type.
            socket.subscribe("").await
        };
        connected.await.map_err(|source| ChannelError::Connect { endpoint, source })?;
        Ok(Self { shell, control, stdin, iopub: Iopub { socket } })
    }
}

impl Channel {
    /// Open one channel.
    ///
    /// # Errors
    ///
    /// As [`Channels::connect`].
    pub async fn connect(endpoint: &str, identity: &str) -> Result<Self, ChannelError> {
        let mut options = SocketOptions::default();
        options.peer_identity(PeerIdentity::try_from(identity.as_bytes()).map_err(ChannelError::Identity)?);
        let mut socket = DealerSocket::with_options(options);
        socket
            .connect(endpoint)
            .await
            .map_err(|source| ChannelError::Connect { endpoint: endpoint.to_owned(), source })?;
        let (sender, receiver) = socket.split();
        Ok(Self { sender, receiver, is_stuck: false })
    }

    /// Queue a message for sending. `Ok` says nothing about its arrival.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Send`] when the connection is known to be gone; [`ChannelError::Stuck`], from then on always, when
    /// the kernel has not read any of very many messages.
    pub async fn send(&mut self, frames: Vec<Bytes>) -> Result<(), ChannelError> {
        let message = ZmqMessage::try_from(frames).map_err(|_| ChannelError::Empty)?;
        if self.is_stuck {
            return Err(ChannelError::Stuck);
        }
        match timeout(PATIENCE, self.sender.send(message)).await {
            Ok(sent) => sent.map_err(ChannelError::Send),
            Err(_) => {
                self.is_stuck = true;
                Err(ChannelError::Stuck)
            }
        }
    }

    /// The next message's frames. Waits for ever on a dead kernel. Cancel safe.
    ///
    /// # Errors
    ///
    /// When the connection broke; it may still deliver more.
    pub async fn recv(&mut self) -> Result<Vec<Bytes>, ZmqError> {
        self.receiver.recv().await.map(ZmqMessage::into_vec)
    }
}

impl Iopub {
    /// The next message's frames. Waits for ever on a dead kernel. Cancel safe.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub async fn recv(&mut self) -> Result<Vec<Bytes>, ZmqError> {
        self.socket.recv().await.map(ZmqMessage::into_vec)
    }
}
