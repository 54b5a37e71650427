//! Signatures and frames against `jupyter_client`'s `Session`, both ways.

use bytes::Bytes;
use fastrand::Rng;
use kernelbridge::{
    connection::ConnectionInfo,
    wire::{Header, Message, OddReason, Outgoing, Received, Signer, VerifyError},
};
use serde_json::{Map, Value, json};

use super::{
    oracle::{Oracle, decode, decode_all, encode},
    random,
};

const KEY: &[u8] = b"2f1c1e3a-6f1f4c7c9c0c8a1d";
/// Larger than any message here.
const LIMIT_BYTES: usize = 1 << 26;

fn signer() -> Signer {
    Signer::new("hmac-sha256", KEY).expect("a key")
}

/// Contents of every size and shape: random ones, a deep one, long ones.
fn contents(rng: &mut Rng, count: usize) -> Vec<Map<String, Value>> {
    let mut contents: Vec<_> = (0..count).map(|_| random::object(rng, 6)).collect();
    // serde_json reads 127 levels into a `Value`, far more than any kernel sends.
    contents.push(random::deep(120));
    let text: String = (0..20_000).map(|_| random::text(rng)).collect();
    contents.push(Map::from_iter([("text".to_owned(), text.into())]));
    let numbers: Vec<f64> = (0..100_000).map(|_| rng.f64()).collect();
    contents.push(Map::from_iter([("numbers".to_owned(), numbers.into())]));
    contents
}

fn outgoing(rng: &mut Rng, content: &Map<String, Value>) -> Outgoing {
    let parent = rng.bool().then(|| random::header(rng, "input_request"));
    Outgoing::new(random::header(rng, "execute_request"), parent, content).expect("JSON")
}

fn accept(frames: &[Bytes], signer: &mut Signer) -> Message {
    match Received::parse(frames.to_vec(), signer, LIMIT_BYTES) {
        Received::Message(message) => message,
        Received::Odd(odd) => panic!("refused: {}", odd.reason),
    }
}

fn refusal(frames: &[Bytes], signer: &mut Signer) -> Option<OddReason> {
    match Received::parse(frames.to_vec(), signer, LIMIT_BYTES) {
        Received::Message(_) => None,
        Received::Odd(odd) => Some(odd.reason),
    }
}

#[test]
fn signatures_equal_those_of_jupyter_client() {
    let Some(mut oracle) = Oracle::start() else { return };
    let rng = &mut Rng::with_seed(1);
    for round in 0..500 {
        // Keys longer than a block of SHA-256 are hashed first.
        let key = [random::bytes(rng, 200), vec![1]].concat();
        let longest = if round % 50 == 0 { 300_000 } else { 300 };
        let parts: [Vec<u8>; 4] = std::array::from_fn(|_| random::bytes(rng, longest));
        let ours = Signer::new("hmac-sha256", &key).expect("a key").sign(parts.each_ref().map(Vec::as_slice));
        let theirs = oracle.ask("sign", json!({ "key": encode(&key), "parts": parts.each_ref().map(encode) }));
        assert_eq!(theirs["signature"], ours, "key {key:?}, parts {parts:?}");
    }
}

#[test]
fn jupyter_client_reads_what_we_write_once() {
    let Some(mut oracle) = Oracle::start() else { return };
    let rng = &mut Rng::with_seed(2);
    for content in contents(rng, 300) {
        let outgoing = outgoing(rng, &content);
        let (header, parent) = (outgoing.header.clone(), outgoing.parent.clone());
        let frames = outgoing.into_frames(&signer()).expect("frames");
        let theirs = oracle.deserialize(KEY, &frames).expect("accepted");
        let dict = |header: &Header| serde_json::to_value(header).expect("JSON");
        assert_eq!(theirs["header"], dict(&header));
        assert_eq!(theirs["parent_header"], parent.as_ref().map_or_else(|| json!({}), dict));
        assert_eq!(
            (&theirs["metadata"], &theirs["identities"], &theirs["buffers"]),
            (&json!({}), &json!([]), &json!([]))
        );
        assert_eq!(theirs["content"], Value::Object(content));

        // A second time is a replay, to them and to us.
        let replayed = oracle.deserialize(KEY, &frames).expect_err("replayed");
        assert!(replayed.starts_with("ValueError: Duplicate Signature"), "{replayed}");
        let signer = &mut signer();
        assert_eq!(refusal(&frames, signer), None);
        assert_eq!(refusal(&frames, signer), Some(OddReason::Signature(VerifyError::Replayed)));
    }
}

#[test]
fn we_read_what_jupyter_client_writes_once() {
    let Some(mut oracle) = Oracle::start() else { return };
    let rng = &mut Rng::with_seed(3);
    let signer = &mut signer();
    for content in contents(rng, 300) {
        let metadata = random::object(rng, 3);
        let parent = rng.bool().then(|| random::header(rng, "execute_request"));
        let identities: Vec<_> = (0..rng.usize(..3)).map(|_| random::bytes(rng, 20)).collect();
        let buffers: Vec<_> = (0..rng.usize(..3)).map(|_| random::bytes(rng, 2_000)).collect();
        let theirs = oracle.ask(
            "serialize",
            json!({
                "key": encode(KEY),
                "msg_type": "comm_msg",
                "content": content,
                "parent": parent,
                "metadata": metadata,
                "identities": identities.iter().map(encode).collect::<Vec<_>>(),
                "buffers": buffers.iter().map(encode).collect::<Vec<_>>(),
            }),
        );
        let frames = decode_all(&theirs["frames"]);
        let message = accept(&frames, signer);
        assert_eq!(serde_json::to_value(&message.header).expect("JSON"), theirs["header"]);
        assert_eq!(message.parent, parent);
        assert_eq!(message.identities, identities);
        assert_eq!(message.buffers, buffers);
        assert_eq!(serde_json::from_slice::<Map<_, _>>(&message.metadata).expect("JSON"), metadata);
        assert_eq!(message.parse_content::<Map<_, _>>().expect("JSON"), content);
        assert_eq!(refusal(&frames, signer), Some(OddReason::Signature(VerifyError::Replayed)));
    }
}

