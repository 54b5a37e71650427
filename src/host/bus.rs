//! The way of an event: filters, lanes, the store, or nowhere.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use tokio::time::timeout_at;

use crate::{
    blob::Parcel,
    chain::Chain,
    host::{
        Event, News,
        functions::deadline,
        lane::{Delivery, Entry, Lane, Subscriber},
        origin::Origin,
        rows::Admitted,
        shared::{Shared, deliver},
    },
    manifest::WhenFull,
    queue::Pushed,
    rpc::{self, Deliver, ErrorKind, Filtered, HandlerKind, RpcError},
};

/// What came of an emitted event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Emitted {
    /// Handlers that will get it.
    pub accepted: usize,
    /// Of those, handlers that will get it from the store, because there was no place in memory.
    pub spilled: usize,
    /// Handlers that will not get it because their plugin's queue is full and drops the newest.
    pub dropped: usize,
    /// Did a filter drop it?
    pub filtered_out: bool,
}

impl Shared {
    /// Put an event onto the bus: filters first, then the queues of those who want it.
    pub async fn emit(&self, plugin: &str, event: Event, chain: Option<&Chain>) -> Result<Emitted, RpcError> {
        let Some(event) = self.filter(event, chain).await? else {
            return Ok(Emitted { filtered_out: true, ..Emitted::default() });
        };
        if self.newsroom.anybody() {
            self.newsroom.publish(News::Emitted { plugin: plugin.into(), event: event.clone() });
        }
        self.links.copy(&event);
        let mut emitted = Emitted::default();
        for entry in self.entries().iter() {
            for subscriber in &entry.face().subscribers {
                if subscriber.kind != HandlerKind::On || !subscriber.topic.matches(&event.topic) {
                    continue;
                }
                let delivery = Delivery::new(subscriber.clone(), event.clone());
                match self.enqueue(entry, delivery, chain).await? {
                    Placed::Waiting => emitted.accepted += 1,
                    Placed::Stored => {
                        emitted.accepted += 1;
                        emitted.spilled += 1;
                    }
                    Placed::Dropped => emitted.dropped += 1,
                }
            }
        }
        Ok(emitted)
    }

    async fn enqueue(&self, entry: &Entry, mut delivery: Delivery, chain: Option<&Chain>) -> Result<Placed, RpcError> {
        self.pending.add(1);
        // Dropped without success (cancelled, refused), the delivery is no longer pending, and not written down.
        let mut pending = Pending { shared: self, entry, seq: None, accepted: false };
        if matches!(entry.ledger.admit(&mut delivery)?, Admitted::Stored) {
            pending.accepted = true;
            return Ok(self.stored(entry));
        }
        pending.seq = delivery.seq;
        let (key, lane) = (delivery.event.key.clone(), entry.lane(&delivery.event));
        let is_block = entry.manifest.queue.when_full == WhenFull::Block;
        let pushed = match chain {
            Some(chain) if is_block && lane.queue.is_full() => {
                self.push_in_chain(entry, &lane, delivery, key.as_deref(), chain).await?
            }
            _ => lane.queue.push(delivery, key.as_deref()).await.map_err(|_| closed(&entry.name))?,
        };
        // From here on it is known where it went.
        pending.accepted = true;
        self.pushed(entry, pushed)
    }

    /// Count what became of a delivery, or of the one that had to go for it. A delivery that is not waiting now is no
    /// longer pending.
    pub fn pushed(&self, entry: &Entry, pushed: Pushed<Delivery>) -> Result<Placed, RpcError> {
        let (dropped, reason, placed) = match pushed {
            Pushed::Accepted => return Ok(Placed::Waiting),
            Pushed::Full(delivery) => {
                return match entry.ledger.spill(&delivery) {
                    Ok(()) => Ok(self.stored(entry)),
                    Err(error) => {
                        self.done(1);
                        Err(error)
                    }
                };
            }
            Pushed::DroppedOldest(delivery) => (delivery, "drop-oldest", Placed::Waiting),
            Pushed::DroppedNewest(delivery) => (delivery, "drop-newest", Placed::Dropped),
            Pushed::Coalesced(delivery) => (delivery, "coalesce", Placed::Waiting),
        };
        self.dropped(entry, dropped, reason);
        Ok(placed)
    }

    /// A delivery that was pending is in the store.
    fn stored(&self, entry: &Entry) -> Placed {
        entry.meter.count(|stats| stats.spilled += 1);
        if !entry.ledger.works_off {
            // It is the next host's.
            self.done(1);
        }
        Placed::Stored
    }

    /// A delivery that was pending is dropped.
    pub fn dropped(&self, entry: &Entry, delivery: Delivery, reason: &'static str) {
        entry.ledger.acknowledge(delivery.seq.as_slice());
        entry.meter.count(|stats| stats.drop_one(&delivery.event.topic, reason));
        self.newsroom.publish(News::Dropped { plugin: entry.name.clone(), event: delivery.event, reason });
        self.done(1);
    }

    /// The host ends before it was handled. What is in the store stays there for the next one.
    pub fn left_behind(&self, entry: &Entry, delivery: Delivery) {
        match delivery.seq {
            Some(_) => self.done(1),
            None => self.dropped(entry, delivery, "shutdown"),
        }
    }

    /// Others put so many events into the store for this plugin, or took them out.
    pub fn found(&self, entry: &Entry, new: i64) {
        let count = usize::try_from(new.unsigned_abs()).unwrap_or(usize::MAX);
        if new > 0 {
            self.pending.add(count);
            entry.meter.count(|stats| stats.resumed += new.unsigned_abs());
        } else if new < 0 {
            self.done(count);
        }
    }

