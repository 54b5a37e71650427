//! The one place where files become memory.
//!
//! # Safety
//!
//! A mapping is undefined behaviour in Rust if the file under it is changed, and SIGBUS if it is cut short. What is mapped
//! here is in the pool, and:
//!
//! - nothing of this process writes into a file of the pool once it is mapped for reading, nor makes it shorter;
//! - a kernel in the sandbox `read-only` can neither write into the pool nor keep a file open that was moved there, because
//!   its results are copied (`outbox.rs`);
//! - any other process of the same user could write there, as it could write into this process's memory (`/proc/PID/mem`)
//!   or end it. It is trusted as much as the user is; docs/security.md says so.
//!
//! Room in the file system is reserved before a file is mapped for writing, since a full `tmpfs` would be SIGBUS, too.

use std::{fs::File, io};

use memmap2::{Mmap, MmapMut};

/// Map a file of the pool that nobody writes into any more.
pub(super) fn read(file: &File) -> io::Result<Mmap> {
    // SAFETY: see the module's documentation.
    unsafe { Mmap::map(file) }
}

/// Map a new file of the pool, all of whose bytes were reserved.
pub(super) fn write(file: &File) -> io::Result<MmapMut> {
    // SAFETY: see the module's documentation; nobody else knows of the file yet.
    unsafe { MmapMut::map_mut(file) }
}
