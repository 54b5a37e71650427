//! A kernel that a frontend has started and knows nothing of us, attached to a running host from outside.

use std::{sync::Arc, time::Duration};

use serde_json::Map;
use tokio::sync::mpsc;

use crate::{
    connection::ConnectionInfo,
    host::Host,
    plugin::{Plugin, Runtime, Spare},
    relay::{RelayError, desk::Desk, guest, iopub::Filter, source},
    rpc::RpcError,
    wire::Signer,
};

/// How long handlers get that run when the host is left.
const GRACE: Duration = Duration::from_secs(2);

/// A kernel that we take part in. When this ends, the kernel goes on as it was, but that `bridge` reaches nobody.
pub struct Adopted {
    plugin: Arc<Plugin>,
    desk: Arc<Desk>,
    said: mpsc::UnboundedReceiver<String>,
    _host: Host,
}

impl Adopted {
    /// Give the kernel its shim: cells that run from now on have `bridge`.
    ///
    /// # Errors
    ///
    /// [`RelayError`], with the kernel as it was.
    pub async fn start(
        connection: ConnectionInfo,
        process_id: u32,
        runtime: &Runtime,
        startup: Duration,
    ) -> Result<Self, RelayError> {
        let signer = Signer::new(&connection.signature_scheme, connection.key.as_bytes())?;
        let source = source(&connection, Map::new(), Vec::new(), startup);
        let host = Host::builder().build().await?;
        let spare = Spare::adopt(runtime, &source, connection, process_id).await?;
        let (told, said) = mpsc::unbounded_channel();
        let filter = Arc::new(Filter::new(spare.identity().1, signer, spare.others()).with_terminal(told));
        let guest = guest(&host)?;
        let desk = Arc::new(Desk::new(guest.calls, filter));
        let plugin = Plugin::load_into(spare, runtime, &source, desk.clone(), guest.graph).await?;
        let plugin = Arc::new(plugin);
        desk.serve(&plugin);
        Ok(Self { plugin, desk, said, _host: host })
    }

    /// Attach it to a running host, as copies of events or in a plugin's place; says what is known of the host.
    ///
    /// # Errors
    ///
    /// Those of the host.
    pub async fn connect(&self, host: Option<&str>, replace: Option<&str>) -> Result<serde_json::Value, RpcError> {
        self.desk.clone().attach(host, replace).await
    }

    /// What handlers print, and what goes wrong, in pieces of text; `None` when the kernel has ended.
    pub async fn said(&mut self) -> Option<String> {
        let mut death = self.plugin.death();
        tokio::select! {
            text = self.said.recv() => text,
            // Its task is gone with it.
            _ = death.wait_for(Option::is_some) => None,
        }
    }

    /// Is it still attached?
    pub fn is_connected(&self) -> bool {
        self.desk.linked().is_some()
    }

    /// Leave it: the host has everything back, and the kernel goes on.
    pub async fn leave(self) {
        if let Some(linked) = self.desk.linked() {
            // A host that is gone has nothing to get back.
            let _ = linked.disconnect().await;
        }
        self.plugin.shutdown(GRACE).await;
    }
}
