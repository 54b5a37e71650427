//! How turns and kernels end, and what becomes of the requests under way.

use std::sync::PoisonError;

use crate::{
    client::ClientError,
    language::Activation,
    plugin::{
        PluginNews,
        actor::{Actor, Fate, Frame, Phase, Queued, Reply},
        gone,
        turn::TurnError,
    },
    provision::Exit,
    rpc::{ErrorKind, RpcError},
    wire::content::ExecuteReply,
};

/// A standing turn that ended so often although nobody ended it is not tried again.
const FALLS: u32 = 3;

impl Actor {
    /// The turn's reply came.
    pub(super) fn turn_ended(&mut self, reply: &ExecuteReply) {
        let Some(open) = self.state.turn.take() else { return };
        self.client.clear_cancel();
        self.clean_outbox();
        match open.phase {
            Phase::Ending { .. } => {}
            Phase::Opening if open.turn.is_standing() => {
                self.stand_no_more(format!("{} {}", reply.ename, reply.evalue));
            }
            Phase::Opening => {
                let why = format!("carrier `{}` did not open: {} {}", self.way.carrier, reply.ename, reply.evalue);
                if self.state.worked {
                    return self.die(RpcError::new(
                        ErrorKind::Gone,
                        format!("the interpreter lost the shim; {}", why.trim_end()),
                    ));
                }
                self.fail_queued(0, RpcError::new(ErrorKind::Host, why.trim_end()));
            }
            Phase::Ready { .. } => {
                let is_interrupted =
                    |frame: &Frame| matches!(frame, Frame::Serving { fate: Fate::Interrupted { .. }, .. });
                let is_fall = !open.turn.was_woken() && !self.state.stack.iter().any(is_interrupted);
                if open.turn.is_standing() && is_fall {
                    self.state.fallen += 1;
                    if self.state.fallen >= FALLS {
                        self.stand_no_more("its pipes are closed again and again".to_owned());
                    }
                }
                let what = if reply.ename.is_empty() {
                    String::new()
                } else {
                    format!(" by {} {}", reply.ename, reply.evalue)
                };
                let error = RpcError::new(ErrorKind::Cancelled, format!("the turn was ended{what}"));
                let replies = self.unwind();
                self.state.limbo.extend(replies.into_iter().map(|reply| (reply, error.clone().in_plugin(&self.name))));
            }
        }
    }

    /// The plugin is served in turns from now on.
    fn stand_no_more(&mut self, why: String) {
        let activation = self.way.activation;
        tracing::warn!(plugin = &*self.name, %activation, why = why.trim(), "does not work; turns are used");
        self.way.activation = Activation::Execute;
    }

    pub(super) async fn turn_failed(&mut self, error: TurnError) {
        match error {
            TurnError::Client(error @ (ClientError::Gone { .. } | ClientError::Closed)) => self.die(gone(&error)),
            // Neither the stream of a pipe nor an interpreter behind a wrapper can be mended.
            error => {
                self.client.process().kill_tree().await;
                self.die(self.why_gone(error.to_string()));
            }
        }
    }

    /// Of a killed kernel: the limit that it was over comes before what was seen of its death.
    pub(super) fn why_gone(&self, seen: String) -> RpcError {
        match *self.client.exit().borrow() {
            Some(Exit { overrun: Some(_), .. }) => gone(&self.client.gone()),
            _ => RpcError::new(ErrorKind::Gone, seen),
        }
    }

    pub(super) fn exited(&mut self) {
        // A turn reports the exit itself, after what was still on its way.
        if self.state.turn.is_none() {
            let exit = *self.client.exit().borrow();
            let output_tail = self.client.process().output_tail().text();
            let error = match exit {
                Some(exit) => ClientError::Gone { exit, output_tail },
                None => ClientError::Closed,
            };
            self.die(gone(&error));
        }
    }

    pub(super) fn die(&mut self, error: RpcError) {
        let error = error.in_plugin(&self.name);
        self.state.turn = None;
        let lost = std::mem::take(&mut self.state.limbo).into_iter().map(|(reply, _)| reply);
        for reply in self.unwind().into_iter().chain(lost) {
            drop(reply.send(Err(error.clone())));
        }
        self.host.news(&self.name, PluginNews::Gone { reason: error.message.clone() });
        self.death.send_replace(Some(error.clone()));
        self.state.dead = Some(error);
    }

    /// Take everything off the stack; returns who waits for it.
    pub(super) fn unwind(&mut self) -> Vec<Reply> {
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let mut replies = Vec::new();
        for frame in self.state.stack.drain(..) {
            match frame {
                Frame::Serving { reply, .. } => {
                    graph.pop(&self.seat);
                    replies.extend(reply);
                }
                Frame::Waiting { abort, .. } => abort.abort(),
            }
        }
        replies
    }

    pub(super) fn fail_queued(&mut self, index: usize, error: RpcError) {
        if let Some(Queued { job, told }) = self.state.queued.remove(index) {
            if told {
                self.graph.lock().unwrap_or_else(PoisonError::into_inner).stop_waiting(job.chain.id, &self.seat);
            }
            drop(job.reply.send(Err(error.in_plugin(&self.name))));
        }
    }
}
