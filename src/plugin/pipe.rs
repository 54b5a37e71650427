//! The `pipe` carrier's bytes: a FIFO pair in the kernel's private folder.
//!
//! `to-host` is opened read-only before the turn, so that its end shows as end of file; `to-plugin` is opened for
//! reading and writing, so that opening never blocks or fails while the shim has not opened it yet. Both are opened anew
//! for each turn: whatever an interrupted turn left in them is gone when nobody has them open.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::{
    io::{Interest, Ready, unix::AsyncFd},
    task::coop,
};

use crate::{
    provision::Folder,
    rpc::{self, FrameError},
};

/// As much as a FIFO is to hold, and the most that is read at once: a batch goes through in one piece, without a change of
/// processes for each 64 KiB.
const PIPE_BYTES: usize = 1 << 20;
/// A body of this size is not even passed over; who announces it is not to be believed.
const ABSURD_BYTES: usize = 1 << 30;

/// One turn's pair of FIFOs.
#[derive(Debug)]
pub(super) struct Pipe {
    receiver: AsyncFd<File>,
    sender: AsyncFd<File>,
    /// Where a read ends up first.
    scratch: Vec<u8>,
    inbox: BytesMut,
    outbox: BytesMut,
    limit_bytes: usize,
    /// A body beyond the limit that is being passed over.
    skipped: Option<Skipped>,
    to_host: PathBuf,
    /// Something came in this turn.
    pub heard: bool,
    /// The last read took all that there was room for, so there may be more.
    more: bool,
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
        Self::with(folder, limit_bytes, OpenOptions::new().read(true))
    }

    /// As [`Pipe::open`], for as long as the kernel lives: whoever opens and closes it there, it has no end here.
    pub fn listen(folder: &Path, limit_bytes: usize) -> io::Result<Self> {
        Self::with(folder, limit_bytes, OpenOptions::new().read(true).write(true))
    }

    fn with(folder: &Path, limit_bytes: usize, how: &mut OpenOptions) -> io::Result<Self> {
        let to_host = folder.join(Folder::TO_HOST);
        let receiver = open(&to_host, how)?;
        let sender = open(&folder.join(Folder::TO_PLUGIN), OpenOptions::new().read(true).write(true))?;
        // A child of R, Lua or Bash may have kept the FIFOs open since the last turn, and with them what was left inside.
        // Read once: it is all that fits, and whoever goes on writing must not keep us here.
        let mut scratch = vec![0; PIPE_BYTES];
        for mut end in [&receiver, &sender] {
            let _ = end.read(&mut scratch);
            // Fewer changes of process for large messages; where the user has no more such room, it stays as it is.
            let _ = fcntl(end, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        }
        Ok(Self {
            receiver: watch(receiver, Interest::READABLE)?,
            sender: watch(sender, Interest::WRITABLE)?,
            scratch,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            limit_bytes,
            skipped: None,
            to_host,
            heard: false,
            more: false,
            closed: false,
        })
    }

    /// Queue a message; [`Pipe::flush`] and [`Pipe::progress`] write it.
    pub fn push(&mut self, message: &[u8]) {
        self.outbox.reserve(message.len() + 24);
        self.outbox.extend_from_slice(itoa::Buffer::new().format(message.len() + 1).as_bytes());
        self.outbox.extend_from_slice(b"\n");
        self.outbox.extend_from_slice(message);
        self.outbox.extend_from_slice(b"\n");
    }

    /// Write what can be written without waiting.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.sender.get_ref().write(&self.outbox) {
                Ok(size) => self.outbox.advance(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Wait until something could be read or written, and do it. Never returns once both is over. Cancel safe.
    pub async fn progress(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_progress(context)).await
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.more {
            // Nothing was waited for, so the runtime has not counted it: a plugin that writes as fast as we read would
            // keep all others from their turn.
            ready!(coop::poll_proceed(context)).made_progress();
            return Poll::Ready(self.read_after(false));
        }
        if !self.closed
            && let Poll::Ready(ready) = self.receiver.poll_read_ready(context)
        {
            let mut guard = ready?;
            let was_closed = guard.ready().is_read_closed();
            // Cleared before the read, so that what comes after it is noticed; an end stays.
            guard.clear_ready_matching(Ready::READABLE);
            return Poll::Ready(self.read_after(was_closed));
        }
        if !self.outbox.is_empty()
            && let Poll::Ready(ready) = self.sender.poll_write_ready(context)
        {
            ready?.clear_ready();
            return Poll::Ready(self.flush());
        }
        Poll::Pending
    }

    /// Read what is there.
    pub fn read(&mut self) -> io::Result<()> {
        self.read_after(false)
    }

    /// Once, so that a plugin that never stops writing keeps nobody else from anything.
    ///
    /// `was_closed`: tokio has seen an end of the file, and will say so for ever.
    fn read_after(&mut self, was_closed: bool) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        self.more = false;
        match self.receiver.get_ref().read(&mut self.scratch) {
            // A child that had it open since an earlier turn ended; the shim has yet to open it.
            Ok(0) if !self.heard => self.reopen()?,
            Ok(0) => self.closed = true,
            Ok(size) => {
                self.heard = true;
                // Less than there is room for: it was all.
                self.more = size == self.scratch.len();
                self.take(size);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.more = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if was_closed {
                    self.reopen()?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Keep what was read, unless it belongs to a body that is passed over.
    fn take(&mut self, size: usize) {
        let mut read = &self.scratch[..size];
        if let Some(skipped) = &mut self.skipped {
            let passing = read.len().min(skipped.left);
            skipped.pass(&read[..passing]);
            read = &read[passing..];
        }
        self.inbox.extend_from_slice(read);
    }

    /// What is inside stays, since the old one is open until there is the new one.
    fn reopen(&mut self) -> io::Result<()> {
        let receiver = open(&self.to_host, OpenOptions::new().read(true))?;
        self.receiver = watch(receiver, Interest::READABLE)?;
        Ok(())
    }

    /// The next body that was read. What is larger than the limit never is in memory.
    ///
    /// # Errors
    ///
    /// When the other side does not keep to `<length>\n<body>`, or announces what cannot be: nothing after that can be
    /// trusted.
    pub fn pop(&mut self) -> io::Result<Option<Frame>> {
        if self.skipped.is_none() {
            match rpc::take_frame(&mut self.inbox, self.limit_bytes) {
                Ok(body) => return Ok(body.map(Frame::Body)),
                Err(FrameError::TooLarge { size_bytes }) if size_bytes < ABSURD_BYTES => {
                    let mut skipped = Skipped { head: BytesMut::new(), size_bytes, left: size_bytes };
                    let passing = self.inbox.len().min(size_bytes);
                    skipped.pass(&self.inbox.split_to(passing));
                    self.skipped = Some(skipped);
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        let over = self.skipped.take_if(|skipped| skipped.left == 0);
        Ok(over.map(|Skipped { head, size_bytes, .. }| Frame::TooLarge { head, size_bytes }))
    }
}

impl Skipped {
    /// Let go of a part, but for the beginning.
    fn pass(&mut self, part: &[u8]) {
        let room = rpc::HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&part[..part.len().min(room)]);
        self.left -= part.len();
    }
}

/// So that the runtime tells when it is ready.
fn watch(file: File, interest: Interest) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its descriptor, and this one is neither replaced nor closed while it is watched.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}

/// Never blocks, neither now nor later.
fn open(path: &Path, way: &mut OpenOptions) -> io::Result<File> {
    way.custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
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
        pipe.push(b"{}");
        pipe.flush().expect("writes");
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
            assert!(pipe.inbox.capacity() <= 4 * PIPE_BYTES, "{}", pipe.inbox.capacity());
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
        pipe.push(b"{}");
        pipe.flush().expect("writes");
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
