//! A plugin's events in the store: those that are journaled, those that found no place in memory, and those that an
//! earlier process left behind.
//!
//! Rows are in the order of acceptance, and `rows.rs` knows which of them are where. What is stored is moved into the
//! lanes whenever there is a place, oldest first, so that the order is kept.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;

use crate::{
    blob::Held,
    host::{
        Event,
        lane::{Delivery, Entry, Subscriber},
        lock,
        origin::Origin,
        rows::{Admitted, Rows},
        shared::Shared,
    },
    queue::Pushed,
    rpc::{ErrorKind, RpcError},
    store::{Store, StoreError, StoredEvent, Waiting},
};

/// Rows read or written at once.
const CHUNK: usize = 256;
/// Bytes of data written at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The store's view of one plugin's events.
pub(crate) struct Ledger {
    store: Arc<Store>,
    plugin: Arc<str>,
    is_journal: bool,
    /// Is what is stored moved into the lanes by this host, or left to the next one?
    pub works_off: bool,
    rows: Rows,
    /// The newest of the stored rows, which are still to be written: events of a plugin without journal, as its queue
    /// is in memory too. Under the lock of `rows`.
    unwritten: Mutex<Unwritten>,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Unwritten {
    events: Vec<StoredEvent>,
    bytes: usize,
}

impl Ledger {
    pub fn new(store: Arc<Store>, plugin: &str, is_journal: bool, works_off: bool) -> Self {
        Self {
            store,
            plugin: plugin.into(),
            is_journal,
            works_off,
            rows: Rows::new(),
            unwritten: Mutex::default(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// The plugin is gone: nobody works off anything more.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.rows.wake();
    }

    /// Write the event down if it has to be.
    pub fn admit(&self, delivery: &mut Delivery) -> Result<Admitted, RpcError> {
        let admitted = self.rows.admit(self.is_journal, || self.append(delivery))?;
        if let Admitted::Direct(seq) = admitted {
            delivery.seq = seq;
        }
        Ok(admitted)
    }

    /// There was no place for it in memory. If it is journaled, it is in the store already.
    pub fn spill(&self, delivery: &Delivery) -> Result<(), RpcError> {
        self.rows.spill(delivery.seq, || self.append(delivery))
    }

    /// A journaled event is written when this returns, any other one soon. Returns the row's seq, if it is known.
    fn append(&self, delivery: &Delivery) -> Result<i64, RpcError> {
        let event = delivery.stored(&self.plugin);
        let written = if self.is_journal { self.store.append(&event) } else { self.gather(event).map(|()| 0) };
        written.map_err(|error| RpcError::new(ErrorKind::Host, format!("the event could not be written down: {error}")))
    }

    fn gather(&self, event: StoredEvent) -> Result<(), StoreError> {
        let mut unwritten = lock(&self.unwritten);
        if unwritten.events.len() >= CHUNK || unwritten.bytes >= CHUNK_BYTES {
            // If that fails, nothing of it is lost, and this event is refused.
            unwritten.write(&self.store)?;
        }
        unwritten.bytes += event.data.len();
        unwritten.events.push(event);
        Ok(())
    }

    fn write(&self) -> Result<(), StoreError> {
        lock(&self.unwritten).write(&self.store)
    }

    /// Nothing more comes.
    pub fn close(&self) {
        if let Err(error) = self.rows.locked(|| self.write()) {
            let count = lock(&self.unwritten).events.len();
            tracing::error!(plugin = &*self.plugin, %error, count, "events could not be written down");
        }
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

    fn let_go(&self, seqs: &[i64], failure: &str, change: impl FnOnce(&Store) -> Result<(), StoreError>) {
        self.rows.let_go(seqs, || {
            if let Err(error) = change(&self.store) {
                tracing::error!(plugin = &*self.plugin, ?seqs, %error, "{failure}");
            }
        });
    }

    /// Look for rows that others added or removed; `found` hears how many more there are than was known, before any of
    /// them can be delivered.
    pub fn look(&self, found: impl FnOnce(i64)) -> Result<(), StoreError> {
        let count = || {
            self.write()?;
            self.store.backlog_len(&self.plugin)
        };
        self.rows.recount(count, found)
    }

    /// How many rows wait in the store only.
    pub fn stored(&self) -> u64 {
        self.rows.stored()
    }

    /// The next stored rows after `after`, held from now on.
    fn next(&self, mut after: i64) -> Result<Vec<Waiting>, StoreError> {
        self.rows.take(|held| {
            self.write()?;
            loop {
                let mut found = self.store.backlog(&self.plugin, after, CHUNK)?;
                let Some(last) = found.last().map(|row| row.seq) else { return Ok(found) };
                found.retain(|row| held.insert(row.seq));
                if !found.is_empty() {
                    return Ok(found);
                }
                after = last;
            }
        })
    }
}

impl Drop for Ledger {
    /// The host was dropped without being closed.
    fn drop(&mut self) {
        self.close();
    }
}

impl Unwritten {
    fn write(&mut self, store: &Store) -> Result<(), StoreError> {
        if !self.events.is_empty() {
            store.append_all(&self.events)?;
            *self = Self::default();
        }
        Ok(())
    }
}

/// Moves stored rows into the lanes, oldest first, until the plugin is unloaded or the host ends.
pub(super) async fn work_off(shared: Weak<Shared>, entry: Arc<Entry>) {
    let ledger = &entry.ledger;
    let mut after = 0;
    while !ledger.has_ended.load(Ordering::Acquire) {
        if !ledger.rows.is_behind() {
            after = 0;
            ledger.rows.arrived().await;
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
            if let Err(error) = ledger.look(|new| shared.found(&entry, new)) {
                tracing::error!(plugin = &*entry.name, %error, "cannot count the backlog");
                tokio::time::sleep(Duration::from_secs(1)).await;
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
    let Some(mut delivery) = delivery(row) else {
        // Another program wrote it.
        let error = RpcError::new(ErrorKind::Invalid, "the row in the table `backlog` is no event");
        ledger.bury_row(&row.event, row.attempts, &error, Some(row.seq));
        ledger.rows.moved();
        shared.upgrade()?.done(1);
        return Some(());
    };
    let (lane, key) = (entry.lane(&delivery.event), delivery.event.key.clone());
    let pushed = loop {
        lane.queue.room().await;
        match lane.queue.push(delivery, key.as_deref()).await.ok()? {
            // An event that was admitted before this one was stored took the place.
            Pushed::Full(back) => delivery = back,
            pushed => break pushed,
        }
    };
    // Only now: what is emitted meanwhile must not overtake it.
    ledger.rows.moved();
    // Only a spill can fail, and this is none.
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
            held: Held::default(),
            origin: Origin::default(),
        },
    })
}
