//! A client of one kernel: ask and be answered.
//!
//! # Theory of operation
//!
//! [`KernelClient::launch`] starts a kernel and waits until it answers. From then on one task owns the kernel's
//! channels (`client::task`) and another does nothing but empty iopub (`client::iopub`), since kernels drop what is not read in
//! time, the closing `idle` included. Methods send commands to the task and wait for an answer; every wait ends on the
//! reply, its deadline, the process's exit, or shutdown. Completion of a request is its reply on shell; `idle` on
//! iopub is waited for only for a bounded time.

mod execution;
mod iopub;
mod launch;
mod others;
mod output;
mod prober;
mod startup;
mod task;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    connection::ConnectionInfo,
    language::Interrupt,
    provision::{Exit, LaunchError, Process},
    wire::{ContentError, Header, Message, content},
};

pub use execution::{Executed, Execution, ExecutionEvent, Input};
pub use launch::LaunchOptions;
pub use others::Others;
pub(crate) use output::size_of;
pub use output::{Counters, Output, Outputs};
pub use prober::Prober;
pub use startup::Startup;
pub(crate) use startup::milliseconds;

use task::{Channel, Command, Request, Waiter};

/// A client of one kernel. Dropping it kills the kernel with all its descendants; [`KernelClient::shutdown`] asks first.
#[derive(Debug)]
pub struct KernelClient {
    commands: mpsc::Sender<Command>,
    ids: Ids,
    process: Process,
    options: LaunchOptions,
    info: content::KernelInfoReply,
    startup: Startup,
    welcomed: bool,
    heartbeat: String,
    connection: ConnectionInfo,
    outputs: Option<Outputs>,
    others: watch::Receiver<Others>,
    counters: Arc<Counters>,
    tasks: [JoinHandle<()>; 2],
}

/// Makes message ids and headers of one session.
#[derive(Debug, Clone)]
struct Ids {
    session: String,
    next: Arc<AtomicU64>,
}

