//! How turns and kernels end, and what becomes of the requests under way.

use std::sync::{Arc, PoisonError};

use crate::{
    client::ClientError,
    language::Activation,
    plugin::{
        PluginNews, Reply,
        actor::{Actor, Fate, Frame, OpenTurn, Phase, Queued},
        gone,
        member::Member,
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
        if self.cells.is_some() && !open.turn.is_standing() {
            return self.turn_of_cells_ended(open, reply);
        }
        self.client.clear_cancel();
        self.clean_outbox();
        match open.phase {
            Phase::Ending { .. } | Phase::Listening => {}
            Phase::Opening if open.turn.activation() != Activation::Execute => {
                self.fall_back(open.turn.activation(), &format!("{} {}", reply.ename, reply.evalue));
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
                        self.fall_back(open.turn.activation(), "its pipes are closed again and again");
                    }
                }
                let what = if reply.ename.is_empty() {
                    String::new()
                } else {
                    format!(" by {} {}", reply.ename, reply.evalue)
                };
                let error = RpcError::new(ErrorKind::Cancelled, format!("the turn was ended{what}"));
                let replies = self.unwind();
                self.state.limbo.extend(replies.into_iter().map(|(reply, member)| (reply, member, error.clone())));
            }
        }
    }

    /// The plugin is served in turns of cells from now on.
    fn fall_back(&mut self, activation: Activation, why: &str) {
        tracing::warn!(plugin = &*self.name, %activation, why = why.trim(), "does not work; turns of cells are used");
        self.state.given_up = Some(activation);
        self.use_way(self.way);
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
        // A turn reports the exit itself, after what was still on its way; an ear hears nothing of it.
        if matches!(self.state.turn, None | Some(OpenTurn { phase: Phase::Listening, .. })) {
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
        self.state.turn = None;
        // Whoever was served when it died is to blame for it; if nobody was, nobody knows.
        let blamed = self.served().or_else(|| self.state.limbo.last().map(|(_, member, _)| member.clone()));
        let error = self.told(error, blamed.as_deref());
        let lost = std::mem::take(&mut self.state.limbo).into_iter().map(|(reply, member, _)| (reply, member));
        for (reply, member) in self.unwind().into_iter().chain(lost) {
            drop(reply.send(Err(error.clone().in_plugin(&member.name))));
        }
        self.members.blame(blamed);
        for member in self.members.all() {
            member.news(PluginNews::Gone { reason: error.message.clone() });
        }
        self.death.send_replace(Some(error.clone()));
        self.state.dead = Some(error);
    }

    /// Of a kernel that several plugins share, all are told with whom they lost it, and by which of them.
    fn told(&self, error: RpcError, blamed: Option<&Member>) -> RpcError {
        let all = self.members.all();
        if all.iter().all(|member| member.space.is_none()) {
            return all.iter().fold(error, |error, member| error.in_plugin(&member.name));
        }
        let by = blamed.map_or_else(String::new, |member| format!(" while it served `{}`", member.name));
        let message = format!("the kernel shared by {} died{by}: {}", self.members.names(), error.message);
        RpcError { message, ..error }
    }

    /// Take everything off the stack; returns who waits for it, and of which plugin.
    pub(super) fn unwind(&mut self) -> Vec<(Reply, Arc<Member>)> {
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let mut replies = Vec::new();
        for frame in self.state.stack.drain(..) {
            match frame {
                Frame::Serving { reply, member, .. } => {
                    graph.pop(&self.seat);
                    replies.extend(reply.map(|reply| (reply, member)));
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
            drop(job.reply.send(Err(error.in_plugin(&job.member.name))));
        }
    }
}
