//! What goes over iopub: all that the kernel says, without what is ours, and with what we have to say.
//!
//! The kernel is asked by the frontend and by us. What belongs to our own requests would be noise to a frontend, so it is
//! left out; what handlers print in them, and results of events, are put in as outputs of a cell. Everything else goes on
//! as the bytes that it came in.

use std::{io, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch},
};

use crate::{
    client::{Others, Output},
    relay::doors::Stream,
    wire::{DELIMITER, Header, Outgoing, Signer},
    zmtp,
};

/// Signature, version, mechanism and the rest of a ZeroMQ greeting.
const GREETING: usize = 64;
/// How much may wait for a frontend; then the kernel has to, and drops what it has no room for itself.
const WAITING_KIB: usize = 256 * 1024;
/// How many of our own messages may wait for a frontend.
const SAID: usize = 4096;
/// Flags of a frame.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Between a kernel's iopub and all frontends.
pub(super) struct Filter {
    /// Of our requests.
    session: String,
    signer: Signer,
    /// What the kernel runs of the frontends'.
    others: watch::Receiver<Others>,
    said: broadcast::Sender<Bytes>,
    /// For whoever is no frontend.
    terminal: Option<mpsc::UnboundedSender<String>>,
}

/// As much of a header as is needed.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Brief {
    session: String,
}

impl Filter {
    pub fn new(session: String, signer: Signer, others: watch::Receiver<Others>) -> Self {
        Self { session, signer, others, said: broadcast::channel(SAID).0, terminal: None }
    }

    /// Say what is shown in plain text, too.
    pub fn with_terminal(self, terminal: mpsc::UnboundedSender<String>) -> Self {
        Self { terminal: Some(terminal), ..self }
    }

    /// The cell that runs, or ran last.
    pub fn cell(&self) -> Option<Header> {
        self.others.borrow().cell().cloned()
    }

    /// Show something as an output of a cell.
    pub fn show(&self, output: &Output, cell: Option<Header>) {
        if let Some(terminal) = &self.terminal {
            // Nobody reads any more.
            let _ = terminal.send(plain(output));
        }
        match output {
            Output::Stream { name, text } => self.say("stream", &json!({ "name": name, "text": text }), cell),
            Output::Display { data, metadata } => {
                self.say("display_data", &json!({ "data": data, "metadata": metadata, "transient": {} }), cell);
            }
            Output::Error { ename, evalue, traceback } => {
                self.say("error", &json!({ "ename": ename, "evalue": evalue, "traceback": traceback }), cell);
            }
        }
    }

    /// Say anything about a cell.
    pub fn say(&self, msg_type: &str, content: &impl Serialize, cell: Option<Header>) {
        let header = Header {
            msg_id: uuid::Uuid::new_v4().to_string(),
            session: self.session.clone(),
            username: "kernelbridge".into(),
            date: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            msg_type: msg_type.into(),
            version: "5.3".into(),
            subshell_id: None,
        };
        // Maps of text have a form in JSON.
        let Ok(outgoing) = Outgoing::new(header, cell, content) else { return };
        let Ok(mut frames) = outgoing.into_frames(&self.signer) else { return };
        frames.insert(0, Bytes::from(format!("kernelbridge.{msg_type}")));
        // Nobody listens, which is nobody's loss.
        let _ = self.said.send(zmtp::encode(frames).concat().into());
    }

    /// Move everything between a frontend and the kernel, until one of them has enough.
    pub async fn between(&self, front: Box<dyn Stream>, back: Box<dyn Stream>) -> io::Result<()> {
        let ((mut from_front, mut to_front), (mut from_back, mut to_back)) = (split(front), split(back));
        let (waiting, mut to_write) = mpsc::unbounded_channel::<(Bytes, OwnedSemaphorePermit)>();
        let (room, mut said) = (Arc::new(Semaphore::new(WAITING_KIB)), self.said.subscribe());
        let subscriptions = async {
            copy(&mut from_front, &mut to_back).await?;
            Ok::<_, io::Error>(())
        };
        let read = async move {
            let (mut read, mut cutter) = (BytesMut::new(), Cutter::default());
            loop {
                let message = tokio::select! {
                    // What we say belongs before the end of the cell that we say it in.
                    biased;
                    message = said.recv(), if cutter.is_ready => match message {
                        Ok(message) => Some(message),
                        Err(broadcast::error::RecvError::Lagged(lost)) => {
                            tracing::warn!(lost, "outputs of handlers were too many for a frontend");
                            continue;
                        }
                        // With the kernel.
                        Err(broadcast::error::RecvError::Closed) => return Ok(()),
                    },
                    size = from_back.read_buf(&mut read) => match size? {
                        0 => return Ok(()),
                        _ => None,
                    },
                };
                let mut pieces = Vec::from_iter(message);
                while let Some(Piece { bytes, frames }) = cutter.cut(&mut read)? {
                    if self.is_for_frontends(&frames) {
                        pieces.push(bytes);
                    }
                }
                for piece in pieces {
                    let size = u32::try_from(piece.len() / 1024 + 1).unwrap_or(u32::MAX).min(WAITING_KIB as u32);
                    // Neither is closed while this runs.
                    let Ok(permit) = room.clone().acquire_many_owned(size).await else { return Ok(()) };
                    if waiting.send((piece, permit)).is_err() {
                        return Ok(());
                    }
                }
            }
        };
        let write = async {
            while let Some((bytes, _permit)) = to_write.recv().await {
                to_front.write_all(&bytes).await?;
            }
            Ok::<_, io::Error>(())
        };
        // What was read before the kernel ended is still written.
        tokio::select! {
            ended = subscriptions => ended,
            ended = async { tokio::try_join!(read, write) } => ended.map(drop),
        }
    }

