//! The bounded queue of events that wait for one subscription.
//!
//! Events wait here and never in the kernel, whose shell queue has no bound and no way to take anything back.
//! Knows nothing of plugins; what comes after `push` and `pop` is the host's business.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, Semaphore};

use crate::manifest::WhenFull;

/// A bounded queue, shared by reference between any number of producers and consumers.
///
/// Dropping it drops what is in it; [`Queue::close`] first to let consumers finish.
#[derive(Debug)]
pub struct Queue<T> {
    items: Mutex<Items<T>>,
    capacity: usize,
    when_full: WhenFull,
    /// Something was taken.
    taken: Notify,
    /// One permit for each free place; used by [`WhenFull::Block`] only, because it is fair: first come, first served.
    places: Semaphore,
    arrived: Notify,
    /// Consumers that wait for an item.
    hungry: AtomicUsize,
}

/// A consumer that waits.
struct Hungry<'a>(&'a AtomicUsize);

impl<'a> Hungry<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Hungry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug)]
struct Items<T> {
    waiting: VecDeque<(Option<Arc<str>>, T)>,
    /// How many were ever taken from the front, so that `place - taken` is an index into `waiting`.
    taken: u64,
    /// The place of the waiting item of each key; used by [`WhenFull::Coalesce`] only.
    places: HashMap<Arc<str>, u64>,
    counts: Counts,
    closed: bool,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items that found a place, those that were dropped or replaced later included.
    pub accepted: u64,
    /// Items that waited longest and had to go.
    pub dropped_oldest: u64,
    /// Items that found no place.
    pub dropped_newest: u64,
    /// Items that were replaced by a newer one of the same key.
    pub coalesced: u64,
}

/// What came of a push. Whatever was lost is handed back, so that its loss can be told to whoever waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed<T> {
    /// It waits now.
    Accepted,
    /// It waits now; this older one had to go for it.
    DroppedOldest(T),
    /// There was no place for it; here it is.
    DroppedNewest(T),
    /// It waits now, in the place of this older one of the same key.
    Coalesced(T),
    /// There was no place for it with [`WhenFull::Spill`]; here it is, to be kept elsewhere.
    Full(T),
}

/// The queue is closed; here is the item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the queue is closed")]
pub struct Closed<T>(pub T);

/// Why a queue could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Nothing could ever wait.
    #[error("a queue of capacity 0 can hold nothing; use at least 1")]
    NoCapacity,
}

impl<T> Queue<T> {
    /// A queue in which `capacity` items may wait.
    ///
    /// # Errors
    ///
    /// - [`QueueError::NoCapacity`] when `capacity` is 0.
    pub fn new(capacity: usize, when_full: WhenFull) -> Result<Self, QueueError> {
        if capacity == 0 {
            return Err(QueueError::NoCapacity);
        }
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        let items = Items {
            waiting: VecDeque::new(),
            taken: 0,
            places: HashMap::new(),
            counts: Counts::default(),
            closed: false,
        };
        let places = Semaphore::new(capacity);
        let (items, hungry) = (Mutex::new(items), AtomicUsize::new(0));
        Ok(Self { items, capacity, when_full, places, arrived: Notify::new(), taken: Notify::new(), hungry })
    }

    /// Put an item at the end. Waits only with [`WhenFull::Block`], behind those that wait already.
    ///
    /// Cancel safe: dropped before it returns, the item is not in the queue, and no place is lost.
    ///
    /// # Errors
    ///
    /// - [`Closed`] with the item, also when the queue is closed while this waits.
    pub async fn push(&self, item: T, key: Option<&str>) -> Result<Pushed<T>, Closed<T>> {
        if self.when_full == WhenFull::Block {
            match self.places.acquire().await {
                // Given back by whoever takes the item.
                Ok(place) => place.forget(),
                Err(_) => return Err(Closed(item)),
            }
        }
        let pushed = self.lock().push(item, key, self.capacity, self.when_full)?;
        if !matches!(pushed, Pushed::DroppedNewest(_) | Pushed::Coalesced(_) | Pushed::Full(_)) {
            self.arrived.notify_one();
        }
        Ok(pushed)
    }

    /// Take the item that waited longest; waits for one. `None` once the queue is closed and empty.
    ///
    /// Cancel safe: dropped before it returns, nothing is taken.
    pub async fn pop(&self) -> Option<T> {
        self.take(|items| items.pop().map(|item| (item, 1))).await
    }

