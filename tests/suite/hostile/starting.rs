//! What a kernel may do wrong from its launch until its plugin is loaded, and at its end.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use kernelbridge::{
    channels::ChannelError,
    client::ClientError,
    host::{BuildError, News},
    plugin::LoadError,
    rpc::ErrorKind,
    supervision::State,
};
use serde_json::json;

use super::{DEADLINE, Rig, STARTUP, emit};

/// How a plugin could not be loaded, in one word or two.
pub fn outcome(error: &BuildError) -> String {
    let BuildError::Load { source, .. } = error else {
        return if matches!(error, BuildError::Topic { .. }) { "topic".into() } else { format!("{error:?}") };
    };
    match &**source {
        LoadError::Client(ClientError::DiedAtLaunch { exit, .. }) => format!("died at launch: {exit}"),
        LoadError::Client(ClientError::Deaf { missing, .. }) => format!("deaf: {missing}"),
        LoadError::Client(ClientError::Gone { exit, .. }) => format!("gone: {exit}"),
        LoadError::Client(ClientError::Timeout { msg_type, .. }) => format!("timeout: {msg_type}"),
        LoadError::Client(ClientError::Channel(ChannelError::Handshake { source, .. })) => {
            format!("handshake: {source}")
        }
        LoadError::Client(ClientError::Channel(error)) => format!("channel: {error}"),
        LoadError::Client(ClientError::Content(error)) => format!("content: {}", error.msg_type),
        LoadError::Shim { reason, .. } => format!("shim: {reason}"),
        LoadError::NoCarrier { tried, .. } => format!("no carrier: {:?}", tried[0].1.kind),
        LoadError::Version { found } => format!("version: {found}"),
        LoadError::Raised(error) => format!("load: {:?}", error.kind),
        other => format!("{other:?}"),
    }
}

const CASES: &[(&str, &str)] = &[
    ("deaf", "deaf: it does not listen on its ports"),
    ("die-at-bind", "died at launch: exit code 7"),
    ("die-at-bound", "died at launch: exit code 7"),
    ("die-at-kernel-info", "died at launch: exit code 7"),
    ("silent-at-kernel-info", "deaf: it listens, but does not answer `kernel_info_request`"),
    ("wrong-parents", "deaf: it listens, but does not answer `kernel_info_request`"),
    ("unsigned", "deaf: it listens, but does not answer `kernel_info_request`"),
    ("wrong-signature", "deaf: it listens, but does not answer `kernel_info_request`"),
    ("no-json", "content: kernel_info_reply"),
    ("die-at-execute", "gone: exit code 7"),
    ("silent-at-execute", "timeout: execute_request"),
    ("abort", "shim: "),
    ("aborted", "shim: "),
    ("raise", "shim: SyntaxError no"),
    ("die-at-turn", "no carrier: Gone"),
    ("silent-at-turn", "no carrier: Timeout"),
    ("die-at-ready", "no carrier: Gone"),
    ("silent-at-ready", "no carrier: Timeout"),
    ("die-at-initialize", "no carrier: Gone"),
    ("silent-at-initialize", "no carrier: Timeout"),
    ("old-shim", "version: 0"),
    ("empty-results", "version: "),
    ("odd-results", "no carrier: Invalid"),
    ("die-at-load", "load: Gone"),
    ("silent-at-load", "load: Timeout"),
    ("no-handlers", "load: Invalid"),
    ("bad-topic", "topic"),
];

#[tokio::test]
async fn whatever_goes_wrong_at_the_start_is_a_typed_error_in_time() {
    let Some(mut rig) = Rig::new() else { return };
    let began = Instant::now();
    let good = rig.host(&[rig.plugin("good", "good", "auto")]).await.expect("a host");
    // Enough for one that means well, on this machine as busy as it is.
    rig.startup = (began.elapsed() * 10).clamp(Duration::from_secs(6), STARTUP);
    let mut news = good.subscribe();
    let rig = &rig;
    let build = |&(mode, expected): &(&'static str, &'static str)| async move {
        let plugin = rig.plugin(mode, mode, "pipe");
        let began = Instant::now();
        let error = rig.host(&[plugin]).await.err().unwrap_or_else(|| panic!("{mode} was loaded"));
        (mode, expected, outcome(&error), began.elapsed())
    };
    // A silent kernel takes all its time, so several are started at once.
    let found: Vec<_> = stream::iter(CASES).map(build).buffer_unordered(4).collect().await;
    let mut wrong = Vec::new();
    for (mode, expected, found, took) in found {
        println!("{mode}: {found} after {took:?}");
        if found != expected || took > rig.startup + Duration::from_secs(10) {
            wrong.push((mode, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    emit(&good, &mut news, "good.ok", json!(0)).await.expect("the other host is well");
    good.shutdown().await;
    rig.assert_nothing_left();
}

/// Oddities that cost nothing.
#[tokio::test]
async fn what_is_odd_but_harmless_is_loaded_and_ends() {
    let Some(rig) = Rig::new() else { return };
    let rig = &rig;
    let modes = ["twice", "replay", "noise", "no-idle", "no-utf8", "no-fields", "no-object"];
    let ends = ["die-at-shutdown", "silent-at-shutdown", "die-at-shutdown-request", "ignore-shutdown"];
    let run = |mode: &'static str| async move {
        let host = rig.host(&[rig.plugin(mode, mode, "auto")]).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        let mut news = host.subscribe();
        for _ in 0..3 {
            let result = emit(&host, &mut news, &format!("{mode}.ok"), json!(0)).await;
            assert_eq!(result.unwrap_or_else(|error| panic!("{mode}: {error}")), "\"done\"");
        }
        let began = Instant::now();
        host.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(8), "{mode} ended after {:?}", began.elapsed());
    };
    stream::iter(modes.into_iter().chain(ends)).for_each_concurrent(3, run).await;
    rig.assert_nothing_left();
}

/// A reload that fails leaves the old code at work; a restart that fails is tried again.
#[tokio::test]
async fn a_start_that_fails_later_costs_no_event() {
    let Some(rig) = Rig::new() else { return };
    let host = rig.host(&[rig.plugin("bad", "good", "auto"), rig.plugin("good", "good", "auto")]).await;
    let host = host.expect("a host");
    let mut news = host.subscribe();
    for mode in ["die-at-bound", "raise", "die-at-load"] {
        rig.set_mode("bad", mode);
        let error = host.reload("bad").await.expect_err("refused");
        assert!(matches!(error, BuildError::Load { .. }), "{mode}: {error}");
        emit(&host, &mut news, "bad.ok", json!(0)).await.expect("the old code is at work");

        let error = emit(&host, &mut news, "bad.do", json!({ "do": "die" })).await.expect_err("it died");
        assert_eq!(error.kind, ErrorKind::Gone);
        let mut all = host.subscribe();
        host.emit("bad.ok", &0).await.expect("accepted");
        let failed_again = async {
            loop {
                match all.next().await.expect("the host lives") {
                    News::State { state: State::Restarting { reason, .. }, .. }
                        if reason.starts_with("it could not be loaded") =>
                    {
                        return;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, failed_again).await.expect("it is tried again");
        emit(&host, &mut news, "good.ok", json!(0)).await.expect("the other plugin is well");
        rig.set_mode("bad", "good");
        tokio::time::timeout(DEADLINE, host.drain()).await.expect("the event that waited is handled");
    }
    assert_eq!(host.stats()[0].1.handled, 6, "{:?}", host.stats());
    host.shutdown().await;
    rig.assert_nothing_left();
}
