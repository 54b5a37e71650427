//! Which rows of a plugin's backlog are where. Knows neither events nor the store: those come as closures, which run
//! under the lock, so that whoever counts rows sees a change and what it means, or neither.
//!
//! A row is *held* while its event is in the memory of this process; all others are *stored*. As long as there are
//! stored rows, new events become stored rows too, and one task moves the oldest into the lanes.
//! `models.rs` tries every order in which threads can do it.

use std::collections::HashSet;

use tokio::sync::Notify;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// The rows of one plugin.
#[derive(Debug)]
pub(super) struct Rows {
    counts: Mutex<Counts>,
    /// Are there stored rows? Changed under the lock only; a look without it is for those who would not write anyway.
    is_behind: AtomicBool,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    held: HashSet<i64>,
    /// How many rows are stored, as far as this process knows.
    stored: u64,
    /// Stored rows that are on their way into the lanes: held already, but new events must not overtake them.
    moving: u64,
}

/// Where an event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It is in the store, and will come back from there.
    Stored,
    /// It is to be put into its lane; with its row, if it has one.
    Direct(Option<i64>),
}

impl Rows {
    pub fn new() -> Self {
        Self { counts: Mutex::new(Counts::default()), is_behind: AtomicBool::new(false), arrived: Notify::new() }
    }

    /// A new event: `write` it down if it has to be.
    pub fn admit<E>(&self, is_journal: bool, write: impl FnOnce() -> Result<i64, E>) -> Result<Admitted, E> {
        if !is_journal && !self.is_behind.load(Ordering::Acquire) {
            return Ok(Admitted::Direct(None));
        }
        let mut counts = self.lock();
        if counts.stored > 0 {
            write()?;
            self.one_more(&mut counts);
            return Ok(Admitted::Stored);
        }
        if !is_journal {
            return Ok(Admitted::Direct(None));
        }
        let seq = write()?;
        counts.held.insert(seq);
        Ok(Admitted::Direct(Some(seq)))
    }

    /// There was no place for an event: its row is stored from now on, or it gets one by `write`.
    pub fn spill<E>(&self, seq: Option<i64>, write: impl FnOnce() -> Result<i64, E>) -> Result<(), E> {
        let mut counts = self.lock();
        match seq {
            Some(seq) => drop(counts.held.remove(&seq)),
            None => drop(write()?),
        }
        self.one_more(&mut counts);
        Ok(())
    }

    fn one_more(&self, counts: &mut Counts) {
        counts.stored += 1;
        self.is_behind.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// Change the store, and no longer hold these rows.
    pub fn let_go(&self, seqs: &[i64], change: impl FnOnce()) {
        let mut counts = self.lock();
        change();
        for seq in seqs {
            counts.held.remove(seq);
        }
    }

    /// Others may have added or removed rows: `count` all there are. `tell` hears how many more than was known, before
    /// anybody can take them.
    pub fn recount<E>(&self, count: impl FnOnce() -> Result<u64, E>, tell: impl FnOnce(i64)) -> Result<(), E> {
        let mut counts = self.lock();
        let stored = (count()? + counts.moving).saturating_sub(counts.held.len() as u64);
        tell(stored.cast_signed() - counts.stored.cast_signed());
        counts.stored = stored;
        self.is_behind.store(stored > 0, Ordering::Release);
        if stored > 0 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// `read` stored rows, which are held from now on: those whose seq it can put into the set. For each of them
    /// [`Rows::moved`] has to be called once it is in its lane.
    pub fn take<T, E>(&self, read: impl FnOnce(&mut HashSet<i64>) -> Result<Vec<T>, E>) -> Result<Vec<T>, E> {
        let mut counts = self.lock();
        let found = read(&mut counts.held)?;
        counts.moving += found.len() as u64;
        Ok(found)
    }

    /// One of the rows that were taken is in its lane.
    pub fn moved(&self) {
        let mut counts = self.lock();
        counts.moving = counts.moving.saturating_sub(1);
        counts.stored = counts.stored.saturating_sub(1);
    }

    /// Do it while no row is added, taken or let go.
    pub fn locked<T>(&self, work: impl FnOnce() -> T) -> T {
        let _counts = self.lock();
        work()
    }

    /// How many are stored.
    pub fn stored(&self) -> u64 {
        if self.is_behind.load(Ordering::Acquire) { self.lock().stored } else { 0 }
    }

    /// Are there stored rows, or were there when they were last counted?
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    /// Let whoever waits in [`Rows::arrived`] look again.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Wait until there may be stored rows; for one waiter.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
