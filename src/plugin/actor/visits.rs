//! Visits of consoles: they have the interpreter for themselves, between two requests.

use tokio::sync::oneshot;

use crate::{
    plugin::{
        actor::{Actor, Phase},
        visit::{CellEvent, Visit, watch},
    },
    wire::content::ExecuteRequest,
};

impl Actor {
    /// Is the interpreter a visitor's, or the next one's as soon as nothing is served? Then nothing is begun.
    pub(super) fn is_visited(&self) -> bool {
        // What was cut off with its turn is settled by the next turn.
        self.state.visit.is_some() || (!self.state.visits.is_empty() && self.state.limbo.is_empty())
    }

    /// Begin the next visit, if there is one and nothing is served.
    pub(super) async fn start_visit(&mut self) {
        self.state.visits.retain(Visit::is_wanted);
        if self.cells.is_some() {
            // Whoever runs cells there is at its console already.
            self.state.visits.clear();
        }
        let is_idle = self.state.visit.is_none() && self.state.stack.is_empty() && self.state.limbo.is_empty();
        if !is_idle || self.state.visits.is_empty() {
            return;
        }
        match &self.state.turn {
            None => {}
            // The interpreter's own loop serves the pipes, and takes a cell as well.
            Some(open) if open.turn.is_standing() && matches!(open.phase, Phase::Ready { .. }) => {}
            // Nothing is said to a kernel in the middle of a turn.
            Some(_) => return self.end_turn(),
        }
        let Some(visit) = self.state.visits.pop_front() else { return };
        let (ended, ending) = oneshot::channel();
        match visit {
            Visit::Execute { code, events, inbox } => match self.client.execute(&ExecuteRequest::new(code)).await {
                Ok(execution) => {
                    tokio::spawn(watch(execution, events, inbox, ended));
                }
                Err(error) => {
                    // Whoever wanted it may be gone.
                    let _ = events.try_send(CellEvent::Done { reply: Err(error), dropped: 0 });
                    return;
                }
            },
            Visit::Look { look, within, reply } => {
                let prober = self.client.prober();
                tokio::spawn(async move {
                    // Whoever wanted it may be gone.
                    let _ = reply.send(look.ask(&prober, within).await);
                    let _ = ended.send(());
                });
            }
        }
        self.state.visit = Some(ending);
    }

    pub(super) async fn interrupt_visit(&mut self) {
        if self.state.visit.is_none() {
            return;
        }
        if let Err(error) = self.client.interrupt().await {
            tracing::warn!(plugin = &*self.name, %error, "interrupt of a cell");
        }
        self.wake().await;
    }
}
