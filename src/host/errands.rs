//! What the command line asks of a running host, through the store that both have open.

use std::{sync::Weak, time::Duration};

use tokio::time::sleep;

use crate::{host::shared::Shared, store::Request};

/// How often the store is looked at. It costs some ten microseconds.
const EVERY: Duration = Duration::from_secs(1);

/// Runs errands for as long as the host lives.
pub(super) async fn errands(shared: Weak<Shared>) {
    loop {
        sleep(EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        let entries = shared.entries();
        let names: Vec<&str> = entries.iter().map(|entry| &*entry.name).collect();
        let requests = match shared.store.take_requests(&names) {
            Ok(requests) => requests,
            Err(error) => {
                tracing::warn!(%error, "cannot see what the command line asks");
                continue;
            }
        };
        for request in requests {
            let (Request::Retry(plugin) | Request::Release(plugin)) = &request;
            let Some(entry) = entries.iter().find(|entry| *entry.name == **plugin) else { continue };
            match request {
                Request::Retry(_) => {
                    if let Err(error) = entry.ledger.look(|new| shared.found(entry, new)) {
                        tracing::warn!(plugin = &*entry.name, %error, "cannot read the backlog");
                    }
                }
                Request::Release(_) => entry.release(),
            }
        }
    }
}
