//! Outputs of a kernel, metered so that a flood of prints never fills memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::wire::{Message, content};

/// How many bytes of outputs may wait for their reader.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Something that a kernel printed or showed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// Printed.
    Stream {
        /// `stdout` or `stderr`.
        name: String,
        /// What.
        text: String,
    },
    /// Shown: a plot, a table, or the value of the last expression.
    Display {
        /// By MIME type; binary ones in base64.
        data: Map<String, Value>,
        /// By MIME type.
        metadata: Map<String, Value>,
    },
    /// An error that was shown.
    Error {
        /// Its name.
        ename: String,
        /// Its message.
        evalue: String,
        /// Lines, often with terminal colours.
        traceback: Vec<String>,
    },
}

impl Output {
    /// The output in an iopub message; `None` for messages that are none (`status`, `execute_input`, comms).
    pub(super) fn from_message(message: &Message) -> Option<Self> {
        match message.msg_type() {
            "stream" => {
                let content::Stream { name, text } = message.parse_content().ok()?;
                Some(Self::Stream { name, text })
            }
            "display_data" | "update_display_data" | "execute_result" => {
                let content::DisplayData { data, metadata } = message.parse_content().ok()?;
                Some(Self::Display { data, metadata })
            }
            "error" => {
                let content::ErrorOutput { ename, evalue, traceback } = message.parse_content().ok()?;
                Some(Self::Error { ename, evalue, traceback })
            }
            _ => None,
        }
    }
}

/// What a client dropped or refused so far.
#[derive(Debug, Default)]
pub struct Counters {
    odd_messages: AtomicU64,
    dropped_outputs: AtomicU64,
    waiting_bytes: AtomicUsize,
}

impl Counters {
    /// Messages that were refused: unsigned, mis-signed, replayed, oversized or nonsense.
    pub fn odd_messages(&self) -> u64 {
        self.odd_messages.load(Ordering::Relaxed)
    }

    /// Outputs that were dropped because nobody read them in time.
    pub fn dropped_outputs(&self) -> u64 {
        self.dropped_outputs.load(Ordering::Relaxed)
    }

    pub(super) fn count_odd(&self) {
        self.odd_messages.fetch_add(1, Ordering::Relaxed);
    }

    /// Meter an output, or count it as dropped.
    pub(super) fn meter(self: &Arc<Self>, output: Output, size_bytes: usize) -> Option<Metered> {
        if self.waiting_bytes.fetch_add(size_bytes, Ordering::Relaxed) + size_bytes > WAITING_BYTES {
            self.waiting_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            self.dropped_outputs.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Metered { output: Some(output), size_bytes, counters: self.clone() })
    }
}

/// An output that waits for its reader; gives its bytes back when it is read or dropped.
#[derive(Debug)]
pub(super) struct Metered {
    output: Option<Output>,
    size_bytes: usize,
    counters: Arc<Counters>,
}

impl Metered {
    pub(super) fn into_output(mut self) -> Output {
        let nothing = || Output::Stream { name: String::new(), text: String::new() };
        self.output.take().unwrap_or_else(nothing)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.counters.waiting_bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
    }
}

/// A stream of outputs. At most 64 MiB wait in it; more is dropped and counted.
#[derive(Debug)]
pub struct Outputs(pub(super) mpsc::UnboundedReceiver<Metered>);

impl Outputs {
    /// The next output; `None` when the kernel is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Output> {
        self.0.recv().await.map(Metered::into_output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let counters = Arc::new(Counters::default());
        let print = || Output::Stream { name: "stdout".into(), text: "x".into() };
        let kept: Vec<_> = (0..5).filter_map(|_| counters.meter(print(), WAITING_BYTES / 4)).collect();
        assert_eq!((kept.len(), counters.dropped_outputs()), (4, 1));
        drop(kept);
        assert!(counters.meter(print(), WAITING_BYTES).is_some());
    }
}
