//! Messages that are refused change nothing and are counted; floods end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kernelbridge::{
    client::{ClientError, KernelClient},
    host::{News, Subscription},
    plugin::PluginNews,
    wire::content::{ExecuteRequest, Status},
};
use serde_json::json;

use super::{DEADLINE, Rig, emit};
use crate::support::resident_bytes;

/// How much each flood brings. With `KERNELBRIDGE_TEST_FLOOD=1000000` each brings a million, which takes some minutes.
const FLOODS: [(&str, u64); 3] = [("flood-iopub", 200_000), ("flood-log", 20_000), ("flood-prompts", 20_000)];

/// How many bad messages `kernel.py` sends for each good one in mode `noise`: ten kinds of nonsense and a replay.
const REFUSED: u64 = 11;

#[tokio::test]
async fn refused_messages_are_counted_each() {
    let Some(rig) = Rig::new() else { return };
    let client = KernelClient::launch(rig.options("noise")).await.unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..20 {
        client.kernel_info(DEADLINE).await.expect("answered");
        let executed = client.execute(&ExecuteRequest::new("x")).await.expect("sent").finish(DEADLINE).await;
        assert_eq!(executed.expect("executed").reply.status, Status::Ok);
    }
    // What is still on its way on iopub.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let odd = client.counters().odd_messages();
    // Each request has a reply and two statuses; the first ones may be lost before the subscription took effect.
    assert!(odd % REFUSED == 0 && (40 * 3..=46 * 3).contains(&(odd / REFUSED)), "{odd}");
    client.shutdown(Duration::from_secs(3)).await;
    rig.assert_nothing_left();
}

#[tokio::test]
async fn only_what_is_wrong_is_counted() {
    let Some(rig) = Rig::new() else { return };
    for (mode, is_refused) in [("good", false), ("twice", false), ("no-idle", false), ("replay", true)] {
        let client = KernelClient::launch(rig.options(mode)).await.unwrap_or_else(|error| panic!("{error}"));
        let began = Instant::now();
        let executed = client.execute(&ExecuteRequest::new("x")).await.expect("sent").finish(DEADLINE).await;
        let executed = executed.expect("executed");
        assert_eq!((executed.reply.status, executed.complete), (Status::Ok, mode != "no-idle"), "{mode}");
        assert!(began.elapsed() < Duration::from_secs(5), "{mode}");
        assert_eq!(client.counters().odd_messages() > 0, is_refused, "{mode}");
        client.shutdown(Duration::from_secs(3)).await;
    }
    for (mode, status) in [("abort", Status::Aborted), ("aborted", Status::Aborted), ("raise", Status::Error)] {
        let client = KernelClient::launch(rig.options(mode)).await.unwrap_or_else(|error| panic!("{error}"));
        let executed = client.execute(&ExecuteRequest::new("x")).await.expect("sent").finish(DEADLINE).await;
        assert_eq!(executed.expect("executed").reply.status, status);
        client.shutdown(Duration::from_secs(3)).await;
    }
    rig.assert_nothing_left();
}

/// Outputs on iopub, log lines on the pipe, and questions whose answers are never read.
#[tokio::test]
async fn floods_end_and_stay_outside() {
    let Some(rig) = Rig::new() else { return };
    let timeout = Duration::from_secs(600);
    let plugins = [rig.plugin_with("bad", "good", "pipe", timeout), rig.plugin("good", "good", "pipe")];
    let host = rig.host(&plugins).await.expect("a host");
    let mut news = host.subscribe();
    let told = Arc::new(AtomicU64::new(0));
    let counting = tokio::spawn(count_outputs(host.subscribe(), told.clone()));
    let mut handled = 0;
    let wanted = std::env::var("KERNELBRIDGE_TEST_FLOOD").map(|count| count.parse().expect("a number"));
    for (what, count) in FLOODS {
        let count = wanted.as_ref().copied().unwrap_or(count);
        let (before, began) = (resident_bytes(), Instant::now());
        host.emit("bad.do", &json!({ "do": what, "count": count })).await.expect("accepted");
        let mut slowest = Duration::ZERO;
        let mut peak = before;
        while host.stats()[0].1.handled == handled {
            let began = Instant::now();
            emit(&host, &mut news, "good.ok", json!(what)).await.expect("the other plugin is well");
            slowest = slowest.max(began.elapsed());
            peak = peak.max(resident_bytes());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handled += 1;
        println!(
            "{count} of {what}: {:?}, {} MB more, the other plugin's slowest {slowest:?}",
            began.elapsed(),
            (peak - before) >> 20
        );
        assert!(peak - before < 400 << 20, "{what}: {} bytes more", peak - before);
        emit(&host, &mut news, "bad.ok", json!(what)).await.expect("handled");
        handled += 1;
        // What is left of it on iopub.
        while what == "flood-iopub" && told.load(Ordering::Relaxed) < count {
            assert!(began.elapsed() < timeout, "{told:?} of {count} came");
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < 400 << 20, "{what}: {grown} bytes more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("all of it: {:?}, {} MB more", began.elapsed(), resident_bytes().saturating_sub(before) >> 20);
    }
    host.shutdown().await;
    counting.await.expect("no panic");
    rig.assert_nothing_left();
}

/// Outputs that came, or of which it was told that they were dropped.
async fn count_outputs(mut news: Subscription, told: Arc<AtomicU64>) {
    while let Some(news) = news.next().await {
        let outputs = match news {
            News::Plugin { news: PluginNews::Output(_), .. } => 1,
            News::Plugin { news: PluginNews::OutputDropped { outputs, .. }, .. } | News::Missed(outputs) => outputs,
            _ => 0,
        };
        told.fetch_add(outputs, Ordering::Relaxed);
    }
}

/// SIGTERM and `shutdown_request` are ignored, and children of other sessions hold its pipes.
#[tokio::test]
async fn a_kernel_that_will_not_end_is_ended() {
    let Some(rig) = Rig::new() else { return };
    let client = KernelClient::launch(rig.options("ignore-shutdown")).await.unwrap_or_else(|error| panic!("{error}"));
    let began = Instant::now();
    client.shutdown(Duration::from_secs(3)).await;
    assert!((3..6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let client = KernelClient::launch(rig.options("silent-at-execute")).await.unwrap_or_else(|error| panic!("{error}"));
    let deadline = Duration::from_secs(1);
    let error =
        client.execute(&ExecuteRequest::new("x")).await.expect("sent").finish(deadline).await.expect_err("late");
    assert!(matches!(error, ClientError::Timeout { msg_type: "execute_request", .. }), "{error}");
    client.shutdown(Duration::from_secs(3)).await;
    rig.assert_nothing_left();
}
