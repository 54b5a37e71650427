//! Whether and when a kernel that died is started again.
//!
//! Pure: told the time and how it stands, it answers what to do. Whoever owns the kernel does it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::manifest::Restart;

/// The first restart waits this long; each further one twice as long as the one before.
const FIRST: Duration = Duration::from_millis(100);
/// No restart waits longer, but for the jitter.
const LONGEST: Duration = Duration::from_secs(30);

/// How a plugin's kernel is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// Its kernel is started and its source loaded.
    Starting,
    /// It waits for work.
    Ready {
        /// The kernel's process.
        process_id: u32,
    },
    /// It works.
    Busy {
        /// The kernel's process.
        process_id: u32,
        /// The root event or call it works on.
        on: String,
        /// For how long.
        for_ms: u64,
    },
    /// Its kernel died and will be started again.
    Restarting {
        /// How it died.
        reason: String,
        /// Deaths that count, this one included.
        deaths: u32,
        /// How long is waited first.
        after_ms: u64,
    },
    /// It died too often and is left alone until it is released.
    Quarantined {
        /// How it died the last time.
        reason: String,
        /// Deaths that count.
        deaths: u32,
    },
    /// It was shut down.
    Stopped,
}

impl State {
    /// One word, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::Busy { .. } => "busy",
            Self::Restarting { .. } => "restarting",
            Self::Quarantined { .. } => "quarantined",
            Self::Stopped => "stopped",
        }
    }
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this time.
    Restart {
        /// How long to wait.
        after: Duration,
    },
    /// Leave it alone.
    Quarantine,
}

/// The deaths of one kernel that still count.
#[derive(Debug)]
pub struct History {
    restart: Restart,
    deaths: VecDeque<Instant>,
}

impl History {
    /// Nothing happened yet.
    pub fn new(restart: Restart) -> Self {
        Self { restart, deaths: VecDeque::new() }
    }

    /// The kernel died, or could not be started. `jitter` is random, from 0 to 1: kernels that died of one cause must
    /// not all come back at one moment.
    pub fn died(&mut self, now: Instant, jitter: f64) -> Verdict {
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|&death| now.saturating_duration_since(death) >= self.restart.within) {
            self.deaths.pop_front();
        }
        let count = self.count();
        if count >= self.restart.deaths {
            return Verdict::Quarantine;
        }
        let doubled = FIRST.saturating_mul(2u32.saturating_pow(count.saturating_sub(1)));
        let after = doubled.min(LONGEST).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
        Verdict::Restart { after }
    }

    /// Deaths that count.
    pub fn count(&self) -> u32 {
        u32::try_from(self.deaths.len()).unwrap_or(u32::MAX)
    }

    /// Forget them: it is released.
    pub fn forget(&mut self) {
        self.deaths.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESTART: Restart = Restart { deaths: 5, within: Duration::from_secs(60) };

    #[test]
    fn each_restart_waits_longer_until_there_were_too_many() {
        let (mut history, now) = (History::new(RESTART), Instant::now());
        let waits: Vec<_> = (0..5).map(|_| history.died(now, 0.5)).collect();
        let restart = |ms| Verdict::Restart { after: Duration::from_millis(ms) };
        assert_eq!(waits, [restart(100), restart(200), restart(400), restart(800), Verdict::Quarantine]);
        history.forget();
        assert_eq!(history.died(now, 0.5), restart(100));
    }

    #[test]
    fn old_deaths_do_not_count() {
        let (mut history, mut now) = (History::new(RESTART), Instant::now());
        for _ in 0..100 {
            assert!(matches!(history.died(now, 0.5), Verdict::Restart { .. }));
            now += Duration::from_secs(16);
        }
    }

    proptest! {
        /// Quarantine exactly when the last `deaths` deaths are within the window, and waits within bounds.
        #[test]
        fn the_window_slides(
            gaps in prop::collection::vec(0u64..40_000, 1..60), deaths in 1u32..8, within in 1u64..100_000, jitter: f64,
        ) {
            let restart = Restart { deaths, within: Duration::from_millis(within) };
            let (mut history, start) = (History::new(restart), Instant::now());
            let mut times: Vec<u64> = Vec::new();
            for gap in gaps {
                times.push(times.last().copied().unwrap_or(0) + gap);
                let last = times[times.len() - 1];
                let counted = times.iter().filter(|&&time| last - time < within).count();
                match history.died(start + Duration::from_millis(last), jitter) {
                    Verdict::Quarantine => prop_assert!(counted >= deaths as usize),
                    Verdict::Restart { after } => {
                        prop_assert!(counted < deaths as usize);
                        prop_assert!(after >= FIRST.mul_f64(0.8) && after <= LONGEST.mul_f64(1.2));
                    }
                }
                prop_assert_eq!(history.count() as usize, counted);
            }
        }
    }
}
