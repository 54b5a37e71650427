//! Questions on the side, while somebody else has the [`KernelClient`](super::KernelClient).

use std::time::Duration;

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
        let msg_type = "kernel_info_request";
        let (reply, answer) = oneshot::channel();
        let header = self.ids.header(msg_type);
        let msg_id = header.msg_id.clone();
        let content = serde_json::to_vec(&content::Empty {})?.into();
        let waiter = Some(Waiter::Reply(reply));
        let request = Request { channel: Channel::Control, header, parent: None, content, waiter };
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
