//! A plugin in its host: what it registered, and the lanes on which its events wait for its kernels.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::{
    blob::inline,
    host::{
        BuildError, Event, instance::Instance, keeper::Recipe, lanes::Lanes, ledger::Ledger, listen::StandIn, lock,
        pool::Pool, stats::Meter,
    },
    manifest::Manifest,
    pattern::{NameError, Pattern},
    plugin::{About, Plugin, PluginSource},
    queue::Queue,
    rpc::{Handler, HandlerKind},
    store::StoredEvent,
};

/// Most events at once for a handler that asks for columns and not for a number.
const BATCH: usize = 1000;

/// A plugin in its host.
pub(crate) struct Entry {
    pub name: Arc<str>,
    pub manifest: Arc<Manifest>,
    pub meter: Arc<Meter>,
    /// Those that take events, and behind them those that did once.
    pub lanes: Lanes,
    active: AtomicUsize,
    pub ledger: Arc<Ledger>,
    /// Kernels at hand.
    pub pool: Arc<Pool>,
    /// One place, for whoever changes the number of lanes.
    pub scaling: Semaphore,
    /// How a further instance is loaded.
    recipe: Mutex<Recipe>,
    faces: RwLock<Faces>,
    /// The link that serves some of its handlers and exports.
    stand_in: watch::Sender<Option<Arc<StandIn>>>,
}

/// What a plugin registered, and what a host goes by.
struct Faces {
    own: Arc<Face>,
    /// With what a link has instead, while there is one.
    shown: Arc<Face>,
}

/// One of a plugin's kernels, and the events that wait for it.
pub(crate) struct Lane {
    pub queue: Queue<Delivery>,
    pub instance: Arc<Instance>,
    /// Events and calls that are on their way here.
    coming: AtomicUsize,
}

/// A lane for as long as something is on its way there: it does not end before.
pub(crate) struct Coming<'a>(&'a Lane);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Deref for Coming<'_> {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        self.0
    }
}

impl Lane {
    pub fn new(queue: Queue<Delivery>, instance: Arc<Instance>) -> Self {
        Self { queue, instance, coming: AtomicUsize::new(0) }
    }

    /// Has it done all that was ever meant for it? To be asked of a lane that is not active any more.
    pub fn is_done(&self) -> bool {
        self.coming.load(Ordering::SeqCst) == 0 && self.queue.is_starved() && self.instance.requests() == 0
    }
}

