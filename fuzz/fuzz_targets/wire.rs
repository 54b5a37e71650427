//! Messages made of arbitrary bytes.
//!
//! `fuzz/seed && cargo +nightly fuzz run wire -- -max_len=8192`
//!
//! The input is lines, so that real messages are readable seeds (`fuzz/seed` writes them). The first line says what
//! follows: `signed` the parts of a message, which are then signed, so that everything behind the signature is reached;
//! anything else is followed by frames as they come out of a socket.

#![no_main]

#[path = "../../tests/suite/wire/exercise.rs"]
mod exercise;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|&byte| byte == b'\n').map(Bytes::copy_from_slice);
    let frames = match lines.next().as_deref() {
        Some(b"signed") => exercise::sign(vec![Bytes::from_static(b"identity")], &lines.collect::<Vec<_>>()),
        _ => lines.collect(),
    };
    exercise::read(&frames);
});