/// Change a message that has one identity, five parts and one buffer.
fn tamper(rng: &mut Rng, frames: &mut Vec<Bytes>) -> &'static str {
    const SIGNATURE: usize = 2;
    let part = rng.usize(SIGNATURE..SIGNATURE + 5);
    let mut bytes = frames[part].to_vec();
    let change = match rng.u8(..10) {
        0 => {
            frames.remove(part);
            return "part removed";
        }
        1 => {
            // The double of the content would be a buffer, which is not signed, and metadata may equal the content.
            let part = part.min(SIGNATURE + 2);
            let copy = frames[part].clone();
            frames.insert(part, copy);
            return "part doubled";
        }
        2 => {
            frames.truncate(part);
            return "rest cut off";
        }
        3 => {
            frames[1] = Bytes::from_static(b"<IDS|MSG");
            return "delimiter damaged";
        }
        4 => {
            frames[SIGNATURE] = Bytes::new();
            return "signature removed";
        }
        5 => {
            frames[SIGNATURE] = frames[SIGNATURE].to_ascii_uppercase().into();
            return "signature in upper case";
        }
        6 => {
            bytes.truncate(rng.usize(..bytes.len()));
            "end cut off"
        }
        7 => {
            bytes.insert(rng.usize(..=bytes.len()), b' ');
            "space inserted"
        }
        8 => {
            bytes.extend_from_slice(b"00");
            "bytes appended"
        }
        _ => {
            let index = rng.usize(..bytes.len());
            bytes[index] ^= 1 << rng.u8(..8);
            "bit flipped"
        }
    };
    frames[part] = bytes.into();
    change
}

#[test]
fn tampered_messages_are_refused_by_both() {
    let Some(mut oracle) = Oracle::start() else { return };
    let rng = &mut Rng::with_seed(4);
    for _ in 0..1_000 {
        let content = random::object(rng, 3);
        let mut outgoing = outgoing(rng, &content);
        // Parts that differ, so that a doubled or removed one always changes what was signed.
        outgoing.parent = Some(random::header(rng, "input_request"));
        let mut frames = vec![Bytes::from_static(b"identity")];
        frames.extend(outgoing.into_frames(&signer()).expect("frames"));
        frames.push(Bytes::from_static(b"buffer"));
        let whole = frames.clone();
        let change = tamper(rng, &mut frames);
        let ours = refusal(&frames, &mut signer());
        assert!(ours.is_some(), "{change}: we accepted {frames:?}");
        assert!(oracle.deserialize(KEY, &frames).is_err(), "{change}: jupyter_client accepted {frames:?}");

        // Whatever was tried, the message itself still arrives. Not so at jupyter_client: it remembers a signature before
        // it has verified it.
        accept(&whole, &mut signer());
    }
}

#[test]
fn buffers_are_not_signed() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut frames = outgoing(&mut Rng::with_seed(5), &Map::new()).into_frames(&signer()).expect("frames");
    frames.push(Bytes::from_static(b"changed on the way"));
    assert_eq!(accept(&frames, &mut signer()).buffers, frames[6..]);
    assert_eq!(decode_all(&oracle.deserialize(KEY, &frames).expect("accepted")["buffers"]), frames[6..]);
}

#[test]
fn another_key_is_refused_by_both() {
    let Some(mut oracle) = Oracle::start() else { return };
    let frames = outgoing(&mut Rng::with_seed(6), &Map::new()).into_frames(&signer()).expect("frames");
    let refused = oracle.deserialize(b"other", &frames).expect_err("refused");
    assert!(refused.starts_with("ValueError: Invalid Signature"), "{refused}");
    let other = &mut Signer::new("hmac-sha256", b"other").expect("a key");
    assert_eq!(refusal(&frames, other), Some(OddReason::Signature(VerifyError::Wrong)));
}

#[test]
fn jupyter_client_finds_our_endpoints() {
    let Some(mut oracle) = Oracle::start() else { return };
    for (transport, ip) in [("tcp", "127.0.0.1"), ("ipc", "/run/kernelbridge/kernel-1"), ("ipc", "relative")] {
        let connection = ConnectionInfo {
            transport: transport.into(),
            ip: ip.into(),
            shell_port: 1,
            iopub_port: 65_535,
            stdin_port: 3,
            control_port: 4,
            hb_port: 5,
            signature_scheme: "hmac-sha256".into(),
            key: "é-key".into(),
            kernel_name: "python3".into(),
        };
        let theirs = oracle.ask("endpoints", json!({ "connection": connection }));
        let ours = connection.ports().map(|port| connection.endpoint(port));
        assert_eq!(theirs["endpoints"], json!(ours));
        assert_eq!(decode(&theirs["key"]), connection.key.as_bytes());
    }
}
