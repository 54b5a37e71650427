//! Code that comes in cells: somebody else has the kernel run them, and they call the host.
//!
//! A cell is at the bottom of the stack while it waits for an answer, as a request that nobody made. Requests are begun
//! while a cell waits, or while none runs; what runs when time is up may be a cell, so that nothing is interrupted then.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use crate::{
    blob::Held,
    chain::Chain,
    plugin::{
        actor::{Actor, Fate, Frame, OpenTurn, Phase},
        turn::Turn,
    },
    rpc::{ErrorKind, RpcError},
    wire::content::ExecuteReply,
};

/// The id of a request that nobody made; those of ours begin at 1.
const CELL: u64 = 0;
/// How long a cell may wait for one answer.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Actor {
    /// Does a cell of somebody else's run?
    pub(super) fn is_in_cell(&self) -> bool {
        self.cells.as_ref().is_some_and(|cells| *cells.borrow())
    }

    /// An ear for cells, in the kernels where no standing turn is one.
    pub(super) async fn listen(&mut self) {
        match Turn::listen(self.client.folder(), self.limit_bytes) {
            Ok(turn) => {
                self.state.turn = Some(OpenTurn { turn, phase: Phase::Listening, opened_at: Instant::now() });
            }
            Err(error) => self.turn_failed(error).await,
        }
    }

    /// A cell asks for something: from now on it is served, in kernels that run cells of others.
    pub(super) fn enter_cell(&mut self) {
        if self.cells.is_none() || !self.state.stack.is_empty() {
            return;
        }
        let Some(member) = self.members.all().into_iter().next() else { return };
        let deadline = Instant::now() + PATIENCE;
        let chain = Chain::root("cell", deadline);
        self.graph.lock().unwrap_or_else(PoisonError::into_inner).push(&self.seat, chain.id);
        self.state.stack.push(Frame::Serving {
            id: CELL,
            member,
            chain,
            deadline,
            reply: None,
            is_patient: false,
            fate: Fate::Running,
            _params: Held::default(),
            answer: Held::default(),
        });
    }

    /// The cell has its answer.
    pub(super) fn leave_cell(&mut self) {
        if let [Frame::Serving { id: CELL, .. }] = self.state.stack.as_slice() {
            self.state.stack.pop();
            self.graph.lock().unwrap_or_else(PoisonError::into_inner).pop(&self.seat);
        }
    }

    /// A turn between two cells is over; the ear stays.
    pub(super) fn turn_of_cells_ended(&mut self, mut open: OpenTurn, reply: &ExecuteReply) {
        self.client.clear_cancel();
        open.turn.cease();
        let was = std::mem::replace(&mut open.phase, Phase::Listening);
        self.state.turn = Some(open);
        let how = format!("{} {}", reply.ename, reply.evalue);
        match was {
            Phase::Ending { .. } | Phase::Listening => {}
            // A cell may have removed what a turn needs. Whoever runs cells can run one that loads it again.
            Phase::Opening => {
                let why = format!("the kernel has no `bridge` any more, restart it: {}", how.trim());
                self.fail_queued(0, RpcError::new(ErrorKind::Host, why));
            }
            Phase::Ready { .. } => {
                for (reply, member) in self.unwind() {
                    let error = RpcError::new(ErrorKind::Cancelled, format!("the turn was ended: {}", how.trim()));
                    drop(reply.send(Err(error.in_plugin(&member.name))));
                }
            }
        }
    }

    /// Somebody sees that it runs, and wants it to stop.
    pub(super) async fn interrupt(&mut self) {
        // What waits for an answer of ours looks for an interrupt when it has one.
        if let Some(Frame::Waiting { abort, answer, .. }) = self.state.stack.last_mut() {
            abort.abort();
            answer.get_or_insert(Err(RpcError::new(ErrorKind::Cancelled, "interrupted")));
            self.answer_top();
        }
        if let Err(error) = self.client.interrupt().await {
            tracing::warn!(plugin = &*self.name, %error, "interrupt");
        }
    }

    /// One that ended waits for nothing any more: it was interrupted.
    pub(super) fn cell_changed(&mut self) {
        if !self.is_in_cell() && matches!(self.state.stack.first(), Some(Frame::Serving { id: CELL, .. })) {
            for (reply, member) in self.unwind() {
                let error = RpcError::new(ErrorKind::Cancelled, "the cell was interrupted");
                drop(reply.send(Err(error.in_plugin(&member.name))));
            }
        }
    }
}
