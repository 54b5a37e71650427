//! Kernels that plugins share: one for all that want the same of it, started once, however many ask.
//!
//! What makes kernels equal is everything that is fixed when one is started: kernelspec, variables, sandbox, limits of
//! the process and of results, carrier and activation; and the number of the instance, so that instances of one plugin
//! are in kernels of their own. Nothing here keeps a kernel alive: that is what the plugins in it do.

use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    client::LaunchOptions,
    host::{keeper::Recipe, lock},
    language::Activation,
    plugin::{Carrier, Kernel, LoadError, Plugin, PluginSource, Spare, launch_options},
};

/// How often a plugin is loaded anew because the kernel was ended, or died of another plugin, while it was loaded.
const ROUNDS: u32 = 5;

/// All kernels that plugins of a host share.
#[derive(Default)]
pub(crate) struct Kernels(Mutex<Vec<Arc<Slot>>>);

/// Where one kernel is, or was and will be.
struct Slot {
    wants: Wants,
    /// Its name in the graph of who waits for whom, also after a restart.
    seat: String,
    /// One place, for whoever starts it.
    starting: Semaphore,
    kernel: Mutex<Weak<Kernel>>,
}

/// What makes kernels equal.
#[derive(PartialEq)]
struct Wants {
    options: LaunchOptions,
    carrier: Option<Carrier>,
    activation: Option<Activation>,
    result_bytes: u64,
    instance: u32,
}

impl Kernels {
    fn slot(&self, wants: Wants) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        if let Some(slot) = slots.iter().find(|slot| slot.wants == wants) {
            return slot.clone();
        }
        // No plugin has such a name.
        let seat = format!("shared kernel {}", slots.len() + 1);
        let slot = Arc::new(Slot { wants, seat, starting: Semaphore::new(1), kernel: Mutex::default() });
        slots.push(slot.clone());
        slot
    }
}

impl Slot {
    fn open(&self) -> Option<Arc<Kernel>> {
        lock(&self.kernel).upgrade().filter(|kernel| kernel.is_open())
    }
}

impl Recipe {
    /// Load a plugin into the kernel that it shares, which is started if nobody is in it.
    pub(super) async fn load_shared(&self, source: &PluginSource) -> Result<Plugin, LoadError> {
        let options = LaunchOptions { startup: Duration::ZERO, ..launch_options(&self.runtime, Some(source)) };
        let wants = Wants {
            options,
            carrier: source.carrier,
            activation: source.activation,
            result_bytes: source.limits.result_bytes,
            instance: source.instance.unwrap_or(1),
        };
        let Some(shared) = self.shared.upgrade() else { return Err(crate::client::ClientError::Closed.into()) };
        let slot = shared.kernels.slot(wants);
        drop(shared);
        let mut round = 1;
        loop {
            let kernel = self.kernel_of(&slot, source).await?;
            match Plugin::join(&kernel, &self.runtime, source, self.door.clone()).await {
                Err(error) if round < ROUNDS && !error.is_authors() && !kernel.blames(&source.name) => {
                    tracing::info!(plugin = source.name, %error, "the shared kernel went away; once more");
                    round += 1;
                }
                other => return other,
            }
        }
    }

    async fn kernel_of(&self, slot: &Slot, source: &PluginSource) -> Result<Arc<Kernel>, LoadError> {
        // It is closed with the host only.
        let _turn = slot.starting.acquire().await.ok();
        if let Some(kernel) = slot.open() {
            return Ok(kernel);
        }
        let began = Instant::now();
        let spare = match self.take_spare(source) {
            Some(spare) => spare.used(),
            None => {
                let (_place, queued) = self.place().await;
                let mut spare = Spare::start(&self.runtime, source).await?;
                spare.waited(self.discover, queued);
                spare
            }
        };
        let kernel = Arc::new(Kernel::share(spare, &self.runtime, source, self.graph.clone(), &slot.seat)?);
        tracing::info!(kernel = slot.seat, ms = began.elapsed().as_millis(), "started");
        *lock(&slot.kernel) = Arc::downgrade(&kernel);
        Ok(kernel)
    }
}
