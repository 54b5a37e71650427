//! The files of all blobs of this process, and who holds them.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use memmap2::{Mmap, MmapMut};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};

use crate::{
    blob::{BlobError, map, object::Description},
    provision::GuardedFolder,
};

/// Most bytes in all blobs of this process at one time, if the file system has twice as many.
const LIMIT_BYTES: u64 = 4 << 30;

/// What became of blobs in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blobs {
    /// Held now.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// How many there have been.
    pub made: u64,
    /// Of those, how many were unlinked because nobody held them any more.
    pub freed: u64,
    /// Refused, for one reason or another.
    pub refused: u64,
}

static MADE: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());

/// What became of blobs in this process so far.
pub fn blobs() -> Blobs {
    let (held, held_bytes) = Pool::current().map_or((0, 0), |pool| {
        let books = pool.books();
        (books.held.len() as u64, books.bytes)
    });
    let [made, freed, refused] = [&MADE, &FREED, &REFUSED].map(|count| count.load(Ordering::Relaxed));
    Blobs { held, held_bytes, made, freed, refused }
}

/// The folder of all blobs of this process. Dropping the last handle removes it.
#[derive(Debug)]
pub struct Pool {
    /// Opened once, so that whoever moves the folder moves nothing of ours.
    dir: OwnedFd,
    folder: GuardedFolder,
    limit_bytes: u64,
    books: Mutex<Books>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Books {
    held: HashMap<Arc<str>, Weak<Blob>>,
    /// Of held blobs, and of those that are being written.
    bytes: u64,
}

/// One file and a mapping of it. Dropping it unlinks the file.
#[derive(Debug)]
pub struct Blob {
    /// What is in it.
    pub(super) description: Description,
    /// `None` when there is nothing in it.
    map: Option<Mmap>,
    place: Place,
}

/// Bytes that were reserved in the books under a name, and the file of that name, which both go with it.
#[derive(Debug)]
struct Place {
    pool: Arc<Pool>,
    name: Arc<str>,
    bytes: u64,
}

/// Blobs that are held because a text names them.
#[derive(Debug, Clone, Default)]
pub struct Held(Option<Arc<[Arc<Blob>]>>);

impl Held {
    /// How many bytes that are not in the text.
    pub fn size_bytes(&self) -> u64 {
        self.iter().map(|blob| blob.place.bytes).sum()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Blob>> {
        self.0.iter().flat_map(|blobs| blobs.iter())
    }
}

impl FromIterator<Arc<Blob>> for Held {
    fn from_iter<I: IntoIterator<Item = Arc<Blob>>>(blobs: I) -> Self {
        let blobs: Arc<[Arc<Blob>]> = blobs.into_iter().collect();
        Self((!blobs.is_empty()).then_some(blobs))
    }
}

impl Pool {
    /// The pool of this process; makes one if there is none.
    ///
    /// # Errors
    ///
    /// [`BlobError::Folder`], [`BlobError::File`].
    pub fn get() -> Result<Arc<Self>, BlobError> {
        let mut current = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = current.upgrade() {
            return Ok(pool);
        }
        let pool = Arc::new(Self::new(LIMIT_BYTES)?);
        *current = Arc::downgrade(&pool);
        Ok(pool)
    }

