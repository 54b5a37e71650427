//! The records that go through every system.

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// One record; its text has 64 bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: u64,
    pub text: String,
    pub value: i64,
}

impl Record {
    pub fn new(id: u64) -> Self {
        let text = format!("{id:08x} the quick brown fox jumps over the lazy dog, again and again");
        Self { id, text: text[..64].to_owned(), value: id as i64 + 41 }
    }

    pub fn many(count: usize) -> Vec<Self> {
        (0..count as u64).map(Self::new).collect()
    }

    /// Is this the answer?
    pub fn check(&self, answer: &Self) -> anyhow::Result<()> {
        let is_upper = answer.text.len() == self.text.len()
            && answer.text.bytes().zip(self.text.bytes()).all(|(upper, lower)| upper == lower.to_ascii_uppercase());
        let is_right = answer.id == self.id && answer.value == self.value + 1 && is_upper;
        ensure!(is_right, "a wrong answer: {answer:?} to {self:?}");
        Ok(())
    }
}

/// Are these the answers, in this order?
pub(super) fn check_all(records: &[Record], answers: &[Record]) -> anyhow::Result<()> {
    ensure!(records.len() == answers.len(), "{} answers to {} records", answers.len(), records.len());
    records.iter().zip(answers).try_for_each(|(record, answer)| record.check(answer))
}

/// So many megabytes of 64-bit floats, little endian, and their sum.
pub(super) fn floats(megabytes: usize) -> (Vec<u8>, f64) {
    let count = megabytes * 1_000_000 / 8;
    // Small whole numbers, so that the sum is exact in any order.
    let value = |index: usize| (index % 1000) as f64;
    let bytes = (0..count).flat_map(|index| value(index).to_le_bytes()).collect();
    (bytes, (0..count).map(value).sum())
}

/// Is this the sum?
pub(super) fn check_sum(expected: f64, sum: f64) -> anyhow::Result<()> {
    ensure!(expected == sum, "a wrong sum: {sum}, not {expected}");
    Ok(())
}
