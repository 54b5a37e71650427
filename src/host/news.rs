//! What happens in a host, for whoever wants to know.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{
    blob::Held,
    client::size_of,
    host::{Event, LinkInfo, lock},
    plugin::PluginNews,
    rpc::RpcError,
    supervision::State,
};

/// How much news may wait for a subscriber before the oldest is dropped.
const WAITING: usize = 16_384;
/// And how many bytes of it.
const WAITING_BYTES: u64 = 64 * 1024 * 1024;

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum News {
    /// Outputs, log lines, progress and oddities of a plugin.
    Plugin {
        /// Whose.
        plugin: Arc<str>,
        /// What.
        news: PluginNews,
    },
    /// An event went onto the bus, after the filters.
    Emitted {
        /// The plugin that emitted it; empty for the application.
        plugin: Arc<str>,
        /// The event.
        event: Event,
    },
    /// A filter dropped an event.
    Filtered {
        /// The filter's plugin.
        plugin: Arc<str>,
        /// The event.
        event: Event,
    },
    /// A handler returned.
    Handled {
        /// The handler's plugin.
        plugin: Arc<str>,
        /// The event.
        event: Event,
        /// What it returned.
        result: Arc<RawValue>,
        /// The blobs that the result names, which [`blob::read`](crate::blob::read) reads.
        held: Held,
        /// How long it took.
        elapsed: Duration,
    },
    /// An event was given up.
    Failed {
        /// The handler's plugin.
        plugin: Arc<str>,
        /// The event.
        event: Event,
        /// Why, the last time.
        error: RpcError,
        /// How often it was tried.
        attempts: u32,
    },
    /// A full queue dropped an event.
    Dropped {
        /// Whose queue.
        plugin: Arc<str>,
        /// The event.
        event: Event,
        /// `drop-oldest`, `drop-newest`, `coalesce` or `shutdown`.
        reason: &'static str,
    },
    /// A plugin's kernel is in another state; `Busy` is not told.
    State {
        /// Whose.
        plugin: Arc<str>,
        /// Which of several instances, counted from 1; 0 when there is only one.
        instance: u32,
        /// The state.
        state: State,
    },
    /// A link was made or is gone.
    Link {
        /// Which.
        info: LinkInfo,
        /// Is it there now?
        is_attached: bool,
        /// Why it is gone.
        reason: Arc<str>,
    },
    /// So much news was dropped because this subscriber did not read it in time.
    Missed(u64),
}

impl News {
    /// Roughly how much memory it takes beyond its own few words.
    fn size_bytes(&self) -> u64 {
        let data = |event: &Event| event.data.get().len() as u64 + event.held.size_bytes();
        match self {
            Self::Plugin { news: PluginNews::Output(output), .. } => output.size_bytes(),
            Self::Plugin { news: PluginNews::Log { message, fields, .. }, .. } => {
                (message.len() + size_of(fields)) as u64
            }
            Self::Handled { event, result, held, .. } => data(event) + result.get().len() as u64 + held.size_bytes(),
            Self::Emitted { event, .. }
            | Self::Filtered { event, .. }
            | Self::Failed { event, .. }
            | Self::Dropped { event, .. } => data(event),
            _ => 0,
        }
    }
}

/// All subscribers of a host.
#[derive(Debug, Default)]
pub(super) struct Newsroom {
    subscribers: Mutex<Vec<Weak<Desk>>>,
    anybody: AtomicBool,
}

/// One subscriber's place.
#[derive(Debug)]
struct Desk {
    pile: Mutex<Pile>,
    arrived: Notify,
    read: Notify,
    patient: bool,
}

#[derive(Debug, Default)]
struct Pile {
    news: VecDeque<News>,
    bytes: u64,
    missed: u64,
    closed: bool,
}

/// Reads a host's news. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription(Arc<Desk>);

impl Newsroom {
    pub fn subscribe(&self, patient: bool) -> Subscription {
        let desk = Arc::new(Desk { pile: Mutex::default(), arrived: Notify::new(), read: Notify::new(), patient });
        lock(&self.subscribers).push(Arc::downgrade(&desk));
        self.anybody.store(true, Ordering::Relaxed);
        Subscription(desk)
    }

    /// Does anybody read? If not, news need not be made.
    pub fn anybody(&self) -> bool {
        self.anybody.load(Ordering::Relaxed)
    }

    /// Tell everybody. Never waits.
    pub fn publish(&self, news: News) {
        self.publish_all(std::iter::once(news));
    }

