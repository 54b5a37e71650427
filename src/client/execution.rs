//! One `execute_request` and what comes of it.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, timeout_at},
};

use crate::{
    client::{
        ClientError, Ids, Output,
        output::{Metered, Room, WAITING_BYTES},
        task::{Channel, Command, Request},
    },
    wire::{Header, content},
};

/// How long `idle` is waited for after the reply. Deno sends outputs after `idle`, others lose it under load.
const IDLE: Duration = Duration::from_millis(250);

/// A running `execute_request`, or a comm's handler. Dropping it forgets the request; it does not stop the code.
#[derive(Debug)]
pub struct Execution {
    msg_id: String,
    events: mpsc::UnboundedReceiver<Event>,
    commands: mpsc::Sender<Command>,
    ids: Ids,
}

/// As sent by the client's task.
#[derive(Debug)]
pub(super) enum Event {
    Output(Metered),
    Input { header: Header, request: content::InputRequest, _room: OwnedSemaphorePermit },
    Reply(content::ExecuteReply),
    Idle { _room: Room },
    Failed(ClientError),
}

/// What happens during an execution.
#[derive(Debug)]
pub enum ExecutionEvent {
    /// The code printed or showed something.
    Output(Output),
    /// The code asks for input; answer with [`Execution::reply_input`].
    Input(Input),
    /// The code has ended. Outputs may still follow.
    Reply(content::ExecuteReply),
    /// The kernel says that all outputs were sent; usually, but not always, last.
    Idle,
    /// Nothing more will come: the kernel is gone or was shut down.
    Failed(ClientError),
}

/// An `input_request`.
#[derive(Debug)]
pub struct Input {
    /// What is asked.
    pub prompt: String,
    /// Is it a secret?
    pub password: bool,
    header: Header,
}

/// A finished execution.
#[derive(Debug)]
pub struct Executed {
    /// The kernel's reply.
    pub reply: content::ExecuteReply,
    /// What was printed and shown.
    pub outputs: Vec<Output>,
    /// Was `idle` seen, and was all kept? If not, outputs are missing.
    pub complete: bool,
}

impl Execution {
    pub(super) fn new(
        msg_id: String,
        events: mpsc::UnboundedReceiver<Event>,
        commands: mpsc::Sender<Command>,
        ids: Ids,
    ) -> Self {
        Self { msg_id, events, commands, ids }
    }

    /// What happens next. Waits for as long as the kernel lives. Cancel safe.
    pub async fn next(&mut self) -> ExecutionEvent {
        match self.events.recv().await {
            Some(Event::Output(metered)) => ExecutionEvent::Output(metered.into_output()),
            Some(Event::Input { header, request, .. }) => {
                ExecutionEvent::Input(Input { prompt: request.prompt, password: request.password, header })
            }
            Some(Event::Reply(reply)) => ExecutionEvent::Reply(reply),
            Some(Event::Idle { .. }) => ExecutionEvent::Idle,
            Some(Event::Failed(error)) => ExecutionEvent::Failed(error),
            None => ExecutionEvent::Failed(ClientError::Closed),
        }
    }

    /// Answer an input request. Cancel safe: either it is answered or nothing happened.
    ///
    /// # Errors
    ///
    /// [`ClientError::Closed`] when the client is gone.
    pub async fn reply_input(&self, input: &Input, value: &str) -> Result<(), ClientError> {
        let content: Bytes = serde_json::to_vec(&content::InputReply { value })?.into();
        let header = self.ids.header("input_reply");
        let parent = Some(input.header.clone());
        let request = Request { channel: Channel::Stdin, header, parent, content, waiter: None };
        self.commands.send(Command::Send(Box::new(request))).await.map_err(|_| ClientError::Closed)
    }

    /// Wait for the reply and, for at most 250 ms more, for `idle`, refusing input. At most 64 MiB of outputs are kept.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`] after `deadline`; [`ClientError::Gone`] when the kernel's process ended.
    pub async fn finish(mut self, deadline: Duration) -> Result<Executed, ClientError> {
        let (mut outputs, mut room_bytes) = (Vec::new(), WAITING_BYTES as u64);
        let (mut reply, mut idle, mut complete) = (None, false, true);
        let mut until = Instant::now() + deadline;
        loop {
            match timeout_at(until, self.next()).await {
                Ok(ExecutionEvent::Output(output)) if output.size_bytes() <= room_bytes => {
                    room_bytes -= output.size_bytes();
                    outputs.push(output);
                }
                Ok(ExecutionEvent::Output(_)) => (room_bytes, complete) = (0, false),
                // An empty line, as at the end of a file: no kernel takes an error as an answer.
                Ok(ExecutionEvent::Input(input)) => self.reply_input(&input, "").await?,
                Ok(ExecutionEvent::Reply(answer)) => {
                    reply = Some(answer);
                    until = Instant::now() + IDLE;
                }
                Ok(ExecutionEvent::Idle) => idle = true,
                Ok(ExecutionEvent::Failed(error)) => return Err(error),
                Err(_) if reply.is_none() => {
                    return Err(ClientError::Timeout { msg_type: "execute_request", after: deadline });
                }
                Err(_) => {}
            }
            match reply.take() {
                Some(reply) if idle || Instant::now() >= until => {
                    return Ok(Executed { reply, outputs, complete: complete && idle });
                }
                pending => reply = pending,
            }
        }
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        // If the queue is full or the task gone, the entry goes with the task.
        let _ = self.commands.try_send(Command::Forget { msg_id: std::mem::take(&mut self.msg_id) });
    }
}
