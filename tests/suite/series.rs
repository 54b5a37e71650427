//! Several events at once for handlers of one: the order, retries and deadlines are those of events that go alone.

use std::time::Duration;

use kernelbridge::host::{Host, News, Subscription};
use serde_json::Value;

use crate::{host::plugin, support::Installed};

const SOURCE: &str = r#"
import os, time

@bridge.on("n")
def one(event):
    return event.data

@bridge.on("flaky")
def flaky(event):
    if event.attempt == 1:
        raise ValueError("the first attempt fails")
    return event.data

@bridge.on("hang")
def hang(event):
    while True:
        pass

@bridge.on("slow")
def slow(event):
    time.sleep(0.02)
    return event.data
"#;

/// `topic` and result or kind of error of everything that was done, in order.
async fn all(mut news: Subscription) -> Vec<String> {
    let mut done = Vec::new();
    while let Some(news) = news.next().await {
        match news {
            News::Handled { event, result, .. } => done.push(format!("{} {}", event.topic, result.get())),
            News::Failed { event, error, attempts, .. } => {
                done.push(format!("{} {} {:?} after {attempts}", event.topic, event.data.get(), error.kind));
            }
            _ => {}
        }
    }
    done
}

async fn run(manifest: &str, events: &[(&str, u64)]) -> Option<Vec<String>> {
    if !Installed::look().has("python") {
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder().plugin(plugin(dir.path(), "series", "python", SOURCE, manifest)).build().await;
    let host = host.expect("a host");
    let news = host.subscribe_lossless();
    for (topic, n) in events {
        host.emit(topic, n).await.expect("accepted");
    }
    tokio::time::timeout(Duration::from_secs(60), host.drain()).await.expect("it never hangs");
    host.shutdown().await;
    Some(all(news).await)
}

#[tokio::test]
async fn what_fails_is_tried_again_before_what_comes_after_it() {
    let events: Vec<(&str, u64)> = (0..300).map(|n| (if n % 50 == 25 { "flaky" } else { "n" }, n)).collect();
    let Some(done) = run("[delivery]\nattempts = 2\n", &events).await else { return };
    let expected: Vec<String> = events.iter().map(|(topic, n)| format!("{topic} {n}")).collect();
    assert_eq!(done, expected);
}

#[tokio::test]
async fn only_the_event_that_hangs_is_given_up() {
    let events: Vec<(&str, u64)> = (0..200).map(|n| (if n == 100 { "hang" } else { "n" }, n)).collect();
    let Some(done) = run("[limits]\ntimeout = \"1s\"\n[delivery]\nattempts = 1\n", &events).await else { return };
    let expected: Vec<String> = events
        .iter()
        .map(|(topic, n)| if *n == 100 { "hang 100 Timeout after 1".to_owned() } else { format!("{topic} {n}") })
        .collect();
    assert_eq!(done, expected);
}

/// The deadline is each handler's own, however many are on their way.
#[tokio::test]
async fn slow_handlers_do_not_use_up_the_time_of_others() {
    let events: Vec<(&str, u64)> = (0..200).map(|n| (if n < 100 { "n" } else { "slow" }, n)).collect();
    let Some(done) = run("[limits]\ntimeout = \"1s\"\n", &events).await else { return };
    let expected: Vec<String> = events.iter().map(|(topic, n)| format!("{topic} {n}")).collect();
    assert_eq!(done, expected);
}

#[tokio::test]
async fn every_handler_is_timed_by_itself() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder().plugin(plugin(dir.path(), "series", "python", SOURCE, "")).build().await;
    let host = host.expect("a host");
    let mut news = host.subscribe_lossless();
    for n in 0..200u64 {
        host.emit(if n == 150 { "slow" } else { "n" }, &n).await.expect("accepted");
    }
    host.shutdown().await;
    while let Some(found) = news.next().await {
        if let News::Handled { event, elapsed, .. } = found {
            let n: Value = serde_json::from_str(event.data.get()).expect("JSON");
            assert!(n != 150 || elapsed >= Duration::from_millis(20), "{elapsed:?}");
        }
    }
}
