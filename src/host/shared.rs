//! What all parts of a host share: routing of calls and events, permissions, deadlines.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::{sync::Notify, time::timeout_at};

use crate::{
    chain::Chain,
    host::{
        Event, News,
        functions::{Caller, Functions, deadline, invalid},
        instance::Instance,
        lane::{Delivery, Entry, Lane, Subscriber},
        ledger::Admitted,
        news::Newsroom,
        stats::{Meter, PluginStats},
    },
    manifest::{Manifest, WhenFull},
    plugin::{Answer, Emission, HostCalls, PluginNews, SharedGraph},
    queue::Pushed,
    rpc::{self, Deliver, ErrorKind, Filtered, HandlerKind, RpcError},
    store::Store,
    suggest::did_you_mean,
};

/// What all parts of a host share.
pub(crate) struct Shared {
    pub functions: Functions,
    pub store: Arc<Store>,
    pub graph: SharedGraph,
    pub newsroom: Newsroom,
    /// What the plugins may do is known before they are loaded, since they may call while they are.
    pub manifests: HashMap<String, Arc<Manifest>>,
    pub meters: HashMap<String, Arc<Meter>>,
    /// In the order in which they were named; complete once all are loaded.
    pub entries: RwLock<Arc<Vec<Arc<Entry>>>>,
    /// Deliveries accepted and not yet done.
    pub pending: AtomicUsize,
    pub drained: Notify,
}

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
    pub fn entries(&self) -> Arc<Vec<Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stats(&self) -> Vec<(String, PluginStats)> {
        let entries = self.entries();
        let stats = entries.iter().map(|entry| {
            let waiting = entry.waiting() as u64 + entry.ledger.stored();
            let stats = PluginStats { waiting, ..entry.meter.stats() };
            (entry.name.to_string(), stats)
        });
        stats.collect()
    }

    /// Put an event onto the bus: filters first, then the queues of those who want it.
    pub async fn emit(&self, plugin: &str, event: Event, chain: Option<&Chain>) -> Result<Emitted, RpcError> {
        let Some(event) = self.filter(event, chain).await? else {
            return Ok(Emitted { filtered_out: true, ..Emitted::default() });
        };
        if self.newsroom.anybody() {
            self.newsroom.publish(&News::Emitted { plugin: plugin.into(), event: event.clone() });
        }
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
        self.pending.fetch_add(1, Ordering::AcqRel);
        // Dropped without success (cancelled, refused), the delivery is no longer pending, and not written down.
        let mut pending = Pending { shared: self, entry, seq: None, accepted: false };
        if matches!(entry.ledger.admit(&mut delivery)?, Admitted::Stored) {
            pending.accepted = true;
            entry.meter.count(|stats| stats.spilled += 1);
            return Ok(Placed::Stored);
        }
        pending.seq = delivery.seq;
        let (key, lane) = (delivery.event.key.clone(), entry.lane(&delivery.event));
        let is_block = entry.manifest.queue.when_full == WhenFull::Block;
        let pushed = match chain {
            Some(chain) if is_block && lane.queue.is_full() => {
                self.push_in_chain(entry, lane, delivery, key.as_deref(), chain).await?
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
                    Ok(()) => {
                        entry.meter.count(|stats| stats.spilled += 1);
                        Ok(Placed::Stored)
                    }
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

    /// A delivery that was pending is dropped.
    pub fn dropped(&self, entry: &Entry, delivery: Delivery, reason: &'static str) {
        entry.ledger.acknowledge(delivery.seq.as_slice());
        entry.meter.count(|stats| stats.drop_one(&delivery.event.topic, reason));
        self.newsroom.publish(&News::Dropped { plugin: entry.name.clone(), event: delivery.event, reason });
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
            self.pending.fetch_add(count, Ordering::AcqRel);
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
                let message = format!(
                    "the queue of plugin `{}` is full, and it cannot be emptied before this event is accepted: chains \
                     {circle:?} wait for each other",
                    entry.name
                );
                return Err(RpcError::new(ErrorKind::Deadlock, message));
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
            let result = entry.idlest().request("filter", &deliver, &chain, deadline).await?;
            entry.meter.took(began.elapsed());
            if result.get() == "null" {
                entry.meter.count(|stats| stats.filtered_out += 1);
                self.newsroom.publish(&News::Filtered { plugin: entry.name.clone(), event });
                return Ok(None);
            }
            entry.meter.count(|stats| stats.filtered += 1);
            event = filtered(event, &result, &entry.name)?;
        }
        Ok(Some(event))
    }

    /// Call a plugin's exported function.
    pub async fn call_plugin(
        &self,
        name: &str,
        args: &RawValue,
        chain: &Chain,
        caller: Option<&str>,
    ) -> Result<Box<RawValue>, RpcError> {
        let (entry, function) = self.find(name)?;
        if let Some(caller) = caller
            && !entry.manifest.may_be_called_by(caller)
        {
            let message = format!("plugin `{}` does not let plugin `{caller}` call it ([exports] allow)", entry.name);
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let deadline = deadline(Some(chain), entry.manifest.limits.timeout);
        let chain = self.deeper(chain, &entry.name, &function, deadline, &entry.manifest)?;
        entry.called(&function, args, &chain, deadline).await
    }

    /// The plugin and the function that `plugin.function` names.
    pub fn find(&self, name: &str) -> Result<(Arc<Entry>, String), RpcError> {
        let entries = self.entries();
        if let Some((plugin, function)) = name.split_once('.')
            && let Some(entry) = entries.iter().find(|entry| &*entry.name == plugin)
            && entry.face().exports().any(|export| export == function)
        {
            return Ok((entry.clone(), function.to_owned()));
        }
        let all: Vec<String> = entries
            .iter()
            .flat_map(|entry| {
                let face = entry.face();
                face.exports().map(|export| format!("{}.{export}", entry.name)).collect::<Vec<_>>()
            })
            .chain(self.functions.names().map(str::to_owned))
            .collect();
        let plugin = name.split_once('.').and_then(|(plugin, _)| entries.iter().find(|entry| *entry.name == *plugin));
        let exports = plugin.map(|entry| entry.face().exports().collect::<Vec<_>>().join("`, `"));
        let hint = match (did_you_mean(name, all.iter().map(String::as_str)), plugin, exports.as_deref()) {
            (Some(hint), _, _) => format!("; {hint}"),
            (None, Some(entry), Some("")) => format!("; plugin `{}` exports nothing", entry.name),
            (None, Some(entry), Some(exports)) => format!("; plugin `{}` exports `{exports}`", entry.name),
            _ => String::new(),
        };
        Err(RpcError::new(ErrorKind::NotFound, format!("no function `{name}`{hint}")))
    }

    /// The chain with one more request to a plugin, if it may be that deep.
    fn deeper(
        &self,
        chain: &Chain,
        plugin: &str,
        function: &str,
        deadline: Instant,
        manifest: &Manifest,
    ) -> Result<Chain, RpcError> {
        let limit = manifest.limits.depth as usize;
        if chain.depth() > limit {
            let message = format!(
                "calls are nested {limit} deep, the limit of plugin `{plugin}` ([limits] depth): ... > {}",
                chain.path[chain.path.len().saturating_sub(3)..].join(" > ")
            );
            return Err(RpcError::new(ErrorKind::Invalid, message));
        }
        Ok(chain.then(format!("{plugin}.{function}"), deadline))
    }

    /// Deliveries are done, in whichever way.
    pub fn done(&self, count: usize) {
        if self.pending.fetch_sub(count, Ordering::AcqRel) == count {
            self.drained.notify_waiters();
        }
    }

    fn manifest(&self, plugin: &str) -> Option<&Arc<Manifest>> {
        self.manifests.get(plugin)
    }
}

impl Entry {
    /// Call an export and count it.
    async fn called(
        &self,
        function: &str,
        args: &RawValue,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Box<RawValue>, RpcError> {
        self.meter.count(|stats| stats.called += 1);
        let began = Instant::now();
        let call = rpc::Call { name: function, chain: &chain.path, args };
        let result = self.idlest().request("call", &call, chain, deadline).await;
        self.meter.took(began.elapsed());
        result
    }

    /// The instance that has least to do.
    fn idlest(&self) -> &Instance {
        let idlest = self.lanes.iter().min_by_key(|lane| lane.instance.requests());
        &idlest.unwrap_or(&self.lanes[0]).instance
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

/// The parameters of `event` and `filter`.
pub(super) fn deliver<'a>(handler: u64, event: &'a Event, attempt: u32, chain: &'a Chain) -> Deliver<'a> {
    Deliver {
        handler,
        id: &event.id,
        topic: &event.topic,
        time: &event.time,
        attempt,
        key: event.key.as_deref(),
        chain: &chain.path,
        data: &event.data,
    }
}

fn filtered(event: Event, result: &RawValue, plugin: &str) -> Result<Event, RpcError> {
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
    Ok(Event { topic, key: changed.key.map(Into::into), data, ..event })
}

fn closed(plugin: &str) -> RpcError {
    RpcError::new(ErrorKind::Gone, "the host is being shut down").in_plugin(plugin)
}

/// What the plugins know of the host. A plugin's task may outlive the host by a moment, so it does not own it.
pub(super) struct Door(pub std::sync::Weak<Shared>);

impl Door {
    fn shared(&self) -> Result<Arc<Shared>, RpcError> {
        self.0.upgrade().ok_or_else(|| RpcError::new(ErrorKind::Cancelled, "the host is gone"))
    }

    fn call(
        &self,
        plugin: &str,
        chain: Chain,
        name: &str,
        args: Box<RawValue>,
    ) -> Result<Answer<Box<RawValue>>, RpcError> {
        let shared = self.shared()?;
        if let Some(meter) = shared.meters.get(plugin) {
            meter.count(|stats| stats.calls += 1);
        }
        // Keyboard reads are allowed by the host's input policy, not by the manifest.
        let allowed = name == INPUT || shared.manifest(plugin).is_some_and(|manifest| manifest.may_call(name));
        if !allowed {
            let message = format!(
                "plugin `{plugin}` may not call `{name}`; add it to `call` in [permissions] of its plugin.toml"
            );
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        if let Some(function) = shared.functions.get(name) {
            let function = function.clone();
            let caller = Caller { plugin: plugin.to_owned(), chain, shared };
            let deadline = caller.chain.deadline;
            let name = name.to_owned();
            return Ok(Box::pin(async move {
                match timeout_at(deadline.into(), function(caller, args)).await {
                    Ok(result) => result,
                    Err(_) => {
                        Err(RpcError::new(ErrorKind::Timeout, format!("`{name}` did not return before the deadline")))
                    }
                }
            }));
        }
        if name == INPUT {
            let message = "plugins have no keyboard; the application can answer with `Host::builder().on_input(...)`";
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let (name, plugin) = (name.to_owned(), plugin.to_owned());
        Ok(Box::pin(async move { shared.call_plugin(&name, &args, &chain, Some(&plugin)).await }))
    }

    fn emit(&self, plugin: &str, chain: Chain, emission: Emission) -> Result<Answer<()>, RpcError> {
        let shared = self.shared()?;
        let Emission { topic, data, key } = emission;
        if !shared.manifest(plugin).is_some_and(|manifest| manifest.may_emit(&topic)) {
            let message = format!(
                "plugin `{plugin}` may not emit `{topic}`; add it to `emit` in [permissions] of its plugin.toml"
            );
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let event =
            Event::from_raw(&topic, data, key).map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
        if let Some(meter) = shared.meters.get(plugin) {
            meter.count(|stats| stats.emitted += 1);
        }
        let plugin = plugin.to_owned();
        Ok(Box::pin(async move { shared.emit(&plugin, event, Some(&chain)).await.map(drop) }))
    }
}

/// The host function that an author's own keyboard read becomes.
pub(super) const INPUT: &str = "host.input";

impl HostCalls for Door {
    fn call(&self, plugin: &str, chain: Chain, name: String, args: Box<RawValue>) -> Answer<Box<RawValue>> {
        self.call(plugin, chain, &name, args).unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }

    fn emit(&self, plugin: &str, chain: Chain, event: Emission) -> Answer<()> {
        self.emit(plugin, chain, event).unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }

    fn news(&self, plugin: &str, news: PluginNews) {
        match &news {
            PluginNews::Odd { reason } => tracing::warn!(plugin, reason, "odd message from the shim"),
            PluginNews::Gone { reason } => tracing::warn!(plugin, reason, "kernel gone"),
            _ => {}
        }
        if let Some(shared) = self.0.upgrade() {
            shared.newsroom.publish(&News::Plugin { plugin: plugin.into(), news });
        }
    }
}

/// As [`Shared::call_plugin`] for the application, with a chain of its own.
pub(super) async fn call_root(shared: &Shared, name: &str, args: &RawValue) -> Result<Box<RawValue>, RpcError> {
    let (entry, function) = shared.find(name)?;
    let deadline = deadline(None, entry.manifest.limits.timeout);
    let chain = Chain::root(format!("call {name}"), deadline);
    entry.called(&function, args, &chain, deadline).await
}

/// Read a result as a type.
pub(super) fn typed<T: serde::de::DeserializeOwned>(name: &str, result: &RawValue) -> Result<T, RpcError> {
    serde_json::from_str(result.get()).map_err(|error| invalid(name, &error))
}

/// How long a handler's retry waits, the first being 1.
pub(super) fn backoff(attempt: u32) -> Duration {
    // Handlers that failed of one cause must not all come back at one moment.
    (Duration::from_millis(100) * 2u32.pow(attempt.saturating_sub(1).min(6))).mul_f64(0.8 + 0.4 * fastrand::f64())
}
