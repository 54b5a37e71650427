//! Outputs of a kernel, metered so that a flood of prints never fills memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::wire::{Message, content};

/// How many bytes of outputs may wait for their reader.
pub(super) const WAITING_BYTES: usize = 64 * 1024 * 1024;

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
    /// Is there an output in an iopub message? There is none in `status`, `execute_input`, comms.
    pub(super) fn is_one(message: &Message) -> bool {
        let types = ["stream", "display_data", "update_display_data", "execute_result", "error"];
        types.contains(&message.msg_type())
    }

    /// The output in an iopub message.
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

    /// Roughly how much memory it takes.
    pub(crate) fn size_bytes(&self) -> u64 {
        let members = |fields: &Map<String, Value>| fields.values().map(size_of).sum::<usize>();
        let bytes = match self {
            Self::Stream { text, .. } => text.len(),
            Self::Display { data, metadata } => members(data) + members(metadata),
            Self::Error { ename, evalue, traceback } => {
                ename.len() + evalue.len() + traceback.iter().map(String::len).sum::<usize>()
            }
        };
        bytes as u64
    }
}

/// Roughly how much memory a value takes.
pub(crate) fn size_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size_of).sum::<usize>() + 2,
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + size_of(value)).sum::<usize>() + 2,
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
    }
}

/// What a client dropped or refused so far.
#[derive(Debug, Default)]
pub struct Counters {
    odd_messages: AtomicU64,
    dropped_outputs: AtomicU64,
    /// Dropped since somebody last asked: how many, and how much.
    unreported: [AtomicU64; 2],
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

    /// Outputs that were dropped since the last time this was asked, and their bytes.
    pub(crate) fn take_dropped(&self) -> (u64, u64) {
        let [outputs, bytes] = &self.unreported;
        (outputs.swap(0, Ordering::Relaxed), bytes.swap(0, Ordering::Relaxed))
    }

    pub(super) fn count_odd(&self) {
        self.odd_messages.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self, size_bytes: usize) {
        self.dropped_outputs.fetch_add(1, Ordering::Relaxed);
        self.unreported[0].fetch_add(1, Ordering::Relaxed);
        self.unreported[1].fetch_add(size_bytes as u64, Ordering::Relaxed);
    }

    /// Room for something that waits to be read, if there is any.
    pub(super) fn room(self: &Arc<Self>, size_bytes: usize) -> Option<Room> {
        let before = self.waiting_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        let room = Room { size_bytes, counters: self.clone() };
        (before + size_bytes <= WAITING_BYTES).then_some(room)
    }

    /// Meter an output, or count it as dropped.
    pub(super) fn meter(
        self: &Arc<Self>,
        size_bytes: usize,
        output: impl FnOnce() -> Option<Output>,
    ) -> Option<Metered> {
        match self.room(size_bytes) {
            Some(room) => Some(Metered { output: output()?, _room: room }),
            None => {
                self.count_dropped(size_bytes);
                None
            }
        }
    }
}

/// Room that something takes while it waits; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    size_bytes: usize,
    counters: Arc<Counters>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.counters.waiting_bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
    }
}

/// An output that waits for its reader.
#[derive(Debug)]
pub(super) struct Metered {
    output: Output,
    _room: Room,
}

impl Metered {
    pub(super) fn into_output(self) -> Output {
        self.output
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
impl Outputs {
    /// Of a kernel that shows nothing, as long as the first is kept.
    pub(crate) fn quiet() -> (impl Sized, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let counters = Arc::new(Counters::default());
        let print = || Some(Output::Stream { name: "stdout".into(), text: "x".into() });
        let kept: Vec<_> = (0..5).filter_map(|_| counters.meter(WAITING_BYTES / 4, print)).collect();
        assert_eq!((kept.len(), counters.dropped_outputs()), (4, 1));
        drop(kept);
        assert!(counters.meter(WAITING_BYTES, print).is_some());
    }
}