    /// Does a message have nothing to do with our own requests?
    fn is_for_frontends(&self, frames: &[Bytes]) -> bool {
        let Some(start) = frames.iter().position(|frame| frame == DELIMITER) else { return true };
        let brief = |at: usize| -> Brief {
            frames.get(start + at).and_then(|frame| serde_json::from_slice(frame).ok()).unwrap_or_default()
        };
        brief(3).session != self.session
    }
}

/// For a terminal.
fn plain(output: &Output) -> String {
    match output {
        Output::Stream { text, .. } => text.clone(),
        Output::Display { data, .. } => {
            let text = data.get("text/plain").and_then(serde_json::Value::as_str).unwrap_or_default();
            format!("{text}\n")
        }
        Output::Error { traceback, .. } => format!("{}\n", traceback.join("\n")),
    }
}

/// A message or a command, or the greeting.
struct Piece {
    bytes: Bytes,
    /// Of a message.
    frames: Vec<Bytes>,
}

/// Cuts a stream where messages end.
#[derive(Default)]
struct Cutter {
    /// How much of the greeting has gone on.
    greeted_bytes: usize,
    /// The kernel has sent its first command, `READY`: messages may follow.
    is_ready: bool,
    /// How far the message at the front is known: its frames, and where the next one begins.
    frames: Vec<Range<usize>>,
    next: usize,
}

impl Cutter {
    /// Take what is whole from the front of `read`.
    ///
    /// # Errors
    ///
    /// When there is no frame where one should begin.
    fn cut(&mut self, read: &mut BytesMut) -> io::Result<Option<Piece>> {
        if self.greeted_bytes < GREETING && !read.is_empty() {
            // Each side says a part of it, and waits for the other's.
            let now = read.len().min(GREETING - self.greeted_bytes);
            self.greeted_bytes += now;
            return Ok(Some(Piece { bytes: read.split_to(now).freeze(), frames: Vec::new() }));
        }
        loop {
            let rest = &read[self.next..];
            let Some(flags) = rest.first().copied() else { return Ok(None) };
            if flags > MORE | LONG | COMMAND {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no frame begins with {flags:#04x}")));
            }
            let head = if flags & LONG == 0 { 2 } else { 9 };
            if rest.len() < head {
                return Ok(None);
            }
            let size = rest[1..head].iter().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
            let start = self.next + head;
            let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
            // The kernel is one that we started; what it announces it sends.
            let Some(end) = end.filter(|end| *end <= read.len()) else { return Ok(None) };
            self.next = end;
            let is_command = flags & COMMAND != 0;
            self.is_ready |= is_command;
            if !is_command {
                self.frames.push(start..end);
            }
            if flags & MORE == 0 {
                let bytes = read.split_to(std::mem::take(&mut self.next)).freeze();
                let frames = self.frames.drain(..).map(|frame| bytes.slice(frame)).collect();
                return Ok(Some(Piece { bytes, frames }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(session: &str, msg_type: &str, parent: &str) -> Vec<u8> {
        let header = json!({ "session": "kernel", "msg_type": msg_type, "msg_id": "1" }).to_string();
        let parent = json!({ "session": session, "msg_type": "execute_request", "msg_id": parent }).to_string();
        let frames = ["topic", "<IDS|MSG>", "signature", &header, &parent, "{}", &"x".repeat(300)];
        zmtp::encode(frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_bytes())).collect()).concat()
    }

    #[test]
    fn what_is_ours_is_left_out_and_the_rest_is_as_it_was_wherever_it_is_torn() {
        let greeting = [7; GREETING];
        let ready = zmtp::encode_command(b"\x05READY");
        let theirs = message("front", "stream", "a");
        let cell = message("front", "execute_input", "b");
        let whole = [&greeting[..], &ready, &theirs, &message("ours", "stream", "c"), &cell].concat();
        let expected = [&greeting[..], &ready, &theirs, &cell].concat();
        for step in [1, 2, 63, 64, 65, 300, 10_000] {
            let signer = Signer::new("hmac-sha256", b"key").expect("a signer");
            let filter = Filter::new("ours".into(), signer, watch::channel(Others::default()).1);
            let (mut cutter, mut read, mut passed) = (Cutter::default(), BytesMut::new(), Vec::new());
            for part in whole.chunks(step) {
                read.extend_from_slice(part);
                while let Some(piece) = cutter.cut(&mut read).expect("frames") {
                    if filter.is_for_frontends(&piece.frames) {
                        passed.extend_from_slice(&piece.bytes);
                    }
                }
            }
            assert!(read.is_empty() && cutter.is_ready);
            assert_eq!(passed, expected, "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_frame_ends_the_connection() {
        let mut cutter = Cutter { greeted_bytes: GREETING, ..Cutter::default() };
        assert!(cutter.cut(&mut BytesMut::from(&b"\xffabc"[..])).is_err());
    }
}
