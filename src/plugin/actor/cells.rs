//! Code that comes in cells: somebody else has the kernel run them, and they call the host.
//!
//! What the code of a cell says comes over the pipe, and that the cell has begun comes over iopub, which may be later: then
//! it is waited for, so that it is known whose output an answer's is, and that the cell before it is over.
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
    rpc::{ErrorKind, Inbound, RpcError},
    wire::content::ExecuteReply,
};

/// The id of a request that nobody made; those of ours begin at 1.
const CELL: u64 = 0;
/// How long to wait for word that a cell has begun, which the kernel has sent before it ran the cell.
const NAMED: Duration = Duration::from_secs(2);
/// The same where it may be none: code that runs in the background comes from no cell.
const UNNAMED: Duration = Duration::from_millis(250);
/// How long a cell may wait for one answer.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What was said in a cell that is not known to run.
#[derive(Default)]
pub(super) struct Early {
    /// What was said, and until when it waits. Nothing is read meanwhile.
    held: Option<(Inbound, Instant)>,
    /// What comes next comes from where it says.
    is_placed: bool,
    /// What comes while nothing runs comes from the background.
    is_quiet: bool,
}

impl Early {
    pub fn is_waiting(&self) -> bool {
        self.held.is_some()
    }

    /// Until when.
    pub fn until(&self) -> Option<Instant> {
        self.held.as_ref().map(|(_, until)| *until)
    }
}

impl Actor {
    /// The message, unless it has to wait until the cell is known to run that it comes from.
    pub(super) fn not_early(&mut self, message: Inbound) -> Option<Inbound> {
        let is_of_turn =
            || matches!(&self.state.turn, Some(OpenTurn { phase: Phase::Ready { .. } | Phase::Ending { .. }, .. }));
        let Some(others) = self.cells.as_ref().filter(|_| self.state.stack.is_empty() && !is_of_turn()) else {
            return Some(message);
        };
        let others = others.borrow();
        let early = &mut self.state.early;
        early.is_quiet &= !others.is_running();
        let patience = match &message {
            Inbound::Cell { id } => {
                early.is_placed = true;
                (!others.has_begun(id)).then_some(NAMED)
            }
            Inbound::Request { .. } | Inbound::Log { .. } | Inbound::Progress { .. } | Inbound::Handlers { .. } => {
                let is_placed = std::mem::take(&mut early.is_placed) || others.is_running() || early.is_quiet;
                (!is_placed).then_some(UNNAMED)
            }
            Inbound::Ready | Inbound::Response { .. } | Inbound::Output { .. } | Inbound::Bad { .. } => None,
        };
        match patience {
            Some(patience) => {
                early.held = Some((message, Instant::now() + patience));
                None
            }
            None => Some(message),
        }
    }

    /// Take what waits, if it has waited long enough or what it waits for is known.
    pub(super) fn release_early(&mut self) {
        let Some((message, until)) = &self.state.early.held else { return };
        let others = self.cells.as_ref().map(|cells| cells.borrow());
        let is_known = others.is_none_or(|others| match message {
            Inbound::Cell { id } => others.has_begun(id),
            _ => others.is_running(),
        });
        let is_late = *until <= Instant::now();
        if (is_known || is_late)
            && let Some((message, _)) = self.state.early.held.take()
        {
            self.state.early.is_quiet |= !is_known && !matches!(message, Inbound::Cell { .. });
            self.receive(message);
        }
    }

    /// Does a cell of somebody else's run?
    pub(super) fn is_in_cell(&self) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.borrow().is_running())
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
        self.release_early();
        if !self.is_in_cell() && matches!(self.state.stack.first(), Some(Frame::Serving { id: CELL, .. })) {
            for (reply, member) in self.unwind() {
                let error = RpcError::new(ErrorKind::Cancelled, "the cell was interrupted");
                drop(reply.send(Err(error.in_plugin(&member.name))));
            }
        }
    }
}
