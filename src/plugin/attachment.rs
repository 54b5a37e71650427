//! What travels beside a message: a file in the kernel's private folder, named by it.
//!
//! Each is there for one request and gone when that is over, whatever became of it.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::plugin::Plugin;

/// What names of files that the shim writes begin with; the rest is a number.
const FROM_SHIM: &str = "table-out-";

/// A file for the shim. Dropping it removes the file; a shim that has read it keeps what it read.
#[derive(Debug)]
pub(crate) struct Attachment {
    path: PathBuf,
    /// Its name in the private folder.
    pub name: String,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // With the folder, if not now.
        let _ = fs::remove_file(&self.path);
    }
}

impl Plugin {
    /// A file that the shim can read.
    ///
    /// # Errors
    ///
    /// The system's, with nothing left behind.
    pub(crate) fn attach(&self, bytes: &[u8]) -> io::Result<Attachment> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("table-in-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let attachment = Attachment { path: self.kernel.attachments.0.join(&name), name };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&attachment.path)?;
        file.write_all(bytes)?;
        Ok(attachment)
    }

    /// What the shim wrote into the file of this name, which is removed.
    ///
    /// # Errors
    ///
    /// The system's; also when the name is none that a shim gives, it is no file, or it is larger than
    /// `[limits] result`.
    pub(crate) fn detach(&self, name: &str) -> io::Result<Vec<u8>> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let number = name.strip_prefix(FROM_SHIM).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        if number.is_none_or(str::is_empty) {
            return Err(wrong(format!("`{name}` is no name of a table")));
        }
        let (folder, limit) = &self.kernel.attachments;
        let attachment = Attachment { path: folder.join(name), name: name.to_owned() };
        // A link would lead out of the folder, and a FIFO would never be read.
        let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(&attachment.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > *limit {
            return Err(wrong(format!("a table of {} bytes, more than the limit of {limit}", metadata.len())));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        file.take(*limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
