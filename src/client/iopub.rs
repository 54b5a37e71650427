//! The task that does nothing but empty iopub.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use crate::{
    channels::Iopub,
    client::output::{Counters, Output},
    wire::{Message, Received, Signer, content},
};

use super::{output::Metered, task::MESSAGE_BYTES};

/// What the client's task needs to know of an iopub message.
#[derive(Debug)]
pub(super) struct News {
    pub parent_id: String,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Output(Metered),
    Idle,
    /// `busy`, `starting`, comm messages and others that nothing depends on; they show that iopub works.
    Other,
    /// `iopub_welcome` (message spec 5.5).
    Welcome,
}

/// Owns the iopub socket; ends when the client's task does.
pub(super) struct Drain {
    pub iopub: Iopub,
    pub signer: Signer,
    pub counters: Arc<Counters>,
    pub news: mpsc::UnboundedSender<News>,
}

impl Drain {
    pub async fn run(mut self) {
        loop {
            let frames = match self.iopub.recv().await {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::debug!(%error, "iopub");
                    // A broken connection may report again and again; death is told by the process.
                    sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let size_bytes = frames.iter().map(bytes::Bytes::len).sum();
            let message = match Received::parse(frames, &mut self.signer, MESSAGE_BYTES) {
                Received::Message(message) => message,
                Received::Odd(odd) => {
                    self.counters.count_odd();
                    tracing::warn!(reason = %odd.reason, "iopub message refused");
                    continue;
                }
            };
            let Some(what) = self.read(&message, size_bytes) else { continue };
            let parent_id = message.parent.map(|parent| parent.msg_id).unwrap_or_default();
            if self.news.send(News { parent_id, what }).is_err() {
                return;
            }
        }
    }

    fn read(&self, message: &Message, size_bytes: usize) -> Option<What> {
        if let Some(output) = Output::from_message(message) {
            return self.counters.meter(output, size_bytes).map(What::Output);
        }
        Some(match message.msg_type() {
            "iopub_welcome" => What::Welcome,
            "status" => match message.parse_content::<content::StatusOutput>() {
                Ok(status) if status.execution_state == "idle" => What::Idle,
                _ => What::Other,
            },
            _ => What::Other,
        })
    }
}
