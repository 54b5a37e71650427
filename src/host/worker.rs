//! The task that hands a plugin its events, one after the other.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::time::sleep;

use crate::{
    chain::Chain,
    host::{
        News,
        shared::{Delivery, Entry, Shared, backoff, deliver},
    },
    rpc::{self, DeliverBatch, DeliverSeries, ErrorKind, EventBody, Outcomes, RpcError},
};

/// How often an event is tried again whose handler was refused a call with `Deadlock`; those are not its fault.
const DEADLOCKS: u32 = 10;
/// Most events in one series.
const LONGEST_SERIES: usize = 64;
/// How long a series may take before no further event of it is begun.
const SERIES: Duration = Duration::from_millis(5);
/// Most data in one series.
const SERIES_BYTES: usize = 256 * 1024;

/// Delivers to one plugin until its queue is closed and empty.
pub(super) struct Worker {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    /// Taken from the queue and not yet done, oldest first.
    taken: VecDeque<Delivery>,
    /// How many events the next series may have.
    window: usize,
    /// How many events go alone, because nobody knows which of them a failed series failed at.
    alone: usize,
}

/// What came of one event.
struct Outcome {
    result: Result<Box<RawValue>, RpcError>,
    elapsed: Duration,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, entry: Arc<Entry>) -> Self {
        Self { shared, entry, taken: VecDeque::new(), window: 1, alone: 0 }
    }

    pub async fn run(mut self) {
        let largest = self.entry.handlers.iter().map(|handler| handler.batch).max().unwrap_or(0);
        loop {
            self.shared.newsroom.room().await;
            if self.taken.is_empty() {
                self.taken.extend(self.entry.queue.pop_up_to(largest.max(self.window)).await);
            }
            let Some(first) = self.taken.pop_front() else { return };
            let load = self.fill(first);
            let outcomes = self.attempt(&load).await;
            self.settle(load, outcomes).await;
        }
    }

    /// What goes to the plugin together with this delivery.
    fn fill(&mut self, first: Delivery) -> Vec<Delivery> {
        let is_batch = first.batch > 0;
        let limit = if is_batch { first.batch } else { self.window };
        let mut bytes = first.event.data.get().len();
        let mut load = vec![first];
        while load.len() < limit
            && let Some(next) = self.taken.front()
        {
            bytes += next.event.data.get().len();
            // What failed before is not mixed with what did not.
            let fits = next.tries() == load[0].tries()
                && if is_batch {
                    next.handler == load[0].handler
                } else {
                    next.batch == 0 && next.tries() == 0 && bytes <= SERIES_BYTES
                };
            if !fits {
                break;
            }
            load.extend(self.taken.pop_front());
        }
        load
    }

    /// Count what is done, and put back what has to be tried again or was not begun.
    async fn settle(&mut self, load: Vec<Delivery>, outcomes: Vec<Outcome>) {
        let mut again = Vec::new();
        let mut pause = None;
        let mut outcomes = outcomes.into_iter();
        for mut delivery in load {
            match outcomes.next() {
                None => again.push(delivery),
                Some(Outcome { result: Ok(result), elapsed }) => self.handled(delivery, result, elapsed),
                Some(Outcome { result: Err(error), .. }) => {
                    // A dead kernel does not come back by itself.
                    let retry =
                        delivery.attempt < self.entry.manifest.delivery.attempts && error.kind != ErrorKind::Gone;
                    if error.is_caused_by(ErrorKind::Deadlock) && delivery.deadlocks < DEADLOCKS {
                        delivery.deadlocks += 1;
                    } else if retry {
                        delivery.attempt += 1;
                    } else {
                        self.failed(delivery, error);
                        continue;
                    }
                    pause = pause.max(Some(backoff(delivery.tries())));
                    self.entry.meter.count(|stats| stats.retried += 1);
                    again.push(delivery);
                }
            }
        }
        while let Some(delivery) = again.pop() {
            self.taken.push_front(delivery);
        }
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }

    async fn attempt(&mut self, load: &[Delivery]) -> Vec<Outcome> {
        let began = Instant::now();
        let deadline = began + self.entry.manifest.limits.timeout;
        let [first, .., last] = load else {
            let [first] = load else { return Vec::new() };
            return self.attempt_alone(first, began, deadline).await;
        };
        let name = format!("events {} to {}", first.event.id, last.event.id);
        if first.batch > 0 {
            return self.attempt_batch(load, &Chain::root(name, deadline), began).await;
        }
        self.attempt_series(load, &Chain::root(name, deadline + SERIES)).await
    }

    async fn attempt_alone(&mut self, delivery: &Delivery, began: Instant, deadline: Instant) -> Vec<Outcome> {
        let chain = Chain::root(format!("event {}", delivery.event.id), deadline);
        if delivery.batch > 0 {
            return self.attempt_batch(std::slice::from_ref(delivery), &chain, began).await;
        }
        let params = deliver(delivery.handler, &delivery.event, delivery.attempt, &chain);
        let result = self.entry.plugin.request("event", &params, &chain, deadline).await;
        let elapsed = began.elapsed();
        self.entry.meter.took(elapsed);
        self.alone = self.alone.saturating_sub(1);
        self.widen(1, elapsed);
        vec![Outcome { result, elapsed }]
    }

    async fn attempt_batch(&self, load: &[Delivery], chain: &Chain, began: Instant) -> Vec<Outcome> {
        let events = load.iter().map(|delivery| body(delivery, None)).collect();
        let params = DeliverBatch { handler: load[0].handler, chain: &chain.path, events };
        let result = self.entry.plugin.request("events", &params, chain, chain.deadline).await;
        let elapsed = began.elapsed();
        self.entry.meter.took(elapsed);
        let all = |error: RpcError| {
            std::iter::repeat_with(|| Outcome { result: Err(error.clone()), elapsed }).take(load.len()).collect()
        };
        match result.and_then(|result| self.outcomes(&result, elapsed)) {
            Ok(outcomes) if outcomes.len() == load.len() => outcomes,
            Ok(outcomes) => {
                let message = format!("the shim gave {} outcomes for {} events", outcomes.len(), load.len());
                all(RpcError::new(ErrorKind::Invalid, message).in_plugin(&self.entry.name))
            }
            Err(error) => all(error),
        }
    }

    /// Several events for handlers of one event each. The plugin stops at the first that fails, so that the order is
    /// kept when that is tried again, and when time is up.
    async fn attempt_series(&mut self, load: &[Delivery], chain: &Chain) -> Vec<Outcome> {
        let events = load.iter().map(|delivery| body(delivery, Some(delivery.handler))).collect();
        let within_ms = u64::try_from(SERIES.as_millis()).unwrap_or_default();
        let params = DeliverSeries { within_ms, chain: &chain.path, events };
        let began = Instant::now();
        let result = self.entry.plugin.request("series", &params, chain, chain.deadline).await;
        let elapsed = began.elapsed();
        let mut outcomes = match result.and_then(|result| self.outcomes(&result, elapsed)) {
            Ok(outcomes) if (1..=load.len()).contains(&outcomes.len()) => outcomes,
            outcomes => {
                // Nobody is blamed yet: each goes alone next, and whose fault it was fails again.
                let count = outcomes.as_ref().map_or(0, Vec::len);
                let error = outcomes.err().map(|error| error.to_string());
                tracing::debug!(plugin = &*self.entry.name, count, error, "series without outcomes");
                (self.alone, self.window) = (load.len(), 1);
                return Vec::new();
            }
        };
        for outcome in &outcomes {
            self.entry.meter.took(outcome.elapsed);
        }
        self.widen(outcomes.len(), elapsed);
        if let Some(Outcome { result: Err(error), .. }) = outcomes.last_mut()
            && Instant::now() >= chain.deadline
        {
            // Interrupted, or its pending call was: what it raised then is not what went wrong.
            let message = format!("deadline of {} passed", chain.path.join(" > "));
            *error = RpcError::new(ErrorKind::Timeout, message).in_plugin(&self.entry.name);
        }
        outcomes
    }

    /// Latency first: a plugin gets more at once only while it is quick.
    fn widen(&mut self, done: usize, elapsed: Duration) {
        self.window = if self.alone > 0 || !self.entry.plugin.takes_series() {
            1
        } else if elapsed < SERIES {
            (done * 2).max(self.window).min(LONGEST_SERIES)
        } else {
            done
        };
    }

    fn outcomes(&self, result: &RawValue, elapsed: Duration) -> Result<Vec<Outcome>, RpcError> {
        let Outcomes { outcomes } = serde_json::from_str(result.get()).map_err(|error| {
            let message = format!("the shim's outcomes do not fit the protocol: {error}");
            RpcError::new(ErrorKind::Invalid, message).in_plugin(&self.entry.name)
        })?;
        let outcomes = outcomes.into_iter().map(|outcome| Outcome {
            result: match outcome.error {
                Some(error) => Err(RpcError::from_json(&error).in_plugin(&self.entry.name)),
                None => Ok(outcome.result.unwrap_or_else(rpc::null)),
            },
            elapsed: outcome.ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()).unwrap_or(elapsed),
        });
        Ok(outcomes.collect())
    }

    fn handled(&self, delivery: Delivery, result: Box<RawValue>, elapsed: Duration) {
        self.entry.meter.count(|stats| stats.handled += 1);
        if self.shared.newsroom.anybody() {
            let plugin = self.entry.name.clone();
            self.shared.newsroom.publish(&News::Handled {
                plugin,
                event: delivery.event,
                result: result.into(),
                elapsed,
            });
        }
        self.shared.done(1);
    }

    fn failed(&self, delivery: Delivery, error: RpcError) {
        self.entry.meter.count(|stats| stats.failed += 1);
        let attempts = delivery.attempt;
        tracing::warn!(plugin = &*self.entry.name, event = &*delivery.event.id, %error, attempts, "event given up");
        let plugin = self.entry.name.clone();
        self.shared.newsroom.publish(&News::Failed { plugin, event: delivery.event, error, attempts });
        self.shared.done(1);
    }
}

fn body(delivery: &Delivery, handler: Option<u64>) -> EventBody<'_> {
    EventBody {
        handler,
        id: &delivery.event.id,
        topic: &delivery.event.topic,
        time: &delivery.event.time,
        attempt: delivery.attempt,
        key: delivery.event.key.as_deref(),
        data: &delivery.event.data,
    }
}
