//! Channels against a peer that says byte by byte what it is told to.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A peer's greeting and `READY`.
fn hello(socket_type: &[u8]) -> Vec<u8> {
    let size_bytes = [0, 0, 0, u8::try_from(socket_type.len()).expect("short")];
    let ready = [b"\x05READY\x0bSocket-Type", &size_bytes[..], socket_type].concat();
    [&zmtp::GREETING[..], &zmtp::encode_command(&ready)].concat()
}

/// A listener and its endpoint.
async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let endpoint = format!("tcp://{}", listener.local_addr().expect("an address"));
    (listener, endpoint)
}

/// A channel and the stream that is its other end. `said` is said after the handshake.
async fn pair(said: &[u8]) -> (Channel, TcpStream) {
    let (listener, endpoint) = listen().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(&[&hello(b"ROUTER"), said].concat()).await.expect("written");
        let ready = zmtp::encode_command(&zmtp::ready(SocketType::Dealer, b"me"));
        let mut heard = vec![0; zmtp::GREETING.len() + ready.len()];
        stream.read_exact(&mut heard).await.expect("a handshake");
        assert_eq!(heard, [&zmtp::GREETING[..], &ready].concat());
        stream
    };
    let (channel, stream) = tokio::join!(Channel::connect(&endpoint, "me"), server);
    (channel.expect("connected"), stream)
}

async fn recv(channel: &mut Channel) -> Result<Arrival, ProtocolError> {
    timeout(DEADLINE, channel.recv()).await.expect("something comes")
}

async fn message(channel: &mut Channel) -> Vec<Bytes> {
    match recv(channel).await {
        Ok(Arrival::Message(frames)) => frames,
        other => panic!("{other:?}"),
    }
}

/// What comes of connecting to somebody who says this.
async fn meet(said: &[u8]) -> String {
    let (listener, endpoint) = listen().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(said).await.expect("written");
        stream
    };
    let connecting = timeout(DEADLINE, Channel::connect(&endpoint, "me"));
    let (channel, _stream) = tokio::join!(connecting, server);
    let error = channel.expect("in time").expect_err("refused").to_string();
    error.strip_prefix(&format!("cannot speak with {endpoint}: ")).expect("the endpoint is named").to_owned()
}

#[tokio::test]
async fn who_cannot_be_spoken_with_is_named() {
    let after = |said: &[u8]| [&zmtp::GREETING[..], said].concat();
    assert_eq!(meet(b"SSH-2.0-OpenSSH_9").await, "it does not speak ZMTP: it begins with `SSH-2.0-OpenSSH_`");
    assert_eq!(meet(&after(b"\0\x05hello")).await, "it does not say `READY`");
    assert_eq!(meet(&after(b"\x04\x05\x04PONG")).await, "it does not say `READY`");
    assert_eq!(meet(&after(b"\x04\x06\x05READY")).await, "it does not say `READY`: `READY` without a `Socket-Type`");
    assert_eq!(meet(&hello(b"PUSH")).await, "its socket is a \"PUSH\", not a `ROUTER`");
    let error = b"\x04\x0a\x05ERROR\x03no\x1b";
    assert_eq!(meet(&after(error)).await, "the other side of the connection refuses it: \"no\\u{1b}\"");
    let large = [&[6][..], &(1u64 << 40).to_be_bytes()].concat();
    assert_eq!(
        meet(&after(&large)).await,
        "a ZeroMQ frame of 1099511627776 bytes was announced, more than any limit allows"
    );
}

#[tokio::test]
async fn a_socket_that_is_not_there_yet_is_tried_again() {
    let (listener, endpoint) = listen().await;
    drop(listener);
    let late = async {
        sleep(Duration::from_millis(100)).await;
        let listener = TcpListener::bind(endpoint.trim_start_matches("tcp://")).await.expect("bound");
        // One that dies in the handshake is no error either: its process tells.
        drop(listener.accept().await.expect("a connection"));
        let (mut stream, _) = listener.accept().await.expect("another");
        stream.write_all(&hello(b"ROUTER")).await.expect("written");
        stream
    };
    let (channel, _stream) = tokio::join!(timeout(DEADLINE, Channel::connect(&endpoint, "me")), late);
    channel.expect("in time").expect("connected");
    let error = Channel::connect("udp://127.0.0.1:1", "me").await.expect_err("refused").to_string();
    assert_eq!(error, "cannot connect to udp://127.0.0.1:1: neither `tcp://` nor `ipc://`");
    let error = Channel::connect(&endpoint, &"x".repeat(256)).await.expect_err("refused");
    assert!(matches!(error, ChannelError::Identity { size_bytes: 256 }), "{error}");
}

