//! What a shim answers to batches and tables.
//!
//! `cargo +nightly fuzz run answers -- -max_len=4096`

#![no_main]
#![allow(dead_code, reason = "each target uses one function")]

#[path = "../../tests/suite/parsers/exercise.rs"]
mod exercise;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| drop(exercise::answer(input)));
