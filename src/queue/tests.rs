//! What is kept, what is lost, and who waits.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

fn queue<T>(capacity: usize, when_full: WhenFull) -> Arc<Queue<T>> {
    Arc::new(Queue::new(capacity, when_full).expect("a queue"))
}

/// Under paused time this ends as soon as nothing else can happen.
async fn still_waits(future: impl Future) -> bool {
    timeout(Duration::from_secs(3600), future).await.is_err()
}

async fn drain<T>(queue: &Queue<T>) -> Vec<T> {
    queue.close();
    queue.pop_up_to(usize::MAX).await
}

#[test]
fn impossible_queues_are_refused() {
    let error = Queue::<()>::new(0, WhenFull::Block).expect_err("refused").to_string();
    assert_eq!(error, "a queue of capacity 0 can hold nothing; use at least 1");
}

#[tokio::test(start_paused = true)]
async fn items_leave_in_the_order_they_came() {
    for when_full in [WhenFull::Block, WhenFull::DropOldest, WhenFull::DropNewest, WhenFull::Coalesce] {
        let queue = queue(10, when_full);
        for i in 0..5 {
            assert_eq!(queue.push(i, None).await, Ok(Pushed::Accepted));
        }
        assert_eq!((queue.len(), queue.is_empty()), (5, false));
        assert_eq!(queue.pop().await, Some(0));
        assert_eq!(queue.pop_up_to(2).await, [1, 2]);
        assert_eq!(queue.pop_up_to(0).await, [3]);
        assert_eq!(queue.pop_up_to(100).await, [4]);
        assert!(still_waits(queue.pop()).await);
        assert!(still_waits(queue.pop_up_to(3)).await);
        assert_eq!(queue.counts(), Counts { accepted: 5, ..Counts::default() });
    }
}

