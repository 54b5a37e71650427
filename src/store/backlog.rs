//! Events in the store: those on their way, and those that were given up.

use rusqlite::{Row, Transaction, TransactionBehavior, types::ValueRef};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::{Store, StoreError, Swap};

/// How long what `state.once` did is remembered at least, in seconds; after it an event that is still delivered again
/// would do it again.
const REMEMBERED_SECONDS: u32 = 30 * 24 * 3600;

/// An event for a handler, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredEvent {
    /// The plugin.
    pub plugin: String,
    /// Which of its handlers: the pattern of its topics.
    pub handler: String,
    /// The event's id.
    pub event_id: String,
    /// The event's topic.
    pub topic: String,
    /// When it was emitted, RFC 3339 in UTC.
    pub time: String,
    /// Its key.
    pub key: Option<String>,
    /// Its data, JSON.
    #[serde(serialize_with = "raw")]
    pub data: String,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Counts up.
    pub id: i64,
    /// What could not be delivered.
    #[serde(flatten)]
    pub event: StoredEvent,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it failed the last time: an error object of docs/protocol.md.
    #[serde(serialize_with = "raw")]
    pub error: String,
    /// When it was given up, RFC 3339 in UTC.
    pub dead_at: String,
}

/// An event that waits in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the order.
    pub seq: i64,
    /// The event.
    pub event: StoredEvent,
    /// Deliveries that failed before.
    pub attempts: u32,
}

/// What the command line asked of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Dead letters of this plugin are in the backlog again.
    Retry(String),
    /// Take this plugin out of quarantine.
    Release(String),
}

/// What came of [`Store::swap_once`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    /// The event did it before; nothing was written.
    Done,
    /// As without events.
    Swap(Swap),
}

fn raw<S: serde::Serializer>(json: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<&RawValue>(json) {
        Ok(raw) => raw.serialize(serializer),
        // Another program wrote it.
        Err(_) => json.serialize(serializer),
    }
}

const EVENT: &str = "plugin, handler, event_id, topic, time, key, data";
const INSERT: &str = "INSERT INTO backlog (plugin, handler, event_id, topic, time, key, data) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// In the order of [`EVENT`].
fn values(event: &StoredEvent) -> [&dyn rusqlite::ToSql; 7] {
    let StoredEvent { plugin, handler, event_id, topic, time, key, data } = event;
    [plugin, handler, event_id, topic, time, key, data]
}

fn event(row: &Row<'_>, first: usize) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        plugin: row.get(first)?,
        handler: row.get(first + 1)?,
        event_id: row.get(first + 2)?,
        topic: row.get(first + 3)?,
        time: row.get(first + 4)?,
        key: row.get(first + 5)?,
        data: row.get(first + 6)?,
    })
}

