//! What driver and host of a chaos run say to each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment variable that makes this program the host, with [`Orders`] as JSON.
pub const ORDERS: &str = "KERNELBRIDGE_CHAOS_ORDERS";

/// What a host is told when it is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// The plugins' folders.
    pub plugins: Vec<PathBuf>,
    pub state: PathBuf,
    /// The number of its first event.
    pub first: u64,
    /// One event in so many makes its handler misbehave.
    pub one_in: u64,
    /// Of the random numbers.
    pub seed: u64,
}

/// After this line there are no more events: what was accepted is drained, and the end of the input is waited for.
/// Before it each line is the number of the event before which the host waits for the next line.
pub const END: &str = "end";

/// What a host tells, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Its plugins are loaded.
    Ready,
    /// A plugin has this kernel from now on.
    Kernel { plugin: String, instance: u32, process: u32 },
    /// `emit` returned.
    Accepted { n: u64 },
    /// The plugin handled it.
    Handled { plugin: String, n: u64 },
    /// Nothing is pending.
    Drained,
}

/// What handlers are told to do; with `!` in every attempt.
const WHATS: &[&str] = &["exit", "loop", "flood", "hog", "raise", "raise!", "exit!"];

/// What the handlers of this event are told to do; empty: nothing but their work.
pub fn what(seed: u64, n: u64, one_in: u64) -> &'static str {
    let mut random = fastrand::Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    if random.u64(0..one_in) == 0 { WHATS[random.usize(0..WHATS.len())] } else { "" }
}