    /// Tell everybody all of it. Never waits.
    pub fn publish_all(&self, news: impl Iterator<Item = News>) {
        if !self.anybody() {
            return;
        }
        let mut subscribers = lock(&self.subscribers);
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        self.anybody.store(!subscribers.is_empty(), Ordering::Relaxed);
        match &subscribers[..] {
            // Nothing is copied for one reader.
            [only] => {
                if let Some(desk) = only.upgrade() {
                    desk.put(news);
                }
            }
            many => {
                let desks: Vec<_> = many.iter().filter_map(Weak::upgrade).collect();
                for news in news {
                    desks.iter().for_each(|desk| desk.put(std::iter::once(news.clone())));
                }
            }
        }
    }

    /// Wait until those subscribers that everybody waits for have read half of their pile.
    pub async fn room(&self) {
        if !self.anybody() {
            return;
        }
        let desks: Vec<_> =
            lock(&self.subscribers).iter().filter_map(Weak::upgrade).filter(|desk| desk.patient).collect();
        for desk in desks {
            loop {
                let read = desk.read.notified();
                // Held by nobody but us: the subscription was dropped, and nobody will read.
                if !lock(&desk.pile).is_high() || Arc::strong_count(&desk) == 1 {
                    break;
                }
                // The bound is for a subscription dropped meanwhile.
                let _ = tokio::time::timeout(Duration::from_millis(100), read).await;
            }
        }
    }

    /// There will be no more news.
    pub fn close(&self) {
        for desk in lock(&self.subscribers).iter().filter_map(Weak::upgrade) {
            lock(&desk.pile).closed = true;
            desk.arrived.notify_one();
        }
    }
}

impl Pile {
    /// Put it on top; what lies longest makes room.
    fn put(&mut self, news: News) {
        let size_bytes = news.size_bytes();
        while self.news.len() >= WAITING || (self.bytes + size_bytes > WAITING_BYTES && !self.news.is_empty()) {
            self.pop();
            self.missed += 1;
        }
        self.bytes += size_bytes;
        self.news.push_back(news);
    }

    fn pop(&mut self) -> Option<News> {
        let news = self.news.pop_front()?;
        self.bytes -= news.size_bytes();
        Some(news)
    }

    /// Is its reader far behind?
    fn is_high(&self) -> bool {
        self.news.len() >= WAITING / 2 || self.bytes >= WAITING_BYTES / 2
    }
}

impl Desk {
    fn put(&self, news: impl Iterator<Item = News>) {
        let mut pile = lock(&self.pile);
        news.for_each(|news| pile.put(news));
        drop(pile);
        self.arrived.notify_one();
    }
}

impl Subscription {
    /// The next news; `None` once the host has been shut down and everything was read. Cancel safe.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            {
                let mut pile = lock(&self.0.pile);
                if pile.missed > 0 {
                    return Some(News::Missed(std::mem::take(&mut pile.missed)));
                }
                let was_high = pile.is_high();
                if let Some(news) = pile.pop() {
                    if self.0.patient && was_high && !pile.is_high() {
                        self.0.read.notify_waiters();
                    }
                    return Some(news);
                }
                if pile.closed {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Output;

    #[tokio::test]
    async fn what_nobody_reads_is_counted_as_missed() {
        let newsroom = Newsroom::default();
        newsroom.publish(News::Missed(0));
        let mut subscription = newsroom.subscribe(false);
        for number in 0..WAITING as u64 + 3 {
            newsroom.publish(News::Missed(number));
        }
        assert!(matches!(subscription.next().await, Some(News::Missed(3))));
        assert!(matches!(subscription.next().await, Some(News::Missed(3))));
        newsroom.close();
        for _ in 1..WAITING {
            assert!(subscription.next().await.is_some());
        }
        assert!(subscription.next().await.is_none());
        drop(subscription);
        newsroom.publish(News::Missed(0));
        assert!(!newsroom.anybody());
    }

    #[tokio::test]
    async fn large_news_takes_the_place_of_more() {
        let newsroom = Newsroom::default();
        let mut subscription = newsroom.subscribe(false);
        for _ in 0..20 {
            let text = "x".repeat(10 * 1024 * 1024);
            let output = PluginNews::Output(Output::Stream { name: "stdout".into(), text });
            newsroom.publish(News::Plugin { plugin: "p".into(), news: output });
        }
        assert!(matches!(subscription.next().await, Some(News::Missed(14))));
        newsroom.close();
        for _ in 0..6 {
            assert!(subscription.next().await.is_some());
        }
        assert!(subscription.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn plugins_wait_for_a_patient_subscriber_until_it_is_dropped() {
        let newsroom = Newsroom::default();
        let subscription = newsroom.subscribe(true);
        newsroom.room().await;
        for _ in 0..WAITING {
            newsroom.publish(News::Missed(0));
        }
        assert!(tokio::time::timeout(Duration::from_secs(9), newsroom.room()).await.is_err());
        drop(subscription);
        newsroom.room().await;
    }
}
