//! A kernel's private folders: 0700, files 0600 and never through a link, gone with their owner.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use nix::{
    sys::{
        stat::Mode,
        statfs::{TMPFS_MAGIC, statfs},
    },
    unistd::{AccessFlags, access, mkfifo},
};
use tempfile::TempDir;

use crate::provision::{LaunchError, guardian::Guardian};

/// A private folder. Dropping it removes it.
#[derive(Debug)]
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    /// How the names of all private folders begin.
    pub const PREFIX: &str = "kernelbridge-";
    /// FIFO of the `pipe` carrier from shim to host.
    pub const TO_HOST: &str = "to-host";
    /// FIFO of the `pipe` carrier from host to shim.
    pub const TO_PLUGIN: &str = "to-plugin";
    /// Its existence asks a busy shim to raise `Cancelled`.
    pub const CANCEL: &str = "cancel";

    /// A new folder under the user's runtime folder.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Folder`] names the folder it should have been in.
    pub fn new(host_id: &str) -> Result<Self, LaunchError> {
        Self::make(Self::base(), host_id)
    }

    /// A new folder for a kernel's temporary files. Not in the private folder, which may be in memory and small.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Folder`] names the folder it should have been in.
    pub fn temporary(host_id: &str) -> Result<Self, LaunchError> {
        Self::make(std::env::temp_dir(), host_id)
    }

    fn make(base: PathBuf, host_id: &str) -> Result<Self, LaunchError> {
        let prefix = format!("{}{host_id}-", Self::PREFIX);
        let private = fs::Permissions::from_mode(0o700);
        match tempfile::Builder::new().prefix(&prefix).permissions(private).tempdir_in(&base) {
            Ok(dir) => Ok(Self { dir }),
            Err(source) => Err(LaunchError::Folder { path: base, source }),
        }
    }

    /// A new folder for large values, in memory where there is a place for them.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Folder`] names the folder it should have been in.
    pub fn blobs(host_id: &str) -> Result<Self, LaunchError> {
        Self::make(Self::blob_base(), host_id)
    }

    /// The folders in which all of these are.
    pub fn bases() -> [PathBuf; 3] {
        [Self::base(), std::env::temp_dir(), Self::blob_base()]
    }

    /// Where folders for large values are: `/dev/shm` or `$XDG_RUNTIME_DIR`, if it is in memory and has room; else where
    /// private folders are. Found out once.
    pub fn blob_base() -> PathBuf {
        static BASE: OnceLock<PathBuf> = OnceLock::new();
        let find = || {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            let places = [Some(PathBuf::from("/dev/shm")), runtime];
            let found = places.into_iter().flatten().find(|dir| dir.is_absolute() && is_in_memory(dir));
            found.unwrap_or_else(|| {
                let base = Self::base();
                tracing::info!(path = %base.display(), "no file system in memory has room for large values; they go here");
                base
            })
        };
        BASE.get_or_init(find).clone()
    }

    /// Where private folders are: `$XDG_RUNTIME_DIR`, or the folder for temporary files.
    pub fn base() -> PathBuf {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        runtime.filter(|dir| dir.is_absolute() && dir.is_dir()).unwrap_or_else(std::env::temp_dir)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Write a new file, readable by its owner only.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Folder`] with the file's path, also when there is one already.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), LaunchError> {
        let path = self.path().join(name);
        let write = |path: &Path| -> io::Result<()> {
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
        };
        write(&path).map_err(|source| LaunchError::Folder { path, source })
    }

    /// Make a FIFO, for its owner only.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Folder`] with the FIFO's path.
    pub fn make_fifo(&self, name: &str) -> Result<(), LaunchError> {
        let path = self.path().join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| LaunchError::Folder { path, source: errno.into() })
    }
}

/// Of a container's 64 MB, an array or two would leave nothing to others.
const LEAST_BLOB_BYTES: u64 = 512 << 20;

/// Is it a file system in memory that we may write to, of a size worth the name?
fn is_in_memory(dir: &Path) -> bool {
    let is_tmpfs = statfs(dir).is_ok_and(|found| {
        let size_bytes = found.blocks().saturating_mul(u64::try_from(found.block_size()).unwrap_or_default());
        found.filesystem_type() == TMPFS_MAGIC && size_bytes >= LEAST_BLOB_BYTES
    });
    is_tmpfs && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// A folder that outlives the kernels: gone with its owner, or by the guardian if this process is killed.
#[derive(Debug)]
pub struct GuardedFolder {
    folder: Folder,
    _guardian: Arc<Guardian>,
}

impl GuardedFolder {
    /// A new folder for large values.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Guardian`], [`LaunchError::Folder`].
    pub fn for_blobs() -> Result<Self, LaunchError> {
        let guardian = Guardian::get().map_err(LaunchError::Guardian)?;
        Ok(Self { folder: Folder::blobs(guardian.id())?, _guardian: guardian })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_look_and_nothing_is_left() {
        let folder = Folder::new("test").expect("a folder");
        folder.write("secret", b"x").expect("written");
        folder.make_fifo("fifo").expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.path().join("secret")), 0o600);
        assert_eq!(mode(&folder.path().join("fifo")), 0o600);
        assert!(matches!(folder.write("secret", b"y"), Err(LaunchError::Folder { .. })));
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }
}
