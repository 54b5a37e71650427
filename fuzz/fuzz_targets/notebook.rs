//! An `.ipynb`.
//!
//! `cargo +nightly fuzz run notebook -- -max_len=8192`

#![no_main]
#![allow(dead_code, reason = "each target uses one function")]

#[path = "../../tests/suite/parsers/exercise.rs"]
mod exercise;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    exercise::notebook(input);
});
