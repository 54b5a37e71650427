//! The task that hands one of a plugin's kernels its events, one after the other.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout_at};

use crate::{
    blob::{Held, Parcel},
    chain::Chain,
    host::{
        News,
        instance::Loaded,
        lane::{Delivery, Entry, Lane, Subscriber},
        listen::StandIn,
        shared::{Shared, backoff, deliver},
    },
    rpc::{self, DeliverSeries, ErrorKind, EventBody, Params, Results, RpcError},
};

/// How often an event is tried again whose handler was refused a call with `Deadlock`; those are not its fault.
const DEADLOCKS: u32 = 10;
/// Most events in one series.
const LONGEST_SERIES: usize = 64;
/// How long a series may take before no further event of it is begun.
const SERIES: Duration = Duration::from_millis(5);
/// Most data in one series.
const SERIES_BYTES: usize = 256 * 1024;

/// Delivers to one kernel until its queue is closed and empty. Dropped before, it counts what it had taken as dropped.
pub(super) struct Worker {
    shared: Arc<Shared>,
    pub(super) entry: Arc<Entry>,
    lane: usize,
    /// Taken from the queue and not yet done, oldest first.
    taken: VecDeque<Delivery>,
    /// With the plugin now.
    pub(super) load: Vec<Delivery>,
    /// How many events the next series may have.
    window: usize,
    /// How many events go alone, because nobody knows at which of them several together failed.
    alone: usize,
}

/// Who serves a delivery.
pub(super) enum Server {
    /// The plugin.
    Kernel(Arc<Loaded>),
    /// A link that stands in for it.
    Link(Arc<StandIn>),
}

impl Server {
    /// Can it do that?
    pub fn has_feature(&self, name: &str) -> bool {
        match self {
            Self::Kernel(loaded) => loaded.plugin.has_feature(name),
            Self::Link(stand_in) => stand_in.has_feature(name),
        }
    }
}

/// Whose a delivery is, of one who might serve it.
enum Whose {
    /// Its own, for this handler.
    Its(Arc<Subscriber>),
    Anothers,
    Nobodys,
}

/// What came of one event.
pub(super) struct Outcome {
    pub result: Result<Parcel, RpcError>,
    pub elapsed: Duration,
}

/// What came of a load.
pub(super) enum Outcomes {
    /// Of each of its events, or of the first of them.
    Each(Vec<Outcome>),
    /// All were handled.
    All { results: Results, held: Held, elapsed: Duration },
}

impl Worker {
    pub fn new(shared: Arc<Shared>, entry: Arc<Entry>, lane: usize) -> Self {
        Self { shared, entry, lane, taken: VecDeque::new(), load: Vec::new(), window: 1, alone: 0 }
    }

    pub async fn run(mut self) {
        loop {
            self.shared.newsroom.room().await;
            // As long as there is nobody to give them to, events stay in the queue, where its policy holds.
            let largest = self.somebody().await;
            if self.taken.is_empty() {
                let taken = self.lane().queue.pop_up_to(largest.max(self.window)).await;
                self.taken.extend(taken);
                self.linger(largest).await;
            }
            let Some(first) = self.taken.pop_front() else { return };
            match self.server(&first).await {
                Ok(server) => {
                    self.fill(first, &server);
                    if !self.load.is_empty() {
                        let outcomes = self.attempt(&server).await;
                        self.settle(outcomes).await;
                    }
                }
                Err(error) => self.failed(first, error),
            }
        }
    }

    /// Wait for somebody who may serve; says how large a batch it would take.
    async fn somebody(&self) -> usize {
        // As nearly always.
        if let (None, Some(loaded)) = (self.entry.stand_in(), self.lane().instance.loaded()) {
            return loaded.face.largest_batch();
        }
        let mut stand_ins = self.entry.stand_ins();
        tokio::select! {
            biased;
            // The sender is in the entry.
            Ok(stand_in) = stand_ins.wait_for(Option::is_some) => {
                stand_in.as_ref().map_or(1, |stand_in| stand_in.face().largest_batch())
            }
            ready = self.lane().instance.ready() => ready.map_or(1, |loaded| loaded.face.largest_batch()),
        }
    }

