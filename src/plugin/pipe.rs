//! The `pipe` carrier's bytes: a FIFO pair in the kernel's private folder.
//!
//! `to-host` is opened read-only before the turn, so that its end shows as end of file; `to-plugin` is opened for
//! reading and writing, so that opening never blocks or fails while the shim has not opened it yet. Both are opened anew
//! for each turn: whatever an interrupted turn left in them is gone when nobody has them open.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use bytes::{Buf, BytesMut};
use nix::fcntl::{FcntlArg, fcntl};
use tokio::{
    io::Interest,
    net::unix::pipe::{OpenOptions, Receiver, Sender},
};

use crate::{
    provision::Folder,
    rpc::{self, FrameError},
};

/// As much as a FIFO should hold: a batch goes through in one piece, without a change of processes for each 64 KiB.
const PIPE_BYTES: i32 = 1 << 20;
/// As much as a FIFO holds at most.
const STALE_BYTES: usize = PIPE_BYTES as usize;
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
    to_host: PathBuf,
    /// Something came in this turn.
    heard: bool,
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
        let to_host = folder.join(Folder::TO_HOST);
        let receiver = OpenOptions::new().open_receiver(&to_host)?;
        let sender = OpenOptions::new().read_write(true).open_sender(folder.join(Folder::TO_PLUGIN))?;
        for end in [receiver.as_fd(), sender.as_fd()] {
            // More than the system allows for all pipes of a user is refused, and what there is will do.
            let _ = fcntl(end, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        }
        let mut pipe = Self {
            receiver,
            sender,
            inbox: BytesMut::with_capacity(READ_BYTES),
            outbox: BytesMut::new(),
            limit_bytes,
            skipped: None,
            to_host,
            heard: false,
            closed: false,
        };
        pipe.drain_stale(folder)?;
        Ok(pipe)
    }

    /// A child of R, Lua or Bash may have kept the FIFOs open since the last turn, and with them what was left inside.
    fn drain_stale(&mut self, folder: &Path) -> io::Result<()> {
        let to_plugin = OpenOptions::new().read_write(true).open_receiver(folder.join(Folder::TO_PLUGIN))?;
        let mut stale = vec![0; STALE_BYTES];
        for receiver in [&self.receiver, &to_plugin] {
            // Past tokio, which reads nothing before the runtime has looked once. Once: it is all that fits, and whoever
            // goes on writing must not keep us here.
            let _ = rustix::io::read(receiver, &mut stale);
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
            ready = self.receiver.ready(Interest::READABLE), if !self.closed => {
                let was_closed = ready?.is_read_closed();
                self.read_after(was_closed)
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
        self.read_after(false)
    }

    /// `was_closed`: tokio has seen an end of the file, and will say so for ever.
    fn read_after(&mut self, was_closed: bool) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        self.inbox.reserve(READ_BYTES);
        match self.receiver.try_read_buf(&mut self.inbox) {
            // A child that had it open since an earlier turn ended; the shim has yet to open it.
            Ok(0) if !self.heard => self.reopen()?,
            Ok(0) => self.closed = true,
            Ok(_) => self.heard = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if was_closed {
                    self.reopen()?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is inside stays, since the old one is open until there is the new one.
    fn reopen(&mut self) -> io::Result<()> {
        self.receiver = OpenOptions::new().open_receiver(&self.to_host)?;
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
        match rpc::take_frame(&mut self.inbox, self.limit_bytes) {
            Ok(body) => Ok(body.map(Frame::Body)),
            Err(FrameError::TooLarge { size_bytes }) if size_bytes < ABSURD_BYTES => {
                self.skipped = Some(Skipped { head: BytesMut::new(), size_bytes, left: size_bytes });
                Ok(self.skip())
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
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
        time::Duration,
    };

    use tokio::time::timeout;

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
    async fn what_an_earlier_turn_left_is_gone() {
        let (folder, before) = pipe();
        // A child of the shim's keeps both open.
        let open = |name: &str| fs::OpenOptions::new().read(true).write(true).open(folder.path().join(name));
        let mut held = [open(Folder::TO_HOST).expect("opens"), open(Folder::TO_PLUGIN).expect("opens")];
        for file in &mut held {
            file.write_all(b"9\nleft over").expect("writes");
        }
        drop(before);
        let mut pipe = Pipe::open(folder.path(), 100).expect("opens");
        pipe.push("{}");
        pipe.progress().await.expect("writes");
        let [to_host, to_plugin] = &mut held;
        to_host.write_all(b"3\nnew").expect("writes");
        let mut read = [0; 5];
        to_plugin.read_exact(&mut read).expect("reads");
        assert_eq!(&read, b"3\n{}\n");
        pipe.progress().await.expect("reads");
        assert!(matches!(pipe.pop().expect("frames"), Some(Frame::Body(body)) if body == "new"));
    }

    /// It would be read again and again, and nothing else ever done.
    #[tokio::test]
    async fn whoever_closes_before_the_shim_opens_is_no_end() {
        for looked_between in [false, true] {
            let (folder, mut pipe) = pipe();
            let open = || fs::OpenOptions::new().write(true).open(folder.path().join(Folder::TO_HOST)).expect("opens");
            let mut progress = async || timeout(Duration::from_millis(50), pipe.progress()).await.is_ok();
            drop(open());
            if looked_between {
                while progress().await {}
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let mut shim = open();
            for _ in 0..3 {
                progress().await;
            }
            assert!(!progress().await, "there is nothing to do");
            shim.write_all(b"3\nabc").expect("writes");
            assert!(progress().await);
            drop(shim);
            assert!(progress().await);
            // A wake-up may come twice, so the end may be one or two steps further on.
            for _ in 0..3 {
                progress().await;
            }
            assert!(matches!(pipe.pop().expect("frames"), Some(Frame::Body(body)) if body == "abc"));
            assert!(pipe.closed);
        }
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
