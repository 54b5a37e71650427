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

mod batch;
mod builder;
mod bus;
mod door;
mod errands;
mod event;
mod functions;
mod guest;
mod instance;
mod keeper;
mod kernels;
mod landscape;
mod lane;
mod lanes;
mod ledger;
mod listen;
#[cfg(test)]
mod models;
mod news;
mod origin;
mod pending;
mod plugins;
mod pool;
mod rows;
mod shared;
mod stats;
#[cfg(feature = "arrow")]
mod tables;
mod worker;

/// What `pending` and `rows` are made of. `models` makes them of loom's.
mod sync {
    pub use std::sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };
}

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{
    blob::Parcel,
    chain::Chain,
    discover::Environment,
    plugin::About,
    rpc::{self, Cell, ErrorKind, Handler, Load, RpcError},
    store::Store,
    suggest::did_you_mean,
    supervision::State,
};

pub use builder::{BuildError, HostBuilder};
pub use bus::Emitted;
pub use event::{Event, EventError};
pub use functions::Caller;
pub(crate) use guest::Guest;
pub use landscape::{manifest_at, runtime_for};
pub use listen::{LinkInfo, LinkStats, ListenOptions};
pub use news::{News, Subscription};
pub use stats::{Drops, PluginStats};

use functions::write_args;
use landscape::read_source;
use lane::Entry;
use listen::Listening;
use pool::Pool;
use shared::{Shared, call_root, typed};

