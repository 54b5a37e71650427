//! The task that owns a kernel's channels. Nobody else sees a socket.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::coop::consume_budget,
};

use crate::{
    channels::{self, Arrival, ChannelError, MESSAGE_BYTES},
    client::{
        ClientError,
        execution::Event,
        iopub::{News, What},
        output::{Counters, Metered},
    },
    provision::Exit,
    wire::{Header, Message, Outgoing, Received, Signer, content},
    zmtp::ProtocolError,
};

/// How many prompts may wait to be read. A kernel that waits for an answer sends one.
pub(super) const PROMPTS: usize = 4;

/// Which channel a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Shell,
    Control,
    Stdin,
}

/// What the handles ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    /// Send a message; its waiter gets what belongs to it.
    Send(Box<Request>),
    /// Nobody waits for that request any more.
    Forget { msg_id: String },
}

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Request {
    pub channel: Channel,
    pub header: Header,
    pub parent: Option<Header>,
    pub content: Bytes,
    pub waiter: Option<Waiter>,
}

/// Who waits for a request.
#[derive(Debug)]
pub(super) enum Waiter {
    Reply(oneshot::Sender<Result<Message, ClientError>>),
    Execution { events: mpsc::UnboundedSender<Event>, own_outputs: bool, replied: bool },
}

impl Waiter {
    fn fail(self, error: ClientError) {
        // A waiter that gave up is no longer interested.
        match self {
            Self::Reply(reply) => drop(reply.send(Err(error))),
            Self::Execution { events, .. } => drop(events.send(Event::Failed(error))),
        }
    }
}

/// The state of the task. It ends when the process does, or when all handles are gone.
pub(super) struct Task {
    pub shell: channels::Channel,
    pub control: Option<channels::Channel>,
    pub stdin: channels::Channel,
    pub signer: Signer,
    pub commands: mpsc::Receiver<Command>,
    pub news: mpsc::UnboundedReceiver<News>,
    pub outputs: mpsc::UnboundedSender<Metered>,
    pub exit: watch::Receiver<Option<Exit>>,
    pub output_tail: Box<dyn Fn() -> String + Send>,
    pub counters: Arc<Counters>,
    pub iopub_seen: watch::Sender<IopubSeen>,
    pub waiters: HashMap<String, Waiter>,
    pub prompts: Arc<Semaphore>,
    /// What came over one of the channels was no ZeroMQ; nothing is asked of this kernel any more.
    pub broken: Option<ProtocolError>,
}

/// What is known of iopub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IopubSeen {
    pub any: bool,
    pub welcome: bool,
}

enum Happened {
    Command(Option<Command>),
    Arrived(&'static str, Result<Arrival, ProtocolError>),
    News(Option<News>),
    Exit,
}

impl Task {
    pub async fn run(mut self) {
        let exit = loop {
            // As in the iopub task.
            consume_budget().await;
            match self.next().await {
                Happened::Command(Some(command)) => self.obey(command).await,
                // All handles are gone.
                Happened::Command(None) => return,
                Happened::Arrived(channel, Ok(Arrival::Message(frames))) => self.receive(channel, frames),
                Happened::Arrived(channel, Ok(Arrival::Refused(refusal))) => {
                    self.counters.count_odd();
                    tracing::warn!(channel, reason = %refusal, "message refused");
                }
                // Death is told by the process.
                Happened::Arrived(channel, Ok(Arrival::Closed)) => tracing::debug!(channel, "closed by the kernel"),
                Happened::Arrived(channel, Err(error)) => self.break_off(channel, error),
                Happened::News(Some(news)) => self.route(news),
                // The iopub task ends only with this one.
                Happened::News(None) => {}
                Happened::Exit => break *self.exit.borrow(),
            }
        };
        // What is left on iopub may hold the last outputs before death.
        while let Ok(news) = self.news.try_recv() {
            self.route(news);
        }
        self.fail_all(|output_tail| match exit {
            Some(exit) => ClientError::Gone { exit, output_tail: output_tail() },
            None => ClientError::Closed,
        });
    }

    /// Whoever waits is told at once: no reply of a kernel that does not keep to the protocol can be hoped for.
    fn break_off(&mut self, channel: &'static str, error: ProtocolError) {
        self.counters.count_odd();
        tracing::warn!(channel, %error, "the kernel does not keep to ZeroMQ's protocol");
        self.fail_all(|_| ChannelError::from(error.clone()).into());
        self.broken = Some(error);
    }

    fn fail_all(&mut self, error: impl Fn(&dyn Fn() -> String) -> ClientError) {
        for (_, waiter) in self.waiters.drain() {
            waiter.fail(error(&*self.output_tail));
        }
    }

