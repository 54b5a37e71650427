//! What a message costs: built and signed, or verified and read, beside `jupyter-protocol`'s reading in the same run.
//!
//! `cargo bench --bench wire`. The reply is the message that carries most for us, an `input_request` whose prompt is
//! JSON, with contents of 78 bytes, 64 KiB and 1 MiB.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jupyter_protocol::{JupyterMessage, JupyterMessageContent};
use kernelbridge::wire::{
    Frames, Header, Message, Outgoing, Received, Signer,
    content::{ExecuteRequest, InputRequest},
};
use serde_json::{Value, json};

const LIMIT_BYTES: usize = 1 << 24;

fn signer() -> Signer {
    Signer::new("hmac-sha256", b"2f1c1e3a-6f1f4c7c9c0c8a1d").expect("a key")
}

fn header(msg_type: &str) -> Header {
    Header {
        msg_id: "2f1c1e3a-6f1f4c7c9c0c8a1d_4711_42".into(),
        session: "2f1c1e3a-6f1f4c7c9c0c8a1d".into(),
        username: "kernelbridge".into(),
        date: "2026-02-03T04:05:06.789012Z".into(),
        msg_type: msg_type.into(),
        version: "5.4".into(),
        subshell_id: None,
    }
}

/// An `input_request` from a kernel, its content `size_bytes` long: a result of many small objects, as text.
fn reply(size_bytes: usize) -> Vec<Bytes> {
    let row = r#"{"id":"us7000abcd","mag":4.5,"place":"12 km S of Tōkyō"}"#;
    let content = |rows: usize, padding: usize| {
        let prompt = format!(r#"{{"id":7,"result":[{}],"e":"{}"}}"#, vec![row; rows].join(","), "x".repeat(padding));
        json!({ "prompt": prompt, "password": false })
    };
    let length = |rows: usize| content(rows, 0).to_string().len();
    let rows = size_bytes.saturating_sub(length(1)) / (length(3) - length(2));
    let content = content(rows, size_bytes - length(rows));
    let outgoing = Outgoing::new(header("input_request"), Some(header("execute_request")), &content).expect("JSON");
    assert_eq!(outgoing.content.len(), size_bytes);
    outgoing.into_frames(&signer()).expect("frames")
}

fn ours(frames: Vec<Bytes>, signer: &mut Signer) -> Message {
    match Received::parse(frames, signer, LIMIT_BYTES) {
        Received::Message(message) => message,
        Received::Odd(odd) => panic!("{}", odd.reason),
    }
}

/// As `jupyter-zmq-client` reads a message: each part to a value, all of them to a message.
fn theirs(frames: &Frames) -> JupyterMessage {
    let part = |json: &[u8]| serde_json::from_slice::<Value>(json).expect("JSON");
    let message = json!({
        "header": part(&frames.header),
        "parent_header": part(&frames.parent_header),
        "metadata": part(&frames.metadata),
        "content": part(&frames.content),
    });
    JupyterMessage::from_value(message).expect("a message")
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let signer = signer();
    group.bench_function("ours: build and sign", |bencher| {
        bencher.iter(|| {
            let content = ExecuteRequest::new(black_box("bridge._turn('pipe')"));
            let outgoing = Outgoing::new(header("execute_request"), None, &content).expect("JSON");
            outgoing.into_frames(&signer).expect("frames")
        });
    });
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reply");
    for (name, size_bytes) in [("78 B", 78), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let frames = reply(size_bytes);
        let parts = Frames::parse(frames.clone(), LIMIT_BYTES).expect("a message");
        group.throughput(Throughput::Bytes(size_bytes as u64));
        // A signer remembers what it saw, so each message meets a new one.
        let fresh = || (frames.clone(), signer());
        group.bench_function(BenchmarkId::new("ours: verify, parse", name), |bencher| {
            bencher.iter_batched(fresh, |(frames, mut signer)| ours(frames, &mut signer), BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("ours: verify, parse, content", name), |bencher| {
            bencher.iter_batched(
                fresh,
                |(frames, mut signer)| ours(frames, &mut signer).parse_content::<InputRequest>().expect("reads"),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("jupyter-protocol: parse, content", name), |bencher| {
            bencher.iter(|| match theirs(black_box(&parts)).content {
                JupyterMessageContent::InputRequest(request) => request,
                other => panic!("{}", other.message_type()),
            });
        });
        // With our verification, which theirs leaves to another crate.
        group.bench_function(BenchmarkId::new("jupyter-protocol: our verify, parse, content", name), |bencher| {
            bencher.iter_batched(
                signer,
                |mut signer| {
                    signer.verify(&parts.signature, parts.signed_parts()).expect("signed");
                    theirs(black_box(&parts))
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, write, read);
criterion_main!(benches);