impl Store {
    /// Put an event at the end of the backlog. Returns its place. It is there after a crash of this process.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn append(&self, event: &StoredEvent) -> Result<i64, StoreError> {
        let sql = format!("{INSERT} RETURNING seq");
        Ok(self.query(&sql, values(event), |row| row.get(0))?.unwrap_or_default())
    }

    /// Put events at the end of the backlog, all or none: several times as fast as one by one, which write three pages
    /// for each.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn append_all(&self, events: &[StoredEvent]) -> Result<(), StoreError> {
        self.transact(|connection| {
            let mut statement = connection.prepare_cached(INSERT)?;
            events.iter().try_for_each(|event| statement.execute(values(event)).map(drop))
        })
    }

    /// A delivery failed, and there will be another, even if this process ends before it.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn tried(&self, seq: i64, attempts: u32) -> Result<(), StoreError> {
        self.query("UPDATE backlog SET attempts = ?2 WHERE seq = ?1 RETURNING 1", (seq, attempts), |_| Ok(())).map(drop)
    }

    /// Up to `limit` events of the backlog of `plugin` with a place after `after`, in order.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn backlog(&self, plugin: &str, after: i64, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        let sql =
            format!("SELECT seq, attempts, {EVENT} FROM backlog WHERE plugin = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3");
        self.rows(&sql, (plugin, after, i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
            Ok(Waiting { seq: row.get(0)?, attempts: row.get(1)?, event: event(row, 2)? })
        })
    }

    /// How many events the backlog of `plugin` has.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn backlog_len(&self, plugin: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM backlog WHERE plugin = ?1";
        let count = self.query(sql, [plugin], |row| row.get::<_, i64>(0))?;
        Ok(count.unwrap_or_default().unsigned_abs())
    }

    /// These are done: take them out of the backlog.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn acknowledge(&self, seqs: &[i64]) -> Result<(), StoreError> {
        self.transact(|connection| {
            let mut statement = connection.prepare_cached("DELETE FROM backlog WHERE seq = ?1")?;
            seqs.iter().try_for_each(|seq| statement.execute([seq]).map(drop))
        })
    }

    /// Give an event up: it is a dead letter from now on, and no longer in the backlog. Returns the dead letter's id.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn bury(&self, event: &StoredEvent, attempts: u32, error: &str, seq: Option<i64>) -> Result<i64, StoreError> {
        self.transact(|connection| {
            let sql = format!(
                "INSERT INTO dead_letters ({EVENT}, attempts, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            );
            let StoredEvent { plugin, handler, event_id, topic, time, key, data } = event;
            connection
                .prepare_cached(&sql)?
                .execute((plugin, handler, event_id, topic, time, key, data, attempts, error))?;
            let id = connection.last_insert_rowid();
            if let Some(seq) = seq {
                connection.prepare_cached("DELETE FROM backlog WHERE seq = ?1")?.execute([seq])?;
            }
            Ok(id)
        })
    }

    /// Up to `limit` dead letters, oldest first, of one plugin or of all.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn dead_letters(&self, plugin: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let sql = format!("{DEAD_LETTERS} WHERE ?1 IS NULL OR plugin = ?1 ORDER BY id LIMIT ?2");
        self.rows(&sql, (plugin, i64::try_from(limit).unwrap_or(i64::MAX)), dead_letter)
    }

    /// How many dead letters there are, by plugin.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn dead_letter_counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.rows("SELECT plugin, count(*) FROM dead_letters GROUP BY plugin ORDER BY plugin", (), |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
        })
    }

    /// One dead letter.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        self.query(&format!("{DEAD_LETTERS} WHERE id = ?1"), [id], dead_letter)
    }

    /// Put dead letters back into the backlog, to be tried as if for the first time, by a host that runs now or later.
    /// Returns how many there were.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn retry_dead_letters(&self, ids: &[i64]) -> Result<usize, StoreError> {
        self.transact(|connection| {
            let mut retried = 0;
            for id in ids {
                let sql = format!("INSERT INTO backlog ({EVENT}) SELECT {EVENT} FROM dead_letters WHERE id = ?1");
                if connection.prepare_cached(&sql)?.execute([id])? == 1 {
                    let sql = "INSERT INTO requests (what, plugin) \
                         SELECT 'retry', plugin FROM dead_letters WHERE id = ?1 \
                         AND plugin NOT IN (SELECT plugin FROM requests WHERE what = 'retry')";
                    connection.prepare_cached(sql)?.execute([id])?;
                    retried += connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?.execute([id])?;
                }
            }
            Ok(retried)
        })
    }

    /// Remove dead letters for good. Returns how many there were.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn drop_dead_letters(&self, ids: &[i64]) -> Result<usize, StoreError> {
        self.transact(|connection| {
            let mut statement = connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
            ids.iter().try_fold(0, |dropped, id| Ok(dropped + statement.execute([id])?))
        })
    }

    /// Ask the host that has this file open to take a plugin out of quarantine.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn request_release(&self, plugin: &str) -> Result<(), StoreError> {
        self.transact(|connection| {
            connection.execute("INSERT INTO requests (what, plugin) VALUES ('release', ?1)", [plugin]).map(drop)
        })
    }

    /// What was asked and no host has taken yet.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn requests(&self) -> Result<Vec<Request>, StoreError> {
        self.rows("SELECT what, plugin FROM requests ORDER BY id", (), |row| request(row.get_ref(0)?, row.get(1)?))
    }

    /// Take a [`Store::request_release`] back. Returns whether it was still there; if not, a host took it.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn withdraw_release(&self, plugin: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM requests WHERE what = 'release' AND plugin = ?1";
        self.transact(|connection| Ok(connection.execute(sql, [plugin])? > 0))
    }

    /// Take what was asked of those plugins' host.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn take_requests(&self, plugins: &[&str]) -> Result<Vec<Request>, StoreError> {
        // Nearly always there are none, and nobody need be kept from writing to find that out.
        if self.query("SELECT 1 FROM requests LIMIT 1", (), |_| Ok(()))?.is_none() {
            return Ok(Vec::new());
        }
        let mut taken = Vec::new();
        for plugin in plugins {
            let sql = "DELETE FROM requests WHERE plugin = ?1 RETURNING what";
            taken.extend(self.rows(sql, [plugin], |row| request(row.get_ref(0)?, (*plugin).to_owned()))?);
        }
        Ok(taken)
    }

    /// As [`Store::swap`], on behalf of an event: whatever `plugin` writes to `key` for the event of this id is written
    /// once, however often the event is delivered.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Key`], [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn swap_once(
        &self,
        event_id: &str,
        key: &str,
        expected: u64,
        value: &RawValue,
        plugin: &str,
    ) -> Result<Once, StoreError> {
        let key = self.check_key(key)?;
        self.transact(|connection| {
            let sql = "INSERT INTO once (plugin, event_id, key) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            if connection.prepare_cached(sql)?.execute((plugin, event_id, key))? == 0 {
                return Ok(Once::Done);
            }
            let swap = super::swap_in(connection, key, expected, value, plugin)?;
            if matches!(swap, Swap::Conflict { .. }) {
                let sql = "DELETE FROM once WHERE plugin = ?1 AND event_id = ?2 AND key = ?3";
                connection.prepare_cached(sql)?.execute((plugin, event_id, key))?;
            }
            Ok(Once::Swap(swap))
        })
    }

    /// Forget what `state.once` did for events that are neither on their way nor dead letters, after a month.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Busy`], [`StoreError::Sqlite`].
    pub fn forget_old(&self) -> Result<usize, StoreError> {
        self.transact(|connection| {
            let sql = "DELETE FROM once WHERE at < unixepoch() - ?1 \
                 AND event_id NOT IN (SELECT event_id FROM backlog UNION SELECT event_id FROM dead_letters)";
            connection.execute(sql, [REMEMBERED_SECONDS])
        })
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let connection = self.lock();
        let rows = connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect::<rusqlite::Result<_>>());
        rows.map_err(|source| self.failed(source))
    }

    /// All or nothing.
    fn transact<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let done = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        });
        done.map_err(|source| self.failed(source))
    }
}

const DEAD_LETTERS: &str = "SELECT id, attempts, error, dead_at, plugin, handler, event_id, topic, time, key, data \
     FROM dead_letters";

fn request(what: ValueRef<'_>, plugin: String) -> rusqlite::Result<Request> {
    Ok(match what.as_str()? {
        "release" => Request::Release(plugin),
        _ => Request::Retry(plugin),
    })
}

fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        attempts: row.get(1)?,
        error: row.get(2)?,
        dead_at: row.get(3)?,
        event: event(row, 4)?,
    })
}
