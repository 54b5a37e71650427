//! What each plugin did, in numbers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::host::lock;

/// Longest handler time that is told apart: one hour.
const LONGEST_MICROS: u64 = 3_600_000_000;
/// Most topics and reasons of drops that are told apart; the rest are counted together as topic `*`.
const MOST_DROPS: usize = 100;

/// What a plugin did so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PluginStats {
    /// Events whose handler returned; one for each handler.
    pub handled: u64,
    /// Events given up: dead letters.
    pub failed: u64,
    /// Deliveries tried again.
    pub retried: u64,
    /// Events that its full queue dropped.
    pub dropped: u64,
    /// The same by topic and reason.
    pub drops: Vec<Drops>,
    /// Events that found no place in memory and went to the store.
    pub spilled: u64,
    /// Events that an earlier process left in the store, or that were dead letters before.
    pub resumed: u64,
    /// How often its kernel was started again.
    pub restarts: u64,
    /// Kernels at hand (`[delivery] warm`) that are ready now.
    pub spares: u64,
    /// How often one of them was used.
    pub spares_used: u64,
    /// How many of them died while they waited.
    pub spares_died: u64,
    /// Events that its filters passed on.
    pub filtered: u64,
    /// Events that its filters dropped.
    pub filtered_out: u64,
    /// Calls of its exports.
    pub called: u64,
    /// Calls it made to the host and to other plugins.
    pub calls: u64,
    /// Events it emitted.
    pub emitted: u64,
    /// Events that wait for it.
    pub waiting: u64,
    /// Median time of its handlers, filters and exports, in milliseconds.
    pub p50_ms: f64,
    /// Time that 99 of 100 of its handlers, filters and exports stayed below, in milliseconds.
    pub p99_ms: f64,
}

/// Events of one topic that were dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// The topic.
    pub topic: Arc<str>,
    /// `drop-oldest`, `drop-newest`, `coalesce`, or `shutdown`.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

impl PluginStats {
    /// Count a dropped event.
    pub(super) fn drop_one(&mut self, topic: &Arc<str>, reason: &'static str) {
        self.dropped += 1;
        match self.drops.iter().position(|drops| drops.reason == reason && drops.topic == *topic) {
            Some(index) => self.drops[index].count += 1,
            None if self.drops.len() < MOST_DROPS => {
                self.drops.push(Drops { topic: topic.clone(), reason, count: 1 });
            }
            // Topics are few, but nobody promised it.
            None => {
                if let Some(rest) = self.drops.last_mut() {
                    rest.topic = "*".into();
                    rest.count += 1;
                }
            }
        }
    }
}

/// Collects [`PluginStats`].
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stats: PluginStats,
    times: Option<Histogram<u32>>,
}

impl Meter {
    /// Count something.
    pub fn count(&self, count: impl FnOnce(&mut PluginStats)) {
        count(&mut lock(&self.0).stats);
    }

    /// A handler, filter or export took this long.
    pub fn took(&self, elapsed: Duration) {
        let mut inner = lock(&self.0);
        if inner.times.is_none() {
            // Three digits; the bounds are right, so it always works.
            inner.times = Histogram::new_with_bounds(1, LONGEST_MICROS, 3).ok();
        }
        if let Some(times) = &mut inner.times {
            times.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(LONGEST_MICROS).max(1));
        }
    }

    /// The numbers now.
    pub fn stats(&self) -> PluginStats {
        let inner = lock(&self.0);
        let quantile =
            |quantile| inner.times.as_ref().map_or(0.0, |times| times.value_at_quantile(quantile) as f64 / 1000.0);
        PluginStats { p50_ms: quantile(0.5), p99_ms: quantile(0.99), ..inner.stats.clone() }
    }
}