/// What is known of a plugin's code, as it was loaded last.
#[derive(Debug, Default)]
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
    /// Most events at once; 0 for single events.
    pub batch: usize,
    /// Does it want them column by column?
    pub columns: bool,
    /// Does it want them as something that is made of an Arrow table?
    pub table: bool,
    pub priority: i64,
    /// Is it a link's?
    pub is_guest: bool,
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
    pub fn new(recipe: Recipe, lanes: Lanes, ledger: Arc<Ledger>, face: Arc<Face>) -> Self {
        let Recipe { manifest, meter, pool, .. } = recipe.clone();
        Self {
            name: manifest.name.as_str().into(),
            manifest,
            meter,
            active: AtomicUsize::new(lanes.len()),
            lanes,
            ledger,
            pool,
            scaling: Semaphore::new(1),
            recipe: Mutex::new(recipe),
            faces: RwLock::new(Faces { own: face.clone(), shown: face }),
            stand_in: watch::Sender::new(None),
        }
    }

    /// What events and calls are matched with.
    pub fn face(&self) -> Arc<Face> {
        self.faces.read().unwrap_or_else(PoisonError::into_inner).shown.clone()
    }

    /// What its own code registered, whoever stands in for it.
    pub fn own_face(&self) -> Arc<Face> {
        self.faces.read().unwrap_or_else(PoisonError::into_inner).own.clone()
    }

    /// Its code was loaded anew.
    pub fn show(&self, face: Arc<Face>) {
        self.faces.write().unwrap_or_else(PoisonError::into_inner).own = face;
        self.look_again();
    }

    /// The link that serves some of its handlers and exports, if there is one.
    pub fn stand_in(&self) -> Option<Arc<StandIn>> {
        self.stand_in.borrow().clone()
    }

    /// Tells when another link stands in for it, or none does any more.
    pub fn stand_ins(&self) -> watch::Receiver<Option<Arc<StandIn>>> {
        self.stand_in.subscribe()
    }

    /// Let a link stand in for it.
    ///
    /// # Errors
    ///
    /// The one that does already.
    pub fn seat(&self, stand_in: Arc<StandIn>) -> Result<(), Arc<StandIn>> {
        let mut holder = None;
        self.stand_in.send_if_modified(|seat| match seat {
            Some(other) => {
                holder = Some(other.clone());
                false
            }
            None => {
                *seat = Some(stand_in);
                true
            }
        });
        self.look_again();
        holder.map_or(Ok(()), Err)
    }

    /// From now on its own handlers and exports serve again, if it was this link that did.
    pub fn unseat(&self, stand_in: &Arc<StandIn>) {
        self.stand_in.send_if_modified(|seat| {
            let is_it = seat.as_ref().is_some_and(|seated| Arc::ptr_eq(seated, stand_in));
            if is_it {
                *seat = None;
            }
            is_it
        });
        self.look_again();
    }

    /// Its own code or the handlers of its stand-in have changed.
    pub fn look_again(&self) {
        let stand_in = self.stand_in();
        let mut faces = self.faces.write().unwrap_or_else(PoisonError::into_inner);
        faces.shown = match stand_in {
            Some(stand_in) => Arc::new(faces.own.behind(&stand_in.face())),
            None => faces.own.clone(),
        };
    }

    /// How another instance is loaded.
    pub fn recipe(&self) -> Recipe {
        lock(&self.recipe).clone()
    }

    /// From now on instances are loaded with this source.
    pub fn renew(&self, source: PluginSource) {
        lock(&self.recipe).source = source;
    }

    /// The lanes that take events.
    pub fn active(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().take(self.active.load(Ordering::SeqCst))
    }

    /// From now on so many take events; there are as many.
    pub fn activate(&self, count: usize) {
        self.active.store(count.clamp(1, self.lanes.len().max(1)), Ordering::SeqCst);
    }

    /// The lane of an event: that of all events with the same key, or else the shortest.
    pub fn lane(&self, event: &Event) -> Coming<'_> {
        self.choose(|active| match active {
            1 => 0,
            _ => match self.order_key(event) {
                Some(key) => {
                    let mut hasher = DefaultHasher::new();
                    key.hash(&mut hasher);
                    jump(hasher.finish(), active)
                }
                None => {
                    let length = |lane: &Lane| lane.queue.len() + lane.instance.requests();
                    (0..active).min_by_key(|&lane| length(&self.lanes[lane])).unwrap_or_default()
                }
            },
        })
    }

    /// The chosen one of the active lanes, which stays until what is returned is dropped.
    pub fn choose(&self, choose: impl Fn(usize) -> usize) -> Coming<'_> {
        loop {
            let index = choose(self.active.load(Ordering::SeqCst));
            // There is at least one.
            let lane = &self.lanes[index];
            lane.coming.fetch_add(1, Ordering::SeqCst);
            let coming = Coming(lane);
            // It may have ceased to be active between the two.
            if index < self.active.load(Ordering::SeqCst) {
                return coming;
            }
        }
    }

    /// Events with the same key stay in order.
    fn order_key(&self, event: &Event) -> Option<String> {
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
        for lane in self.active() {
            lane.instance.release();
        }
    }

    /// Events in the memory of this process that wait.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.len()).sum()
    }
}

