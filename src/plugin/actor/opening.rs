//! Turns are opened and ended, in the way that was chosen.

use std::time::Instant;

use crate::{
    client::{ClientError, Execution},
    language::Activation,
    plugin::{
        Carrier, Way,
        actor::{Actor, OpenTurn, Phase},
        turn::{Message, Turn, TurnError},
    },
    rpc,
    wire::content::ExecuteRequest,
};

impl Actor {
    /// From the next turn on. Is a turn that is open one of those?
    pub(super) fn use_way(&mut self, mut way: Way) -> bool {
        if self.state.given_up == Some(way.activation) {
            way.activation = Activation::Execute;
        }
        self.state.worked &= way.carrier == self.way.carrier;
        // Only the code that an `execute_request` runs depends on more.
        let is_same = way.activation != Activation::Execute
            && (way.carrier, way.activation) == (self.way.carrier, self.way.activation);
        self.way = way;
        self.activation.send_replace(way.activation);
        is_same
    }

    pub(super) fn is_ready(&mut self) -> bool {
        let Some(open) = &self.state.turn else { return false };
        if self.cells.is_some() && !self.state.stack.is_empty() {
            // A cell waits, whether there is a turn or not.
            return true;
        }
        if !matches!(open.phase, Phase::Ready { .. }) || self.is_in_cell() {
            return false;
        }
        // After a bounded time the interpreter's own event loop gets a chance.
        if self.state.stack.is_empty()
            && !open.turn.is_standing()
            && open.opened_at.elapsed() > self.language.turn.max()
        {
            self.end_turn();
            return false;
        }
        true
    }

    pub(super) async fn open_turn(&mut self) {
        let opened = async {
            if let Some(mut open) = self.state.turn.take() {
                open.turn.begin(self.knock().await?);
                return Ok(open.turn);
            }
            let prepared = Turn::prepare(self.way.carrier, self.client.folder(), self.limit_bytes)?;
            Ok::<_, TurnError>(prepared.open(self.knock().await?, self.way.activation))
        };
        match opened.await {
            Ok(turn) => {
                self.state.turn = Some(OpenTurn { turn, phase: Phase::Opening, opened_at: Instant::now() });
            }
            Err(error) => self.turn_failed(error).await,
        }
    }

    /// Send what opens a turn.
    async fn knock(&mut self) -> Result<Execution, ClientError> {
        let (turn, Way { carrier, activation, is_async, .. }) = (&self.language.turn, self.way);
        let code = match (activation, carrier) {
            (Activation::Comm, _) => {
                return self.client.message_comm(turn.comm.as_deref().unwrap_or_default()).await;
            }
            (Activation::Loop, _) => turn.standing.as_ref(),
            (Activation::Thread, _) => turn.thread.as_ref(),
            (Activation::Execute, Carrier::Pipe) => {
                turn.pipe_async.as_ref().filter(|_| is_async).or(turn.pipe.as_ref())
            }
            (Activation::Execute, Carrier::Jupyter) => {
                turn.jupyter_async.as_ref().filter(|_| is_async).or(turn.jupyter.as_ref())
            }
        };
        let request = ExecuteRequest {
            silent: turn.silent,
            allow_stdin: carrier == Carrier::Jupyter,
            ..ExecuteRequest::new(code.cloned().unwrap_or_default())
        };
        self.client.execute_turn(&request).await
    }

    pub(super) fn end_turn(&mut self) {
        if let Some(open) = &mut self.state.turn
            && matches!(open.phase, Phase::Ready { .. })
            && self.state.stack.is_empty()
        {
            open.phase = Phase::Ending { since: Instant::now() };
            // If it cannot be sent, the turn reports it next.
            let _ = open.turn.send(Message::Json(rpc::notification("end")));
        }
    }
}
