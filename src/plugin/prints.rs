//! What a plugin prints and shows, within `[limits] output` for each event or call.
//!
//! Most outputs come on a channel of their own and do not say which request they belong to, so they count for the one that
//! runs when they arrive, and late ones for the next; those that a shim sends come in order. What a plugin prints while it serves nobody has the same limit for
//! each minute. In a shared kernel they belong to the plugin that is served, or was served last.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use crate::{
    client::{Counters, Output, Outputs},
    plugin::{PluginNews, member::Member},
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

/// Counts the outputs of one kernel.
#[derive(Debug)]
pub(super) struct Prints {
    /// Is a request served?
    busy: AtomicBool,
    /// Something was dropped.
    flood: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Whose outputs they are.
    owner: Option<Arc<Member>>,
    left_bytes: u64,
    began: Instant,
    /// Since then.
    dropped: Dropped,
    /// Before, and not reported yet.
    due: Vec<(Arc<Member>, Dropped)>,
}

impl Prints {
    pub fn new(owner: Option<Arc<Member>>) -> Self {
        let left_bytes = owner.as_ref().map_or(0, |owner| owner.output_bytes);
        let (began, dropped, due) = (Instant::now(), Dropped::default(), Vec::new());
        let state = Mutex::new(State { owner, left_bytes, began, dropped, due });
        Self { busy: AtomicBool::new(false), flood: Notify::new(), state }
    }

    /// A request of so many events or calls of this plugin is begun.
    pub fn begin(&self, owner: &Arc<Member>, count: usize) {
        self.busy.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.belong_to(owner);
        state.begin(owner.output_bytes.saturating_mul(count as u64));
    }

    /// Outputs are this plugin's now, which is served in the middle of another's request or has come back from there.
    pub fn belong_to(&self, owner: &Arc<Member>) {
        self.lock().belong_to(owner);
    }

    /// Whose they are.
    pub fn owner(&self) -> Option<Arc<Member>> {
        self.lock().owner.clone()
    }

