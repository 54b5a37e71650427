//! A plugin's events in the store: those that are journaled, those that found no place in memory, and those that an
//! earlier process left behind.
//!
//! Rows are in the order of acceptance. A row is *held* while its event is in the memory of this process; all others
//! are *stored*. As long as there are stored rows, new events become stored rows too, and one task moves the oldest into
//! the lanes whenever there is a place, so that the order is kept.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{
    host::{
        Event,
        lane::{Delivery, Entry, Subscriber},
        shared::Shared,
    },
    rpc::{ErrorKind, RpcError},
    store::{Store, StoreError, StoredEvent, Waiting},
};

/// Rows read at once.
const CHUNK: usize = 256;

/// The store's view of one plugin's events.
pub(crate) struct Ledger {
    store: Arc<Store>,
    plugin: Arc<str>,
    is_journal: bool,
    rows: Mutex<Rows>,
    /// Are there stored rows? Changed under the lock only.
    is_behind: AtomicBool,
    arrived: Notify,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Rows {
    held: HashSet<i64>,
    /// How many rows are stored, as far as this process knows.
    stored: u64,
}

/// Where an event went.
pub(crate) enum Admitted {
    /// It is in the store, and will come back from there.
    Stored,
    /// It is to be put into its lane.
    Direct,
}

impl Ledger {
    pub fn new(store: Arc<Store>, plugin: &str, is_journal: bool) -> Self {
        Self {
            store,
            plugin: plugin.into(),
            is_journal,
            rows: Mutex::default(),
            is_behind: AtomicBool::new(false),
            arrived: Notify::new(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// The plugin is gone: nobody works off anything more.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// Write the event down if it has to be.
    pub fn admit(&self, delivery: &mut Delivery) -> Result<Admitted, RpcError> {
        if !self.is_journal && !self.is_behind.load(Ordering::Acquire) {
            return Ok(Admitted::Direct);
        }
        let mut rows = self.lock();
        if rows.stored > 0 {
            self.append(&mut rows, delivery)?;
            return Ok(Admitted::Stored);
        }
        if self.is_journal {
            let seq = self.store.append(&delivery.stored(&self.plugin)).map_err(|error| failed(&error))?;
            rows.held.insert(seq);
            delivery.seq = Some(seq);
        }
        Ok(Admitted::Direct)
    }

    /// There was no place for it in memory.
    pub fn spill(&self, delivery: &Delivery) -> Result<(), RpcError> {
        let mut rows = self.lock();
        match delivery.seq {
            // Journaled: it is there already.
            Some(seq) => {
                rows.held.remove(&seq);
                self.one_more(&mut rows);
                Ok(())
            }
            None => self.append(&mut rows, delivery),
        }
    }

    fn append(&self, rows: &mut Rows, delivery: &Delivery) -> Result<(), RpcError> {
        self.store.append(&delivery.stored(&self.plugin)).map_err(|error| failed(&error))?;
        self.one_more(rows);
        Ok(())
    }

    fn one_more(&self, rows: &mut Rows) {
        rows.stored += 1;
        self.is_behind.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// These are done: handled, dropped or refused.
    pub fn acknowledge(&self, deliveries: &[i64]) {
        if !deliveries.is_empty() {
            // If that fails they will be delivered again by the next process.
            self.let_go(deliveries, "events could not be acknowledged", |store| store.acknowledge(deliveries));
        }
    }

    /// It failed and will be tried again.
    pub fn tried(&self, delivery: &Delivery) {
        if let Some(seq) = delivery.seq
            && let Err(error) = self.store.tried(seq, delivery.attempt - 1)
        {
            tracing::error!(plugin = &*self.plugin, %error, "attempts could not be counted in the store");
        }
    }

    /// It is given up.
    pub fn bury(&self, delivery: &Delivery, error: &RpcError) {
        self.bury_row(&delivery.stored(&self.plugin), delivery.attempt, error, delivery.seq);
    }

    fn bury_row(&self, event: &StoredEvent, attempts: u32, error: &RpcError, seq: Option<i64>) {
        let error = error.to_json().to_string();
        let failure = format!("event {} is given up, and could not be kept as a dead letter", event.event_id);
        self.let_go(seq.as_slice(), &failure, |store| store.bury(event, attempts, &error, seq).map(drop));
    }

    /// Change the store, and no longer hold these rows: in one step, so that whoever counts rows sees both or neither.
    fn let_go(&self, seqs: &[i64], failure: &str, change: impl FnOnce(&Store) -> Result<(), StoreError>) {
        let mut rows = self.lock();
        if let Err(error) = change(&self.store) {
            tracing::error!(plugin = &*self.plugin, ?seqs, %error, "{failure}");
        }
        for seq in seqs {
            rows.held.remove(seq);
        }
    }

    /// Look for rows that others added or removed. Returns how many more there are than was known.
    pub fn look(&self) -> Result<i64, StoreError> {
        let mut rows = self.lock();
        let there = self.store.backlog_len(&self.plugin)?;
        let stored = there.saturating_sub(rows.held.len() as u64);
        let new = stored.cast_signed() - rows.stored.cast_signed();
        rows.stored = stored;
        self.is_behind.store(stored > 0, Ordering::Release);
        if stored > 0 {
            self.arrived.notify_one();
        }
        Ok(new)
    }

    /// How many rows wait in the store only.
    pub fn stored(&self) -> u64 {
        if self.is_behind.load(Ordering::Acquire) { self.lock().stored } else { 0 }
    }

    /// The next stored rows after `after`, held from now on.
    fn next(&self, mut after: i64) -> Result<Vec<Waiting>, StoreError> {
        let mut rows = self.lock();
        loop {
            let mut found = self.store.backlog(&self.plugin, after, CHUNK)?;
            let Some(last) = found.last().map(|row| row.seq) else { return Ok(found) };
            found.retain(|row| rows.held.insert(row.seq));
            if !found.is_empty() {
                return Ok(found);
            }
            after = last;
        }
    }

    fn handed_over(&self) {
        let mut rows = self.lock();
        rows.stored = rows.stored.saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves stored rows into the lanes, oldest first, until the plugin is unloaded or the host ends.
pub(super) async fn work_off(shared: Weak<Shared>, entry: Arc<Entry>) {
    let ledger = &entry.ledger;
    let mut after = 0;
    while !ledger.has_ended.load(Ordering::Acquire) {
        if !ledger.is_behind.load(Ordering::Acquire) {
            after = 0;
            ledger.arrived.notified().await;
            continue;
        }
        let found = match ledger.next(after) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(plugin = &*entry.name, %error, "cannot read the backlog");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Some(last) = found.last() else {
            // All were seen once; whoever adds rows elsewhere may have added some before those.
            after = 0;
            let Some(shared) = shared.upgrade() else { return };
            if let Ok(new) = ledger.look() {
                shared.found(&entry, new);
            }
            continue;
        };
        after = last.seq;
        for row in found {
            if hand_over(&shared, &entry, &row).await.is_none() {
                return;
            }
        }
    }
}

/// Put a row's event into its lane once there is a place; `None` when the host ends.
async fn hand_over(shared: &Weak<Shared>, entry: &Entry, row: &Waiting) -> Option<()> {
    let ledger = &entry.ledger;
    let Some(delivery) = delivery(row) else {
        // Another program wrote it.
        let error = RpcError::new(ErrorKind::Invalid, "the row in the table `backlog` is no event");
        ledger.handed_over();
        ledger.bury_row(&row.event, row.attempts, &error, Some(row.seq));
        shared.upgrade()?.done(1);
        return Some(());
    };
    let (lane, key) = (entry.lane(&delivery.event), delivery.event.key.clone());
    lane.queue.room().await;
    let pushed = lane.queue.push(delivery, key.as_deref()).await.ok()?;
    ledger.handed_over();
    // Only a spill can fail, and there was room.
    drop(shared.upgrade()?.pushed(entry, pushed));
    Some(())
}

fn delivery(row: &Waiting) -> Option<Delivery> {
    let Waiting { seq, event, attempts } = row.clone();
    let subscriber = Subscriber::from_label(&event.handler)?;
    Some(Delivery {
        subscriber: Arc::new(subscriber),
        attempt: attempts + 1,
        deadlocks: 0,
        seq: Some(seq),
        event: Event {
            id: event.event_id.into(),
            topic: event.topic.into(),
            time: event.time.into(),
            key: event.key.map(Into::into),
            data: RawValue::from_string(event.data).ok()?.into(),
        },
    })
}

fn failed(error: &StoreError) -> RpcError {
    RpcError::new(ErrorKind::Host, format!("the event could not be written down: {error}"))
}