    /// A plugin that emits waits like one that calls, so it may wait for itself.
    async fn push_in_chain(
        &self,
        entry: &Entry,
        lane: &Lane,
        delivery: Delivery,
        key: Option<&str>,
        chain: &Chain,
    ) -> Result<Pushed<Delivery>, RpcError> {
        let seat = lane.instance.seat();
        {
            let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(circle) = graph.would_wait_for_itself(chain.id, seat) {
                return Err(full_for_ever(&entry.name, &circle));
            }
            // A link has no seat, as what it serves has no order.
            if entry.stand_in().is_some_and(|stand_in| stand_in.is_at(chain.id)) {
                return Err(full_for_ever(&entry.name, &[chain.id]));
            }
            graph.wait(chain.id, seat);
        }
        let _waiting = Waiting { shared: self, chain: chain.id, seat };
        match timeout_at(chain.deadline.into(), lane.queue.push(delivery, key)).await {
            Ok(pushed) => pushed.map_err(|_| closed(&entry.name)),
            Err(_) => {
                let message = format!("the queue of plugin `{}` stayed full until the deadline", entry.name);
                Err(RpcError::new(ErrorKind::Timeout, message))
            }
        }
    }

    /// The event as its filters leave it; `None` when one dropped it.
    pub async fn filter(&self, mut event: Event, chain: Option<&Chain>) -> Result<Option<Event>, RpcError> {
        let entries = self.entries();
        let mut filters: Vec<(&Arc<Entry>, Arc<Subscriber>)> = Vec::new();
        for entry in entries.iter() {
            let face = entry.face();
            let wanted = face.subscribers.iter().filter(|subscriber| subscriber.kind == HandlerKind::Filter);
            let wanted = wanted.filter(|subscriber| subscriber.topic.matches(&event.topic));
            filters.extend(wanted.map(|subscriber| (entry, subscriber.clone())));
        }
        // Stable: equal priorities keep the order in which the plugins were named.
        filters.sort_by_key(|(_, handler)| handler.priority);
        for (entry, handler) in filters {
            let deadline = deadline(chain, entry.manifest.limits.timeout);
            let chain = match chain {
                Some(chain) => self.deeper(chain, &entry.name, "filter", deadline, &entry.manifest)?,
                None => Chain::root(format!("event {}", event.id), deadline),
            };
            let deliver = deliver(handler.id, &event, 1, &chain);
            let began = Instant::now();
            let filtered_by_link = match entry.stand_in().filter(|_| handler.is_guest) {
                Some(stand_in) => match stand_in.request("filter", &deliver, &chain, deadline).await {
                    Err(error) if error.not_begun => None,
                    result => Some(result?),
                },
                None => None,
            };
            let result = match filtered_by_link {
                Some(result) => result,
                None if handler.is_guest => {
                    // The link went away, and what it stood in for filters again.
                    let own = entry.own_face();
                    let Some(own) = own.stood_in_for(&handler) else { continue };
                    let deliver = Deliver { handler: own.id, ..deliver };
                    entry.idlest().instance.request("filter", &deliver, &chain, deadline).await?
                }
                None => entry.idlest().instance.request("filter", &deliver, &chain, deadline).await?,
            };
            entry.meter.took(began.elapsed());
            if result.get() == "null" {
                entry.meter.count(|stats| stats.filtered_out += 1);
                self.newsroom.publish(News::Filtered { plugin: entry.name.clone(), event });
                return Ok(None);
            }
            entry.meter.count(|stats| stats.filtered += 1);
            event = filtered(event, &result, &entry.name)?;
        }
        Ok(Some(event))
    }

    /// Deliveries are done, in whichever way.
    pub fn done(&self, count: usize) {
        self.pending.done(count);
    }
}

/// Where a delivery went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Into its lane.
    Waiting,
    /// Into the store.
    Stored,
    /// Nowhere.
    Dropped,
}

/// A delivery that is pending until it is known not to be.
struct Pending<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
    seq: Option<i64>,
    accepted: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.accepted {
            self.entry.ledger.acknowledge(self.seq.as_slice());
            self.shared.done(1);
        }
    }
}

/// A chain that waits for a queue.
struct Waiting<'a> {
    shared: &'a Shared,
    chain: u64,
    seat: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut graph = self.shared.graph.lock().unwrap_or_else(PoisonError::into_inner);
        graph.stop_waiting(self.chain, self.seat);
    }
}

fn full_for_ever(plugin: &str, circle: &[u64]) -> RpcError {
    let message = format!(
        "the queue of plugin `{plugin}` is full, and it cannot be emptied before this event is accepted: chains \
         {circle:?} wait for each other"
    );
    RpcError::new(ErrorKind::Deadlock, message)
}

fn filtered(event: Event, result: &Parcel, plugin: &str) -> Result<Event, RpcError> {
    let changed: Filtered = serde_json::from_str(result.get()).map_err(|error| {
        let message = format!("a filter returns the event, changed or not, or null to drop it: {error}");
        RpcError::new(ErrorKind::Invalid, message).in_plugin(plugin)
    })?;
    let topic = match changed.topic {
        Some(topic) if *topic != *event.topic => {
            crate::pattern::check_topic(&topic)
                .map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()).in_plugin(plugin))?;
            topic.into()
        }
        _ => event.topic,
    };
    let data = match changed.data {
        Some(data) => rpc::compact(data).into(),
        None => rpc::null().into(),
    };
    let (key, held) = (changed.key.map(Into::into), result.held().clone());
    // Its data may be any other now.
    Ok(Event { topic, key, data, held, origin: Origin::default(), ..event })
}

fn closed(plugin: &str) -> RpcError {
    RpcError::new(ErrorKind::Gone, "the host is being shut down").in_plugin(plugin)
}
