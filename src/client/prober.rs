//! Questions on the side, while somebody else has the [`KernelClient`](super::KernelClient).

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    channels::heartbeat,
    client::{
        ClientError, Ids, await_reply,
        task::{Channel, Command, Request, Waiter},
    },
    wire::content,
};

/// Asks a kernel how it is, also while it is busy for a plugin. Made by [`KernelClient::prober`](super::KernelClient::prober).
#[derive(Debug, Clone)]
pub struct Prober {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) ids: Ids,
    pub(super) heartbeat: String,
}

impl Prober {
    /// Ask the kernel about itself on control; few kernels answer while they are busy.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`], [`ClientError::Gone`], [`ClientError::Content`], and [`ClientError::Closed`] also for a
    /// kernel without control.
    pub async fn kernel_info_on_control(&self, deadline: Duration) -> Result<content::KernelInfoReply, ClientError> {
        self.ask(Channel::Control, "kernel_info_request", &content::Empty {}, deadline).await
    }

    /// As [`KernelClient::complete`](super::KernelClient::complete). A kernel answers when it has done what it is at.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`], [`ClientError::Gone`], [`ClientError::Closed`], [`ClientError::Content`].
    pub async fn complete(
        &self,
        code: &str,
        cursor_pos: usize,
        deadline: Duration,
    ) -> Result<Box<RawValue>, ClientError> {
        let request = content::CompleteRequest { code: code.into(), cursor_pos };
        self.ask(Channel::Shell, "complete_request", &request, deadline).await
    }

    /// As [`KernelClient::inspect`](super::KernelClient::inspect). A kernel answers when it has done what it is at.
    ///
    /// # Errors
    ///
    /// As [`Prober::complete`].
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

    /// As [`KernelClient::is_complete`](super::KernelClient::is_complete). Few kernels answer.
    ///
    /// # Errors
    ///
    /// As [`Prober::complete`].
    pub async fn is_complete(&self, code: &str, deadline: Duration) -> Result<Box<RawValue>, ClientError> {
        let request = content::IsCompleteRequest { code: code.into() };
        self.ask(Channel::Shell, "is_complete_request", &request, deadline).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        channel: Channel,
        msg_type: &'static str,
        content: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel();
        let header = self.ids.header(msg_type);
        let msg_id = header.msg_id.clone();
        let content = serde_json::to_vec(content)?.into();
        let waiter = Some(Waiter::Reply(reply));
        let request = Request { channel, header, parent: None, content, waiter };
        self.commands.send(Command::Send(Box::new(request))).await.map_err(|_| ClientError::Closed)?;
        await_reply(answer, &self.commands, msg_id, msg_type, deadline).await
    }

    /// Send one heartbeat. Returns how long its echo took.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`], [`ClientError::Channel`].
    pub async fn heartbeat(&self, deadline: Duration) -> Result<Duration, ClientError> {
        match timeout(deadline, heartbeat::beat(&self.heartbeat)).await {
            Ok(beat) => Ok(beat?),
            Err(_) => Err(ClientError::Timeout { msg_type: "heartbeat", after: deadline }),
        }
    }
}
