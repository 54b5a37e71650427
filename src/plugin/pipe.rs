//! The `pipe` carrier's bytes: a FIFO pair in the kernel's private folder.
//!
//! `to-host` is opened read-only before the turn, so that its end shows as end of file; `to-plugin` is opened for
//! reading and writing, so that opening never blocks or fails while the shim has not opened it yet. Both are opened anew
//! for each turn: whatever an interrupted turn left in them is gone when nobody has them open.

use std::{io, path::Path};

use bytes::{Buf, BytesMut};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use crate::{provision::Folder, rpc};

/// Longest line of digits that announces a body.
const LENGTH_DIGITS: usize = 12;
/// A body of this size is not even passed over; who announces it is not to be believed.
const ABSURD_BYTES: usize = 1 << 30;
/// Room made for each read.
const READ_BYTES: usize = 64 * 1024;

/// One turn's pair of FIFOs.
#[derive(Debug)]
pub(super) struct Pipe {
    receiver: Receiver,
    sender: Sender,
    inbox: BytesMut,
    outbox: BytesMut,
    limit_bytes: usize,
    /// A body beyond the limit that is being passed over.
    skipped: Option<Skipped>,
    /// The shim has closed its end, or never opened it.
    pub closed: bool,
}

/// What was read.
#[derive(Debug)]
pub(super) enum Frame {
    /// A whole body.
    Body(BytesMut),
    /// The beginning of one that is larger than the limit.
    TooLarge { head: BytesMut, size_bytes: usize },
}

#[derive(Debug)]
struct Skipped {
    head: BytesMut,
    size_bytes: usize,
    left: usize,
}

impl Pipe {
    /// Open both ends.
    pub fn open(folder: &Path, limit_bytes: usize) -> io::Result<Self> {
        let receiver = OpenOptions::new().open_receiver(folder.join(Folder::TO_HOST))?;
        let sender = OpenOptions::new().read_write(true).open_sender(folder.join(Folder::TO_PLUGIN))?;
        let mut pipe = Self {
            receiver,
            sender,
            inbox: BytesMut::with_capacity(READ_BYTES),
            outbox: BytesMut::new(),
            limit_bytes,
            skipped: None,
            closed: false,
        };
        pipe.drain_stale(folder)?;
        Ok(pipe)
    }

    /// A child of R, Lua or Bash may have kept the FIFOs open since the last turn, and with them what was left inside.
    fn drain_stale(&mut self, folder: &Path) -> io::Result<()> {
        let to_plugin = OpenOptions::new().read_write(true).open_receiver(folder.join(Folder::TO_PLUGIN))?;
        let mut stale = [0; 4096];
        for receiver in [&self.receiver, &to_plugin] {
            while let Ok(1..) = receiver.try_read(&mut stale) {}
        }
        Ok(())
    }

    /// Queue a message; [`Pipe::flush`] and [`Pipe::progress`] write it.
    pub fn push(&mut self, message: &str) {
        self.outbox.extend_from_slice((message.len() + 1).to_string().as_bytes());
        self.outbox.extend_from_slice(b"\n");
        self.outbox.extend_from_slice(message.as_bytes());
        self.outbox.extend_from_slice(b"\n");
    }

