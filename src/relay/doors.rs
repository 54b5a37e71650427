//! The five ports that a frontend knows, and the connections between them and the kernel's own.
//!
//! Each connection of a frontend gets one to the kernel, and bytes go to and fro as they are: identities, subscriptions,
//! signatures and whatever else the two agree on stay theirs. Only what the kernel sends over iopub is looked at
//! ([`crate::relay::iopub`]).

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::sleep,
};

use crate::{connection::ConnectionInfo, relay::iopub::Filter};

/// What is moved at once.
const PIECE_BYTES: usize = 64 * 1024;
/// How long to wait after a connection could not be accepted, which means that there are too many.
const PAUSE: Duration = Duration::from_millis(100);

/// Anything that bytes go through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A port that frontends connect to.
pub(super) enum Door {
    Tcp(TcpListener),
    /// The file goes with it.
    Unix(UnixListener, PathBuf),
}

impl Door {
    async fn open(connection: &ConnectionInfo, port: u16) -> io::Result<Self> {
        if connection.transport == "ipc" {
            let path = PathBuf::from(format!("{}-{port}", connection.ip));
            // Of a kernel that had this connection file before.
            let _ = std::fs::remove_file(&path);
            return Ok(Self::Unix(UnixListener::bind(&path)?, path));
        }
        Ok(Self::Tcp(TcpListener::bind((connection.ip.as_str(), port)).await?))
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Open all five, in the order of [`ConnectionInfo::ports`]. Frontends may connect from now on, and wait.
///
/// # Errors
///
/// With the port that is taken.
pub(super) async fn open(connection: &ConnectionInfo) -> Result<Vec<Door>, (u16, io::Error)> {
    let mut doors = Vec::new();
    for port in connection.ports() {
        doors.push(Door::open(connection, port).await.map_err(|error| (port, error))?);
    }
    Ok(doors)
}

/// Serve one of them, for as long as the future is polled.
pub(super) async fn serve(door: Door, kernel: Arc<ConnectionInfo>, port: u16, filter: Option<Arc<Filter>>) {
    loop {
        let front = match door.accept().await {
            Ok(front) => front,
            Err(error) => {
                tracing::warn!(%error, "a frontend could not connect");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (kernel, filter) = (kernel.clone(), filter.clone());
        tokio::spawn(async move {
            let moved = match connect(&kernel, port).await {
                Ok(back) => between(front, back, filter.as_deref()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = moved {
                tracing::debug!(%error, port, "a frontend's connection ended");
            }
        });
    }
}

async fn connect(kernel: &ConnectionInfo, port: u16) -> io::Result<Box<dyn Stream>> {
    if kernel.transport == "ipc" {
        return Ok(Box::new(UnixStream::connect(format!("{}-{port}", kernel.ip)).await?));
    }
    let stream = TcpStream::connect((kernel.ip.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Until one of the two has enough.
async fn between(mut front: Box<dyn Stream>, mut back: Box<dyn Stream>, filter: Option<&Filter>) -> io::Result<()> {
    match filter {
        Some(filter) => filter.between(front, back).await,
        None => {
            copy_bidirectional_with_sizes(&mut front, &mut back, PIECE_BYTES, PIECE_BYTES).await?;
            Ok(())
        }
    }
}
