//! What ZeroMQ's library never says (`middle.py`): greetings of others, lies about lengths, garbage.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use kernelbridge::{client::KernelClient, rpc::ErrorKind};
use serde_json::json;

use super::{DEADLINE, Rig, emit, starting::outcome};
use crate::support::resident_bytes;

/// How much more memory the host may take, whatever is announced and whatever comes. The tests beside this one take
/// some, too.
const MORE_BYTES: u64 = 200 << 20;

/// What a channel says at the start: instead of its greeting, or after it. What comes of it is the same on shell, stdin
/// and control.
const START: &[(&str, &str)] = &[
    ("http -", "handshake: it does not speak ZMTP: it begins with `HTTP/1.1 400 Bad`"),
    ("old -", "handshake: it speaks ZMTP 1.5, older than 3.0"),
    ("curve -", "handshake: it asks for the security mechanism `CURVE`, and only `NULL` is spoken"),
    ("push -", "handshake: its socket is a \"PUSH\", not a `{kind}`"),
    ("no-ready -", "handshake: it does not say `READY`"),
    ("error -", "handshake: the other side of the connection refuses it: \"x\""),
    (
        "ready-of-a-terabyte -",
        "handshake: a ZeroMQ frame of 1099511627776 bytes was announced, more than any limit allows",
    ),
    (
        "- 100-gigabytes",
        "channel: {broken}a ZeroMQ frame of 100000000000 bytes was announced, more than any limit allows",
    ),
    (
        "- more-than-there-is",
        "channel: {broken}a ZeroMQ frame of 9223372036854775808 bytes was announced, more than any limit allows",
    ),
    (
        "- command-of-a-terabyte",
        "channel: {broken}a ZeroMQ frame of 1099511627776 bytes was announced, more than any limit allows",
    ),
    ("- garbage", "channel: {broken}not a ZeroMQ frame: its first byte is 0x54"),
    ("endless -", "deaf: its sockets do not answer"),
    ("hangs-up -", "deaf: its sockets do not answer"),
];

/// What a channel may say in the middle of an event, and whether the kernel is given up for it. It never is for what
/// comes on iopub, because nothing depends on that.
const MIDDLE: &[(&str, bool)] = &[
    ("100-gigabytes", true),
    ("more-than-there-is", true),
    ("command-of-a-terabyte", true),
    ("garbage", true),
    ("300-megabytes", false),
    ("million-frames", false),
    ("large-command", false),
    ("strange-command", false),
];

