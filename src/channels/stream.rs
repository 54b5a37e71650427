//! A stream of bytes to a kernel, over TCP or a Unix socket.

use std::io::{self, IoSlice};

use bytes::BytesMut;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// A stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Closed by us.
    Closed,
}

impl Stream {
    /// To `tcp://host:port` or `ipc://path`.
    pub async fn connect(endpoint: &str) -> io::Result<Self> {
        match endpoint.split_once("://") {
            Some(("tcp", address)) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Some(("ipc", path)) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither `tcp://` nor `ipc://`")),
        }
    }

    /// Wait until it can perhaps be read or written. Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await.map(drop),
            Self::Unix(stream) => stream.ready(interest).await.map(drop),
            Self::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Read what is there into the room that there is; 0 when the other side is gone.
    pub fn try_read(&self, read: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(read),
            Self::Unix(stream) => stream.try_read_buf(read),
            Self::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Write as much as can be written at once.
    pub fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(pieces),
            Self::Unix(stream) => stream.try_write_vectored(pieces),
            Self::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
