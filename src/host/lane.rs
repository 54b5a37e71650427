//! A plugin in its host: what it registered, and the lanes on which its events wait for its kernels.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, PoisonError, RwLock},
};

use serde_json::Value;

use crate::{
    blob::inline,
    host::{BuildError, Event, instance::Instance, ledger::Ledger, stats::Meter},
    manifest::Manifest,
    pattern::Pattern,
    plugin::{About, Plugin},
    queue::Queue,
    rpc::{Handler, HandlerKind},
    store::StoredEvent,
};

/// A plugin in its host.
pub(crate) struct Entry {
    pub name: Arc<str>,
    pub manifest: Arc<Manifest>,
    pub meter: Arc<Meter>,
    pub lanes: Vec<Lane>,
    pub ledger: Arc<Ledger>,
    face: RwLock<Arc<Face>>,
}

/// One of a plugin's kernels, and the events that wait for it.
pub(crate) struct Lane {
    pub queue: Queue<Delivery>,
    pub instance: Arc<Instance>,
}

/// What is known of a plugin's code, as it was loaded last.
#[derive(Default)]
pub(crate) struct Face {
    pub about: About,
    pub handlers: Vec<Handler>,
    pub subscribers: Vec<Arc<Subscriber>>,
}

/// A handler of events or a filter.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub id: u64,
    pub kind: HandlerKind,
    pub topic: Pattern,
    /// Its function's name, for telling apart two handlers of one topic.
    pub name: String,
    pub batch: usize,
    pub priority: i64,
}

/// An event for one handler.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub subscriber: Arc<Subscriber>,
    pub event: Event,
    /// 1 for the first.
    pub attempt: u32,
    /// How often it was tried again because a call of its handler's was refused with `Deadlock`.
    pub deadlocks: u32,
    /// Its place in the store's backlog, if it is there.
    pub seq: Option<i64>,
}

impl Entry {
    pub fn new(
        manifest: Arc<Manifest>,
        meter: Arc<Meter>,
        lanes: Vec<Lane>,
        ledger: Arc<Ledger>,
        face: Arc<Face>,
    ) -> Self {
        let name = manifest.name.as_str().into();
        Self { name, manifest, meter, lanes, ledger, face: RwLock::new(face) }
    }

    pub fn face(&self) -> Arc<Face> {
        self.face.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its code was loaded anew.
    pub fn show(&self, face: Arc<Face>) {
        *self.face.write().unwrap_or_else(PoisonError::into_inner) = face;
    }

    /// The lane of an event: that of all events with the same key, or else the shortest.
    pub fn lane(&self, event: &Event) -> &Lane {
        let count = self.lanes.len();
        let shortest = || self.lanes.iter().min_by_key(|lane| lane.queue.len() + lane.instance.requests());
        let lane = match self.order_key(event) {
            _ if count == 1 => self.lanes.first(),
            Some(key) => {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                self.lanes.get((hasher.finish() % count as u64) as usize)
            }
            None => shortest(),
        };
        // There is at least one, and the remainder is less than their number.
        lane.unwrap_or(&self.lanes[0])
    }

    /// Events with the same key stay in order.
    fn order_key(&self, event: &Event) -> Option<String> {
        if self.lanes.len() == 1 {
            return None;
        }
        let Some(path) = &self.manifest.delivery.order_by else {
            return event.key.as_ref().map(|key| key.to_string());
        };
        let data: Value = serde_json::from_str(event.data.get()).ok()?;
        let found = path.split('.').try_fold(&data, |value, part| match value {
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            other => other.get(part),
        });
        // Events without it stay in order among themselves, too.
        Some(found.map(Value::to_string).unwrap_or_default())
    }

    /// Take its kernels out of quarantine.
    pub fn release(&self) {
        for lane in &self.lanes {
            lane.instance.release();
        }
    }

    /// Events in the memory of this process that wait.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.len()).sum()
    }
}

impl Face {
    /// What `plugin` registered.
    pub fn of(plugin: &Plugin, manifest: &Manifest) -> Result<Self, BuildError> {
        let mut subscribers = Vec::new();
        for handler in plugin.handlers().iter().filter(|handler| handler.kind != HandlerKind::Export) {
            let topic = Pattern::parse(&handler.topic).map_err(|source| BuildError::Topic {
                plugin: manifest.name.clone(),
                topic: handler.topic.clone(),
                source,
            })?;
            // The manifest may lower or raise what the code asks for, but cannot make single-event code take lists.
            let batch =
                if handler.batch > 0 && manifest.delivery.batch > 1 { manifest.delivery.batch } else { handler.batch };
            subscribers.push(Arc::new(Subscriber {
                id: handler.id,
                kind: handler.kind,
                topic,
                name: handler.name.clone(),
                batch,
                priority: handler.priority,
            }));
        }
        Ok(Self { about: plugin.about().clone(), handlers: plugin.handlers().to_vec(), subscribers })
    }

    pub fn exports(&self) -> impl Iterator<Item = &str> {
        let exports = self.handlers.iter().filter(|handler| handler.kind == HandlerKind::Export);
        exports.map(|handler| handler.name.as_str())
    }

    /// The handler that was `wanted` when the event was accepted, as it is now: that of the same topic and name, or of
    /// the same topic, if there is one still.
    pub fn now(&self, wanted: &Arc<Subscriber>) -> Option<Arc<Subscriber>> {
        let on = || self.subscribers.iter().filter(|subscriber| subscriber.kind == HandlerKind::On);
        let topic = |subscriber: &&Arc<Subscriber>| subscriber.topic.as_str() == wanted.topic.as_str();
        on().find(|subscriber| Arc::ptr_eq(subscriber, wanted))
            .or_else(|| on().find(|subscriber| topic(subscriber) && subscriber.name == wanted.name))
            .or_else(|| on().find(topic))
            .cloned()
    }
}

impl Subscriber {
    /// For the store: enough to find it again in code that was loaded anew.
    pub fn label(&self) -> String {
        format!("{} {}", self.topic.as_str(), self.name)
    }

    /// One that is known by its label only.
    pub fn from_label(label: &str) -> Option<Self> {
        let (topic, name) = label.split_once(' ').unwrap_or((label, ""));
        let topic = Pattern::parse(topic).ok()?;
        Some(Self { id: 0, kind: HandlerKind::On, topic, name: name.to_owned(), batch: 0, priority: 0 })
    }
}

impl Delivery {
    pub fn new(subscriber: Arc<Subscriber>, event: Event) -> Self {
        Self { subscriber, event, attempt: 1, deadlocks: 0, seq: None }
    }

    /// How often it was tried before.
    pub fn tries(&self) -> u32 {
        self.attempt - 1 + self.deadlocks
    }

    /// As the store has it.
    pub fn stored(&self, plugin: &str) -> StoredEvent {
        StoredEvent {
            plugin: plugin.to_owned(),
            handler: self.subscriber.label(),
            event_id: self.event.id.to_string(),
            topic: self.event.topic.to_string(),
            time: self.event.time.to_string(),
            key: self.event.key.as_ref().map(|key| key.to_string()),
            // What is in the store outlives all blobs. They are held, so it does not fail.
            data: inline(self.event.data.get()).map_or_else(|_| self.event.data.get().to_owned(), Cow::into_owned),
        }
    }
}
