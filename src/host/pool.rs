//! Kernels at hand: started before they are needed, for a plugin or for a language.
//!
//! They are started one at a time, after the plugins themselves, and replaced when one is taken or dies. Nothing ticks:
//! a pool that is full sleeps until something happens to one of its kernels.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{join_all, select_all};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::sleep,
};

use crate::{
    host::lock,
    manifest::Restart,
    plugin::{PluginSource, Runtime, Spare},
    supervision::{History, Verdict},
};

/// A spare that lived so long did not die of how it was started.
const HARMLESS: Duration = Duration::from_secs(60);
/// How deaths and failures of spares are taken: never given up, since a plugin may want one at any time.
const RESTART: Restart = Restart { deaths: u32::MAX, within: Duration::from_secs(600) };

/// Kernels that wait.
pub(crate) struct Pool {
    /// For whom, in messages.
    pub name: Arc<str>,
    pub runtime: Runtime,
    /// How they are started.
    pub source: PluginSource,
    wanted: usize,
    waiting: Mutex<Vec<Waiting>>,
    /// One was taken.
    taken: Notify,
    closed: watch::Sender<bool>,
    used: AtomicU64,
    died: AtomicU64,
}

struct Waiting {
    spare: Spare,
    since: Instant,
    memory_bytes: u64,
}

/// What there is in a pool, and what became of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    pub ready: u64,
    pub used: u64,
    pub died: u64,
    pub memory_bytes: u64,
}

impl Pool {
    /// An empty one. It is to be [kept full](Self::keep).
    pub fn new(name: &str, runtime: Runtime, source: PluginSource, wanted: usize) -> Self {
        Self {
            name: name.into(),
            runtime,
            source,
            wanted,
            waiting: Mutex::default(),
            taken: Notify::new(),
            closed: watch::Sender::new(false),
            used: AtomicU64::new(0),
            died: AtomicU64::new(0),
        }
    }

    /// The kernel that waited longest and lives, if it is as this plugin wants it.
    pub fn take(&self, runtime: &Runtime, source: &PluginSource) -> Option<Spare> {
        if self.wanted == 0 || self.runtime.kernelspec != runtime.kernelspec {
            return None;
        }
        let (pool, plugin) = (&*self.name, &source.name);
        let mut waiting = lock(&self.waiting);
        let Some(index) = waiting.iter().position(|waiting| waiting.spare.exit().borrow().is_none()) else {
            tracing::info!(pool, plugin, "no kernel at hand is ready; another one is started");
            return None;
        };
        if let Err(why) = waiting[index].spare.fits(runtime, source) {
            tracing::info!(pool, plugin, why, "no kernel at hand fits; another one is started");
            return None;
        }
        let Waiting { spare, .. } = waiting.remove(index);
        self.used.fetch_add(1, Ordering::Relaxed);
        self.taken.notify_one();
        Some(spare)
    }

    /// Is there one?
    pub fn has_one(&self) -> bool {
        lock(&self.waiting).iter().any(|waiting| waiting.spare.exit().borrow().is_none())
    }

    /// Those that are ready.
    pub fn processes(&self) -> Vec<u32> {
        lock(&self.waiting).iter().map(|waiting| waiting.spare.process_id()).collect()
    }

    pub fn stats(&self) -> PoolStats {
        let waiting = lock(&self.waiting);
        PoolStats {
            ready: waiting.len() as u64,
            used: self.used.load(Ordering::Relaxed),
            died: self.died.load(Ordering::Relaxed),
            memory_bytes: waiting.iter().map(|waiting| waiting.memory_bytes).sum(),
        }
    }

    /// Start no more. [`Pool::keep`] ends those that wait, and returns.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Kill those that wait, at once.
    pub fn clear(&self) {
        drop(std::mem::take(&mut *lock(&self.waiting)));
    }

    /// Keep it full until it is closed. `places` are those of kernels that may be started at the same time.
    pub async fn keep(self: Arc<Self>, places: Arc<Semaphore>, grace: Duration) {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            never = self.fill(&places) => match never {},
            _ = closed.wait_for(|closed| *closed) => {}
        }
        let rest = std::mem::take(&mut *lock(&self.waiting));
        join_all(rest.into_iter().map(|waiting| waiting.spare.shutdown(grace))).await;
    }

    async fn fill(&self, places: &Semaphore) -> Infallible {
        let mut history = History::new(RESTART);
        loop {
            let mut is_well = !self.bury();
            if is_well && lock(&self.waiting).len() >= self.wanted {
                self.something_happens().await;
                continue;
            }
            if is_well {
                is_well = self.start(places).await;
            }
            if !is_well && let Verdict::Restart { after } = history.died(Instant::now(), fastrand::f64()) {
                sleep(after).await;
            }
        }
    }

    async fn start(&self, places: &Semaphore) -> bool {
        let Ok(_place) = places.acquire().await else { return true };
        let started =
            async { Spare::start(&self.runtime, &self.source).await?.warm_up(&self.runtime, &self.source).await };
        match started.await {
            Ok(spare) => {
                let memory_bytes = spare.memory_bytes();
                tracing::debug!(pool = &*self.name, process_id = spare.process_id(), memory_bytes, "a spare is ready");
                lock(&self.waiting).push(Waiting { spare, since: Instant::now(), memory_bytes });
                true
            }
            Err(error) => {
                tracing::warn!(pool = &*self.name, %error, "a spare kernel could not be started");
                false
            }
        }
    }

    /// Let go of those that died; was one of them young?
    fn bury(&self) -> bool {
        let dead: Vec<Waiting> =
            lock(&self.waiting).extract_if(.., |waiting| waiting.spare.exit().borrow().is_some()).collect();
        for waiting in &dead {
            self.died.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(pool = &*self.name, process_id = waiting.spare.process_id(), "a spare kernel died");
        }
        dead.iter().any(|waiting| waiting.since.elapsed() < HARMLESS)
    }

    /// One was taken, or one died.
    async fn something_happens(&self) {
        let exits: Vec<_> = lock(&self.waiting).iter().map(|waiting| waiting.spare.exit()).collect();
        let deaths =
            exits.into_iter().map(|mut exit| Box::pin(async move { drop(exit.wait_for(Option::is_some).await) }));
        let deaths: Vec<_> = deaths.collect();
        if deaths.is_empty() {
            return self.taken.notified().await;
        }
        tokio::select! {
            _ = select_all(deaths) => {}
            () = self.taken.notified() => {}
        }
    }
}