#[tokio::test]
async fn messages_go_both_ways_and_commands_beside_them() {
    let (mut channel, mut stream) = pair(b"\x01\x01a\0\x02bc\x04\x09\x04PING\0\x0aid\0\0\x04\x05\x04PONG").await;
    assert_eq!(message(&mut channel).await, ["a", "bc"]);
    assert_eq!(message(&mut channel).await, [""]);
    channel.send(vec!["x".into(), vec![7; 20_000].into()]).await.expect("sent");
    assert!(matches!(channel.send(vec![]).await, Err(ChannelError::Empty)));
    let expected = [&b"\x04\x07\x04PONGid\x01\x01x\x02\0\0\0\0\0\0\x4e\x20"[..], &[7; 20_000]].concat();
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).await.expect("all of it");
    assert!(heard == expected, "{}", heard[..30].escape_ascii());
    // What is not understood is passed over.
    stream.write_all(b"\x04\x05\x04WHAT\x04\0\0\x02ok").await.expect("written");
    assert!(matches!(recv(&mut channel).await, Ok(Arrival::Refused(Refusal::Unknown { name })) if name == "WHAT"));
    assert!(matches!(recv(&mut channel).await, Ok(Arrival::Refused(Refusal::Broken(_)))));
    assert_eq!(message(&mut channel).await, ["ok"]);
    // The end is told once, after all that came before.
    stream.write_all(b"\0\x04last\0\x04half").await.expect("written");
    drop(stream);
    assert_eq!(message(&mut channel).await, ["last"]);
    assert_eq!(message(&mut channel).await, ["half"]);
    assert!(matches!(recv(&mut channel).await, Ok(Arrival::Closed)));
    assert!(timeout(Duration::from_millis(50), channel.recv()).await.is_err());
    assert!(matches!(channel.send(vec!["x".into()]).await, Err(ChannelError::Closed)));
}

