//! The heartbeat: a kernel sends back whatever it is sent.
//!
//! It proves little: wrapper kernels answer for an interpreter that is dead, and a busy R does not answer at all. So
//! nothing here depends on it; `kernelbridge doctor` reports it.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    channels::{Arrival, ChannelError, peer::Peer},
    zmtp::SocketType,
};

/// Send one beat and wait for its echo, for as long as it takes: the caller has a deadline. Returns how long it took.
///
/// # Errors
///
/// - [`ChannelError::Connect`], [`ChannelError::Handshake`] when there is no heartbeat socket.
/// - [`ChannelError::Closed`], [`ChannelError::Broken`] when the connection broke.
pub async fn beat(endpoint: &str) -> Result<Duration, ChannelError> {
    let mut peer = Peer::connect(endpoint, SocketType::Req, b"").await?;
    let began = Instant::now();
    // A request begins with an empty frame, and so does its reply.
    peer.send(vec![Bytes::new(), Bytes::from_static(b"ping")]).await?;
    loop {
        match peer.recv().await? {
            Arrival::Message(frames) if frames.first().is_some_and(Bytes::is_empty) => return Ok(began.elapsed()),
            Arrival::Message(_) | Arrival::Refused(_) => {}
            Arrival::Closed => return Err(ChannelError::Closed),
        }
    }
}