    /// Write what can be written without waiting.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.sender.try_write(&self.outbox) {
                Ok(size) => self.outbox.advance(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Wait until something could be read or written, and do it. Never returns once both is over. Cancel safe.
    pub async fn progress(&mut self) -> io::Result<()> {
        tokio::select! {
            ready = self.receiver.readable(), if !self.closed => {
                ready?;
                self.read()
            }
            ready = self.sender.writable(), if !self.outbox.is_empty() => {
                ready?;
                self.flush()
            }
            else => std::future::pending().await,
        }
    }

    /// Read what is there.
    pub fn read(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        self.inbox.reserve(READ_BYTES);
        match self.receiver.try_read_buf(&mut self.inbox) {
            Ok(0) => self.closed = true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next body that was read. What is larger than the limit never is in memory.
    ///
    /// # Errors
    ///
    /// When the other side does not keep to `<length>\n<body>`, or announces what cannot be: nothing after that can be
    /// trusted.
    pub fn pop(&mut self) -> io::Result<Option<Frame>> {
        if self.skipped.is_some() {
            return Ok(self.skip());
        }
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let head = &self.inbox[..self.inbox.len().min(LENGTH_DIGITS + 1)];
        let Some(end) = head.iter().position(|&byte| byte == b'\n') else {
            if head.len() > LENGTH_DIGITS {
                return Err(invalid("a frame does not begin with its length".into()));
            }
            return Ok(None);
        };
        let length = std::str::from_utf8(&head[..end]).ok().and_then(|digits| digits.trim().parse::<usize>().ok());
        let Some(length) = length else {
            return Err(invalid("a frame does not begin with its length".into()));
        };
        if length >= ABSURD_BYTES {
            return Err(invalid(format!("a frame of {length} bytes, more than any limit allows")));
        }
        if length > self.limit_bytes {
            self.inbox.advance(end + 1);
            self.skipped = Some(Skipped { head: BytesMut::new(), size_bytes: length, left: length });
            return Ok(self.skip());
        }
        if self.inbox.len() < end + 1 + length {
            return Ok(None);
        }
        self.inbox.advance(end + 1);
        Ok(Some(Frame::Body(self.inbox.split_to(length))))
    }

    /// Let go of what was read of a body that is too large; its beginning, once all of it has passed.
    fn skip(&mut self) -> Option<Frame> {
        let skipped = self.skipped.as_mut()?;
        let passing = self.inbox.split_to(self.inbox.len().min(skipped.left));
        let room = rpc::HEAD_BYTES.saturating_sub(skipped.head.len());
        skipped.head.extend_from_slice(&passing[..passing.len().min(room)]);
        skipped.left -= passing.len();
        if skipped.left > 0 {
            return None;
        }
        let Skipped { head, size_bytes, .. } = self.skipped.take()?;
        Some(Frame::TooLarge { head, size_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
    };

    use super::*;

    fn pipe() -> (Folder, Pipe) {
        let folder = Folder::new("test").expect("a folder");
        folder.make_fifo(Folder::TO_HOST).expect("made");
        folder.make_fifo(Folder::TO_PLUGIN).expect("made");
        let pipe = Pipe::open(folder.path(), 100).expect("opens before the shim does");
        (folder, pipe)
    }

    #[tokio::test]
    async fn frames_arrive_whole_however_they_were_cut() {
        let (folder, mut pipe) = pipe();
        let mut shim = fs::OpenOptions::new().write(true).open(folder.path().join(Folder::TO_HOST)).expect("opens");
        for part in ["3", "\nab", "c2\nde1", "\n"] {
            shim.write_all(part.as_bytes()).expect("writes");
            pipe.progress().await.expect("reads");
        }
        let mut pop = || match pipe.pop().expect("frames") {
            Some(Frame::Body(body)) => Some(String::from_utf8(body.to_vec()).expect("text")),
            other => other.map(|frame| panic!("{frame:?}")),
        };
        assert_eq!([pop(), pop(), pop()], [Some("abc".into()), Some("de".into()), None]);
        drop(shim);
        pipe.progress().await.expect("reads");
        assert!(pipe.closed);
    }

    #[tokio::test]
    async fn bodies_end_with_a_counted_line_feed() {
        let (folder, mut pipe) = pipe();
        pipe.push("{}");
        // Nothing is writable before the runtime has looked once.
        pipe.progress().await.expect("writes");
        let mut shim =
            fs::OpenOptions::new().read(true).write(true).open(folder.path().join(Folder::TO_PLUGIN)).expect("opens");
        let mut read = [0; 5];
        shim.read_exact(&mut read).expect("reads");
        assert_eq!(&read, b"3\n{}\n");
    }

    #[tokio::test]
    async fn what_is_too_large_is_passed_over_and_what_follows_is_read() {
        let (folder, mut pipe) = pipe();
        let mut shim = fs::OpenOptions::new().write(true).open(folder.path().join(Folder::TO_HOST)).expect("opens");
        let size = 200_000;
        let writing = std::thread::spawn(move || {
            write!(shim, "{size}\n{}3\nabc", "x".repeat(size)).expect("writes");
            shim
        });
        let mut frames = Vec::new();
        while frames.len() < 2 {
            pipe.progress().await.expect("reads");
            while let Some(frame) = pipe.pop().expect("frames") {
                frames.push(frame);
            }
            assert!(pipe.inbox.capacity() <= 4 * READ_BYTES, "{}", pipe.inbox.capacity());
        }
        let Frame::TooLarge { head, size_bytes } = &frames[0] else { panic!("{frames:?}") };
        assert_eq!((head.len(), *size_bytes), (rpc::HEAD_BYTES, size));
        assert!(matches!(&frames[1], Frame::Body(body) if body == "abc"));
        writing.join().expect("no panic");
    }

    #[tokio::test]
    async fn lies_about_length_are_errors() {
        for lie in ["x\n", "1073741824\n", "9999999999999", "-1\n", "\n"] {
            let (folder, mut pipe) = pipe();
            let mut shim = fs::OpenOptions::new().write(true).open(folder.path().join(Folder::TO_HOST)).expect("opens");
            shim.write_all(lie.as_bytes()).expect("writes");
            pipe.progress().await.expect("reads");
            assert!(pipe.pop().is_err(), "{lie}");
        }
    }
}