    /// Who serves this delivery. Waits while the plugin's kernel is started again, unless a link comes that serves it.
    async fn server(&self, delivery: &Delivery) -> Result<Server, RpcError> {
        if let (None, Some(loaded)) = (self.entry.stand_in(), self.lane().instance.loaded()) {
            return Ok(Server::Kernel(loaded));
        }
        let mut stand_ins = self.entry.stand_ins();
        loop {
            if let Some(stand_in) = stand_ins.borrow_and_update().clone()
                && stand_in.serves(delivery, &self.entry).is_some()
            {
                return Ok(Server::Link(stand_in));
            }
            tokio::select! {
                ready = self.lane().instance.ready() => return ready.map(Server::Kernel),
                Ok(()) = stand_ins.changed() => {}
            }
        }
    }

    /// Whose this delivery is now: whoever serves it may have come or gone in this moment.
    fn whose(&self, server: &Server, delivery: &Delivery) -> Whose {
        let stand_in = self.entry.stand_in();
        let claimed = stand_in.as_ref().and_then(|stand_in| stand_in.serves(delivery, &self.entry));
        match (server, claimed, stand_in) {
            (Server::Link(serving), Some(subscriber), Some(stand_in)) if Arc::ptr_eq(serving, &stand_in) => {
                Whose::Its(subscriber)
            }
            (Server::Kernel(loaded), None, _) => {
                loaded.face.now(&delivery.subscriber).map_or(Whose::Nobodys, Whose::Its)
            }
            _ => Whose::Anothers,
        }
    }

    /// Send a request to whoever serves.
    pub(super) async fn ask(
        &self,
        server: &Server,
        method: &'static str,
        params: &impl Params,
        chain: &Chain,
    ) -> Result<Parcel, RpcError> {
        match server {
            Server::Kernel(loaded) => self.lane().instance.ask(loaded, method, params, chain, chain.deadline).await,
            Server::Link(stand_in) => stand_in.request(method, params, chain, chain.deadline).await,
        }
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.entry.lanes[self.lane]
    }

    /// Wait for a fuller batch, if the manifest says so: who waits for one event alone should not wait.
    async fn linger(&mut self, largest: usize) {
        let linger = self.entry.manifest.delivery.linger;
        if linger.is_zero() || self.taken.front().is_none_or(|first| first.subscriber.batch == 0) {
            return;
        }
        let until = tokio::time::Instant::now() + linger;
        while let Some(room) = largest.checked_sub(self.taken.len()).filter(|room| *room > 0)
            && let Ok(more) = timeout_at(until, self.entry.lanes[self.lane].queue.pop_up_to(room)).await
        {
            if more.is_empty() {
                return;
            }
            self.taken.extend(more);
        }
    }

    /// Choose what goes to the plugin together with this delivery.
    fn fill(&mut self, mut first: Delivery, server: &Server) {
        match self.whose(server, &first) {
            Whose::Its(subscriber) => first.subscriber = subscriber,
            Whose::Anothers => return self.taken.push_front(first),
            // Nobody but a link wanted it, and that is gone.
            Whose::Nobodys if first.subscriber.is_guest => return self.shared.dropped(&self.entry, first, "detached"),
            Whose::Nobodys => {
                let message = format!("the plugin has no handler for `{}` any more", first.subscriber.topic.as_str());
                return self.failed(first, RpcError::new(ErrorKind::NotFound, message).in_plugin(&self.entry.name));
            }
        }
        let batch = first.subscriber.batch;
        let limit = match (self.alone, batch) {
            // What is served by a link now may have been served by the plugin before, which takes several.
            (0, 0) if server.has_feature(rpc::SERIES) => self.window,
            (0, batch) if batch > 0 => batch,
            _ => 1,
        };
        let mut bytes = first.event.data.get().len();
        self.load.push(first);
        while self.load.len() < limit
            && let Some(next) = self.taken.front()
            && let Whose::Its(subscriber) = self.whose(server, next)
            && let Some(next) = self.taken.front_mut()
        {
            next.subscriber = subscriber;
            bytes += next.event.data.get().len();
            // What failed before is not mixed with what did not.
            let fits = next.tries() == self.load[0].tries()
                && if batch > 0 {
                    next.subscriber.id == self.load[0].subscriber.id
                } else {
                    next.subscriber.batch == 0 && next.tries() == 0 && bytes <= SERIES_BYTES
                };
            if !fits {
                break;
            }
            self.load.extend(self.taken.pop_front());
        }
    }

