//! Copies of events for mirrors: as many as one takes, and never a reason to wait.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{
    host::{Event, lock},
    pattern::Pattern,
};

/// How many copies may wait for a mirror.
const WAITING: usize = 1024;
/// And how many bytes of them.
const WAITING_BYTES: usize = 16 << 20;

/// All mirrors of a host.
#[derive(Debug, Default)]
pub(crate) struct Links {
    mirrors: RwLock<Arc<Vec<Arc<Mirror>>>>,
    anybody: AtomicBool,
    /// Copies that mirrors were too slow for, of all that there ever were.
    dropped: AtomicU64,
}

impl Links {
    /// An event went onto the bus.
    pub fn copy(&self, event: &Event) {
        if !self.anybody.load(Ordering::Relaxed) {
            return;
        }
        let mirrors = self.mirrors.read().unwrap_or_else(PoisonError::into_inner).clone();
        for mirror in mirrors.iter() {
            self.dropped.fetch_add(mirror.copy(event), Ordering::Relaxed);
        }
    }

    /// Copies that mirrors were too slow for, of all that there ever were.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A mirror gets copies for as long as what is returned lives.
    pub fn add(self: &Arc<Self>, mirror: Arc<Mirror>) -> Mirroring {
        self.change(|mirrors| mirrors.push(mirror.clone()));
        Mirroring { links: self.clone(), mirror }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Mirror>>)) {
        let mut mirrors = self.mirrors.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = mirrors.to_vec();
        change(&mut changed);
        self.anybody.store(!changed.is_empty(), Ordering::Relaxed);
        *mirrors = Arc::new(changed);
    }
}

/// A mirror that gets copies.
pub(crate) struct Mirroring {
    links: Arc<Links>,
    mirror: Arc<Mirror>,
}

impl Drop for Mirroring {
    fn drop(&mut self) {
        self.links.change(|mirrors| mirrors.retain(|mirror| !Arc::ptr_eq(mirror, &self.mirror)));
    }
}

/// What waits for one mirror.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    handlers: RwLock<Vec<(u64, Pattern)>>,
    pile: Mutex<Pile>,
    arrived: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pile {
    copies: VecDeque<(u64, Event)>,
    bytes: usize,
}

impl Mirror {
    /// These are its handlers from now on.
    pub fn set(&self, handlers: Vec<(u64, Pattern)>) {
        *self.handlers.write().unwrap_or_else(PoisonError::into_inner) = handlers;
    }

    /// For each handler that wants it; says how many copies were dropped.
    fn copy(&self, event: &Event) -> u64 {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = handlers.iter().filter(|(_, topic)| topic.matches(&event.topic));
        wanted.map(|(handler, _)| self.put(*handler, event.clone())).sum()
    }

    fn put(&self, handler: u64, event: Event) -> u64 {
        let size = size_bytes(&event);
        let mut pile = lock(&self.pile);
        pile.copies.push_back((handler, event));
        pile.bytes += size;
        let mut dropped = 0;
        // What happens now is of more use to whoever watches than what happened then.
        while (pile.copies.len() > WAITING || pile.bytes > WAITING_BYTES)
            && let Some((_, oldest)) = pile.copies.pop_front()
        {
            pile.bytes -= size_bytes(&oldest);
            dropped += 1;
        }
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        drop(pile);
        self.arrived.notify_one();
        dropped
    }

    /// The next copy, with its handler. Cancel safe.
    pub async fn next(&self) -> (u64, Event) {
        loop {
            {
                let mut pile = lock(&self.pile);
                if let Some((handler, event)) = pile.copies.pop_front() {
                    pile.bytes -= size_bytes(&event);
                    return (handler, event);
                }
            }
            self.arrived.notified().await;
        }
    }

    /// How many were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn size_bytes(event: &Event) -> usize {
    event.data.get().len() + usize::try_from(event.held.size_bytes()).unwrap_or(usize::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_copies_go_and_are_counted() {
        let links = Arc::new(Links::default());
        let mirror = Arc::new(Mirror::default());
        mirror.set(vec![(7, Pattern::parse("quake.*").expect("a pattern"))]);
        let mirroring = links.add(mirror.clone());
        for number in 0..WAITING + 10 {
            links.copy(&Event::new("quake.new", &number).expect("an event"));
            links.copy(&Event::new("other", &number).expect("an event"));
        }
        assert_eq!(mirror.dropped(), 10);
        let (handler, event) = mirror.next().await;
        assert_eq!((handler, event.data.get()), (7, "10"));
        drop(mirroring);
        assert!(!links.anybody.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn what_is_too_large_for_the_pile_is_dropped_alone() {
        let mirror = Mirror::default();
        mirror.put(1, Event::new("t", &"x".repeat(WAITING_BYTES + 1)).expect("an event"));
        mirror.put(1, Event::new("t", &2).expect("an event"));
        assert_eq!((mirror.dropped(), mirror.next().await.1.data.get()), (1, "2"));
    }
}
