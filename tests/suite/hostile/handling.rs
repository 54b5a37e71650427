//! What a kernel may do wrong while it handles an event.

use std::time::{Duration, Instant};

use kernelbridge::{
    host::{Caller, Host},
    rpc::ErrorKind,
};
use serde_json::{Value, json};

use super::{Rig, emit};

/// The longest that any case takes, with restart and the next event.
const LONGEST: Duration = Duration::from_secs(15);

/// What is done, and what comes of the event. The next event is handled in every case.
const BOTH: &[(&str, Result<&str, ErrorKind>)] = &[
    ("nothing-wrong", Ok("done")),
    ("die", Err(ErrorKind::Gone)),
    ("die-with-a-child", Err(ErrorKind::Gone)),
    ("fork", Ok("done")),
    ("stop", Err(ErrorKind::Timeout)),
    ("sleep", Err(ErrorKind::Timeout)),
    ("ignore-interrupts", Err(ErrorKind::Timeout)),
    ("end-early", Err(ErrorKind::Cancelled)),
    ("abort", Err(ErrorKind::Cancelled)),
    ("aborted", Err(ErrorKind::Cancelled)),
    ("fail-oddly", Err(ErrorKind::Raised)),
    ("reply-early", Err(ErrorKind::Gone)),
    ("call-and-leave", Ok("done")),
    ("call-nonsense", Ok("done")),
];

/// What only a pipe can carry.
const PIPE: &[(&str, Result<&str, ErrorKind>)] = &[
    ("answer-twice", Ok("done")),
    ("answer-strangers", Ok("done")),
    ("announce-a-gigabyte", Err(ErrorKind::Gone)),
    ("write-nonsense", Err(ErrorKind::Gone)),
    ("write-no-json", Ok("done")),
    ("write-no-utf8", Ok("a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b")),
    ("leave-fields-out", Ok("")),
    ("half-a-frame", Err(ErrorKind::Cancelled)),
    ("hollow", Err(ErrorKind::Timeout)),
    ("call-twice", Ok("done")),
];

const JUPYTER: &[(&str, Result<&str, ErrorKind>)] = &[("stale-reply", Ok("done"))];

async fn host(rig: &Rig, carrier: &str) -> Host {
    let slow = |()| async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Ok::<_, String>(())
    };
    rig.builder()
        .plugin(rig.plugin("bad", "good", carrier))
        .plugin(rig.plugin("good", "good", carrier))
        .function("app.slow", slow)
        .function("app.twice", |(n,): (i64,)| async move { Ok::<_, String>(2 * n) })
        .function_with_caller("app.chain", |caller: Caller, ()| async move {
            Ok::<_, String>((caller.plugin, caller.chain.path))
        })
        .build()
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

async fn survive(carrier: &str, cases: impl Iterator<Item = &(&'static str, Result<&'static str, ErrorKind>)>) {
    let Some(rig) = Rig::new() else { return };
    let host = host(&rig, carrier).await;
    let (mut news, mut wrong) = (host.subscribe(), Vec::new());
    for (what, expected) in cases {
        let began = Instant::now();
        let found = emit(&host, &mut news, "bad.do", json!({ "do": what })).await;
        let took = began.elapsed();
        emit(&host, &mut news, "good.ok", json!(what)).await.expect("the other plugin is well");
        let next = emit(&host, &mut news, "bad.ok", json!(what)).await;
        println!("{carrier} {what}: {found:?} after {took:?}, the next after {:?}", began.elapsed());
        let text = |result: &str| serde_json::from_str::<Option<String>>(result).expect("text").unwrap_or_default();
        let outcome = found.map(|result| text(&result)).map_err(|error| error.kind);
        if outcome != expected.map(str::to_owned) || next.is_err() || began.elapsed() > LONGEST {
            wrong.push(format!("{what}: {outcome:?}, {next:?}, {:?}", began.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    host.shutdown().await;
    rig.assert_nothing_left();
}

#[tokio::test]
async fn whatever_goes_wrong_on_a_pipe_the_next_event_is_handled() {
    survive("pipe", BOTH.iter().chain(PIPE)).await;
}

#[tokio::test]
async fn whatever_goes_wrong_over_stdin_the_next_event_is_handled() {
    survive("jupyter", BOTH.iter().chain(JUPYTER)).await;
}

/// Between two events.
#[tokio::test]
async fn what_goes_wrong_between_events_costs_none() {
    let Some(rig) = Rig::new() else { return };
    let host = host(&rig, "pipe").await;
    let mut news = host.subscribe();
    for mode in
        ["die-at-end", "die-at-turn", "die-at-ready", "silent-at-end", "wrong-signature", "wrong-parents", "no-idle"]
    {
        let began = Instant::now();
        emit(&host, &mut news, "bad.do", json!({ "do": "become", "mode": mode })).await.expect("handled");
        // Its turn ends meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        emit(&host, &mut news, "bad.ok", json!(mode)).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        println!("{mode}: {:?}", began.elapsed());
        emit(&host, &mut news, "good.ok", json!(mode)).await.expect("the other plugin is well");
    }
    host.shutdown().await;
    rig.assert_nothing_left();
}

#[tokio::test]
async fn a_plugin_neither_answers_for_another_nor_claims_its_chain() {
    let Some(rig) = Rig::new() else { return };
    let host = host(&rig, "pipe").await;
    let mut bad = host.subscribe();
    let mut good = host.subscribe();
    // Both work at the same time, and the ids of their requests are the same.
    let sleeping = emit(&host, &mut good, "good.do", json!({ "do": "wait", "seconds": 1.0 }));
    let stealing = emit(&host, &mut bad, "bad.do", json!({ "do": "steal" }));
    let (good, bad) = tokio::join!(sleeping, stealing);
    assert_eq!(good.expect("handled"), "\"done\"", "the result is its own");
    let claimed: (String, Vec<String>) = serde_json::from_str(&bad.expect("handled")).expect("a chain");
    assert_eq!(claimed.0, "bad");
    assert_eq!(claimed.1.len(), 1, "{claimed:?}");
    assert!(claimed.1[0].starts_with("event ") && claimed.1[0] != "event 1", "{claimed:?}");
    let hello = host.call::<Value>("good.hello", ()).await.expect("answers");
    assert_eq!(hello, "hello");
    let mut news = host.subscribe();
    let error = emit(&host, &mut news, "bad.do", json!({ "do": "blame" })).await.expect_err("it failed");
    assert_eq!((&*error.plugin, error.not_begun), ("bad", false), "{error}");
    assert_eq!(error.cause.map(|cause| cause.plugin).as_deref(), Some("good"), "causes are kept as they came");
    host.shutdown().await;
    rig.assert_nothing_left();
}
