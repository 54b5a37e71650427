//! Several events at once for handlers of one: the order, retries and deadlines are those of events that go alone.

use std::time::Duration;

use kernelbridge::host::{Host, News, Subscription};
use serde_json::Value;

use crate::{host::plugin, support::Installed};

macro_rules! languages {
    ($($language:ident: $source:literal),*) => {
        $(mod $language {
            const PLUGIN: (&str, &str) = (stringify!($language), include_str!(concat!("series/", $source)));

            #[tokio::test]
            async fn what_fails_is_tried_again_before_what_comes_after_it() {
                super::what_fails_is_tried_again_before_what_comes_after_it(PLUGIN).await;
            }

            #[tokio::test]
            async fn only_the_event_that_hangs_is_given_up() {
                super::only_the_event_that_hangs_is_given_up(PLUGIN).await;
            }

            #[tokio::test]
            async fn slow_handlers_do_not_use_up_the_time_of_others() {
                super::slow_handlers_do_not_use_up_the_time_of_others(PLUGIN).await;
            }

            #[tokio::test]
            async fn every_handler_is_timed_by_itself() {
                super::every_handler_is_timed_by_itself(PLUGIN).await;
            }
        })*
    };
}

// Those whose shims take a series.
languages!(javascript: "plugin.js", lua: "plugin.lua", node: "plugin.js", octave: "plugin.m", prolog: "plugin.pl", python: "plugin.py", r: "plugin.R");

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

async fn run((language, source): (&str, &str), manifest: &str, events: &[(&str, u64)]) -> Option<Vec<String>> {
    if !Installed::look().has(language) {
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder().plugin(plugin(dir.path(), "series", language, source, manifest)).build().await;
    let host = host.expect("a host");
    let news = host.subscribe_lossless();
    for (topic, n) in events {
        host.emit(topic, n).await.expect("accepted");
    }
    tokio::time::timeout(Duration::from_secs(60), host.drain()).await.expect("it never hangs");
    host.shutdown().await;
    Some(all(news).await)
}

async fn what_fails_is_tried_again_before_what_comes_after_it(plugin: (&str, &str)) {
    let events: Vec<(&str, u64)> = (0..300).map(|n| (if n % 50 == 25 { "flaky" } else { "n" }, n)).collect();
    let Some(done) = run(plugin, "[delivery]\nattempts = 2\n", &events).await else { return };
    let expected: Vec<String> = events.iter().map(|(topic, n)| format!("{topic} {n}")).collect();
    assert_eq!(done, expected);
}

async fn only_the_event_that_hangs_is_given_up(plugin: (&str, &str)) {
    let events: Vec<(&str, u64)> = (0..200).map(|n| (if n == 100 { "hang" } else { "n" }, n)).collect();
    let manifest = "[limits]\ntimeout = \"1s\"\n[delivery]\nattempts = 1\n";
    let Some(done) = run(plugin, manifest, &events).await else { return };
    let expected: Vec<String> = events
        .iter()
        .map(|(topic, n)| if *n == 100 { "hang 100 Timeout after 1".to_owned() } else { format!("{topic} {n}") })
        .collect();
    assert_eq!(done, expected);
}

/// The deadline is each handler's own, however many are on their way.
async fn slow_handlers_do_not_use_up_the_time_of_others(plugin: (&str, &str)) {
    let events: Vec<(&str, u64)> = (0..200).map(|n| (if n < 100 { "n" } else { "slow" }, n)).collect();
    let Some(done) = run(plugin, "[limits]\ntimeout = \"1s\"\n", &events).await else { return };
    let expected: Vec<String> = events.iter().map(|(topic, n)| format!("{topic} {n}")).collect();
    assert_eq!(done, expected);
}

async fn every_handler_is_timed_by_itself((language, source): (&str, &str)) {
    if !Installed::look().has(language) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder().plugin(plugin(dir.path(), "series", language, source, "")).build().await;
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
