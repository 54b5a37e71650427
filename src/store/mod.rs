//! Shared state: one SQLite file of JSON values with versions.
//!
//! Values are JSON text, kept and returned byte for byte. Every write raises the key's version, so compare-and-set
//! ([`Store::swap`]) is exact between plugins, hosts and other programs that have the file open at the same time.
//! Knows nothing of plugins: who may touch which key is the host's business.
//!
//! # Format
//!
//! Other programs may read and write the table directly; `docs/state.md` shows how.
//!
//! ```text
//! state(key TEXT PRIMARY KEY, value TEXT (JSON), version INTEGER, updated_at TEXT (RFC 3339, UTC), updated_by TEXT)
//! state_floor(id = 1, version)         highest version of any deleted key; a new key starts above it
//! backlog, dead_letters, once, requests   events on their way and given up; see `delivery.sql`
//! PRAGMA user_version                  2; 1 had the first two tables only, and is brought up to date when it is opened
//! ```
//!
//! A version must never come back, or a swap prepared before a delete and a set would wrongly succeed. Tombstones would
//! keep every deleted key for ever and a counter for the whole file would cost each write a second row; the floor costs
//! something only when a key is made or deleted.

mod backlog;
mod error;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, Params, Row, TransactionBehavior};
use serde_json::value::RawValue;

pub use self::{
    backlog::{DeadLetter, Once, Request, StoredEvent, Waiting},
    error::StoreError,
};

/// The value of `PRAGMA user_version` that this release writes and understands.
pub const SCHEMA_VERSION: i64 = 2;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1000;

/// How long a call waits for other processes that write to the same file.
const BUSY_DEADLINE: Duration = Duration::from_secs(10);

/// The path that means a store in memory.
const MEMORY: &str = ":memory:";

/// A handle on one state file. Shared by reference; every call is one transaction, done when it returns.
///
/// Calls take some ten microseconds, and up to ten seconds while another process holds the file locked, so async code
/// that shares its file with others should call from a blocking thread.
/// Dropping the last handle of the last process folds the write-ahead log back into the file.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
}

/// A value as it is stored.
#[derive(Debug)]
pub struct Entry {
    /// The JSON text, byte for byte as it was set.
    pub value: Box<RawValue>,
    /// Raised by every write, at least 1.
    pub version: u64,
    /// When it was last written, RFC 3339 in UTC with milliseconds.
    pub updated_at: String,
    /// Who wrote it last, as given to [`Store::set`]; empty for other programs.
    pub updated_by: String,
}

/// What came of [`Store::swap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The value was written and now has this version.
    Swapped {
        /// The new version.
        version: u64,
    },
    /// Somebody else was quicker; nothing was written.
    Conflict {
        /// The version there is now; 0 when there is no such key.
        version: u64,
    },
}

