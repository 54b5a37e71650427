//! Messages that are refused change nothing and are counted; floods end.

use std::time::{Duration, Instant};

use kernelbridge::{
    client::{ClientError, KernelClient},
    wire::content::{ExecuteRequest, Status},
};

use super::{DEADLINE, Rig};

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