/// The lane of a key among `count` (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm"): when there
/// is one lane more, only its share of the keys moves there, and all others stay where they are.
fn jump(mut key: u64, count: usize) -> usize {
    let (mut lane, mut next) = (0, 0);
    while next < count {
        lane = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((lane + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as usize;
    }
    lane
}

impl Face {
    /// What `plugin` registered.
    pub fn of(plugin: &Plugin, manifest: &Manifest) -> Result<Self, BuildError> {
        let face = Self::new(plugin.handlers(), manifest, false);
        let face =
            face.map_err(|(topic, source)| BuildError::Topic { plugin: manifest.name.clone(), topic, source })?;
        Ok(Self { about: plugin.about(), ..face })
    }

    /// Of handlers, a link's or a plugin's own.
    ///
    /// # Errors
    ///
    /// A topic that is no pattern.
    pub fn new(handlers: &[Handler], manifest: &Manifest, is_guest: bool) -> Result<Self, (String, NameError)> {
        let mut subscribers = Vec::new();
        for handler in handlers.iter().filter(|handler| handler.kind != HandlerKind::Export) {
            let topic = Pattern::parse(&handler.topic).map_err(|source| (handler.topic.clone(), source))?;
            let columns = !handler.columns.is_empty();
            // The manifest may lower or raise what the code asks for, but cannot make single-event code take lists.
            let batch = match (handler.batch, manifest.delivery.batch) {
                (0, _) if !columns => 0,
                (_, Some(batch)) => batch,
                (0, None) => BATCH,
                (batch, None) => batch,
            };
            subscribers.push(Arc::new(Subscriber {
                id: handler.id,
                kind: handler.kind,
                topic,
                name: handler.name.clone(),
                batch,
                columns,
                table: handler.table,
                priority: handler.priority,
                is_guest,
            }));
        }
        Ok(Self { about: About::default(), handlers: handlers.to_vec(), subscribers })
    }

    /// This plugin's, with those of a link instead of those that they take the place of, and beside the others.
    fn behind(&self, guest: &Face) -> Self {
        let own = self.subscribers.iter().filter(|own| guest.claim(own, self).is_none());
        let subscribers = guest.subscribers.iter().chain(own).cloned().collect();
        let is_taken =
            |own: &Handler| {
                guest.handlers.iter().filter(|guest| guest.kind == own.kind).any(|guest| {
                    guest.name == own.name || (own.kind != HandlerKind::Export && guest.topic == own.topic)
                })
            };
        let handlers =
            guest.handlers.iter().chain(self.handlers.iter().filter(|own| !is_taken(own))).cloned().collect();
        Self { about: self.about.clone(), handlers, subscribers }
    }

    /// Of a link: what it has for a handler of the plugin's, or for one that it had itself before. That is the one of the
    /// same topic and name, or of the same name; or of the same topic, unless that has the name of another handler of
    /// the plugin's for it.
    pub fn claim(&self, wanted: &Arc<Subscriber>, own: &Face) -> Option<Arc<Subscriber>> {
        let all = || self.subscribers.iter().filter(|guest| guest.kind == wanted.kind);
        let same_topic = |guest: &&Arc<Subscriber>| guest.topic.as_str() == wanted.topic.as_str();
        let same_name = |guest: &&Arc<Subscriber>| !guest.name.is_empty() && guest.name == wanted.name;
        let is_anothers = |guest: &&Arc<Subscriber>| {
            let mut namesakes = own.subscribers.iter().filter(|own| own.kind == guest.kind && own.name == guest.name);
            !guest.name.is_empty() && namesakes.any(|own| own.topic.as_str() == guest.topic.as_str())
        };
        all()
            .find(|guest| Arc::ptr_eq(guest, wanted))
            .or_else(|| all().find(|guest| same_topic(guest) && same_name(guest)))
            .or_else(|| all().find(same_name))
            .or_else(|| all().find(|guest| same_topic(guest) && !is_anothers(guest)))
            .cloned()
    }

    pub fn exports(&self) -> impl Iterator<Item = &str> {
        let exports = self.handlers.iter().filter(|handler| handler.kind == HandlerKind::Export);
        exports.map(|handler| handler.name.as_str())
    }

    /// The handler of the plugin's own that a link's takes the place of, if there is one.
    pub fn stood_in_for(&self, guest: &Subscriber) -> Option<&Arc<Subscriber>> {
        let own = || self.subscribers.iter().filter(|own| own.kind == guest.kind);
        own()
            .find(|own| !own.name.is_empty() && own.name == guest.name)
            .or_else(|| own().find(|own| own.topic.as_str() == guest.topic.as_str()))
    }

    /// The largest batch that a handler of it takes; at least 1.
    pub fn largest_batch(&self) -> usize {
        self.subscribers.iter().map(|subscriber| subscriber.batch).max().unwrap_or(0).max(1)
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
        Some(Self {
            id: 0,
            kind: HandlerKind::On,
            topic,
            name: name.to_owned(),
            batch: 0,
            columns: false,
            table: false,
            priority: 0,
            is_guest: false,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_and_few_of_them_move() {
        let keys: Vec<u64> = (0..10_000).map(|_| fastrand::u64(..)).collect();
        for count in 1..=16 {
            let mut shares = vec![0usize; count];
            let mut moved = 0;
            for &key in &keys {
                let lane = jump(key, count);
                shares[lane] += 1;
                let later = jump(key, count + 1);
                assert!(later == lane || later == count, "{key} moved between lanes that stay");
                moved += usize::from(later != lane);
            }
            let fair = keys.len() / count;
            assert!(shares.iter().all(|&share| share > fair * 3 / 4 && share < fair * 5 / 4 + 1), "{shares:?}");
            assert!(moved < keys.len() / (count + 1) * 5 / 4, "{moved} of {} moved to lane {count}", keys.len());
        }
    }
}
