//! The task that does nothing but empty iopub.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    task::coop::consume_budget,
};

use crate::{
    channels::{Arrival, Iopub, MESSAGE_BYTES},
    client::output::{Counters, Output},
    wire::{Message, Received, Signer, content},
};

use super::{
    others::Others,
    output::{Metered, Room},
    task::IopubSeen,
};

/// What the client's task needs to know of an iopub message.
#[derive(Debug)]
pub(super) struct News {
    pub parent_id: String,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Output(Metered),
    Idle(Room),
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
    /// What was told already of those that are told once: anything, and a welcome.
    pub told: IopubSeen,
    /// If others talk to the kernel too: our session, and what it runs of theirs.
    pub others: Option<(String, watch::Sender<Others>)>,
}

impl Drain {
    pub async fn run(mut self) {
        loop {
            // A flood comes with thousands in one piece, and the host may have one thread for all its plugins.
            consume_budget().await;
            let frames = match self.iopub.recv().await {
                Ok(Arrival::Message(frames)) => frames,
                Ok(Arrival::Refused(refusal)) => {
                    self.counters.count_odd();
                    tracing::warn!(reason = %refusal, "iopub message refused");
                    continue;
                }
                // Death is told by the process.
                Ok(Arrival::Closed) => {
                    tracing::debug!("iopub was closed by the kernel");
                    continue;
                }
                // Nothing depends on iopub, so the kernel goes on without its outputs.
                Err(error) => {
                    self.counters.count_odd();
                    tracing::warn!(%error, "iopub is no ZeroMQ any more; what the kernel prints is lost from now on");
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
            if self.is_others(&message) {
                continue;
            }
            let Some(what) = self.read(&message, size_bytes) else { continue };
            let parent_id = message.parent.map(|parent| parent.msg_id).unwrap_or_default();
            if self.news.send(News { parent_id, what }).is_err() {
                return;
            }
        }
    }

    /// Is it about something that others asked for? Then they see it themselves.
    fn is_others(&self, message: &Message) -> bool {
        let (Some((session, others)), Some(parent)) = (&self.others, &message.parent) else { return false };
        if parent.session.is_empty() || parent.session == *session {
            return false;
        }
        if message.msg_type() == "execute_input" {
            others.send_if_modified(|others| others.told(parent));
        } else if message.msg_type() == "status"
            && let Ok(status) = message.parse_content::<content::StatusOutput>()
        {
            others.send_if_modified(|others| match &*status.execution_state {
                "busy" => others.begin(parent),
                "idle" => others.end(parent),
                _ => false,
            });
        }
        true
    }

    /// What there is to tell. Nothing of it fills memory, however slow its reader: outputs and `idle` need room, and
    /// the rest is told once.
    fn read(&mut self, message: &Message, size_bytes: usize) -> Option<What> {
        if Output::is_one(message) {
            // What is too large is not even parsed, which would take its memory once more.
            let metered = self.counters.meter(size_bytes, || Output::from_message(message));
            return metered.map(What::Output);
        }
        let is_idle = || {
            let status = message.parse_content::<content::StatusOutput>();
            status.is_ok_and(|status| status.execution_state == "idle")
        };
        match message.msg_type() {
            "iopub_welcome" => (!std::mem::replace(&mut self.told.welcome, true)).then_some(What::Welcome),
            "status" if is_idle() => self.counters.room(size_bytes).map(What::Idle),
            _ => (!std::mem::replace(&mut self.told.any, true)).then_some(What::Other),
        }
    }
}