    /// Is one served?
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Pass outputs on until the kernel is gone.
    pub async fn forward(
        self: Arc<Self>,
        mut outputs: Outputs,
        counters: Arc<Counters>,
        news: impl Fn(&Member, PluginNews),
    ) {
        loop {
            let next = match self.has_dropped(&counters) {
                true => timeout(QUIET, outputs.next()).await,
                false => tokio::select! {
                    output = outputs.next() => Ok(output),
                    () = self.flood.notified() => continue,
                },
            };
            let is_over = match next {
                Ok(Some(output)) => {
                    self.show(output, &news);
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

    /// Pass an output on, or as much of it as is still allowed.
    pub fn show(&self, output: Output, news: &impl Fn(&Member, PluginNews)) {
        let (owner, output) = self.admit(output);
        self.report(false, news);
        if let (Some(owner), Some(output)) = (owner, output) {
            news(&owner, PluginNews::Output(output));
        }
    }

    /// The output, or as much of it as is still allowed, and whose it is.
    fn admit(&self, output: Output) -> (Option<Arc<Member>>, Option<Output>) {
        let mut state = self.lock();
        let Some(owner) = state.owner.clone() else { return (None, None) };
        if !self.busy.load(Ordering::Relaxed) && state.began.elapsed() >= IDLE {
            state.begin(owner.output_bytes);
        }
        let size_bytes = output.size_bytes();
        if size_bytes <= state.left_bytes {
            state.left_bytes -= size_bytes;
            return (Some(owner), Some(output));
        }
        state.dropped.outputs += 1;
        state.dropped.bytes += size_bytes;
        self.flood.notify_one();
        let Output::Stream { name, mut text } = output else { return (Some(owner), None) };
        let mut end = state.left_bytes as usize;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        state.dropped.bytes -= text.len() as u64;
        state.left_bytes = 0;
        (Some(owner), (!text.is_empty()).then_some(Output::Stream { name, text }))
    }

    /// What the client dropped, because nobody was as fast as the kernel, counts too.
    fn has_dropped(&self, counters: &Counters) -> bool {
        let (outputs, bytes) = counters.take_dropped();
        let mut state = self.lock();
        state.dropped.outputs += outputs;
        state.dropped.bytes += bytes;
        state.dropped.outputs > 0 || !state.due.is_empty()
    }

    /// Report what requests before this one lost and, when that is over, what it did.
    fn report(&self, is_over: bool, news: &impl Fn(&Member, PluginNews)) {
        let mut state = self.lock();
        if is_over {
            state.settle();
        }
        let due = std::mem::take(&mut state.due);
        drop(state);
        for (owner, Dropped { outputs, bytes }) in due {
            news(&owner, PluginNews::OutputDropped { outputs, bytes, limit_bytes: owner.output_bytes });
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

    fn belong_to(&mut self, owner: &Arc<Member>) {
        if self.owner.as_ref().is_none_or(|old| !Arc::ptr_eq(old, owner)) {
            self.settle();
            self.owner = Some(owner.clone());
        }
    }

    fn settle(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        let Some(owner) = &self.owner else { return };
        if dropped.outputs == 0 {
            return;
        }
        match self.due.last_mut() {
            Some((last, due)) if Arc::ptr_eq(last, owner) => {
                due.outputs += dropped.outputs;
                due.bytes += dropped.bytes;
            }
            _ => self.due.push((owner.clone(), dropped)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::RawValue};

    use super::*;
    use crate::{
        chain::Chain,
        plugin::{Answer, Emission, HostCalls},
    };

    struct Nobody;

    impl HostCalls for Nobody {
        fn call(&self, _: &str, _: Chain, _: String, _: Box<RawValue>) -> Answer<crate::blob::Parcel> {
            unreachable!("nothing runs")
        }

        fn emit(&self, _: &str, _: Chain, _: Emission) -> Answer<()> {
            unreachable!("nothing runs")
        }

        fn news(&self, _: &str, _: PluginNews) {}
    }

    fn member(name: &str) -> Arc<Member> {
        Arc::new(Member { name: name.into(), space: None, host: Arc::new(Nobody), output_bytes: 10 })
    }

    fn print(text: &str) -> Output {
        Output::Stream { name: "stdout".into(), text: text.into() }
    }

    fn reported(prints: &Prints, is_over: bool) -> Vec<(u64, u64)> {
        let found = Mutex::new(Vec::new());
        prints.report(is_over, &|_, news| match news {
            PluginNews::OutputDropped { outputs, bytes, limit_bytes: 10 } => {
                found.lock().expect("no panic").push((outputs, bytes));
            }
            other => panic!("{other:?}"),
        });
        found.into_inner().expect("no panic")
    }

    #[test]
    fn what_is_over_the_limit_is_dropped_and_reported_once() {
        let owner = member("a");
        let prints = Prints::new(None);
        prints.begin(&owner, 1);
        assert_eq!(prints.admit(print("1234567")).1, Some(print("1234567")));
        assert_eq!(prints.admit(print("8äöü")).1, Some(print("8ä")));
        assert_eq!(prints.admit(print("x")).1, None);
        let plot = json!({"image/png": "xxxx"}).as_object().cloned().expect("an object");
        assert_eq!(prints.admit(Output::Display { data: plot, metadata: serde_json::Map::new() }).1, None);
        assert_eq!(reported(&prints, false), []);
        prints.begin(&owner, 2);
        assert_eq!(reported(&prints, false), [(3, 4 + 1 + 4)]);
        assert_eq!(prints.admit(print(&"x".repeat(20))).1, Some(print(&"x".repeat(20))));
        assert_eq!(reported(&prints, true), []);
        assert_eq!(prints.admit(print("x")).1, None);
        assert_eq!(reported(&prints, true), [(1, 1)]);
    }

    /// Whoever waits for outputs of the kernel's hears of it all the same.
    #[tokio::test]
    async fn what_a_shim_sends_beyond_the_limit_is_reported_too() {
        let prints = Arc::new(Prints::new(Some(member("a"))));
        let (_kernel, outputs) = Outputs::quiet();
        let (reports, mut reported) = tokio::sync::mpsc::unbounded_channel();
        let forward = prints.clone().forward(outputs, Arc::default(), move |_, news| {
            // The test has ended if nobody listens.
            let _ = reports.send(news);
        });
        let task = tokio::spawn(forward);
        tokio::task::yield_now().await;
        let shown = Mutex::new(Vec::new());
        prints.show(print("12345678901"), &|_, news| shown.lock().expect("no panic").push(news));
        assert!(matches!(
            &shown.into_inner().expect("no panic")[..],
            [PluginNews::Output(Output::Stream { text, .. })] if text == "1234567890"
        ));
        let news = timeout(Duration::from_secs(10), reported.recv()).await.expect("it is reported");
        assert!(matches!(news, Some(PluginNews::OutputDropped { outputs: 1, bytes: 1, limit_bytes: 10 })), "{news:?}");
        task.abort();
    }

    #[test]
    fn what_is_dropped_is_reported_of_whom_it_was() {
        let (a, b) = (member("a"), member("b"));
        let prints = Prints::new(None);
        assert_eq!(prints.admit(print("before anybody came")).1, None);
        prints.begin(&a, 1);
        assert_eq!(prints.admit(print(&"x".repeat(11))).0.map(|owner| owner.name.to_string()), Some("a".into()));
        prints.belong_to(&b);
        assert_eq!(prints.admit(print("y")).0.map(|owner| owner.name.to_string()), Some("b".into()));
        prints.begin(&a, 1);
        let found = Mutex::new(Vec::new());
        prints.report(true, &|owner, _| found.lock().expect("no panic").push(owner.name.to_string()));
        assert_eq!(found.into_inner().expect("no panic"), ["a", "b"]);
    }
}
