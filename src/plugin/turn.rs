//! One turn: the time during which a plugin works for us, and how RPC messages travel meanwhile.
//!
//! Usually that is as long as an `execute_request` runs. A *standing* turn goes on after its `execute_request`: that
//! only hands the pipes to the interpreter's own event loop, and whoever closes them ends the turn. The handler of a comm
//! runs as long as a cell would but has no reply, so there too the turn ends with the pipes, or with the kernel's `idle`
//! when somebody else still has them open.

use std::{collections::VecDeque, io, path::Path, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    client::{ClientError, Execution, ExecutionEvent, Input},
    language::Activation,
    plugin::{
        Carrier,
        pipe::{Frame, Pipe},
    },
    rpc::{self, Inbound},
    wire::content,
};

/// How long a turn's reply may take after the shim has closed its end of the pipe. Wrapper kernels (Bash, Lua) never
/// reply when their interpreter died; Bash needs 0.1 s to reply when it did not.
const REPLY_AFTER_CLOSE: Duration = Duration::from_secs(3);

/// A message to the shim.
#[derive(Debug)]
pub(super) enum Message {
    Json(String),
    /// For shims with the feature [`PICKLE`](rpc::PICKLE), over `pipe`.
    Pickle(Vec<u8>),
}

impl Message {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Json(text) => text.as_bytes(),
            Self::Pickle(bytes) => bytes,
        }
    }
}

/// What happens in a turn.
#[derive(Debug)]
pub(super) enum TurnEvent {
    /// The shim says something.
    Message(Inbound),
    /// The author's code asks for keyboard input behind the shim's back.
    Keyboard(Input),
    /// The turn is over.
    Ended(content::ExecuteReply),
    /// The kernel is gone, or as good as gone.
    Failed(TurnError),
}

/// Why a turn cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("carrier `pipe`: {0}")]
    Pipe(#[source] std::io::Error),
    /// The shim closed the pipe, but no reply came: the interpreter behind a wrapper kernel is dead.
    #[error("the interpreter behind the kernel ended")]
    Hollow,
}

/// An open turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// Until its reply, in a standing turn.
    execution: Option<Execution>,
    activation: Activation,
    was_woken: bool,
    road: Road,
    arrived: VecDeque<Inbound>,
    limit_bytes: usize,
    reply: Option<content::ExecuteReply>,
    /// When the shim was seen to have closed the pipe.
    closed_at: Option<Instant>,
}

#[derive(Debug)]
enum Road {
    Pipe(Box<Pipe>),
    Jupyter {
        /// The shim's unanswered prompt.
        prompt: Option<Box<Input>>,
        outbox: VecDeque<String>,
    },
}

impl Turn {
    /// The FIFOs must be open before what opens the turn is sent.
    pub fn prepare(carrier: Carrier, folder: &Path, limit_bytes: usize) -> Result<PreparedTurn, TurnError> {
        let road = match carrier {
            Carrier::Pipe => Road::Pipe(Box::new(Pipe::open(folder, limit_bytes).map_err(TurnError::Pipe)?)),
            Carrier::Jupyter => Road::Jupyter { prompt: None, outbox: VecDeque::new() },
        };
        Ok(PreparedTurn { road, limit_bytes })
    }

    /// What opened it.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Not a turn yet: an ear for what the code of cells asks for, which others have the kernel run.
    ///
    /// # Errors
    ///
    /// [`TurnError::Pipe`]: the pipes cannot be opened.
    pub fn listen(folder: &Path, limit_bytes: usize) -> Result<Self, TurnError> {
        let road = Road::Pipe(Box::new(Pipe::listen(folder, limit_bytes).map_err(TurnError::Pipe)?));
        Ok(PreparedTurn { road, limit_bytes }.start(None, Activation::Execute))
    }

    /// Of an ear: a turn begins.
    pub fn begin(&mut self, execution: Execution) {
        (self.execution, self.reply, self.closed_at) = (Some(execution), None, None);
    }

    /// Of a turn that was an ear: it is over.
    pub fn cease(&mut self) {
        self.execution = None;
    }

    /// Does it stand for as long as the kernel lives?
    pub fn is_standing(&self) -> bool {
        self.activation.is_standing()
    }

    /// A cell that runs beside a standing turn; an error of its ends the turn.
    pub fn beside(&mut self, execution: Execution) {
        self.execution = Some(execution);
        self.was_woken = true;
    }

    /// Did a cell run beside it, after an interrupt?
    pub fn was_woken(&self) -> bool {
        self.was_woken
    }

    /// Queue a message and send what can be sent at once.
    pub fn send(&mut self, message: Message) -> Result<(), TurnError> {
        match (&mut self.road, message) {
            (Road::Pipe(pipe), message) => {
                pipe.push(message.bytes());
                pipe.flush().map_err(TurnError::Pipe)
            }
            (Road::Jupyter { outbox, .. }, Message::Json(message)) => {
                outbox.push_back(message);
                Ok(())
            }
            (Road::Jupyter { .. }, Message::Pickle(_)) => {
                let why = "bytes do not travel over carrier `jupyter`";
                Err(TurnError::Pipe(io::Error::new(io::ErrorKind::InvalidInput, why)))
            }
        }
    }

    /// What happens next; sends queued messages meanwhile. Cancel safe.
    pub async fn next(&mut self) -> TurnEvent {
        match self.try_next().await {
            Ok(event) => event,
            Err(error) => TurnEvent::Failed(error),
        }
    }