    /// Count what is done, and put back what has to be tried again or was not begun.
    async fn settle(&mut self, outcomes: Outcomes) {
        let outcomes = match outcomes {
            Outcomes::Each(outcomes) => outcomes,
            Outcomes::All { results, held, elapsed } => return self.all_handled(&results, &held, elapsed),
        };
        let mut again = Vec::new();
        let mut done = Vec::new();
        let mut pause = None;
        let mut outcomes = outcomes.into_iter();
        for mut delivery in std::mem::take(&mut self.load) {
            match outcomes.next() {
                None => again.push(delivery),
                Some(Outcome { result: Ok(result), elapsed }) => {
                    done.extend(delivery.seq);
                    self.handled(delivery, result, elapsed);
                }
                Some(Outcome { result: Err(error), .. }) => {
                    if error.not_begun {
                        // The kernel will be there again, or be in quarantine.
                    } else if error.is_caused_by(ErrorKind::Deadlock) && delivery.deadlocks < DEADLOCKS {
                        delivery.deadlocks += 1;
                        pause = pause.max(Some(backoff(delivery.tries())));
                    } else if delivery.attempt < self.entry.manifest.delivery.attempts {
                        delivery.attempt += 1;
                        self.entry.ledger.tried(&delivery);
                        pause = pause.max(Some(backoff(delivery.tries())));
                    } else {
                        self.failed(delivery, error);
                        continue;
                    }
                    self.entry.meter.count(|stats| stats.retried += 1);
                    again.push(delivery);
                }
            }
        }
        self.entry.ledger.acknowledge(&done);
        while let Some(delivery) = again.pop() {
            self.taken.push_front(delivery);
        }
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }

