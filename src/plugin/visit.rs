//! Code of somebody at a console, run in a plugin's interpreter between two requests.
//!
//! It is no request of the plugin's: it has no chain and no deadline, and while it runs the plugin is served nothing, so
//! that nothing waits for an interpreter that is busy with it. What waits has its own deadlines, and was not begun.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot},
    time::interval,
};

use crate::{
    client::{ClientError, Execution, ExecutionEvent, Output, Prober},
    plugin::{Mail, Plugin},
    rpc::{ErrorKind, RpcError},
    wire::content::ExecuteReply,
};

/// How many outputs may wait for the console; what is more is left out.
const OUTPUTS: usize = 1024;
/// How long `idle` is waited for after the reply, as outputs may still come.
const IDLE: Duration = Duration::from_millis(250);
/// How long a kernel may take to say whether code is complete: most never do.
const IS_COMPLETE: Duration = Duration::from_secs(1);
/// How often a cell whose console is gone is interrupted.
const AGAIN: Duration = Duration::from_secs(3);
/// Until it is clear that it does not react.
const TRIES: u32 = 5;

/// What happens to a cell.
#[derive(Debug)]
pub enum CellEvent {
    /// It runs.
    Began,
    /// It printed or showed something.
    Output(Output),
    /// It has ended.
    Done {
        /// What the kernel says, or why nobody does.
        reply: Result<ExecuteReply, ClientError>,
        /// How many outputs were left out.
        dropped: u64,
    },
}

/// What is asked of an interpreter without running anything.
#[derive(Debug, Clone)]
pub enum Look {
    /// Completions of code at a cursor, in Unicode code points.
    Complete {
        /// The code.
        code: String,
        /// The cursor.
        cursor: usize,
    },
    /// What is known of the name at a cursor.
    Inspect {
        /// The code.
        code: String,
        /// The cursor.
        cursor: usize,
        /// 1 asks for the source too.
        detail: u8,
    },
    /// Whether code is complete. Few kernels answer.
    IsComplete {
        /// The code.
        code: String,
    },
}

/// Something that needs the interpreter for itself.
#[derive(Debug)]
pub(super) enum Visit {
    Execute { code: String, events: mpsc::Sender<CellEvent>, inbox: mpsc::WeakSender<Mail> },
    Look { look: Look, within: Duration, reply: oneshot::Sender<Result<Box<RawValue>, ClientError>> },
}

impl Visit {
    /// Does anybody still want it?
    pub fn is_wanted(&self) -> bool {
        match self {
            Self::Execute { events, .. } => !events.is_closed(),
            Self::Look { reply, .. } => !reply.is_closed(),
        }
    }
}

impl Look {
    pub(super) async fn ask(&self, prober: &Prober, within: Duration) -> Result<Box<RawValue>, ClientError> {
        match self {
            Self::Complete { code, cursor } => prober.complete(code, *cursor, within).await,
            Self::IsComplete { code } => prober.is_complete(code, within.min(IS_COMPLETE)).await,
            Self::Inspect { code, cursor, detail } => prober.inspect(code, *cursor, *detail, within).await,
        }
    }
}

/// Pass on what happens, until the cell has ended. If nobody listens any more, it is interrupted: events wait for it.
pub(super) async fn watch(
    mut execution: Execution,
    events: mpsc::Sender<CellEvent>,
    inbox: mpsc::WeakSender<Mail>,
    ended: oneshot::Sender<()>,
) {
    let dropped = AtomicU64::new(0);
    let pass_on = |event: CellEvent| {
        if events.try_send(event).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    };
    pass_on(CellEvent::Began);
    let (mut again, mut tries) = (interval(AGAIN), 0);
    let reply = loop {
        let event = tokio::select! {
            event = execution.next() => event,
            _ = async { events.closed().await; again.tick().await }, if tries < TRIES => {
                tries += 1;
                if let Some(inbox) = inbox.upgrade() {
                    // A full inbox is tried again.
                    let _ = inbox.try_send(Mail::InterruptVisit);
                }
                if tries == TRIES {
                    tracing::warn!("a cell whose console is gone does not react to interrupts; events wait for it");
                }
                continue;
            }
        };
        match event {
            ExecutionEvent::Output(output) => pass_on(CellEvent::Output(output)),
            // An empty line, as at the end of a file.
            ExecutionEvent::Input(input) => drop(execution.reply_input(&input, "").await),
            ExecutionEvent::Reply(reply) => break Ok(reply),
            ExecutionEvent::Failed(error) => break Err(error),
            ExecutionEvent::Idle => {}
        }
    };
    // The interpreter is free, whoever still listens. If the actor is gone, so is the kernel.
    let _ = ended.send(());
    let rest = async {
        loop {
            match execution.next().await {
                ExecutionEvent::Output(output) => pass_on(CellEvent::Output(output)),
                ExecutionEvent::Idle | ExecutionEvent::Failed(_) => break,
                _ => {}
            }
        }
    };
    if reply.is_ok() {
        // Without `idle` nobody knows whether more would come.
        let _ = tokio::time::timeout(IDLE, rest).await;
    }
    // The last word waits for its place; if nobody is there, nobody needs it.
    let dropped = dropped.load(Ordering::Relaxed);
    let _ = events.send(CellEvent::Done { reply, dropped }).await;
}

impl Plugin {
    /// Run code in its interpreter as soon as nothing else runs there; events and calls wait meanwhile. Dropping the
    /// receiver interrupts it.
    ///
    /// # Errors
    ///
    /// - `Invalid` when the plugin shares its kernel, where nobody's code has the interpreter for itself.
    /// - `Gone` when the kernel is.
    pub async fn execute(&self, code: &str) -> Result<mpsc::Receiver<CellEvent>, RpcError> {
        self.has_interpreter()?;
        let (events, receiver) = mpsc::channel(OUTPUTS);
        let inbox = self.kernel.inbox.downgrade();
        self.give(Visit::Execute { code: code.to_owned(), events, inbox }).await?;
        Ok(receiver)
    }

    /// Interrupt the cell that runs, if one does.
    pub async fn interrupt_cell(&self) {
        // If the kernel is gone, so is the cell.
        let _ = self.kernel.inbox.send(Mail::InterruptVisit).await;
    }

    /// Ask its interpreter as soon as nothing runs there: the content of the kernel's reply.
    ///
    /// # Errors
    ///
    /// As [`Plugin::execute`], and `Timeout` when it did not answer in time after that.
    pub async fn look(&self, look: Look, within: Duration) -> Result<Box<RawValue>, RpcError> {
        self.has_interpreter()?;
        let (reply, answer) = oneshot::channel();
        self.give(Visit::Look { look, within, reply }).await?;
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error @ ClientError::Timeout { .. })) => Err(RpcError::new(ErrorKind::Timeout, error.to_string())),
            Ok(Err(error)) => Err(super::gone(&error)),
            Err(_) => Err(self.is_gone()),
        }
    }

    async fn give(&self, visit: Visit) -> Result<(), RpcError> {
        self.kernel.inbox.send(Mail::Visit(visit)).await.map_err(|_| self.is_gone())
    }

    fn has_interpreter(&self) -> Result<(), RpcError> {
        if self.member.space.is_none() {
            return Ok(());
        }
        let message = "it shares its kernel with others (`isolation = \"shared\"`), where a console has no namespace";
        Err(RpcError::new(ErrorKind::Invalid, message).in_plugin(self.name()))
    }

    fn is_gone(&self) -> RpcError {
        RpcError::new(ErrorKind::Gone, "its kernel is gone").in_plugin(self.name())
    }
}
