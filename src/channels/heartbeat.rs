//! The heartbeat: a kernel sends back whatever it is sent.
//!
//! It proves little: wrapper kernels answer for an interpreter that is dead, and a busy R does not answer at all. So
//! nothing here depends on it; `kernelbridge doctor` reports it.

use std::time::{Duration, Instant};

use zeromq::{ReqSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use crate::channels::ChannelError;

/// Send one beat and wait for its echo, for as long as it takes: the caller has a deadline. Returns how long it took.
///
/// # Errors
///
/// - [`ChannelError::Connect`] when nobody listens, or the connection broke.
/// - [`ChannelError::Send`] when the beat could not be sent.
pub async fn beat(endpoint: &str) -> Result<Duration, ChannelError> {
    let broken = |source| ChannelError::Connect { endpoint: endpoint.to_owned(), source };
    let mut socket = ReqSocket::new();
    socket.connect(endpoint).await.map_err(broken)?;
    let began = Instant::now();
    socket.send(ZmqMessage::from("ping")).await.map_err(ChannelError::Send)?;
    socket.recv().await.map_err(broken)?;
    Ok(began.elapsed())
}