#[tokio::test(start_paused = true)]
async fn spill_hands_back_what_has_no_place() {
    let queue = queue(2, WhenFull::Spill);
    for i in 0..2 {
        assert_eq!(queue.push(i, None).await, Ok(Pushed::Accepted));
    }
    assert_eq!(queue.push(2, None).await, Ok(Pushed::Full(2)));
    assert!(still_waits(queue.room()).await);
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.room().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(queue.pop().await, Some(0));
    waiting.await.expect("there is room");
    assert_eq!(queue.push(2, None).await, Ok(Pushed::Accepted));
    assert_eq!(drain(&queue).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn block_makes_producers_wait_first_come_first_served() {
    let queue = queue(1, WhenFull::Block);
    queue.push(0, None).await.expect("open");
    let mut producers = Vec::new();
    for i in 1..=3 {
        let queue = Arc::clone(&queue);
        producers.push(tokio::spawn(async move { queue.push(i, None).await }));
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.len(), 1);
    for i in 0..=3 {
        assert_eq!(queue.pop().await, Some(i));
        // Whoever comes now stands behind those that wait.
        if i < 3 {
            tokio::task::yield_now().await;
            assert!(still_waits(queue.push(99, None)).await);
        }
    }
    for producer in producers {
        assert_eq!(producer.await.expect("no panic"), Ok(Pushed::Accepted));
    }
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_push_leaves_no_item_and_no_hole() {
    let queue = queue(2, WhenFull::Block);
    queue.push(1, None).await.expect("open");
    queue.push(2, None).await.expect("open");
    for _ in 0..5 {
        assert!(still_waits(queue.push(3, None)).await);
    }
    assert_eq!(queue.pop_up_to(9).await, [1, 2]);
    queue.push(4, None).await.expect("open");
    queue.push(5, None).await.expect("open");
    assert!(still_waits(queue.push(6, None)).await);
    assert_eq!(drain(&queue).await, [4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_pop_takes_nothing_and_wakes_the_next() {
    let queue = queue(10, WhenFull::Block);
    let mut first = Box::pin(queue.pop());
    let second = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.pop().await }
    });
    // The first stands first in line, is woken, and goes away without looking.
    assert!(timeout(Duration::ZERO, &mut first).await.is_err());
    tokio::task::yield_now().await;
    queue.push(1, None).await.expect("open");
    drop(first);
    assert_eq!(second.await.expect("no panic"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_hands_back_what_waited_longest() {
    let queue = queue(2, WhenFull::DropOldest);
    assert_eq!(queue.push(1, Some("k")).await, Ok(Pushed::Accepted));
    assert_eq!(queue.push(2, Some("k")).await, Ok(Pushed::Accepted));
    assert_eq!(queue.push(3, Some("k")).await, Ok(Pushed::DroppedOldest(1)));
    assert_eq!(queue.counts(), Counts { accepted: 3, dropped_oldest: 1, ..Counts::default() });
    assert_eq!(drain(&queue).await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn drop_newest_hands_back_what_came_last() {
    let queue = queue(2, WhenFull::DropNewest);
    assert_eq!(queue.push(1, None).await, Ok(Pushed::Accepted));
    assert_eq!(queue.push(2, None).await, Ok(Pushed::Accepted));
    assert_eq!(queue.push(3, None).await, Ok(Pushed::DroppedNewest(3)));
    assert_eq!(queue.counts(), Counts { accepted: 2, dropped_newest: 1, ..Counts::default() });
    assert_eq!(drain(&queue).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn coalesce_replaces_the_waiting_item_of_the_key_in_its_place() {
    let queue = queue(3, WhenFull::Coalesce);
    for (item, key, pushed) in [
        (1, Some("a"), Pushed::Accepted),
        (2, Some("b"), Pushed::Accepted),
        (3, Some("a"), Pushed::Coalesced(1)),
        (4, None, Pushed::Accepted),
        (5, Some("b"), Pushed::Coalesced(2)),
        (6, Some("c"), Pushed::DroppedOldest(3)),
        // `a` waits no more, so it is new.
        (7, Some("a"), Pushed::DroppedOldest(5)),
        (8, Some("c"), Pushed::Coalesced(6)),
        (9, None, Pushed::DroppedOldest(4)),
    ] {
        assert_eq!(queue.push(item, key).await, Ok(pushed), "{item}");
    }
    assert_eq!(queue.counts(), Counts { accepted: 9, dropped_oldest: 3, dropped_newest: 0, coalesced: 3 });
    assert_eq!(queue.pop().await, Some(8));
    assert_eq!(queue.push(10, Some("c")).await, Ok(Pushed::Accepted));
    assert_eq!(queue.push(11, Some("a")).await, Ok(Pushed::Coalesced(7)));
    assert_eq!(drain(&queue).await, [11, 9, 10]);
}

#[tokio::test(start_paused = true)]
async fn after_close_what_waits_is_taken_and_nothing_comes_in() {
    let queue = queue(1, WhenFull::Block);
    queue.push(1, None).await.expect("open");
    let producer = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.push(2, None).await }
    });
    tokio::task::yield_now().await;
    queue.close();
    assert_eq!(producer.await.expect("no panic"), Err(Closed(2)));
    assert_eq!(queue.push(3, None).await, Err(Closed(3)));
    assert_eq!(queue.pop().await, Some(1));
    assert_eq!(queue.pop().await, None);
    assert_eq!(queue.pop_up_to(5).await, Vec::<i32>::new());
}

#[tokio::test(start_paused = true)]
async fn close_wakes_every_consumer() {
    let queue = queue::<()>(1, WhenFull::DropOldest);
    let consumers: Vec<_> = (0..3)
        .map(|_| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.pop().await })
        })
        .collect();
    tokio::task::yield_now().await;
    queue.close();
    for consumer in consumers {
        assert_eq!(consumer.await.expect("no panic"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_between_many() {
    const EACH: u64 = 5_000;
    let queue = queue(7, WhenFull::Block);
    let producers: Vec<_> = (0..4)
        .map(|p| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                for i in 0..EACH {
                    queue.push(p * EACH + i, None).await.expect("open");
                }
            })
        })
        .collect();
    let consumers: Vec<_> = (0..3)
        .map(|c| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let batch = if c == 0 { queue.pop_up_to(3).await } else { queue.pop().await.into_iter().collect() };
                    assert!(queue.len() <= 7);
                    match batch.is_empty() {
                        true => return seen,
                        false => seen.extend(batch),
                    }
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.expect("no panic");
    }
    queue.close();
    let mut all = Vec::new();
    for consumer in consumers {
        all.extend(consumer.await.expect("no panic"));
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..4 * EACH));
}

#[derive(Debug, Clone)]
enum Step {
    Push(Option<u8>),
    Pop,
    PopUpTo(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::option::of(0u8..4).prop_map(Step::Push),
        2 => Just(Step::Pop),
        1 => (0usize..5).prop_map(Step::PopUpTo),
    ]
}

/// The queue as a list that is looked through each time.
struct Model {
    waiting: Vec<(Option<u8>, u32)>,
    capacity: usize,
    when_full: WhenFull,
    counts: Counts,
}

impl Model {
    /// `None`: it would wait.
    fn push(&mut self, item: u32, key: Option<u8>) -> Option<Pushed<u32>> {
        let same = |(other, _): &&mut (Option<u8>, u32)| key.is_some() && *other == key;
        if self.when_full == WhenFull::Coalesce
            && let Some((_, waiting)) = self.waiting.iter_mut().find(same)
        {
            self.counts.accepted += 1;
            self.counts.coalesced += 1;
            return Some(Pushed::Coalesced(std::mem::replace(waiting, item)));
        }
        let mut pushed = Pushed::Accepted;
        if self.waiting.len() == self.capacity {
            match self.when_full {
                WhenFull::Block => return None,
                WhenFull::Spill => return Some(Pushed::Full(item)),
                WhenFull::DropNewest => {
                    self.counts.dropped_newest += 1;
                    return Some(Pushed::DroppedNewest(item));
                }
                WhenFull::DropOldest | WhenFull::Coalesce => {
                    self.counts.dropped_oldest += 1;
                    pushed = Pushed::DroppedOldest(self.waiting.remove(0).1);
                }
            }
        }
        self.waiting.push((key, item));
        self.counts.accepted += 1;
        Some(pushed)
    }

    fn pop_up_to(&mut self, limit: usize) -> Vec<u32> {
        let count = limit.max(1).min(self.waiting.len());
        self.waiting.drain(..count).map(|(_, item)| item).collect()
    }
}

proptest! {
    #[test]
    fn every_policy_does_what_a_list_does(steps in prop::collection::vec(step(), 0..200), capacity in 1usize..6) {
        let policies =
            [WhenFull::Block, WhenFull::DropOldest, WhenFull::DropNewest, WhenFull::Coalesce, WhenFull::Spill];
        for when_full in policies {
            let queue = queue::<u32>(capacity, when_full);
            let mut model = Model { waiting: Vec::new(), capacity, when_full, counts: Counts::default() };
            for (step, item) in steps.iter().zip(0..) {
                match step {
                    Step::Push(key) => {
                        let name = key.map(|key| key.to_string());
                        let pushed = queue.push(item, name.as_deref()).now_or_never();
                        prop_assert_eq!(pushed, model.push(item, *key).map(Ok));
                    }
                    Step::Pop => {
                        let popped = queue.pop().now_or_never().map(|item| vec![item.expect("open")]);
                        let expected = model.pop_up_to(1);
                        prop_assert_eq!(popped, (!expected.is_empty()).then_some(expected));
                    }
                    Step::PopUpTo(limit) => {
                        let popped = queue.pop_up_to(*limit).now_or_never();
                        let expected = model.pop_up_to(*limit);
                        prop_assert_eq!(popped, (!expected.is_empty()).then_some(expected));
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_full()), (model.waiting.len(), model.waiting.len() == capacity));
                prop_assert_eq!(queue.room().now_or_never().is_some(), model.waiting.len() < capacity);
            }
            prop_assert_eq!(queue.counts(), model.counts);
            queue.close();
            let left: Vec<u32> = model.waiting.iter().map(|(_, item)| *item).collect();
            prop_assert_eq!(queue.pop_up_to(usize::MAX).now_or_never(), Some(left));
            prop_assert_eq!(queue.push(0, None).now_or_never(), Some(Err(Closed(0))));
        }
    }
}
