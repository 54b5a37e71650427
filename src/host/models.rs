//! `pending` and `rows` in every order in which threads can run them: the same files, made of loom's atomics and locks.
//!
//! `Notify` remains tokio's, which is tested so by tokio itself; loom sees each use of it as one step.

use std::{collections::VecDeque, sync::Arc};

use loom::{future::block_on, sync::Mutex, thread};

mod sync {
    pub use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };
    pub use std::sync::PoisonError;
}

#[allow(clippy::duplicate_mod, dead_code, reason = "made of other parts")]
#[path = "pending.rs"]
mod pending;
#[allow(clippy::duplicate_mod, dead_code, reason = "made of other parts")]
#[path = "rows.rs"]
mod rows;

use self::{
    pending::Pending,
    rows::{Admitted, Rows},
};

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn whoever_waits_for_none_is_woken_by_the_last() {
    explore(|| {
        let pending = Arc::new(Pending::new());
        pending.add(3);
        let threads = [1, 2].map(|count| {
            let pending = pending.clone();
            thread::spawn(move || {
                // A handler that emits: one more before it is done itself.
                pending.add(1);
                pending.done(count);
                pending.done(1);
            })
        });
        block_on(pending.none());
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
}

/// Events of one who emits. The lane has one place.
const EVENTS: u32 = 3;

/// A plugin's way of events as `bus`, `ledger` and `worker` go it, without events, store and plugin.
struct Model {
    is_journal: bool,
    rows: Rows,
    pending: Pending,
    /// Rows by seq. Looked at under the lock of `rows` only, but when somebody else puts one there.
    store: std::sync::Mutex<Vec<(i64, u32)>>,
    lane: Mutex<VecDeque<(u32, Option<i64>)>>,
}

impl Model {
    fn new(is_journal: bool) -> Arc<Self> {
        let (rows, pending) = (Rows::new(), Pending::new());
        let (store, lane) = (std::sync::Mutex::default(), Mutex::new(VecDeque::new()));
        Arc::new(Self { is_journal, rows, pending, store, lane })
    }

    fn append(&self, event: u32) -> Result<i64, ()> {
        let mut store = self.store.lock().expect("no panic");
        let seq = i64::from(event) + 1;
        store.push((seq, event));
        Ok(seq)
    }

    fn push(&self, event: u32, seq: Option<i64>) -> bool {
        let mut lane = self.lane.lock().expect("no panic");
        let has_room = lane.is_empty();
        if has_room {
            lane.push_back((event, seq));
        }
        has_room
    }

    fn emit(&self, event: u32) {
        self.pending.add(1);
        if let Admitted::Direct(seq) = self.rows.admit(self.is_journal, || self.append(event)).expect("written")
            && !self.push(event, seq)
        {
            self.rows.spill(seq, || self.append(event)).expect("written");
        }
    }

    fn recount(&self) {
        let tell = |new: i64| match usize::try_from(new) {
            Ok(new) => self.pending.add(new),
            Err(_) => self.pending.done(usize::try_from(-new).expect("few")),
        };
        self.rows.recount(|| Ok::<_, ()>(self.store.lock().expect("no panic").len() as u64), tell).expect("counted");
    }

    /// The worker, and the task that moves rows: one step of each.
    fn work(&self, moving: &mut Option<(i64, u32)>, handled: &mut Vec<u32>) {
        if moving.is_none() && self.rows.is_behind() {
            let take = |held: &mut std::collections::HashSet<i64>| {
                let store = self.store.lock().expect("no panic");
                Ok::<_, ()>(store.iter().filter(|(seq, _)| held.insert(*seq)).take(1).copied().collect::<Vec<_>>())
            };
            *moving = self.rows.take(take).expect("read").pop();
            if moving.is_none() {
                self.recount();
            }
        }
        if let Some((seq, event)) = *moving
            && self.push(event, Some(seq))
        {
            self.rows.moved();
            *moving = None;
        }
        let next = self.lane.lock().expect("no panic").pop_front();
        if let Some((event, seq)) = next {
            handled.push(event);
            let change = || self.store.lock().expect("no panic").retain(|(other, _)| Some(*other) != seq);
            self.rows.let_go(seq.as_slice(), change);
            self.pending.done(1);
        }
    }
}

fn events_are_handled_once_and_in_order(is_journal: bool) {
    explore(move || {
        let model = Model::new(is_journal);
        let emitting = {
            let model = model.clone();
            thread::spawn(move || (0..EVENTS).for_each(|event| model.emit(event)))
        };
        // What `errands` does when the command line asks for something.
        let counting = {
            let model = model.clone();
            thread::spawn(move || model.recount())
        };
        let (mut moving, mut handled) = (None, Vec::new());
        for _ in 0..2 {
            model.work(&mut moving, &mut handled);
        }
        emitting.join().expect("no panic");
        counting.join().expect("no panic");
        // Nobody else is left: whatever is not handled by now has to be found.
        for _ in 0..3 * EVENTS {
            model.work(&mut moving, &mut handled);
        }
        assert!(handled.iter().copied().eq(0..EVENTS), "{handled:?}");
        assert_eq!((model.rows.stored(), model.rows.is_behind()), (0, false));
        block_on(model.pending.none());
    });
}

#[test]
fn journaled_events_never_overtake_each_other() {
    events_are_handled_once_and_in_order(true);
}

#[test]
fn spilled_events_never_overtake_each_other() {
    events_are_handled_once_and_in_order(false);
}
