//! How many deliveries are accepted and not yet done, and whoever waits until there are none.
//!
//! `models.rs` tries every order in which threads can do it.

use tokio::sync::Notify;

use super::sync::{AtomicUsize, Ordering};

/// Counts deliveries. Whoever adds one does so before anybody can be done with it, so that the count is never too low.
#[derive(Debug)]
pub(super) struct Pending {
    count: AtomicUsize,
    none: Notify,
}

impl Pending {
    pub fn new() -> Self {
        Self { count: AtomicUsize::new(0), none: Notify::new() }
    }

    /// So many more are accepted.
    pub fn add(&self, count: usize) {
        self.count.fetch_add(count, Ordering::AcqRel);
    }

    /// So many are done, in whichever way.
    pub fn done(&self, count: usize) {
        if count > 0 && self.count.fetch_sub(count, Ordering::AcqRel) == count {
            self.none.notify_waiters();
        }
    }

    /// Wait until there are none.
    pub async fn none(&self) {
        loop {
            // It hears of what happens from here on, so that the last one done between the look and the wait wakes it.
            let none = self.none.notified();
            // A plain load may be of a moment before, for all that atomics promise; an addition is of now.
            if self.count.fetch_add(0, Ordering::AcqRel) == 0 {
                return;
            }
            none.await;
        }
    }
}
