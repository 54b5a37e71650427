//! What a plugin prints and shows, within `[limits] output` for each event or call.
//!
//! Outputs come on a channel of their own and do not say which request they belong to, so they count for the one that
//! runs when they arrive, and late ones for the next. What a plugin prints while it serves nobody has the same limit for
//! each minute.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    client::{Counters, Output, Outputs},
    plugin::PluginNews,
};

/// How long a flood has to be over before it is reported.
const QUIET: Duration = Duration::from_millis(200);
/// How often a plugin that serves nobody may print as much as its limit.
const IDLE: Duration = Duration::from_secs(60);

/// Outputs that were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Dropped {
    outputs: u64,
    bytes: u64,
}

/// Counts the outputs of one plugin.
#[derive(Debug)]
pub(super) struct Prints {
    limit_bytes: u64,
    /// Is a request served?
    busy: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left_bytes: u64,
    began: Instant,
    /// Since then.
    dropped: Dropped,
    /// Before, and not reported yet.
    due: Dropped,
}

impl Prints {
    pub fn new(limit_bytes: u64) -> Self {
        let (dropped, due) = (Dropped::default(), Dropped::default());
        let state = Mutex::new(State { left_bytes: limit_bytes, began: Instant::now(), dropped, due });
        Self { limit_bytes, busy: AtomicBool::new(false), state }
    }

    /// A request of so many events or calls is begun.
    pub fn begin(&self, count: usize) {
        self.busy.store(true, Ordering::Relaxed);
        self.lock().begin(self.limit_bytes.saturating_mul(count as u64));
    }

    /// Is one served?
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Pass outputs on until the kernel is gone.
    pub async fn forward(self: Arc<Self>, mut outputs: Outputs, counters: Arc<Counters>, news: impl Fn(PluginNews)) {
        loop {
            let next = match self.has_dropped(&counters) {
                true => timeout(QUIET, outputs.next()).await,
                false => Ok(outputs.next().await),
            };
            let is_over = match next {
                Ok(Some(output)) => {
                    let output = self.admit(output);
                    self.report(false, &news);
                    if let Some(output) = output {
                        news(PluginNews::Output(output));
                    }
                    continue;
                }
                Ok(None) => true,
                Err(_) => !self.busy.load(Ordering::Relaxed),
            };
            self.report(is_over, &news);
            if is_over && matches!(next, Ok(None)) {
                return;
            }
        }
    }

    /// The output, or as much of it as is still allowed.
    fn admit(&self, output: Output) -> Option<Output> {
        let mut state = self.lock();
        if !self.busy.load(Ordering::Relaxed) && state.began.elapsed() >= IDLE {
            state.begin(self.limit_bytes);
        }
        let size_bytes = output.size_bytes();
        if size_bytes <= state.left_bytes {
            state.left_bytes -= size_bytes;
            return Some(output);
        }
        state.dropped.outputs += 1;
        state.dropped.bytes += size_bytes;
        let Output::Stream { name, mut text } = output else { return None };
        let mut end = state.left_bytes as usize;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        state.dropped.bytes -= text.len() as u64;
        state.left_bytes = 0;
        (!text.is_empty()).then_some(Output::Stream { name, text })
    }

    /// What the client dropped, because nobody was as fast as the kernel, counts too.
    fn has_dropped(&self, counters: &Counters) -> bool {
        let (outputs, bytes) = counters.take_dropped();
        let mut state = self.lock();
        state.dropped.outputs += outputs;
        state.dropped.bytes += bytes;
        state.dropped.outputs + state.due.outputs > 0
    }

    /// Report what requests before this one lost and, when that is over, what it did.
    fn report(&self, is_over: bool, news: &impl Fn(PluginNews)) {
        let mut state = self.lock();
        if is_over {
            state.settle();
        }
        let Dropped { outputs, bytes } = std::mem::take(&mut state.due);
        drop(state);
        if outputs > 0 {
            news(PluginNews::OutputDropped { outputs, bytes, limit_bytes: self.limit_bytes });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, allowed_bytes: u64) {
        self.settle();
        self.left_bytes = allowed_bytes;
        self.began = Instant::now();
    }

    fn settle(&mut self) {
        let Dropped { outputs, bytes } = std::mem::take(&mut self.dropped);
        self.due.outputs += outputs;
        self.due.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn print(text: &str) -> Output {
        Output::Stream { name: "stdout".into(), text: text.into() }
    }

    fn reported(prints: &Prints, is_over: bool) -> Vec<(u64, u64)> {
        let found = Mutex::new(Vec::new());
        prints.report(is_over, &|news| match news {
            PluginNews::OutputDropped { outputs, bytes, limit_bytes: 10 } => {
                found.lock().expect("no panic").push((outputs, bytes));
            }
            other => panic!("{other:?}"),
        });
        found.into_inner().expect("no panic")
    }

    #[test]
    fn what_is_over_the_limit_is_dropped_and_reported_once() {
        let prints = Prints::new(10);
        prints.begin(1);
        assert_eq!(prints.admit(print("1234567")), Some(print("1234567")));
        assert_eq!(prints.admit(print("8äöü")), Some(print("8ä")));
        assert_eq!(prints.admit(print("x")), None);
        let plot = json!({"image/png": "xxxx"}).as_object().cloned().expect("an object");
        assert_eq!(prints.admit(Output::Display { data: plot, metadata: serde_json::Map::new() }), None);
        assert_eq!(reported(&prints, false), []);
        prints.begin(2);
        assert_eq!(reported(&prints, false), [(3, 4 + 1 + 4)]);
        assert_eq!(prints.admit(print(&"x".repeat(20))), Some(print(&"x".repeat(20))));
        assert_eq!(reported(&prints, true), []);
        assert_eq!(prints.admit(print("x")), None);
        assert_eq!(reported(&prints, true), [(1, 1)]);
    }
}
