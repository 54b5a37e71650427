//! Deadlines: when they are looked at, and how a request is given up step by step.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use crate::{
    plugin::actor::{Actor, END, Fate, Frame, Phase, READY},
    rpc::{ErrorKind, RpcError},
    wire::content::ExecuteRequest,
};

/// How long a handler may take to unwind after its pending call was answered with an error.
const UNWIND: Duration = Duration::from_millis(500);
/// How long a shim may take to see that it is asked to cancel; Deno's looks every 20 ms.
const ASKED: Duration = Duration::from_millis(100);
/// How long a handler may take to unwind after it was interrupted.
const INTERRUPTED: Duration = Duration::from_secs(3);
/// How soon a request is looked at again whose time was over while a cell ran.
const IN_CELL: Duration = Duration::from_secs(1);
/// How often a handler of a notebook that did not react to an interrupt is looked at.
const PATIENT: Duration = Duration::from_secs(60);

impl Actor {
    /// When [`Actor::expire`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let frames = self.state.stack.iter().enumerate().filter_map(|(index, frame)| match frame {
            Frame::Serving { reply: None, fate: Fate::Running, .. } if self.is_covered(index) => None,
            Frame::Serving { deadline, fate: Fate::Running, .. } => Some(*deadline),
            Frame::Serving {
                fate: Fate::Unwinding { until } | Fate::Asked { until } | Fate::Interrupted { until },
                ..
            } => Some(*until),
            Frame::Waiting { .. } => None,
        });
        let queued = self.state.queued.iter().map(|queued| queued.job.deadline);
        let turn = self.state.turn.as_ref().and_then(|open| match open.phase {
            Phase::Listening => None,
            // A cell may come first.
            Phase::Opening if self.cells.is_some() => None,
            Phase::Opening => Some(open.opened_at + READY),
            Phase::Ready { idle_since } => idle_since.map(|since| since + self.language.turn.linger()),
            Phase::Ending { since } => Some(since + END),
        });
        frames.chain(queued).chain(turn).chain(self.state.early.until()).min()
    }

    /// A timer that fires too early costs little; setting one for each event would cost more.
    pub(super) fn arm(&self, timer: &mut Pin<Box<Sleep>>) {
        if let Some(deadline) = self.next_deadline() {
            let deadline = tokio::time::Instant::from_std(deadline);
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
        } else if timer.is_elapsed() {
            timer.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(3600));
        }
    }

    pub(super) async fn expire(&mut self) {
        self.release_early();
        let now = Instant::now();
        self.expire_queued(now);
        let stuck = match self.state.turn.as_ref().map(|open| (open.phase, open.opened_at)) {
            Some((Phase::Opening, opened_at)) if now >= opened_at + READY && self.cells.is_none() => {
                Some("did not become ready")
            }
            Some((Phase::Ending { since }, _)) if now >= since + END => Some("did not end its turn"),
            _ => None,
        };
        if let Some(what) = stuck {
            return self.kill(format!("the shim {what} in time")).await;
        }
        for index in 0..self.state.stack.len() {
            if self.expire_frame(index, now).await {
                return;
            }
        }
    }

    /// What is still under way has no time left: a shutdown does not wait for the deadlines of handlers.
    pub(super) fn cut_short(&mut self) {
        let now = Instant::now();
        for frame in &mut self.state.stack {
            if let Frame::Serving { deadline, .. } = frame {
                *deadline = now.min(*deadline);
            }
        }
    }

    /// Does it wait for another request of the same message? What runs then must not be interrupted for it.
    fn is_covered(&self, index: usize) -> bool {
        matches!(self.state.stack.get(index + 1), Some(Frame::Serving { .. }))
    }

    fn expire_queued(&mut self, now: Instant) {
        while let Some(index) = self.state.queued.iter().position(|queued| queued.job.deadline <= now) {
            let message = "its deadline passed while it waited for the plugin";
            // An event that was never begun must not pay for the handler before it.
            self.fail_queued(index, RpcError { not_begun: true, ..RpcError::new(ErrorKind::Timeout, message) });
        }
    }

    /// Give up a request step by step: its caller gets the error at once; the handler is first told through its pending
    /// call, then interrupted, then killed. Returns true when the kernel is gone.
    async fn expire_frame(&mut self, index: usize, now: Instant) -> bool {
        let (is_top, is_covered) = (index + 1 == self.state.stack.len(), self.is_covered(index));
        let is_in_cell = self.is_in_cell();
        let Some(Frame::Serving { member, deadline, reply, is_patient, fate, chain, .. }) =
            self.state.stack.get_mut(index)
        else {
            return false;
        };
        let error = RpcError::new(ErrorKind::Timeout, format!("deadline of {} passed", chain.path.join(" > ")));
        match *fate {
            // What would be interrupted is somebody's cell, which was quicker than the request.
            Fate::Running if now >= *deadline && is_in_cell && is_top => {
                *deadline = now + IN_CELL;
                false
            }
            Fate::Running if now >= *deadline => {
                if !*is_patient && let Some(reply) = reply.take() {
                    drop(reply.send(Err(error.clone().in_plugin(&member.name))));
                }
                if is_covered {
                    return false;
                }
                *fate = Fate::Unwinding { until: now + if is_top { Duration::ZERO } else { UNWIND } };
                if let Some(Frame::Waiting { abort, answer, .. }) = self.state.stack.get_mut(index + 1) {
                    abort.abort();
                    answer.get_or_insert(Err(error));
                }
                false
            }
            Fate::Unwinding { until } if now >= until => {
                *fate = Fate::Asked { until: now + ASKED };
                self.client.ask_to_cancel();
                false
            }
            Fate::Asked { until } if now >= until => {
                *fate = Fate::Interrupted { until: now + INTERRUPTED };
                // A shim that acted on the request needs no interrupt, which would hit what comes after.
                if self.client.cancel_is_pending() {
                    if let Err(error) = self.client.interrupt().await {
                        tracing::warn!(plugin = &*self.name, %error, "interrupt");
                    }
                    self.wake().await;
                }
                false
            }
            Fate::Interrupted { until } if now >= until && self.cells.is_some() => {
                // A notebook's kernel is its author's, who sees that it is busy.
                *fate = Fate::Interrupted { until: now + PATIENT };
                false
            }
            Fate::Interrupted { until } if now >= until => {
                self.kill("a handler past its deadline did not react to an interrupt".into()).await;
                true
            }
            _ => false,
        }
    }

    /// Of the interpreters whose event loop an interrupt stops.
    pub(super) async fn wake(&mut self) {
        let Some(code) = &self.language.turn.wake else { return };
        let Some(open) = self.state.turn.as_mut().filter(|open| open.turn.is_standing()) else { return };
        let request = ExecuteRequest { silent: self.language.turn.silent, ..ExecuteRequest::new(code.clone()) };
        match self.client.execute_turn(&request).await {
            Ok(execution) => open.turn.beside(execution),
            // The turn itself reports it next.
            Err(error) => tracing::warn!(plugin = &*self.name, %error, "not woken"),
        }
    }

    pub(super) async fn kill(&mut self, reason: String) {
        self.client.process().kill_tree().await;
        self.die(self.why_gone(format!("{reason}; the kernel was killed")));
    }
}
