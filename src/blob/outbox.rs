//! Where a plugin puts its blobs, and how they get out of there.
//!
//! Nothing that a plugin says of its files is believed: a name is looked up in this one folder, which was opened before any
//! code of the author's ran, and what is there has to be a plain file of the size that it should have.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::blob::{
    BlobError, Pool,
    object::Object,
    pool::{Blob, file_error},
    text::shown,
};

/// The folder into which one kernel writes its blobs.
#[derive(Debug)]
pub struct Outbox {
    pool: Arc<Pool>,
    dir: OwnedFd,
    path: PathBuf,
    copies: bool,
}

impl Outbox {
    /// Of a kernel. `copies`: its plugin is not trusted, and might keep a file open to change it later.
    ///
    /// # Errors
    ///
    /// [`BlobError::File`].
    pub fn open(pool: Arc<Pool>, path: &Path, copies: bool) -> Result<Self, BlobError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| file_error(path, errno.into()))?;
        Ok(Self { pool, dir, path: path.to_owned(), copies })
    }

    /// Make a blob of a file in here.
    pub(super) fn take(&self, name: &str, object: &Object<'_>, limit_bytes: u64) -> Result<Arc<Blob>, BlobError> {
        let wrong = |why| BlobError::Name { name: shown(name), why };
        // Shims may write the whole path.
        let here = self.path.to_str().and_then(|path| name.strip_prefix(path)?.strip_prefix('/')).unwrap_or(name);
        if here.is_empty() || here.len() > 100 || here.starts_with('.') || here.contains(['/', '\0']) {
            return Err(wrong("which is not in the plugin's own folder ($KERNELBRIDGE_BLOBS)"));
        }
        let path = self.path.join(here);
        // Not to wait for whoever would open the other end of a FIFO.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, here, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Err(wrong("and there is no such file")),
            Err(rustix::io::Errno::LOOP) => return Err(wrong("which is a link")),
            Err(errno) => return Err(file_error(&path, errno.into())),
        };
        let found = rustix::fs::fstat(&file).map_err(|errno| file_error(&path, errno.into()))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(wrong("which is no plain file"));
        }
        if found.st_nlink != 1 {
            return Err(wrong("which has other names, too"));
        }
        let size_bytes = u64::try_from(found.st_size).unwrap_or_default();
        if size_bytes > limit_bytes {
            return Err(BlobError::TooLarge { size_bytes, limit_bytes });
        }
        let description = object.description(size_bytes)?;
        if !self.copies {
            return self.pool.take(description, &file, &self.dir, here, &path);
        }
        let blob = self.pool.copy(description, &file, &path);
        // If it cannot be removed, it goes with the folder.
        let _ = rustix::fs::unlinkat(&self.dir, here, AtFlags::empty());
        blob
    }

    /// Remove what was never sent: a handler may have been interrupted after it had written. Nobody may be writing.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn clean(&self) -> io::Result<()> {
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                // A folder stays until the kernel's own goes.
                let _ = rustix::fs::unlinkat(&self.dir, entry.file_name(), AtFlags::empty());
            }
        }
        Ok(())
    }
}
