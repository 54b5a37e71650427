//! Many plugins, the application's functions, and the bus between them.
//!
//! This is `examples/quickstart.rs`; the tests run it:
//!
//! ```no_run
#![doc = include_str!("../../examples/quickstart.rs")]
//! ```
//!
//! # Theory of operation
//!
//! Each plugin has a bounded queue and one task that hands it one event after the other; the plugin's own task does
//! the talking. Calls of plugins come back through [`crate::plugin::HostCalls`], are checked against the manifest on
//! every hop, and go to a host function or to another plugin as part of the same chain.

mod builder;
mod event;
mod functions;
mod news;
mod shared;
mod stats;
mod worker;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use crate::{
    chain::Chain,
    plugin::About,
    rpc::{Cell, ErrorKind, Handler, Load, RpcError},
    store::Store,
};

pub use builder::{BuildError, HostBuilder, runtime_for};
pub use event::{Event, EventError};
pub use functions::Caller;
pub use news::{News, Subscription};
pub use shared::Emitted;
pub use stats::PluginStats;

use functions::write_args;
use shared::{Shared, call_root, typed};

/// How long plugins get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// A running host. Dropping it kills all kernels; [`Host::shutdown`] asks them first.
pub struct Host {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What is known of a loaded plugin.
#[derive(Debug, Clone, Serialize)]
pub struct PluginInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its interpreter.
    #[serde(flatten)]
    pub about: About,
    /// What it registered.
    pub handlers: Vec<Handler>,
}

impl Host {
    /// Begin to describe a host.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Put an event onto the bus. Returns once it is in the queues of all who want it, which may take as long as a
    /// queue with `when-full = "block"` is full.
    ///
    /// # Errors
    ///
    /// [`RpcError`]: `Invalid` for a bad topic or data, and what a filter raised.
    pub async fn emit(&self, topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Emitted, RpcError> {
        let event = Event::new(topic, data).map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
        self.emit_event(event).await
    }

    /// As [`Host::emit`], with an event made before.
    ///
    /// # Errors
    ///
    /// What a filter raised.
    pub async fn emit_event(&self, event: Event) -> Result<Emitted, RpcError> {
        self.shared.emit("", event, None).await
    }

    /// Call a function that a plugin exports; `args` is a tuple: `()`, `(x,)`, `(x, y)`, or
    /// anything else that is a JSON array.
    ///
    /// # Errors
    ///
    /// [`RpcError`]: what the plugin raised, `NotFound` with the nearest name, `Timeout`, `Gone`, or `Invalid` when
    /// arguments or result do not fit.
    pub async fn call<T: DeserializeOwned>(&self, name: &str, args: impl Serialize) -> Result<T, RpcError> {
        let args = write_args(name, &args)?;
        typed(name, &self.call_raw(name, &args).await?)
    }

    /// As [`Host::call`], with arguments and result as JSON.
    ///
    /// # Errors
    ///
    /// As [`Host::call`].
    pub async fn call_raw(&self, name: &str, args: &RawValue) -> Result<Box<RawValue>, RpcError> {
        call_root(&self.shared, name, args).await
    }

    /// What the filters make of an event, without delivering it; `None` when one of them drops it.
    ///
    /// # Errors
    ///
    /// As [`Host::emit`].
    pub async fn filter(&self, topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Option<Event>, RpcError> {
        let event = Event::new(topic, data).map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
        self.shared.filter(event, None).await
    }

    /// Hear of everything that happens: outputs, emitted events, results, failures. A subscriber that does not read
    /// loses the oldest news, and is told how much.
    pub fn subscribe(&self) -> Subscription {
        self.shared.newsroom.subscribe(false)
    }

    /// As [`Host::subscribe`], but plugins get no further events while this subscriber is far behind, so that it loses
    /// nothing. One that never reads stops them.
    pub fn subscribe_lossless(&self) -> Subscription {
        self.shared.newsroom.subscribe(true)
    }

    /// Load a plugin's source anew, with further cells: the tests of a notebook.
    pub(crate) async fn load_cells(
        &self,
        plugin: &str,
        path: &Path,
        cells: &[Cell],
        timeout: Duration,
    ) -> Result<(), RpcError> {
        let entries = self.shared.entries();
        let Some(entry) = entries.iter().find(|entry| *entry.name == *plugin) else {
            return Err(RpcError::new(ErrorKind::NotFound, format!("no plugin `{plugin}`")));
        };
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let deadline = Instant::now() + timeout;
        let chain = Chain::root(format!("load {plugin}"), deadline);
        let load = Load { path: Some(&path.to_string_lossy()), cells };
        entry.plugin.request("load", &load, &chain, deadline).await.map(drop)
    }

    /// The store behind `state.*`.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// The loaded plugins, in the order in which they were named.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        let entries = self.shared.entries();
        let info = entries.iter().map(|entry| PluginInfo {
            name: entry.name.to_string(),
            version: entry.manifest.version.clone(),
            about: entry.plugin.about().clone(),
            handlers: entry.plugin.handlers().to_vec(),
        });
        info.collect()
    }

    /// What each plugin did so far, by name.
    pub fn stats(&self) -> Vec<(String, PluginStats)> {
        self.shared.stats()
    }

    /// Wait until every accepted event, and every event emitted because of it, was handled or given up.
    pub async fn drain(&self) {
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.pending.load(Ordering::Acquire) == 0 {
                return;
            }
            drained.await;
        }
    }

    /// End everything: `on_shutdown` handlers run, kernels are asked, then killed. Events that still wait are not
    /// delivered; see [`Host::drain`]. When this returns there is no process, no socket and no file of ours left.
    pub async fn shutdown(mut self) {
        let workers = std::mem::take(&mut self.workers);
        for entry in self.shared.entries().iter() {
            entry.queue.close();
        }
        for worker in &workers {
            worker.abort();
        }
        for worker in workers {
            // Aborted.
            let _ = worker.await;
        }
        let entries = self.shared.entries();
        futures_util::future::join_all(entries.iter().map(|entry| entry.plugin.shutdown(GRACE))).await;
        self.shared.newsroom.close();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
        // The entries hold the plugins, whose tasks hold the kernels.
        let mut entries = self.shared.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *entries = Arc::default();
        self.shared.newsroom.close();
    }
}
