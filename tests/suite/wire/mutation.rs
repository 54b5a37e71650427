//! Broken variants of real messages, on a stable toolchain and in every run of the tests.
//!
//! Mutation by hand and not `proptest`: its strategies generate and shrink values, while here the value is in where a
//! real message is broken; and 200,000 of them have to pass in seconds. The seed is fixed, and a failure prints the
//! round that repeats it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bytes::Bytes;
use fastrand::Rng;

use super::{exercise, recorded::Recorded};

const ROUNDS: u64 = 200_000;

/// Pieces that parsers stumble over.
const PIECES: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"0",
    b"-0.0",
    b"1e999",
    b"1E400",
    b"18446744073709551616",
    b"true",
    b"NaN",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud83d",
    b"\\udf0d\\ud83c",
    b"\\u12",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\xbd",
    b"\xf0\x9f\x8c",
    b"\xef\xbb\xbf",
    b"\0",
    b"<IDS|MSG>",
    b"\"msg_id\":1,",
    b"\"status\":\"abort\",",
    b"\"subshell_id\":[],",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
];

/// Break one part of a message, or any other text.
pub fn mutate(rng: &mut Rng, part: &Bytes, other: &Bytes) -> Bytes {
    let mut bytes = part.to_vec();
    for _ in 0..rng.usize(1..4) {
        let (start, end) = {
            let (a, b) = (rng.usize(..=bytes.len()), rng.usize(..=bytes.len()));
            // Short ranges mostly: they leave something to parse.
            let (start, end) = (a.min(b), a.max(b));
            (start, if rng.u8(..4) == 0 { end } else { end.min(start + 8) })
        };
        // The first ten are whole values.
        let (piece, value) = (PIECES[rng.usize(..PIECES.len())], PIECES[rng.usize(..10)]);
        match rng.u8(..9) {
            0 => drop(bytes.drain(start..end)),
            1 => drop(bytes.splice(start..end, piece.iter().copied())),
            2 => drop(bytes.splice(start..start, piece.iter().copied())),
            3 => drop(bytes.splice(start..end, other.iter().copied().skip(start).take(64).collect::<Vec<_>>())),
            4 => drop(bytes.splice(start..start, piece.repeat(rng.usize(..300)))),
            5 if start < bytes.len() => bytes[start] ^= 1 << rng.u8(..8),
            6 => replace_value(rng, &mut bytes, piece),
            7 => replace_value(rng, &mut bytes, value),
            _ => {
                let copy = bytes[start..end].to_vec();
                drop(bytes.splice(end..end, copy));
            }
        }
    }
    bytes.into()
}

/// Put a piece where a value of an object begins and ends, so that the rest stays readable.
fn replace_value(rng: &mut Rng, bytes: &mut Vec<u8>, piece: &[u8]) {
    let colons: Vec<_> = (0..bytes.len()).filter(|&index| bytes[index] == b':').collect();
    let Some(&colon) = rng.choice(&colons) else { return };
    let end = bytes[colon..].iter().position(|byte| matches!(byte, b',' | b'}')).map_or(bytes.len(), |end| colon + end);
    drop(bytes.splice(colon + 1..end, piece.iter().copied()));
}

/// Break a message; most are signed afterwards, so that what lies behind the signature is reached.
fn variant(rng: &mut Rng, all: &[Recorded]) -> Vec<Bytes> {
    let (recorded, other) = (&all[rng.usize(..all.len())], &all[rng.usize(..all.len())]);
    let mut parts = recorded.parts.clone();
    let part = rng.usize(..parts.len());
    let donor = &other.parts[rng.usize(..other.parts.len())];
    match rng.u8(..12) {
        0 => parts[part] = donor.clone(),
        1 => parts.truncate(part),
        2 => parts.push(donor.clone()),
        _ => parts[part] = mutate(rng, &parts[part], donor),
    }
    let mut frames = exercise::sign(recorded.identities.clone(), &parts);
    if rng.u8(..8) == 0 {
        let (frame, last) = (rng.usize(..frames.len()), frames.len() - 1);
        match rng.u8(..3) {
            0 => drop(frames.remove(frame)),
            1 => frames.swap(frame, last),
            _ => frames[frame] = mutate(rng, &frames[frame], donor),
        }
    }
    frames
}

#[test]
fn no_message_breaks_us() {
    let all = Recorded::all();
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let frames = variant(&mut Rng::with_seed(round), &all);
        match catch_unwind(AssertUnwindSafe(|| exercise::read(&frames))) {
            Ok(was_accepted) => accepted += u64::from(was_accepted),
            Err(panic) => {
                println!("round {round}: {frames:?}");
                resume_unwind(panic);
            }
        }
    }
    // Mutations that all died at the signature or the header would prove nothing.
    assert!((ROUNDS / 2..ROUNDS * 9 / 10).contains(&accepted), "{accepted} of {ROUNDS} accepted");
}
