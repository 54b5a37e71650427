//! Everything a program does with one message from outside, and what must hold whatever the bytes are.
//!
//! Shared by the tests and by `fuzz/fuzz_targets/wire.rs`, so that a stable toolchain checks what the fuzzer checks.

use bytes::Bytes;
use kernelbridge::wire::{
    DELIMITER, Frames, Message, Odd, OddReason, Outgoing, Received, Signer, VerifyError,
    content::{DisplayData, ErrorOutput, ExecuteReply, InputRequest, KernelInfoReply, Raw, StatusOutput, Stream},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Larger messages are refused.
pub const LIMIT_BYTES: usize = 1 << 20;

/// The signer of both ends.
pub fn signer() -> Signer {
    Signer::new("hmac-sha256", b"5ca1ab1e").expect("a key")
}

/// A message with a right signature, whatever its parts are.
///
/// Missing parts are empty; parts after the fourth are buffers.
pub fn sign(identities: Vec<Bytes>, parts: &[Bytes]) -> Vec<Bytes> {
    let part = |index: usize| parts.get(index).cloned().unwrap_or_default();
    let mut frames = Frames {
        identities,
        signature: Bytes::new(),
        header: part(0),
        parent_header: part(1),
        metadata: part(2),
        content: part(3),
        buffers: parts.get(4..).unwrap_or_default().to_vec(),
    };
    frames.signature = signer().sign(frames.signed_parts()).into();
    frames.into_vec()
}

/// Read a message, then everything in it. Returns whether it was accepted; panics when something is wrong with us.
pub fn read(frames: &[Bytes]) -> bool {
    let mut signer = signer();
    let size_bytes = frames.iter().map(Bytes::len).sum::<usize>();
    let message = match Received::parse(frames.to_vec(), &mut signer, LIMIT_BYTES) {
        Received::Message(message) => message,
        Received::Odd(odd) => {
            assert_eq!(odd.size_bytes, size_bytes);
            assert!(!odd.reason.to_string().is_empty());
            return false;
        }
    };
    assert!(size_bytes <= LIMIT_BYTES);
    accepted_frames_are_exactly_what_was_signed(frames, &message);
    assert!(
        matches!(
            Received::parse(frames.to_vec(), &mut signer, LIMIT_BYTES),
            Received::Odd(Odd { reason: OddReason::Signature(VerifyError::Replayed), .. })
        ),
        "accepted twice"
    );
    contents_are_read_or_refused(&message);
    what_was_read_can_be_sent(message);
    true
}

fn accepted_frames_are_exactly_what_was_signed(frames: &[Bytes], message: &Message) {
    let parts = Frames::parse(frames.to_vec(), LIMIT_BYTES).expect("a message has parts");
    assert_eq!(parts.signature, signer().sign(parts.signed_parts()));
    assert!(parts.header.trim_ascii_start().starts_with(b"{"), "a header is an object");
    assert_eq!(
        (&message.identities, &message.metadata, &message.content, &message.buffers),
        (&parts.identities, &parts.metadata, &parts.content, &parts.buffers)
    );
    assert!(!message.identities.iter().any(|identity| identity.as_ref() == DELIMITER));
    assert_eq!(parts.into_vec(), frames);
}

fn contents_are_read_or_refused(message: &Message) {
    fn parse<T: DeserializeOwned>(message: &Message) -> Option<T> {
        message.parse_content().map_err(|error| assert!(!error.to_string().is_empty())).ok()
    }
    fn settles<T: DeserializeOwned + Serialize>(message: &Message) {
        let Some(content) = parse::<T>(message) else { return };
        let once = serde_json::to_value(&content).expect("contents are JSON");
        let again: T = serde_json::from_str(&once.to_string()).expect("what we write we read");
        assert_eq!(serde_json::to_value(&again).expect("contents are JSON"), once);
    }
    settles::<ExecuteReply>(message);
    settles::<KernelInfoReply>(message);
    parse::<InputRequest>(message);
    parse::<Stream>(message);
    parse::<DisplayData>(message);
    parse::<ErrorOutput>(message);
    parse::<StatusOutput>(message);
    parse::<Raw>(message);
    parse::<Value>(message);
}

fn what_was_read_can_be_sent(message: Message) {
    let Message { header, parent, content, .. } = message;
    let outgoing = Outgoing { header: header.clone(), parent: parent.clone(), content: content.clone() };
    let frames = outgoing.into_frames(&signer()).expect("headers are JSON");
    let Received::Message(again) = Received::parse(frames, &mut signer(), usize::MAX) else {
        panic!("we refuse our own message");
    };
    assert_eq!((again.header, again.parent, again.content), (header, parent, content));
}
