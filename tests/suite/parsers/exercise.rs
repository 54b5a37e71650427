//! Everything a program does with a text from outside, and what must hold whatever the bytes are.
//!
//! Shared by the tests and by the targets in `fuzz/fuzz_targets`. Each returns whether the text was accepted, and panics
//! when something is wrong with us.

use std::str::from_utf8;

use bytes::{Bytes, BytesMut};
use kernelbridge::{
    kernelspec::Kernelspec,
    language::Language,
    manifest::Manifest,
    notebook::Notebook,
    rpc::{Attach, Done, Inbound, Message, Plea, take_frame},
    zmtp::{Command, Decoder, Item, Limits, ProtocolError, encode, encode_command, take_greeting},
};
use serde_json::{Value, value::RawValue};

/// Largest body that is accepted.
const LIMIT_BYTES: usize = 1 << 16;

/// A `kernel.json`.
pub fn kernelspec(bytes: &[u8]) -> bool {
    match Kernelspec::parse("name", "/kernels/name", bytes) {
        Ok(parsed) => {
            assert!(!parsed.kernelspec.title().is_empty());
            true
        }
        Err(error) => says_why(&error),
    }
}

/// A `plugin.toml`.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else { return false };
    match Manifest::parse(text, "plugin.toml") {
        Ok(manifest) => {
            assert!(manifest.kernelspec().is_some() || manifest.language().is_some());
            true
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(error.problems.iter().all(|problem| !problem.message.is_empty()));
            says_why(&error)
        }
    }
}

/// A `language.toml`.
pub fn language(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else { return false };
    match Language::parse(text) {
        Ok(language) => language.is_called(&language.name.to_uppercase()) || !language.name.is_ascii(),
        Err(error) => says_why(&error),
    }
}

/// An `.ipynb`.
pub fn notebook(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else { return false };
    match Notebook::parse(text, "plugin.ipynb") {
        Ok(notebook) => {
            notebook.entry_cells().chain(notebook.test_cells()).for_each(|cell| assert!(!cell.name.is_empty()));
            true
        }
        Err(error) => says_why(&error),
    }
}

/// What a shim sends.
pub fn rpc(bytes: &[u8]) -> bool {
    let is_json = |value: &RawValue| assert!(serde_json::from_str::<&RawValue>(value.get()).is_ok());
    let mut accepted = true;
    for message in Inbound::parse(bytes) {
        match message {
            Inbound::Response { result: Ok(result), .. } => is_json(&kernelbridge::rpc::compact(result)),
            Inbound::Response { result: Err(error), .. } => {
                assert!(!error.report().is_empty());
                assert!(serde_json::from_str::<Value>(&error.to_json().to_string()).is_ok());
            }
            Inbound::Request { plea: Ok(Plea::Call { args, .. }), .. } => assert!(args.get().starts_with('[')),
            Inbound::Request { plea: Ok(Plea::Emit { data, .. }), .. } => is_json(&data),
            Inbound::Request { plea: Err(error), .. } => assert!(!error.message.is_empty()),
            Inbound::Bad { reason } => {
                assert!(!reason.is_empty());
                accepted = false;
            }
            Inbound::Output { name, .. } => assert!(name == "stdout" || name == "stderr"),
            Inbound::Ready
            | Inbound::Log { .. }
            | Inbound::Progress { .. }
            | Inbound::Handlers { .. }
            | Inbound::Cell { .. } => {}
        }
    }
    link(bytes);
    accepted
}

/// What a shim answers to a batch of events, or to a table: how many there were, the answer, and the bytes that it names,
/// with a zero byte between each two.
pub fn answer(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (count, json, named) = (part(), part(), Bytes::copy_from_slice(part()));
    let count = from_utf8(count).ok().and_then(|count| count.parse().ok()).unwrap_or(2_usize);
    let Ok(answer) = serde_json::from_slice::<Box<RawValue>>(json) else { return false };
    #[cfg(feature = "arrow")]
    match kernelbridge::table::unpack(&answer, named.clone(), count) {
        Ok(table) => assert_eq!(table.num_rows(), count),
        Err(error) => drop(says_why(&error)),
    }
    match Done::read(&answer, count, |_| Ok(named)) {
        Ok(Done::All(results)) => {
            // That many rows of nothing cost nothing else to say.
            if count <= 1 << 16 {
                let rows = results.rows(count);
                assert_eq!(rows.len(), count);
                assert!(rows.iter().all(|row| serde_json::from_str::<&RawValue>(row.get()).is_ok()));
            }
            true
        }
        Ok(Done::Each(outcomes)) => outcomes.len() == count,
        Err(error) => {
            assert!(!error.message.is_empty());
            false
        }
    }
}