    async fn try_next(&mut self) -> Result<TurnEvent, TurnError> {
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Ok(TurnEvent::Message(message));
            }
            if let Road::Pipe(pipe) = &mut self.road
                && let Some(frame) = pipe.pop().map_err(TurnError::Pipe)?
            {
                self.arrived.extend(match frame {
                    Frame::Body(body) => Inbound::parse(&body),
                    Frame::TooLarge { head, size_bytes } => Inbound::parse_head(&head, size_bytes, self.limit_bytes),
                });
                continue;
            }
            if let Some(reply) = self.reply.take() {
                return Ok(TurnEvent::Ended(reply));
            }
            let event = match &mut self.road {
                Road::Pipe(pipe) => {
                    let Some(execution) = &mut self.execution else {
                        if pipe.closed {
                            return Ok(TurnEvent::Ended(content::ExecuteReply::default()));
                        }
                        pipe.progress().await.map_err(TurnError::Pipe)?;
                        continue;
                    };
                    if pipe.closed && self.activation == Activation::Comm {
                        return Ok(TurnEvent::Ended(content::ExecuteReply::default()));
                    }
                    if pipe.closed && self.closed_at.is_none() {
                        self.closed_at = Some(Instant::now());
                    }
                    let closed_at = self.closed_at;
                    tokio::select! {
                        progress = pipe.progress() => {
                            progress.map_err(TurnError::Pipe)?;
                            continue;
                        }
                        event = execution.next() => event,
                        () = wait_after(closed_at) => return Err(TurnError::Hollow),
                    }
                }
                Road::Jupyter { prompt, outbox } => {
                    let Some(execution) = &mut self.execution else { return Err(ClientError::Closed.into()) };
                    if let (Some(input), Some(message)) = (&prompt, outbox.front()) {
                        execution.reply_input(input, message).await?;
                        *prompt = None;
                        outbox.pop_front();
                    }
                    execution.next().await
                }
            };
            match event {
                ExecutionEvent::Reply(reply)
                    if self.activation.is_standing() && reply.status == content::Status::Ok =>
                {
                    self.execution = None;
                }
                ExecutionEvent::Reply(reply) => {
                    // What the shim wrote before the end is read first.
                    if let Road::Pipe(pipe) = &mut self.road {
                        pipe.read().map_err(TurnError::Pipe)?;
                    }
                    self.reply = Some(reply);
                }
                ExecutionEvent::Input(input) => {
                    if let Some(keyboard) = self.prompted(input) {
                        return Ok(TurnEvent::Keyboard(keyboard));
                    }
                }
                ExecutionEvent::Failed(error) => return Err(error.into()),
                ExecutionEvent::Idle if self.activation == Activation::Comm => {
                    self.reply = Some(self.handler_returned()?);
                }
                ExecutionEvent::Idle | ExecutionEvent::Output(_) => {}
            }
        }
    }

    /// The comm's handler is done, or there is none. What the shim wrote before is read first.
    fn handler_returned(&mut self) -> Result<content::ExecuteReply, TurnError> {
        if let Road::Pipe(pipe) = &mut self.road {
            pipe.read().map_err(TurnError::Pipe)?;
            if !pipe.heard {
                let evalue = "nothing came of a message to the shim's comm".to_owned();
                return Ok(content::ExecuteReply { evalue, ..Default::default() });
            }
        }
        Ok(content::ExecuteReply::default())
    }

    /// A prompt of the shim's holds messages; any other is the author's own.
    fn prompted(&mut self, input: Input) -> Option<Input> {
        let Road::Jupyter { prompt, outbox } = &mut self.road else { return Some(input) };
        let bytes = input.prompt.as_bytes();
        let messages = if bytes.len() > self.limit_bytes {
            Inbound::parse_head(&bytes[..bytes.len().min(rpc::HEAD_BYTES)], bytes.len(), self.limit_bytes)
        } else {
            Inbound::parse(bytes)
        };
        if messages.iter().any(|message| matches!(message, Inbound::Bad { .. })) {
            return Some(input);
        }
        if messages.is_empty() {
            // `[]`: the shim dropped a stale answer and waits once more; what it waits for was or will be sent.
            return None;
        }
        *prompt = Some(Box::new(input));
        let is_news = |message: &Inbound| {
            matches!(message, Inbound::Log { .. } | Inbound::Progress { .. } | Inbound::Output { .. })
        };
        if messages.iter().all(is_news) {
            outbox.push_front(rpc::notification("continue"));
        }
        self.arrived.extend(messages);
        None
    }

    /// Answer the author's own keyboard read.
    pub async fn answer_keyboard(&self, input: &Input, value: &str) -> Result<(), TurnError> {
        match &self.execution {
            Some(execution) => Ok(execution.reply_input(input, value).await?),
            None => Err(ClientError::Closed.into()),
        }
    }
}

/// A carrier that is ready for its turn.
pub(super) struct PreparedTurn {
    road: Road,
    limit_bytes: usize,
}

impl PreparedTurn {
    /// The turn, once what opens it was sent.
    pub fn open(self, execution: Execution, activation: Activation) -> Turn {
        self.start(Some(execution), activation)
    }

    fn start(self, execution: Option<Execution>, activation: Activation) -> Turn {
        let Self { road, limit_bytes } = self;
        let was_woken = false;
        Turn {
            execution,
            activation,
            was_woken,
            road,
            arrived: VecDeque::new(),
            limit_bytes,
            reply: None,
            closed_at: None,
        }
    }
}

async fn wait_after(closed_at: Option<Instant>) {
    match closed_at {
        Some(closed_at) => sleep_until(closed_at + REPLY_AFTER_CLOSE).await,
        None => std::future::pending().await,
    }
}