    async fn attempt(&mut self, server: &Server) -> Outcomes {
        let began = Instant::now();
        let deadline = began + self.entry.manifest.limits.timeout;
        let (first, last) = (&self.load[0], &self.load[self.load.len() - 1]);
        let is_alone = self.load.len() == 1;
        let name = if is_alone {
            format!("event {}", first.event.id)
        } else {
            format!("events {} to {}", first.event.id, last.event.id)
        };
        let outcomes = match first.subscriber.batch {
            0 if is_alone => self.attempt_alone(server, &Chain::root(name, deadline), began).await,
            0 => self.attempt_series(server, &Chain::root(name, deadline + SERIES)).await,
            _ => self.attempt_batch(server, &Chain::root(name, deadline), began).await,
        };
        self.alone = self.alone.saturating_sub(1);
        match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) if is_alone => Outcomes::Each(vec![Outcome { result: Err(error), elapsed: began.elapsed() }]),
            Err(error) => {
                // Nobody is blamed yet: each goes alone next, and whose fault it was fails again.
                tracing::debug!(plugin = &*self.entry.name, %error, count = self.load.len(), "nothing is known of these");
                (self.alone, self.window) = (self.load.len(), 1);
                Outcomes::Each(Vec::new())
            }
        }
    }

    async fn attempt_alone(&mut self, server: &Server, chain: &Chain, began: Instant) -> Result<Outcomes, RpcError> {
        let delivery = &self.load[0];
        let params = deliver(delivery.subscriber.id, &delivery.event, delivery.attempt, chain);
        let result = self.ask(server, "event", &params, chain).await;
        let elapsed = began.elapsed();
        self.entry.meter.took(elapsed);
        self.widen(1, elapsed, server);
        Ok(Outcomes::Each(vec![Outcome { result, elapsed }]))
    }

    /// Several events for handlers of one event each. The plugin stops at the first that fails, so that the order is
    /// kept when that is tried again, and when time is up.
    async fn attempt_series(&mut self, server: &Server, chain: &Chain) -> Result<Outcomes, RpcError> {
        let events = self.load.iter().map(|delivery| body(delivery, Some(delivery.subscriber.id))).collect();
        let within_ms = u64::try_from(SERIES.as_millis()).unwrap_or_default();
        let params = DeliverSeries { within_ms, chain: &chain.path, events };
        let began = Instant::now();
        let result = self.ask(server, rpc::SERIES, &params, chain).await;
        let elapsed = began.elapsed();
        let mut outcomes = self.outcomes(&result?, elapsed)?;
        for outcome in &outcomes {
            self.entry.meter.took(outcome.elapsed);
        }
        self.widen(outcomes.len(), elapsed, server);
        if let Some(Outcome { result: Err(error), .. }) = outcomes.last_mut()
            && Instant::now() >= chain.deadline
        {
            // Interrupted, or its pending call was: what it raised then is not what went wrong.
            let message = format!("deadline of {} passed", chain.path.join(" > "));
            *error = RpcError::new(ErrorKind::Timeout, message).in_plugin(&self.entry.name);
        }
        Ok(Outcomes::Each(outcomes))
    }

    /// Latency first: a plugin gets more at once only while it is quick.
    fn widen(&mut self, done: usize, elapsed: Duration, server: &Server) {
        self.window = if !server.has_feature(rpc::SERIES) {
            1
        } else if elapsed < SERIES {
            (done * 2).max(self.window).min(LONGEST_SERIES)
        } else {
            done
        };
    }

    /// One outcome for each event of a series that was begun.
    fn outcomes(&self, result: &Parcel, elapsed: Duration) -> Result<Vec<Outcome>, RpcError> {
        let invalid = |message| RpcError::new(ErrorKind::Invalid, message).in_plugin(&self.entry.name);
        let rpc::Outcomes { outcomes } = serde_json::from_str(result.get())
            .map_err(|error| invalid(format!("the shim's outcomes do not fit the protocol: {error}")))?;
        if !(1..=self.load.len()).contains(&outcomes.len()) {
            return Err(invalid(format!("the shim gave {} outcomes for {} events", outcomes.len(), self.load.len())));
        }
        Ok(outcomes.into_iter().map(|outcome| self.outcome(outcome, result.held(), elapsed)).collect())
    }

    pub(super) fn outcome(&self, outcome: rpc::Outcome, held: &Held, elapsed: Duration) -> Outcome {
        Outcome {
            result: match outcome.error {
                Some(error) => Err(RpcError::from_json(&error).by_plugin(&self.entry.name)),
                None => Ok(Parcel::new(outcome.result.unwrap_or_else(rpc::null), held.clone())),
            },
            elapsed: outcome.ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()).unwrap_or(elapsed),
        }
    }

    /// Of a load that went well nothing is counted one by one, and results are only cut if anybody wants them.
    fn all_handled(&mut self, results: &Results, held: &Held, elapsed: Duration) {
        let load = std::mem::take(&mut self.load);
        let count = load.len();
        self.entry.ledger.acknowledge(&load.iter().filter_map(|delivery| delivery.seq).collect::<Vec<_>>());
        self.entry.meter.count(|stats| stats.handled += count as u64);
        if self.shared.newsroom.anybody() {
            let news = load.into_iter().zip(results.rows(count)).map(|(delivery, result)| {
                let plugin = self.entry.name.clone();
                News::Handled { plugin, event: delivery.event, result: result.into(), held: held.clone(), elapsed }
            });
            self.shared.newsroom.publish_all(news);
        }
        self.shared.done(count);
    }

    fn handled(&self, delivery: Delivery, result: Parcel, elapsed: Duration) {
        self.entry.meter.count(|stats| stats.handled += 1);
        if self.shared.newsroom.anybody() {
            self.publish(delivery, result, elapsed);
        }
        self.shared.done(1);
    }

    fn publish(&self, delivery: Delivery, result: Parcel, elapsed: Duration) {
        let (plugin, (result, held)) = (self.entry.name.clone(), result.into_parts());
        let result = result.into();
        self.shared.newsroom.publish(News::Handled { plugin, event: delivery.event, result, held, elapsed });
    }

    fn failed(&self, delivery: Delivery, error: RpcError) {
        self.entry.meter.count(|stats| stats.failed += 1);
        let attempts = delivery.attempt;
        self.entry.ledger.bury(&delivery, &error);
        tracing::warn!(plugin = &*self.entry.name, event = &*delivery.event.id, %error, attempts, "event given up");
        let plugin = self.entry.name.clone();
        self.shared.newsroom.publish(News::Failed { plugin, event: delivery.event, error, attempts });
        self.shared.done(1);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for delivery in self.load.drain(..).chain(self.taken.drain(..)) {
            self.shared.left_behind(&self.entry, delivery);
        }
    }
}

pub(super) fn body(delivery: &Delivery, handler: Option<u64>) -> EventBody<'_> {
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