    /// Take up to `limit` items (at least 1), as many as wait; waits for the first. Empty once the queue is closed and
    /// empty.
    ///
    /// Cancel safe: dropped before it returns, nothing is taken.
    pub async fn pop_up_to(&self, limit: usize) -> Vec<T> {
        let batch = self.take(|items| {
            let count = limit.max(1).min(items.waiting.len());
            let batch: Vec<T> = std::iter::from_fn(|| items.pop()).take(count).collect();
            (!batch.is_empty()).then_some((batch, count))
        });
        batch.await.unwrap_or_default()
    }

    /// Wait until there is a place, or the queue is closed. For one waiter that is the only one to put items in.
    pub async fn room(&self) {
        loop {
            {
                let items = self.lock();
                if items.closed || items.waiting.len() < self.capacity {
                    return;
                }
            }
            self.taken.notified().await;
        }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Has it no place left?
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Does nothing wait, and somebody for it? With one consumer, it has done all that it took.
    pub fn is_starved(&self) -> bool {
        let items = self.lock();
        items.waiting.is_empty() && self.hungry.load(Ordering::Acquire) > 0
    }

    /// Does nothing wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Accept nothing more. What waits can still be taken; waiting producers get their items back.
    pub fn close(&self) {
        self.lock().closed = true;
        self.places.close();
        self.arrived.notify_waiters();
        self.taken.notify_one();
    }

    async fn take<R>(&self, mut take: impl FnMut(&mut Items<T>) -> Option<(R, usize)>) -> Option<R> {
        loop {
            if let Some(result) = self.try_take(&mut take) {
                return result;
            }
            // Stand in line, then look again: an item or a close between the first look and here woke nobody. A wake-up
            // that we got and did not need goes to the next in line when `arrived` is dropped.
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if let Some(result) = self.try_take(&mut take) {
                return result;
            }
            let _hungry = Hungry::new(&self.hungry);
            arrived.await;
        }
    }

    /// `None`: wait. `Some(None)`: closed and empty.
    fn try_take<R>(&self, take: &mut impl FnMut(&mut Items<T>) -> Option<(R, usize)>) -> Option<Option<R>> {
        let mut items = self.lock();
        let Some((result, count)) = take(&mut items) else { return items.closed.then_some(None) };
        drop(items);
        if self.when_full == WhenFull::Block {
            self.places.add_permits(count);
        }
        self.taken.notify_one();
        Some(Some(result))
    }

    fn lock(&self) -> MutexGuard<'_, Items<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Items<T> {
    fn push(
        &mut self,
        item: T,
        key: Option<&str>,
        capacity: usize,
        when_full: WhenFull,
    ) -> Result<Pushed<T>, Closed<T>> {
        if self.closed {
            return Err(Closed(item));
        }
        let key = key.filter(|_| when_full == WhenFull::Coalesce);
        if let Some((_, waiting)) = key.and_then(|key| self.places.get(key).copied()).and_then(|p| self.at(p)) {
            let older = std::mem::replace(waiting, item);
            self.counts.accepted += 1;
            self.counts.coalesced += 1;
            return Ok(Pushed::Coalesced(older));
        }
        let mut pushed = Pushed::Accepted;
        // With `Block` a permit was taken, so there is a place.
        if self.waiting.len() >= capacity && when_full != WhenFull::Block {
            if when_full == WhenFull::Spill {
                return Ok(Pushed::Full(item));
            }
            if when_full == WhenFull::DropNewest {
                self.counts.dropped_newest += 1;
                return Ok(Pushed::DroppedNewest(item));
            }
            if let Some(oldest) = self.pop() {
                self.counts.dropped_oldest += 1;
                pushed = Pushed::DroppedOldest(oldest);
            }
        }
        let key: Option<Arc<str>> = key.map(Arc::from);
        if let Some(key) = &key {
            self.places.insert(Arc::clone(key), self.taken + self.waiting.len() as u64);
        }
        self.waiting.push_back((key, item));
        self.counts.accepted += 1;
        Ok(pushed)
    }

    fn pop(&mut self) -> Option<T> {
        let (key, item) = self.waiting.pop_front()?;
        self.taken += 1;
        if let Some(key) = key {
            self.places.remove(&key);
        }
        Some(item)
    }

    fn at(&mut self, place: u64) -> Option<&mut (Option<Arc<str>>, T)> {
        let index = usize::try_from(place.checked_sub(self.taken)?).ok()?;
        self.waiting.get_mut(index)
    }
}

#[cfg(test)]
mod tests;