/// How long plugins get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// A running host. Dropping it kills all kernels; [`Host::shutdown`] asks them first.
pub struct Host {
    shared: Arc<Shared>,
    /// Folders with language folders, and where kernelspecs are looked for.
    kernelspecs: (Vec<PathBuf>, Environment),
    /// One place, for whoever adds a plugin.
    adding: Semaphore,
    /// Deliver events: they end first.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Own the kernels.
    keepers: Mutex<Vec<JoinHandle<()>>>,
    /// Kernels at hand, and who keeps them.
    pools: Mutex<Vec<(Arc<Pool>, JoinHandle<()>)>>,
    /// Its socket, if it listens.
    listening: Mutex<Option<Listening>>,
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
    /// How each of its kernels is doing.
    pub instances: Vec<State>,
    /// Kernels at hand that are ready.
    pub spares: u64,
    /// Memory of those, each as it was when it had become ready.
    pub spare_memory_bytes: u64,
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
        typed(name, &call_root(&self.shared, name, &args).await?)
    }

    /// As [`Host::call`], with arguments and result as JSON. The blobs that the result names live as long as it does.
    ///
    /// # Errors
    ///
    /// As [`Host::call`].
    pub async fn call_raw(&self, name: &str, args: &RawValue) -> Result<Parcel, RpcError> {
        call_root(&self.shared, name, &rpc::compact(args.to_owned())).await
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
        entry.lanes[0].instance.request("load", &load, &chain, deadline).await.map(drop)
    }

    /// The store behind `state.*`.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// The loaded plugins, in the order in which they were named.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        let entries = self.shared.entries();
        let info = entries.iter().map(|entry| {
            let face = entry.face();
            // A kernel that was started again is another process.
            let loaded = entry.lanes[0].instance.loaded();
            let spares = entry.pool.stats();
            PluginInfo {
                name: entry.name.to_string(),
                version: entry.manifest.version.clone(),
                about: loaded.map_or_else(|| face.about.clone(), |loaded| loaded.plugin.about()),
                handlers: face.handlers.clone(),
                instances: entry.active().map(|lane| lane.instance.state()).collect(),
                spares: spares.ready,
                spare_memory_bytes: spares.memory_bytes,
            }
        });
        info.collect()
    }

    /// Take a plugin out of quarantine: its kernels are started again, and its deaths forgotten.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such plugin.
    pub fn release(&self, plugin: &str) -> Result<(), RpcError> {
        self.entry(plugin)?.release();
        Ok(())
    }

    /// Load a plugin's source anew, beside the old one, which goes on if that fails, and takes no further events if it
    /// does not. Events that wait are not lost. Changes of the manifest need a new host. A reload that is called while
    /// another one of the same plugin is under way takes its place, and the other returns.
    ///
    /// # Errors
    ///
    /// [`BuildError`]: why the new source could not be loaded.
    pub async fn reload(&self, plugin: &str) -> Result<(), BuildError> {
        let Ok(entry) = self.entry(plugin) else { return Ok(()) };
        let source = read_source(&entry.manifest, &entry.manifest.path)?;
        for lane in entry.active() {
            lane.instance.reload(source.clone()).await?;
            if let Some(loaded) = lane.instance.loaded() {
                entry.show(loaded.face.clone());
            }
        }
        entry.renew(source);
        Ok(())
    }

    /// Processes of the kernels at hand for a plugin (`[delivery] warm`) or for a language ([`HostBuilder::warm`]).
    pub fn spare_processes(&self, name: &str) -> Vec<u32> {
        let entries = self.shared.entries();
        let pools = entries.iter().map(|entry| &entry.pool).chain(&self.shared.pools);
        pools.filter(|pool| *pool.name == *name).flat_map(|pool| pool.processes()).collect()
    }

    fn entry(&self, plugin: &str) -> Result<Arc<Entry>, RpcError> {
        let entries = self.shared.entries();
        let found = entries.iter().find(|entry| *entry.name == *plugin).cloned();
        found.ok_or_else(|| {
            let hint = did_you_mean(plugin, entries.iter().map(|entry| &*entry.name));
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            RpcError::new(ErrorKind::NotFound, format!("no plugin `{plugin}`{hint}"))
        })
    }

    /// What each plugin did so far, by name.
    pub fn stats(&self) -> Vec<(String, PluginStats)> {
        self.shared.stats()
    }

    /// Wait until every accepted event, and every event emitted because of it, was handled or given up.
    pub async fn drain(&self) {
        self.shared.pending.none().await;
    }

    /// Deliver nothing more. Events that still wait are dropped and counted, unless they are in the store; see
    /// [`Host::drain`]. What a handler is at is given up too; calls still work.
    pub async fn close(&mut self) {
        let listening = lock(&self.listening).take();
        if let Some(listening) = listening {
            listening.close().await;
        }
        let entries = self.shared.entries();
        // Loops, not iterators with closures: those are not `Send`, and this future has to be.
        for entry in entries.iter() {
            for lane in entry.lanes.iter() {
                lane.queue.close();
            }
        }
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // Aborted.
            let _ = task.await;
        }
        for entry in entries.iter() {
            for lane in entry.lanes.iter() {
                for delivery in lane.queue.pop_up_to(usize::MAX).await {
                    self.shared.left_behind(entry, delivery);
                }
            }
        }
        for entry in entries.iter() {
            entry.ledger.close();
        }
    }

    /// End everything: as [`Host::close`], then `on_shutdown` handlers run, kernels are asked to end, then killed. When
    /// this returns there is no process, no socket and no file of ours left.
    pub async fn shutdown(mut self) {
        self.close().await;
        let entries = self.shared.entries();
        let mut ends = Vec::new();
        for entry in entries.iter() {
            ends.extend(entry.lanes.iter().map(|lane| lane.instance.stop(GRACE)));
        }
        let pools = std::mem::take(&mut *lock(&self.pools));
        for (pool, _) in &pools {
            pool.close();
        }
        join_all(ends).await;
        for (_, keeping) in pools {
            // Ended by itself.
            let _ = keeping.await;
        }
        self.shared.newsroom.close();
    }

    /// As [`Host::drain`], for as long as `within`, then [`Host::shutdown`]. Returns whether everything was done;
    /// events that were not are dropped and counted, unless they are in the store.
    pub async fn shutdown_within(self, within: Duration) -> bool {
        let drained = tokio::time::timeout(within, self.drain()).await.is_ok();
        self.shutdown().await;
        drained
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(lock(&self.listening).take());
        for task in lock(&self.tasks).iter().chain(lock(&self.keepers).iter()) {
            task.abort();
        }
        for (pool, keeping) in lock(&self.pools).drain(..) {
            keeping.abort();
            pool.clear();
        }
        // The entries hold the plugins, whose tasks hold the kernels.
        let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
        *entries = Arc::default();
        self.shared.newsroom.close();
    }
}

/// What is behind a lock is whole also after a panic: nothing here is changed in steps that could be seen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