/// Why a request to a kernel failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The process could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The process ended before it answered `kernel_info_request`.
    #[error("kernel `{name}` ended with {exit} before it was ready; its last output:\n{output_tail}")]
    DiedAtLaunch {
        /// The kernelspec.
        name: String,
        /// How it ended.
        exit: Exit,
        /// The last it wrote to its own stdout and stderr.
        output_tail: String,
    },
    /// The process lives, but did not answer in time.
    #[error("kernel `{name}` was not ready within {startup:?} ({missing}); its last output:\n{output_tail}")]
    Deaf {
        /// The kernelspec.
        name: String,
        /// The startup deadline.
        startup: Duration,
        /// What it did not do.
        missing: &'static str,
        /// The last it wrote to its own stdout and stderr.
        output_tail: String,
    },
    /// The kernel's process has ended.
    #[error("the kernel ended with {exit}; its last output:\n{output_tail}")]
    Gone {
        /// How it ended.
        exit: Exit,
        /// The last it wrote to its own stdout and stderr.
        output_tail: String,
    },
    /// No reply in time.
    #[error("no reply to `{msg_type}` within {after:?}")]
    Timeout {
        /// What was asked.
        msg_type: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The client has been shut down.
    #[error("the client has been shut down")]
    Closed,
    /// The channels could not be opened or used.
    #[error(transparent)]
    Channel(#[from] crate::channels::ChannelError),
    /// The reply does not fit the message spec.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A request could not be written as JSON.
    #[error("cannot write the request as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Ids {
    fn header(&self, msg_type: &str) -> Header {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Header {
            msg_id: format!("{}_{number}", self.session),
            session: self.session.clone(),
            username: "kernelbridge".into(),
            date: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            msg_type: msg_type.into(),
            version: "5.3".into(),
            subshell_id: None,
        }
    }
}

impl KernelClient {
    /// What the kernel said of itself when it was started.
    pub fn info(&self) -> &content::KernelInfoReply {
        &self.info
    }

    /// Where the time of its start went, up to its first sign of life on iopub.
    pub fn startup(&self) -> Startup {
        self.startup
    }

    /// Did the kernel send `iopub_welcome` (message spec 5.5)?
    pub fn welcomed(&self) -> bool {
        self.welcomed
    }

    /// What the kernel runs of somebody else's, who talks to it too.
    pub fn others(&self) -> watch::Receiver<Others> {
        self.others.clone()
    }

    /// Where it listens, with the key.
    pub fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }

    /// The session of our own messages.
    pub fn session(&self) -> &str {
        &self.ids.session
    }

    /// How it was started.
    pub fn options(&self) -> &LaunchOptions {
        &self.options
    }

    /// The kernel's private folder.
    pub fn folder(&self) -> &Path {
        self.process.folder()
    }

    /// The kernel's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Becomes `Some` when the process has ended.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.process.exit()
    }

    /// Asks the kernel on the side, whoever owns the client.
    pub fn prober(&self) -> Prober {
        Prober { commands: self.commands.clone(), ids: self.ids.clone(), heartbeat: self.heartbeat.clone() }
    }

    /// What was dropped or refused so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The same, for somebody who outlives the client by a moment.
    pub(crate) fn shared_counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// All outputs that belong to no [`Execution`] that asked for its own: those of turns, of background tasks, and
    /// late ones. Can be taken once.
    pub fn take_outputs(&mut self) -> Option<Outputs> {
        self.outputs.take()
    }

    /// Ask the kernel about itself.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`], [`ClientError::Gone`], [`ClientError::Closed`], [`ClientError::Content`].
    pub async fn kernel_info(&self, deadline: Duration) -> Result<content::KernelInfoReply, ClientError> {
        self.ask(Channel::Shell, "kernel_info_request", &content::Empty {}, deadline).await
    }

    /// As [`KernelClient::kernel_info`], on control: answered while busy by few kernels.
    ///
    /// # Errors
    ///
    /// As [`KernelClient::kernel_info`].
    pub async fn kernel_info_on_control(&self, deadline: Duration) -> Result<content::KernelInfoReply, ClientError> {
        self.ask(Channel::Control, "kernel_info_request", &content::Empty {}, deadline).await
    }

    /// Completions of `code` at `cursor_pos` (in Unicode code points): the reply's content.
    ///
    /// # Errors
    ///
    /// As [`KernelClient::kernel_info`].
    pub async fn complete(
        &self,
        code: &str,
        cursor_pos: usize,
        deadline: Duration,
    ) -> Result<Box<RawValue>, ClientError> {
        let request = content::CompleteRequest { code: code.into(), cursor_pos };
        self.ask(Channel::Shell, "complete_request", &request, deadline).await
    }

    /// Documentation of what is at `cursor_pos` (in Unicode code points): the reply's content.
    ///
    /// # Errors
    ///
    /// As [`KernelClient::kernel_info`].
    pub async fn inspect(
        &self,
        code: &str,
        cursor_pos: usize,
        detail_level: u8,
        deadline: Duration,
    ) -> Result<Box<RawValue>, ClientError> {
        let request = content::InspectRequest { code: code.into(), cursor_pos, detail_level };
        self.ask(Channel::Shell, "inspect_request", &request, deadline).await
    }

    /// Is `code` complete? The reply's content. Few kernels answer.
    ///
    /// # Errors
    ///
    /// As [`KernelClient::kernel_info`].
    pub async fn is_complete(&self, code: &str, deadline: Duration) -> Result<Box<RawValue>, ClientError> {
        let request = content::IsCompleteRequest { code: code.into() };
        self.ask(Channel::Shell, "is_complete_request", &request, deadline).await
    }

    /// Comms that are open: the reply's content. ilua, ijavascript and IRuby never answer.
    ///
    /// # Errors
    ///
    /// As [`KernelClient::kernel_info`].
    pub async fn comm_info(&self, deadline: Duration) -> Result<Box<RawValue>, ClientError> {
        self.ask(Channel::Shell, "comm_info_request", &content::Empty {}, deadline).await
    }

    /// Run code, with its outputs and input requests as they come.
    ///
    /// # Errors
    ///
    /// [`ClientError::Gone`] or [`ClientError::Closed`]; what comes later is an [`ExecutionEvent`].
    pub async fn execute(&self, request: &content::ExecuteRequest) -> Result<Execution, ClientError> {
        self.start("execute_request", request, true).await
    }

    /// As [`KernelClient::execute`], but its outputs go to [`KernelClient::take_outputs`].
    pub(crate) async fn execute_turn(&self, request: &content::ExecuteRequest) -> Result<Execution, ClientError> {
        self.start("execute_request", request, false).await
    }

    /// Let the handler of a comm run that the kernel has. There is no reply; `idle` follows when the handler has
    /// returned, or at once when there is no such comm.
    pub(crate) async fn message_comm(&self, comm_id: &str) -> Result<Execution, ClientError> {
        self.start("comm_msg", &content::CommMessage { comm_id, data: content::Empty {} }, false).await
    }

    async fn start(
        &self,
        msg_type: &'static str,
        request: &impl Serialize,
        own_outputs: bool,
    ) -> Result<Execution, ClientError> {
        let (sender, events) = mpsc::unbounded_channel();
        let header = self.ids.header(msg_type);
        let msg_id = header.msg_id.clone();
        let waiter = Waiter::Execution { events: sender, own_outputs, replied: false };
        self.send(Channel::Shell, header, None, request, Some(waiter)).await?;
        Ok(Execution::new(msg_id, events, self.commands.clone(), self.ids.clone()))
    }

    /// Ask the shim to cancel what runs: the file `cancel` in the private folder, which shims that can look for it
    /// remove when they act. Deno's needs that before any `interrupt_request`: its kernel never answers again when one
    /// arrives while a cell awaits.
    pub fn ask_to_cancel(&self) {
        // Where it cannot be written, an interrupt follows.
        let _ = std::fs::write(self.folder().join(crate::provision::Folder::CANCEL), b"");
    }

    /// Has the shim not acted on [`KernelClient::ask_to_cancel`] yet?
    pub fn cancel_is_pending(&self) -> bool {
        self.folder().join(crate::provision::Folder::CANCEL).exists()
    }

    /// Take back the request to cancel.
    pub fn clear_cancel(&self) {
        let _ = std::fs::remove_file(self.folder().join(crate::provision::Folder::CANCEL));
    }

    /// Interrupt what runs, in the way that `language.toml` says works, else in the way `kernel.json` says.
    ///
    /// Whether anything was interrupted shows in the reply to what ran.
    ///
    /// # Errors
    ///
    /// [`ClientError::Gone`] or [`ClientError::Closed`]. `interrupt_reply` is not waited for: few kernels mean it.
    pub async fn interrupt(&self) -> Result<(), ClientError> {
        match self.options.interrupt {
            Interrupt::Signal => {
                self.process.signal_group(Signal::SIGINT);
            }
            Interrupt::SignalChild => {
                self.process.signal_children(Signal::SIGINT);
            }
            Interrupt::Message => {
                let header = self.ids.header("interrupt_request");
                self.send(Channel::Control, header, None, &content::Empty {}, None).await?;
            }
            Interrupt::CancelFile => self.ask_to_cancel(),
            Interrupt::None => {}
        }
        Ok(())
    }

    /// End the kernel: ask on control, ask on shell, SIGTERM, SIGKILL, each after a part of `grace`. When this returns
    /// there is no process, no descendant, no socket and no file left.
    ///
    /// A kernel that was [adopted](KernelClient::adopt) lives on; only what is ours ends.
    pub async fn shutdown(self, grace: Duration) {
        let exited = |part: Duration| {
            let mut exit = self.process.exit();
            async move { timeout(part, exit.wait_for(Option::is_some)).await.is_ok() }
        };
        let request = content::ShutdownRequest { restart: false };
        let mut done = self.process.is_adopted();
        if !self.options.no_shutdown && !done {
            for channel in [Channel::Control, Channel::Shell] {
                if done || (channel == Channel::Control && self.options.no_control) {
                    continue;
                }
                let header = self.ids.header("shutdown_request");
                done = self.send(channel, header, None, &request, None).await.is_err() || exited(grace / 3).await;
            }
        }
        if !done {
            self.process.signal_group(Signal::SIGTERM);
            exited(grace / 3).await;
        }
        self.process.kill_tree().await;
        for task in &self.tasks {
            task.abort();
        }
        // Sockets are closed when the tasks are dropped, which takes a turn of the runtime.
        while self.tasks.iter().any(|task| !task.is_finished()) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// End the kernel and start it anew, with new ports, a new key and a new folder.
    ///
    /// # Errors
    ///
    /// As [`KernelClient::launch`]; the old kernel is gone in any case.
    pub async fn restart(self, grace: Duration) -> Result<Self, ClientError> {
        let options = self.options.clone();
        self.shutdown(grace).await;
        Self::launch(options).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        channel: Channel,
        msg_type: &'static str,
        content: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel::<Result<Message, ClientError>>();
        let header = self.ids.header(msg_type);
        let msg_id = header.msg_id.clone();
        self.send(channel, header, None, content, Some(Waiter::Reply(reply))).await?;
        await_reply(answer, &self.commands, msg_id, msg_type, deadline).await
    }

    async fn send(
        &self,
        channel: Channel,
        header: Header,
        parent: Option<Header>,
        content: &impl Serialize,
        waiter: Option<Waiter>,
    ) -> Result<(), ClientError> {
        let content: Bytes = serde_json::to_vec(content)?.into();
        let request = Request { channel, header, parent, content, waiter };
        self.commands.send(Command::Send(Box::new(request))).await.map_err(|_| self.gone())
    }

    /// Why the task is gone.
    pub(crate) fn gone(&self) -> ClientError {
        match *self.process.exit().borrow() {
            Some(exit) => ClientError::Gone { exit, output_tail: self.process.output_tail().text() },
            None => ClientError::Closed,
        }
    }
}

/// Wait for the reply to a request, and tell the task when nobody waits any more.
async fn await_reply<T: DeserializeOwned>(
    answer: oneshot::Receiver<Result<Message, ClientError>>,
    commands: &mpsc::Sender<Command>,
    msg_id: String,
    msg_type: &'static str,
    deadline: Duration,
) -> Result<T, ClientError> {
    match timeout(deadline, answer).await {
        Ok(Ok(message)) => Ok(message?.parse_content()?),
        Ok(Err(_)) => Err(ClientError::Closed),
        Err(_) => {
            // If the task is gone there is nothing to forget.
            let _ = commands.send(Command::Forget { msg_id }).await;
            Err(ClientError::Timeout { msg_type, after: deadline })
        }
    }
}

impl Drop for KernelClient {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