impl Store {
    /// Open the file at `path`, creating it (but not its folder) when it is not there. `:memory:` is a store of its own
    /// in memory.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Open`] when the file cannot be opened or made.
    /// - [`StoreError::NotOurs`] when it is no SQLite database, or one of something else.
    /// - [`StoreError::Newer`] when a newer kernelbridge made it.
    /// - [`StoreError::Busy`] when another process kept it locked.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let open = if path == Path::new(MEMORY) { Connection::open_in_memory() } else { Connection::open(&path) };
        let connection = open.map_err(|source| StoreError::Open { path: path.clone(), source })?;
        Self::prepare(connection, path)
    }

    /// A store that lives as long as this handle.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Open`] when there is no memory left.
    pub fn open_in_memory() -> Result<Self, StoreError> {
        Self::open(MEMORY)
    }

    /// Where the store is; `:memory:` for one in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Key`], [`StoreError::NotJson`], [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn get(&self, key: &str) -> Result<Option<Box<RawValue>>, StoreError> {
        Ok(self.read(key)?.map(|entry| entry.value))
    }

    /// The value of `key` with its version, for a [`Store::swap`] to come.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Key`], [`StoreError::NotJson`] when another program wrote something else, [`StoreError::Busy`],
    ///   [`StoreError::Sqlite`].
    pub fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = self.check_key(key)?;
        let sql = "SELECT value, version, updated_at, updated_by FROM state WHERE key = ?1";
        let entry = self.query(sql, [key], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
        })?;
        let Some((text, version, updated_at, updated_by)) = entry else { return Ok(None) };
        let value = RawValue::from_string(text).map_err(|source| StoreError::NotJson {
            path: self.path.clone(),
            key: key.to_owned(),
            source,
        })?;
        Ok(Some(Entry { value, version: version.unsigned_abs(), updated_at, updated_by }))
    }

    /// Write `value` under `key`, whatever was there. Returns the new version.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Key`], [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn set(&self, key: &str, value: &RawValue, by: &str) -> Result<u64, StoreError> {
        let key = self.check_key(key)?;
        // Not one upsert: it would look at the floor, and run the insert's checks, on every write.
        let update = "UPDATE state SET value = ?2, version = version + 1, updated_by = ?3, \
             updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE key = ?1 RETURNING version";
        if let Some(version) = self.query(update, (key, value.get(), by), version)? {
            return Ok(version);
        }
        // Another process may have made the key since.
        let insert = "INSERT INTO state (key, value, version, updated_by) \
             VALUES (?1, ?2, (SELECT version + 1 FROM state_floor), ?3) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = state.version + 1, \
             updated_at = excluded.updated_at, updated_by = excluded.updated_by RETURNING version";
        Ok(self.query(insert, (key, value.get(), by), version)?.unwrap_or_default())
    }

    /// Write `value` under `key` only if its version is still `expected`; 0: only if there is no such key.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Key`], [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn swap(&self, key: &str, expected: u64, value: &RawValue, by: &str) -> Result<Swap, StoreError> {
        let key = self.check_key(key)?;
        let connection = self.lock();
        swap_in(&connection, key, expected, value, by).map_err(|source| self.failed(source))
    }

    /// Remove `key`. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Key`], [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let key = self.check_key(key)?;
        let sql = "DELETE FROM state WHERE key = ?1 RETURNING version";
        Ok(self.query(sql, [key], version)?.is_some())
    }

    /// The keys that start with `prefix`, sorted by code point. The empty prefix lists all.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        // A range and not LIKE, for which % and _ in the prefix would be wildcards and `A` would be `a`.
        let sql = "SELECT key FROM state WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key";
        let connection = self.lock();
        let keys = connection.prepare_cached(sql).and_then(|mut statement| {
            statement.query_map((prefix, after_all_with(prefix)), |row| row.get(0))?.collect()
        });
        keys.map_err(|source| self.failed(source))
    }

    fn prepare(mut connection: Connection, path: PathBuf) -> Result<Self, StoreError> {
        let result = prepare_connection(&mut connection);
        let store = Self { connection: Mutex::new(connection), path };
        match result {
            Ok(SCHEMA_VERSION) => Ok(store),
            Ok(found) if found > SCHEMA_VERSION => {
                Err(StoreError::Newer { path: store.path, found, supported: SCHEMA_VERSION })
            }
            Ok(_) => Err(StoreError::NotOurs { path: store.path }),
            Err(source) => Err(store.failed(source)),
        }
    }

    /// Run one cached statement that gives at most one row.
    fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let connection = self.lock();
        one_row(&connection, sql, params, read).map_err(|source| self.failed(source))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no half-made transaction: each call is one statement.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(&self.path, BUSY_DEADLINE, source)
    }

    fn check_key<'k>(&self, key: &'k str) -> Result<&'k str, StoreError> {
        let reason = match key {
            "" => "it is empty",
            _ if key.len() > MAX_KEY_BYTES => "it is longer than 1000 bytes",
            // The sqlite3 shell and R's DBI would cut the key there and find nothing.
            _ if key.contains('\0') => "it holds the character U+0000",
            _ => return Ok(key),
        };
        let shown = key.chars().take(40).collect();
        Err(StoreError::Key { key: shown, reason })
    }
}