    async fn next(&mut self) -> Happened {
        let control = async {
            match &mut self.control {
                Some(control) => control.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            frames = self.shell.recv() => Happened::Arrived("shell", frames),
            frames = self.stdin.recv() => Happened::Arrived("stdin", frames),
            frames = control => Happened::Arrived("control", frames),
            Some(news) = self.news.recv() => Happened::News(Some(news)),
            command = self.commands.recv() => Happened::Command(command),
            _ = self.exit.wait_for(Option::is_some) => Happened::Exit,
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Forget { msg_id } => drop(self.waiters.remove(&msg_id)),
            Command::Send(request) => {
                let Request { channel, header, parent, content, waiter } = *request;
                let msg_id = header.msg_id.clone();
                match (waiter, &self.broken) {
                    (Some(waiter), Some(error)) => return waiter.fail(ChannelError::from(error.clone()).into()),
                    (Some(waiter), None) => drop(self.waiters.insert(msg_id.clone(), waiter)),
                    // `shutdown_request`, which a channel that is whole still carries.
                    (None, _) => {}
                }
                let outgoing = Outgoing { header, parent, content };
                // Headers are strings; writing them cannot fail.
                let Ok(frames) = outgoing.into_frames(&self.signer) else { return };
                let channel = match (channel, &mut self.control) {
                    (Channel::Control, Some(control)) => control,
                    // A kernel without control may take it on shell.
                    (Channel::Shell | Channel::Control, _) => &mut self.shell,
                    (Channel::Stdin, _) => &mut self.stdin,
                };
                match channel.send(frames).await {
                    Ok(()) => {}
                    Err(error @ ChannelError::Stuck) => {
                        tracing::warn!(%error, "request not sent");
                        if let Some(waiter) = self.waiters.remove(&msg_id) {
                            waiter.fail(error.into());
                        }
                    }
                    // The waiters learn of it from the process's exit, or from their deadline.
                    Err(error) => tracing::warn!(%error, "request not sent"),
                }
            }
        }
    }

    fn receive(&mut self, channel: &'static str, frames: Vec<Bytes>) {
        let message = match Received::parse(frames, &mut self.signer, MESSAGE_BYTES) {
            Received::Message(message) => message,
            Received::Odd(odd) => {
                self.counters.count_odd();
                tracing::warn!(channel, reason = %odd.reason, "message refused");
                return;
            }
        };
        if message.msg_type() == "input_request" {
            return self.ask_input(message);
        }
        // Replies are told by their parent, not by channel or type: Julia answers control on shell, R calls the reply
        // to an aborted `kernel_info_request` `kernel_reply`, tslab answers `comm_info` with `complete_reply`.
        match self.waiters.remove(message.parent_id()) {
            Some(Waiter::Reply(reply)) => drop(reply.send(Ok(message))),
            Some(Waiter::Execution { events, own_outputs, replied }) => {
                let msg_id = message.parent_id().to_owned();
                // Its outputs and `idle` may still come.
                self.waiters.insert(msg_id, Waiter::Execution { events: events.clone(), own_outputs, replied: true });
                if replied {
                    return tracing::debug!(channel, "a second reply to one request");
                }
                let reply = message.parse_content().unwrap_or_else(|error| {
                    tracing::warn!(%error, "execute_reply");
                    content::ExecuteReply { status: content::Status::Error, ..Default::default() }
                });
                drop(events.send(Event::Reply(reply)));
            }
            None => tracing::debug!(channel, msg_type = message.msg_type(), "nobody waits for this message"),
        }
    }

    /// Some kernels name a stale parent, so an input request that belongs to no known execution goes to the only one
    /// that runs.
    fn ask_input(&mut self, message: Message) {
        let request: content::InputRequest = match message.parse_content() {
            Ok(request) => request,
            Err(error) => {
                self.counters.count_odd();
                return tracing::warn!(%error, "input_request refused");
            }
        };
        let known = self.waiters.contains_key(message.parent_id());
        let asked = self.waiters.iter().find_map(|(msg_id, waiter)| match waiter {
            Waiter::Execution { events, .. } if !known || msg_id == message.parent_id() => Some(events),
            _ => None,
        });
        match asked {
            Some(events) => match self.prompts.clone().try_acquire_owned() {
                Ok(room) => drop(events.send(Event::Input { header: message.header, request, _room: room })),
                Err(_) => {
                    self.counters.count_odd();
                    tracing::warn!("input_request refused: others wait already");
                }
            },
            None => tracing::warn!("input_request outside any execution"),
        }
    }

    fn route(&mut self, news: News) {
        let welcome = matches!(news.what, What::Welcome);
        self.iopub_seen.send_if_modified(|seen| {
            let before = *seen;
            *seen = IopubSeen { any: true, welcome: seen.welcome || welcome };
            *seen != before
        });
        let waiter = self.waiters.get(&news.parent_id);
        match (news.what, waiter) {
            (What::Output(output), Some(Waiter::Execution { events, own_outputs: true, .. })) => {
                drop(events.send(Event::Output(output)));
            }
            (What::Output(output), _) => drop(self.outputs.send(output)),
            (What::Idle(room), Some(Waiter::Execution { events, .. })) => {
                drop(events.send(Event::Idle { _room: room }))
            }
            _ => {}
        }
    }
}
