//! Why a link could not be made, or is no more.

use std::{io, path::PathBuf, time::Duration};

use crate::rpc::RpcError;

/// Why a link could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No running host of that name.
    #[error("no running host `{name}`; {}", known(found))]
    NoHost {
        /// As it was given.
        name: String,
        /// Hosts that run.
        found: Vec<String>,
    },
    /// Nobody said which of several.
    #[error("{} hosts run: `{}`; say which one", found.len(), found.join("`, `"))]
    WhichHost {
        /// Hosts that run.
        found: Vec<String>,
    },
    /// No host runs at all.
    #[error("no host listens; start one with `kernelbridge run --listen`")]
    NoHosts,
    /// The socket is there, but cannot be used.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder of links cannot be made or read.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another host listens there.
    #[error("{path} is where another host listens{whose}; give this one another name or path")]
    Taken {
        /// The socket.
        path: PathBuf,
        /// ` (process 12)`, if that is known.
        whose: String,
    },
    /// The system's limit for the paths of sockets.
    #[error("{path} is too long for a socket: {length} bytes, and the system takes 107; use a shorter path")]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// How long it is.
        length: usize,
    },
    /// Others could put something there.
    #[error("{path} {why}; remove it, or set XDG_RUNTIME_DIR to a folder of your own")]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// `belongs to somebody else`, `can be written by others`.
        why: &'static str,
    },
    /// A name that could lead elsewhere.
    #[error("a host cannot be called `{name}`; use letters, digits, `-`, `_` and `.`, at most 64, and no `.` first")]
    Name {
        /// As it was given.
        name: String,
    },
    /// The host answered with an error, and that is its message.
    #[error("{0}")]
    Refused(RpcError),
    /// The other side is not there any more.
    #[error("the link is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer to `{method}` within {after:?}")]
    Timeout {
        /// What was asked.
        method: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is not what the protocol says.
    #[error("the answer to `{method}` does not fit the protocol: {source}")]
    Answer {
        /// What was asked.
        method: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A value cannot be written as JSON.
    #[error("cannot write `{method}` as JSON: {source}")]
    Json {
        /// What was to be asked.
        method: String,
        /// Why.
        source: serde_json::Error,
    },
}

fn known(found: &[String]) -> String {
    match found {
        [] => "no host listens; start one with `kernelbridge run --listen`".to_owned(),
        found => format!("running: `{}`", found.join("`, `")),
    }
}