#[tokio::test]
async fn what_is_no_zeromq_at_the_start_is_named_in_time() {
    let Some(mut rig) = Rig::new() else { return };
    let began = Instant::now();
    let good = rig.host(&[rig.plugin("good", "wire", "auto")]).await.unwrap_or_else(|error| panic!("{error}"));
    rig.startup = (began.elapsed() * 6).clamp(Duration::from_secs(8), super::STARTUP);
    let (mut news, before) = (good.subscribe(), resident_bytes());
    let rig = &rig;
    let cases = START.iter().enumerate().flat_map(|(index, case)| {
        // Each on shell or one of the others, some on all.
        let channels = ["shell", "stdin", "control", "iopub"];
        let is_lie = case.0.starts_with("- ");
        channels.into_iter().enumerate().filter_map(move |(at, channel)| {
            let wanted = if is_lie { index % 3 == at || index == 7 } else { (index + at) % 4 == 0 };
            (wanted && !(is_lie && channel == "iopub")).then_some((case, channel))
        })
    });
    let build = |(&(what, expected), channel): (&'static (&str, &str), &'static str)| async move {
        let name = format!("{}-{channel}", what.replace([' ', '-'], ""));
        let plugin = rig.plugin(&name, &format!("wire {what} {channel}"), "pipe");
        let began = Instant::now();
        let error = rig.host(&[plugin]).await.err().unwrap_or_else(|| panic!("{name} was loaded"));
        let kind = if channel == "iopub" { "PUB" } else { "ROUTER" };
        let broken = "the kernel does not keep to ZeroMQ's protocol: ";
        (name, expected.replace("{kind}", kind).replace("{broken}", broken), outcome(&error), began.elapsed())
    };
    let found: Vec<_> = stream::iter(cases).map(build).buffer_unordered(3).collect().await;
    let mut wrong = Vec::new();
    for (name, expected, found, took) in found {
        println!("{name}: {found} after {took:?}");
        if found != expected || took > rig.startup + Duration::from_secs(10) {
            wrong.push((name, found, expected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let more = resident_bytes().saturating_sub(before);
    assert!(more < MORE_BYTES, "{more} bytes more");
    emit(&good, &mut news, "good.ok", json!(0)).await.expect("the other host is well");
    good.shutdown().await;
    rig.assert_nothing_left();
}

#[tokio::test]
async fn what_is_no_zeromq_in_the_middle_of_an_event_costs_one_event_at_most() {
    let Some(rig) = Rig::new() else { return };
    for carrier in ["pipe", "jupyter"] {
        // What is passed over takes its time on a busy machine; a lie is answered at once.
        let bad = rig.plugin_with("bad", "wire", carrier, Duration::from_secs(40));
        let plugins = [bad, rig.plugin("good", "good", carrier)];
        let host = rig.host(&plugins).await.unwrap_or_else(|error| panic!("{error}"));
        let (mut news, mut wrong, before) = (host.subscribe(), Vec::new(), resident_bytes());
        for (index, &(word, is_fatal)) in MIDDLE.iter().enumerate() {
            let channels = ["shell", "iopub", "stdin", "control"];
            // All lies on all channels over the pipe, one each over stdin.
            for channel in channels.into_iter().filter(|_| carrier == "pipe" || index % 4 == 0) {
                let began = Instant::now();
                let data = json!({ "do": "wire", "channel": channel, "word": word });
                let found = emit(&host, &mut news, "bad.do", data).await;
                let took = began.elapsed();
                let more = resident_bytes().saturating_sub(before);
                emit(&host, &mut news, "good.ok", json!(word)).await.expect("the other plugin is well");
                let next = emit(&host, &mut news, "bad.ok", json!(word)).await;
                println!(
                    "{carrier} {channel} {word}: {found:?} after {took:?}, {} MB more, the next after {:?}",
                    more >> 20,
                    began.elapsed()
                );
                let is_right = match &found {
                    Ok(result) => (!is_fatal || channel == "iopub") && result == "\"done\"",
                    Err(error) => {
                        is_fatal
                            && channel != "iopub"
                            && error.kind == ErrorKind::Gone
                            && error.message.starts_with("the kernel does not keep to ZeroMQ's protocol: ")
                    }
                };
                if !is_right || next.is_err() || more > MORE_BYTES {
                    wrong.push(format!("{channel} {word}: {found:?}, {next:?}, {more} bytes more"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        host.shutdown().await;
    }
    rig.assert_nothing_left();
}

/// A message that never comes to its end: what waits for the channel ends by its own deadline.
#[tokio::test]
async fn a_message_that_never_ends_holds_up_its_channel_alone() {
    let Some(rig) = Rig::new() else { return };
    let host = rig.host(&[rig.plugin("bad", "wire", "pipe")]).await.unwrap_or_else(|error| panic!("{error}"));
    let mut news = host.subscribe();
    for (channel, expected) in
        [("iopub", None), ("stdin", Some(ErrorKind::Timeout)), ("shell", Some(ErrorKind::Timeout))]
    {
        let before = resident_bytes();
        let data = json!({ "do": "wire", "channel": channel, "word": "endless" });
        let found = emit(&host, &mut news, "bad.do", data).await;
        assert_eq!(found.err().map(|error| error.kind), expected, "{channel}");
        let next = emit(&host, &mut news, "bad.ok", json!(channel)).await;
        assert_eq!(next.unwrap_or_else(|error| panic!("{channel}: {error}")), "\"done\"");
        let more = resident_bytes().saturating_sub(before);
        assert!(more < MORE_BYTES, "{more} bytes more");
    }
    host.shutdown().await;
    rig.assert_nothing_left();
}

/// What is only too much is counted, and the channel goes on; a kernel whose iopub is nonsense is of use all the same.
#[tokio::test]
async fn what_is_passed_over_is_counted() {
    let Some(rig) = Rig::new() else { return };
    for (mode, odd) in [
        ("wire - million-frames shell", 1),
        ("wire - strange-command control", 1),
        ("wire - large-command stdin shell", 2),
        ("wire - 300-megabytes shell", 1),
        ("wire - 100-gigabytes iopub", 1),
        ("wire - garbage iopub", 1),
    ] {
        let client = KernelClient::launch(rig.options(mode)).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        client.kernel_info(DEADLINE).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        client.kernel_info_on_control(DEADLINE).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        assert_eq!(client.counters().odd_messages(), odd, "{mode}");
        client.shutdown(Duration::from_secs(3)).await;
    }
    rig.assert_nothing_left();
}