/// The same as what a peer of a link sends.
fn link(bytes: &[u8]) {
    for message in Message::parse(bytes) {
        match message {
            Message::Request { params, .. } | Message::Notification { params, .. } => {
                assert!(serde_json::from_str::<&RawValue>(params.get()).is_ok());
                if let Ok(attach) = serde_json::from_str::<Attach>(params.get()) {
                    assert!(attach.token.len() < 8 || !format!("{attach:?}").contains(&*format!("{:?}", attach.token)));
                }
            }
            Message::Response { result: Ok(result), .. } => {
                assert!(serde_json::from_str::<&RawValue>(result.get()).is_ok())
            }
            Message::Response { result: Err(error), .. } => assert!(!error.report().is_empty()),
            Message::Bad { reason } => assert!(!reason.is_empty()),
        }
    }
}

/// What comes out of a pipe, in one piece and byte by byte: the same frames.
pub fn frames(bytes: &[u8]) -> bool {
    let mut whole = BytesMut::from(bytes);
    let mut found = Vec::new();
    let end = loop {
        match take_frame(&mut whole, LIMIT_BYTES) {
            Ok(Some(body)) => found.push(body),
            other => break other.err(),
        }
    };
    assert!(found.iter().all(|body| body.len() <= LIMIT_BYTES));
    let (mut slow, mut again) = (BytesMut::new(), Vec::new());
    let slow_end = bytes.iter().find_map(|byte| {
        slow.extend_from_slice(&[*byte]);
        loop {
            match take_frame(&mut slow, LIMIT_BYTES) {
                Ok(Some(body)) => again.push(body),
                other => return other.err(),
            }
        }
    });
    assert_eq!((again, slow_end), (found, end));
    end.is_none()
}

/// What comes from a kernel's socket, greeting first: the same in one piece and byte by byte.
pub fn zmtp(bytes: &[u8]) -> bool {
    const LIMITS: Limits = Limits { message_bytes: 1000, frames: 20, command_bytes: 100, absurd_bytes: 1 << 16 };
    let read = |piece: usize| {
        let (mut read, mut decoder) = (BytesMut::new(), Decoder::new(LIMITS));
        let (mut is_greeted, mut items) = (false, Vec::new());
        for piece in bytes.chunks(piece) {
            read.extend_from_slice(piece);
            if !is_greeted {
                match take_greeting(&mut read) {
                    Ok(None) => continue,
                    Ok(Some(greeting)) => is_greeted = greeting.version.0 >= 3,
                    Err(error) => return (items, !says_why(&error)),
                }
            }
            loop {
                match decoder.take(&mut read) {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error @ ProtocolError::Absurd { size_bytes }) => {
                        assert!(size_bytes > LIMITS.absurd_bytes);
                        return (items, !says_why(&error));
                    }
                    Err(error) => return (items, !says_why(&error)),
                }
            }
            // One frame or its announcement.
            assert!(read.len() < LIMITS.message_bytes + 9, "{} bytes are kept", read.len());
        }
        (items, false)
    };
    let (items, is_broken) = read(1);
    assert_eq!((&items, is_broken), (&read(17).0, read(17).1));
    let mut again = BytesMut::new();
    for item in &items {
        match item {
            Item::Message(frames) => {
                assert!((1..=LIMITS.frames).contains(&frames.len()));
                assert!(frames.iter().map(Bytes::len).sum::<usize>() <= LIMITS.message_bytes);
                encode(frames.clone()).iter().for_each(|piece| again.extend_from_slice(piece));
            }
            Item::Command(body) => {
                assert!(body.len() <= LIMITS.command_bytes);
                if let Err(error) = Command::parse(body.clone()) {
                    says_why(&error);
                }
                again.extend_from_slice(&encode_command(body));
            }
            Item::Refused(refusal) => drop(says_why(refusal)),
        }
    }
    // What was accepted is written and read as the same.
    let mut decoder = Decoder::new(LIMITS);
    for item in items.iter().filter(|item| !matches!(item, Item::Refused(_))) {
        assert_eq!(decoder.take(&mut again).as_ref(), Ok(&Some(item.clone())));
    }
    assert!(again.is_empty());
    !is_broken
}

fn says_why(error: &impl std::error::Error) -> bool {
    assert!(!error.to_string().is_empty());
    false
}