/// Settings, then the tables if the file is new. Returns the schema version, 0 for a database that is not ours.
fn prepare_connection(connection: &mut Connection) -> rusqlite::Result<i64> {
    let mut waiting_since = Instant::now();
    // SQLite's own busy_timeout sleeps up to 100 ms between tries; two plugins that count together would crawl.
    connection.busy_handler(Some(move |tries: i32| {
        if tries == 0 {
            waiting_since = Instant::now();
        }
        std::thread::sleep(Duration::from_micros(100 << tries.clamp(0, 5)));
        waiting_since.elapsed() < BUSY_DEADLINE
    }))?;
    // Look before touching: a foreign or newer file is left exactly as it is.
    let found = schema_version(connection)?;
    if found.is_some_and(|found| !(1..=SCHEMA_VERSION).contains(&found)) {
        return Ok(found.unwrap_or_default());
    }
    enter_wal(connection)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, because another process may have made the tables in the meantime.
    let found = schema_version(&transaction)?.unwrap_or_default();
    if found < 1 {
        transaction.execute_batch(include_str!("schema.sql"))?;
    }
    if found < 2 {
        transaction.execute_batch(include_str!("delivery.sql"))?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()?;
    Ok(schema_version(connection)?.unwrap_or_default())
}

/// None for an empty database, 0 for one that is not ours. One statement, so that both halves are of one moment.
fn schema_version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT (SELECT user_version FROM pragma_user_version), count(*), \
         count(*) FILTER (WHERE type = 'table' AND name IN ('state', 'state_floor')) FROM sqlite_schema";
    connection.query_row(sql, [], |row| {
        Ok(match (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?) {
            (0, 0, _) => None,
            (version, _, 2) if version > 0 => Some(version),
            _ => Some(0),
        })
    })
}

/// Switching to WAL upgrades a lock, and there SQLite answers "busy" at once without asking the busy handler: two
/// processes that make the same file would fail at random.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let started = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && started.elapsed() < BUSY_DEADLINE =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Steps past the row to the end: the transaction commits there, and a full disk is reported there.
fn one_row<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let row = rows.next()?.map(&mut read).transpose()?;
    while rows.next()?.is_some() {}
    Ok(row)
}

fn swap_in(connection: &Connection, key: &str, expected: u64, value: &RawValue, by: &str) -> rusqlite::Result<Swap> {
    let swapped = if expected == 0 {
        let sql = "INSERT INTO state (key, value, version, updated_by) \
             VALUES (?1, ?2, (SELECT version + 1 FROM state_floor), ?3) ON CONFLICT (key) DO NOTHING RETURNING version";
        one_row(connection, sql, (key, value.get(), by), version)?
    } else {
        let sql = "UPDATE state SET value = ?2, version = version + 1, updated_by = ?3, \
             updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE key = ?1 AND version = ?4 RETURNING version";
        // A version beyond what SQLite can count is one that no key ever had.
        let expected = i64::try_from(expected).unwrap_or(-1);
        one_row(connection, sql, (key, value.get(), by, expected), version)?
    };
    Ok(match swapped {
        Some(version) => Swap::Swapped { version },
        None => {
            let now = one_row(connection, "SELECT version FROM state WHERE key = ?1", [key], version)?;
            Swap::Conflict { version: now.unwrap_or(0) }
        }
    })
}

fn version(row: &Row<'_>) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(0)?.unsigned_abs())
}

/// The least string greater than every string that starts with `prefix`; none when there is no such string.
fn after_all_with(prefix: &str) -> Option<String> {
    let mut bound = prefix.to_owned();
    while let Some(last) = bound.pop() {
        // Bytes of UTF-8 sort as code points do; the surrogates between are no characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            bound.push(next);
            return Some(bound);
        }
    }
    None
}

#[cfg(test)]
mod tests;