    /// The pool of this process, if there is one.
    pub fn current() -> Option<Arc<Self>> {
        POOL.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    pub(super) fn new(limit_bytes: u64) -> Result<Self, BlobError> {
        let folder = GuardedFolder::for_blobs()?;
        let failed = |errno: rustix::io::Errno| file_error(folder.path(), errno.into());
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(folder.path(), flags, Mode::empty()).map_err(failed)?;
        let room = rustix::fs::fstatvfs(&dir).map_err(failed)?;
        let limit_bytes = limit_bytes.min(room.f_frsize.saturating_mul(room.f_blocks) / 2);
        Ok(Self { dir, folder, limit_bytes, books: Mutex::default(), next: AtomicU64::new(1) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob of that name, if somebody holds it.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Blob>> {
        self.books().held.get(name)?.upgrade()
    }

    /// Reserve bytes, under a new name that nobody can guess.
    fn place(self: &Arc<Self>, size_bytes: u64) -> Result<Place, BlobError> {
        let mut books = self.books();
        let (held_bytes, limit_bytes) = (books.bytes, self.limit_bytes);
        if held_bytes.saturating_add(size_bytes) > limit_bytes {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return Err(BlobError::Full { wanted_bytes: size_bytes, held_bytes, limit_bytes });
        }
        books.bytes += size_bytes;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number}-{}", &uuid::Uuid::new_v4().simple().to_string()[..16]).into();
        Ok(Place { pool: self.clone(), name, bytes: size_bytes })
    }

    /// A blob with these bytes.
    pub(super) fn write(self: &Arc<Self>, description: Description, bytes: &[u8]) -> Result<Arc<Blob>, BlobError> {
        let place = self.place(bytes.len() as u64)?;
        // Writing costs half of what filling a mapping does: no page is made zero first, and none faults.
        let file = place.create(|mut file| file.write_all(bytes))?;
        place.hold(description, &file)
    }

    /// A blob with what comes from elsewhere.
    pub(super) fn copy(
        self: &Arc<Self>,
        description: Description,
        from: &File,
        path: &Path,
    ) -> Result<Arc<Blob>, BlobError> {
        let size_bytes = description.size_bytes();
        let place = self.place(size_bytes)?;
        let file = place.create(|mut file| match io::copy(&mut from.take(size_bytes), &mut file)? {
            copied if copied == size_bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        });
        let file = file.map_err(|error| match error {
            BlobError::File { source, .. } => file_error(path, source),
            other => other,
        })?;
        place.hold(description, &file)
    }

    /// Make a blob of a file in another folder of the same file system by moving it here.
    pub(super) fn take(
        self: &Arc<Self>,
        description: Description,
        file: &File,
        dir: &OwnedFd,
        name: &str,
        path: &Path,
    ) -> Result<Arc<Blob>, BlobError> {
        let place = self.place(description.size_bytes())?;
        match rustix::fs::renameat(dir, name, &self.dir, &*place.name) {
            Ok(()) => {}
            Err(rustix::io::Errno::XDEV) => {
                drop(place);
                return self.copy(description, file, path);
            }
            Err(errno) => return Err(file_error(path, errno.into())),
        }
        // What was moved is what was looked at?
        let failed = |errno: rustix::io::Errno| file_error(path, errno.into());
        let here = rustix::fs::statat(&self.dir, &*place.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let there = rustix::fs::fstat(file).map_err(failed)?;
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
            return Err(BlobError::Name { name: name.to_owned(), why: "which was replaced while it was read" });
        }
        place.hold(description, file)
    }

    /// An empty file with room for these bytes, mapped for writing.
    pub(super) fn reserve(self: &Arc<Self>, size_bytes: u64) -> Result<Unfinished, BlobError> {
        let place = self.place(size_bytes)?;
        let file = place.create(|file| {
            rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), 0, size_bytes).map_err(io::Error::from)
        })?;
        let map = map::write(&file).map_err(|source| file_error(&place.path(), source))?;
        Ok(Unfinished { map, place })
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub map: MmapMut,
    place: Place,
}

impl Unfinished {
    /// It is written, and is never written again.
    pub fn finish(self, description: Description) -> Result<Arc<Blob>, BlobError> {
        let Self { map, place } = self;
        let map = map.make_read_only().map_err(|source| file_error(&place.path(), source))?;
        Ok(place.hold_mapped(description, Some(map)))
    }
}

impl Place {
    fn path(&self) -> PathBuf {
        self.pool.path().join(&*self.name)
    }

    /// A new file of this name, filled.
    fn create(&self, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<File, BlobError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.pool.dir, &*self.name, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map(File::from).map_err(io::Error::from);
        let filled = file.and_then(|file| fill(&file).map(|()| file));
        filled.map_err(|source| file_error(&self.path(), source))
    }

    fn hold(self, description: Description, file: &File) -> Result<Arc<Blob>, BlobError> {
        let map = match self.bytes {
            // Nothing cannot be mapped.
            0 => None,
            _ => Some(map::read(file).map_err(|source| file_error(&self.path(), source))?),
        };
        Ok(self.hold_mapped(description, map))
    }

    fn hold_mapped(self, description: Description, map: Option<Mmap>) -> Arc<Blob> {
        let (pool, name) = (self.pool.clone(), self.name.clone());
        let blob = Arc::new(Blob { description, map, place: self });
        pool.books().held.insert(name, Arc::downgrade(&blob));
        MADE.fetch_add(1, Ordering::Relaxed);
        blob
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not there if it could not be made.
        let was_there = rustix::fs::unlinkat(&self.pool.dir, &*self.name, AtFlags::empty()).is_ok();
        let mut books = self.pool.books();
        books.bytes = books.bytes.saturating_sub(self.bytes);
        let was_held = books.held.remove(&self.name).is_some();
        let count = if was_there && was_held { &FREED } else { &REFUSED };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Blob {
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// As shims open it.
    pub(super) fn path(&self) -> PathBuf {
        self.place.path()
    }
}

pub(super) fn file_error(path: &Path, source: io::Error) -> BlobError {
    BlobError::File { path: path.to_owned(), source }
}

pub(super) fn refuse(error: BlobError) -> BlobError {
    REFUSED.fetch_add(1, Ordering::Relaxed);
    error
}
