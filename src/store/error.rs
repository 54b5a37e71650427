//! Why the store could not do it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::ErrorCode;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file could not be opened or made.
    #[error("cannot open the state file `{}`; does its folder exist, and may you write there?", path.display())]
    Open {
        /// The state file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A file, but no state file of ours.
    #[error("`{}` is not a kernelbridge state file and was left alone; give another path with --state", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Made by a newer kernelbridge.
    #[error("`{}` has schema version {found}, this kernelbridge understands {supported}; use a newer kernelbridge", path.display())]
    Newer {
        /// The state file.
        path: PathBuf,
        /// Its `PRAGMA user_version`.
        found: i64,
        /// Ours.
        supported: i64,
    },
    /// Another process kept the file locked all the time.
    #[error("the state file `{}` was locked by another process for {waited:?}", path.display())]
    Busy {
        /// The state file.
        path: PathBuf,
        /// How long we tried.
        waited: Duration,
    },
    /// A key that cannot be stored.
    #[error("state key `{key}` is not allowed: {reason}")]
    Key {
        /// The key, or how it begins.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another program wrote a value that is not JSON.
    #[error("the value of `{key}` in the state file `{}` is not JSON", path.display())]
    NotJson {
        /// The state file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Where the text stops being JSON.
        #[source]
        source: serde_json::Error,
    },
    /// Anything else: a full disk, a damaged file.
    #[error("the state file `{}` could not be used", path.display())]
    Sqlite {
        /// The state file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

impl StoreError {
    pub(super) fn from_sqlite(path: &Path, waited: Duration, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, waited },
            Some(ErrorCode::NotADatabase) => Self::NotOurs { path },
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::Open { path, source }
            }
            _ => Self::Sqlite { path, source },
        }
    }
}