#[tokio::test]
async fn nothing_is_lost_when_a_wait_is_given_up() {
    let (mut channel, mut stream) = pair(b"").await;
    let writer = async {
        for number in 0..100u8 {
            for piece in [&[1, 1, number, 0][..], &[2, number], &[number]] {
                stream.write_all(piece).await.expect("written");
                sleep(Duration::from_micros(300)).await;
            }
        }
    };
    let reader = async {
        let mut found = Vec::new();
        while found.len() < 100 {
            tokio::select! {
                biased;
                arrived = channel.recv() => match arrived {
                    Ok(Arrival::Message(frames)) => found.push(frames.concat()),
                    other => panic!("{other:?}"),
                },
                () = sleep(Duration::from_micros(100)) => {}
            }
        }
        found
    };
    let ((), found) = timeout(DEADLINE, async { tokio::join!(writer, reader) }).await.expect("it ends");
    assert_eq!(found, (0..100u8).map(|number| vec![number; 3]).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_announced_costs_nothing() {
    // More than the limit: passed over, and the next is read.
    let size_bytes = MESSAGE_BYTES + 1;
    let (mut channel, mut stream) = pair(b"").await;
    let writer = async {
        stream.write_all(&[&[2][..], &(size_bytes as u64).to_be_bytes()].concat()).await.expect("written");
        let piece = vec![7; 1 << 20];
        for _ in 0..size_bytes / piece.len() {
            stream.write_all(&piece).await.expect("written");
        }
        stream.write_all(b"\x07\0\x04next").await.expect("written");
        stream.write_all(&b"\x01\0".repeat(1_000_000)).await.expect("written");
        stream.write_all(b"\0\0\0\x04next").await.expect("written");
        stream
    };
    let reader = async {
        assert!(matches!(recv(&mut channel).await, Ok(Arrival::Refused(Refusal::Message { .. }))));
        assert_eq!(message(&mut channel).await, ["next"]);
        assert!(matches!(recv(&mut channel).await, Ok(Arrival::Refused(Refusal::Frames { .. }))));
        assert_eq!(message(&mut channel).await, ["next"]);
        assert!(channel.peer.kept_bytes() < 1 << 20, "{} bytes", channel.peer.kept_bytes());
    };
    let (mut stream, ()) = tokio::join!(writer, reader);
    // As much as is allowed, but it never comes.
    stream.write_all(&[&[2][..], &(MESSAGE_BYTES as u64).to_be_bytes(), b"x"].concat()).await.expect("written");
    assert!(timeout(Duration::from_millis(50), channel.recv()).await.is_err());
    assert!(channel.peer.kept_bytes() < 1 << 20, "{} bytes", channel.peer.kept_bytes());
    // A lie: the end of the channel.
    let (mut channel, _stream) = pair(&[&b"\0\x01x\x02"[..], &(1u64 << 63).to_be_bytes()].concat()).await;
    assert_eq!(message(&mut channel).await, ["x"]);
    let lie = ProtocolError::Absurd { size_bytes: 1 << 63 };
    assert_eq!(recv(&mut channel).await.expect_err("a lie"), lie);
    assert!(timeout(Duration::from_millis(50), channel.recv()).await.is_err(), "told once");
    let error = channel.send(vec!["x".into()]).await.expect_err("closed");
    assert!(matches!(&error, ChannelError::Broken(error) if *error == lie), "{error}");
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let (mut channel, mut stream) = pair(b"").await;
    let body: Bytes = (0..30_000_000u32).map(|byte| byte as u8).collect::<Vec<_>>().into();
    let pieces = zmtp::encode(vec!["id".into(), body.clone(), "end".into()]);
    let writer = async {
        for piece in pieces {
            stream.write_all(&piece).await.expect("written");
        }
    };
    let ((), found) = tokio::join!(writer, message(&mut channel));
    assert!(found == ["id".into(), body.clone(), "end".into()] as [Bytes; 3]);
    // And the other way, while the other side reads slowly.
    channel.send(found).await.expect("queued");
    let reader = async {
        let mut heard = vec![0; 4 + 9 + body.len() + 5];
        stream.read_exact(&mut heard).await.expect("all of it");
        assert!(heard.ends_with(b"\0\x03end"));
        assert!(heard[13..].starts_with(&body));
    };
    tokio::select! {
        () = reader => {}
        arrived = channel.recv() => panic!("{arrived:?}"),
    }
}

#[tokio::test]
async fn who_does_not_read_is_stuck_and_heard_all_the_same() {
    let (mut channel, mut stream) = pair(b"").await;
    let piece = Bytes::from(vec![7; 16 << 20]);
    let mut queued = 0;
    let error = loop {
        match timeout(DEADLINE, channel.send(vec![piece.clone()])).await.expect("in time") {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ChannelError::Stuck), "{error}");
    assert!((4..=6).contains(&queued), "{queued} messages of 16 MiB were queued");
    assert!(matches!(channel.send(vec!["x".into()]).await, Err(ChannelError::Stuck)));
    stream.write_all(b"\0\x02hi").await.expect("written");
    assert_eq!(message(&mut channel).await, ["hi"]);
}

#[tokio::test]
async fn a_subscriber_asks_for_everything_and_a_heart_is_heard() {
    let (listener, endpoint) = listen().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut said = [&hello(b"XPUB")[..], b"\0\x01x"].concat();
        // It speaks 3.1.
        said[11] = 1;
        stream.write_all(&said).await.expect("written");
        let mut heard = vec![0; 64 + 27 + 3];
        stream.read_exact(&mut heard).await.expect("a subscription");
        assert!(heard.ends_with(b"\x03SUB\0\x01\x01"), "{}", heard.escape_ascii());
        stream
    };
    let (iopub, _stream) = tokio::join!(Iopub::connect(&endpoint), server);
    let mut iopub = iopub.expect("connected");
    assert!(matches!(iopub.recv().await, Ok(Arrival::Message(frames)) if frames == ["x"]));

    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("kernel-5");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(&hello(b"REP")).await.expect("written");
        let mut heard = vec![0; 64 + 27 + 8];
        stream.read_exact(&mut heard).await.expect("a beat");
        assert!(heard.ends_with(b"\x03REQ\x01\0\0\x04ping"), "{}", heard.escape_ascii());
        stream.write_all(b"\x01\0\0\x04ping").await.expect("written");
        stream
    };
    let endpoint = format!("ipc://{}", path.display());
    let (beat, _stream) = tokio::join!(timeout(DEADLINE, heartbeat::beat(&endpoint)), server);
    beat.expect("in time").expect("an echo");
}
