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
    rpc::{self, DeliverBatch, ErrorKind, EventBody, Outcomes, RpcError},
};

/// How often an event is tried again whose handler was refused a call with `Deadlock`; those are not its fault.
const DEADLOCKS: u32 = 10;

/// Delivers to one plugin until its queue is closed and empty.
pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub entry: Arc<Entry>,
}

/// What came of one event.
type Outcome = Result<Box<RawValue>, RpcError>;

impl Worker {
    pub async fn run(self) {
        let largest = self.entry.handlers.iter().map(|handler| handler.batch).max().unwrap_or(0).max(1);
        let mut taken: VecDeque<Delivery> = VecDeque::new();
        loop {
            self.shared.newsroom.room().await;
            if taken.is_empty() {
                taken.extend(self.entry.queue.pop_up_to(largest).await);
            }
            let Some(first) = taken.pop_front() else { return };
            let mut batch = vec![first];
            while batch.len() < batch[0].batch
                && let Some(next) = taken.front()
                && next.handler == batch[0].handler
            {
                batch.extend(taken.pop_front());
            }
            self.deliver(batch).await;
        }
    }

    /// Deliver, and again what failed, until nothing is left.
    async fn deliver(&self, mut batch: Vec<Delivery>) {
        let (mut attempt, mut deadlocks) = (1, 0);
        loop {
            let began = Instant::now();
            let outcomes = self.attempt(&batch, attempt).await;
            let elapsed = began.elapsed();
            self.entry.meter.took(elapsed);
            let mut failed = Vec::new();
            let mut is_deadlock = false;
            for (delivery, outcome) in batch.into_iter().zip(outcomes) {
                match outcome {
                    Ok(result) => self.handled(delivery, result, elapsed),
                    Err(error) => {
                        let deadlock = error.is_caused_by(ErrorKind::Deadlock) && deadlocks < DEADLOCKS;
                        is_deadlock |= deadlock;
                        // A dead kernel does not come back by itself.
                        let retry = attempt < self.entry.manifest.delivery.attempts && error.kind != ErrorKind::Gone;
                        if deadlock || retry {
                            failed.push(delivery);
                        } else {
                            self.failed(delivery, error, attempt);
                        }
                    }
                }
            }
            if failed.is_empty() {
                return;
            }
            self.entry.meter.count(|stats| stats.retried += failed.len() as u64);
            batch = failed;
            sleep(backoff(attempt + deadlocks)).await;
            if is_deadlock {
                deadlocks += 1;
            } else {
                attempt += 1;
            }
        }
    }

    async fn attempt(&self, batch: &[Delivery], attempt: u32) -> Vec<Outcome> {
        let deadline = Instant::now() + self.entry.manifest.limits.timeout;
        let [first, rest @ ..] = batch else { return Vec::new() };
        let name = if rest.is_empty() {
            format!("event {}", first.event.id)
        } else {
            format!("events {} to {}", first.event.id, batch[batch.len() - 1].event.id)
        };
        let chain = Chain::root(name, deadline);
        if first.batch == 0 {
            let params = deliver(first.handler, &first.event, attempt, &chain);
            return vec![self.entry.plugin.request("event", &params, &chain, deadline).await];
        }
        let events = batch.iter().map(|delivery| EventBody {
            id: &delivery.event.id,
            topic: &delivery.event.topic,
            time: &delivery.event.time,
            attempt,
            key: delivery.event.key.as_deref(),
            data: &delivery.event.data,
        });
        let params = DeliverBatch { handler: first.handler, chain: &chain.path, events: events.collect() };
        let result = self.entry.plugin.request("events", &params, &chain, deadline).await;
        outcomes(result, batch.len(), &self.entry.name)
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

    fn failed(&self, delivery: Delivery, error: RpcError, attempts: u32) {
        self.entry.meter.count(|stats| stats.failed += 1);
        tracing::warn!(plugin = &*self.entry.name, event = &*delivery.event.id, %error, attempts, "event given up");
        let plugin = self.entry.name.clone();
        self.shared.newsroom.publish(&News::Failed { plugin, event: delivery.event, error, attempts });
        self.shared.done(1);
    }
}

/// One outcome for each event of a batch.
fn outcomes(result: Outcome, count: usize, plugin: &str) -> Vec<Outcome> {
    let all = |error: RpcError| std::iter::repeat_n(Err(error), count).collect();
    let result = match result {
        Ok(result) => result,
        Err(error) => return all(error),
    };
    match serde_json::from_str::<Outcomes>(result.get()) {
        Ok(Outcomes { outcomes }) if outcomes.len() == count => outcomes
            .into_iter()
            .map(|outcome| match outcome.error {
                Some(error) => Err(RpcError::from_json(&error).in_plugin(plugin)),
                None => Ok(outcome.result.unwrap_or_else(rpc::null)),
            })
            .collect(),
        Ok(Outcomes { outcomes }) => {
            let message = format!("the shim gave {} outcomes for {count} events", outcomes.len());
            all(RpcError::new(ErrorKind::Invalid, message).in_plugin(plugin))
        }
        Err(error) => all(RpcError::new(ErrorKind::Invalid, format!("outcomes of a batch: {error}")).in_plugin(plugin)),
    }
}
