//! A kernel that runs: the way to its task, and who is in it.
//!
//! Every plugin has a share in one. Most have it for themselves; those with `isolation = "shared"` [join](Plugin::join) one
//! that is there, as long as somebody is in it. The last one that leaves ends it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    blob::{Outbox, Pool},
    client::{ClientError, KernelClient, Prober, Startup},
    language::Activation,
    plugin::{
        About, Carrier, HostCalls, LoadError, Mail, Plugin, PluginSource, Runtime, SharedGraph, Way,
        actor::{Actor, State},
        load::working_dir,
        member::{Member, Members},
        prints::Prints,
        spare::Spare,
    },
    rpc::{InitializeResult, RpcError},
};

/// How many requests may wait in a kernel's inbox.
const INBOX: usize = 64;

/// A running kernel. Dropping the last share in it kills it.
#[derive(Debug)]
pub struct Kernel {
    pub(super) seat: Arc<str>,
    pub(super) members: Arc<Members>,
    pub(super) death: watch::Receiver<Option<RpcError>>,
    pub(super) prober: Prober,
    pub(super) inbox: mpsc::Sender<Mail>,
    pub(super) startup: Startup,
    /// What its `kernel_info_reply` says.
    pub(super) implementation: String,
    pub(super) process_id: u32,
    /// The carrier that a spare was seen to work with.
    pub(super) carrier: Option<Carrier>,
    /// Where it was started.
    pub(super) working_dir: Option<PathBuf>,
    /// One place: the first plugin finds the carrier for all.
    pub(super) joining: Semaphore,
    pub(super) known: Mutex<Option<Known>>,
    /// What makes it serve us at the moment.
    pub(super) activation: watch::Receiver<Activation>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the first plugin found out.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// How its task was told to open turns.
    pub way: Way,
    /// It was told all that is known.
    pub is_settled: bool,
    pub shim: InitializeResult,
}

/// What the task of a kernel gets.
pub(super) struct Parts {
    pub client: KernelClient,
    pub inbox: mpsc::Receiver<Mail>,
    pub death: watch::Sender<Option<RpcError>>,
    pub activation: watch::Sender<Activation>,
    pub prints: Arc<Prints>,
    pub pool: Option<Arc<Pool>>,
}

impl Kernel {
    /// A kernel for plugins that share it, with nobody in it yet. `seat` is its name in the graph of who waits for whom.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoShim`] when the language has none.
    pub fn share(
        spare: Spare,
        runtime: &Runtime,
        source: &PluginSource,
        graph: SharedGraph,
        seat: &str,
    ) -> Result<Self, LoadError> {
        let (kernel, parts) = Self::new(spare, Arc::default(), None, seat.into());
        kernel.run(parts, runtime, source, graph, kernel.seat.clone())?;
        Ok(kernel)
    }

    pub(super) fn new(
        spare: Spare,
        members: Arc<Members>,
        owner: Option<Arc<Member>>,
        seat: Arc<str>,
    ) -> (Self, Parts) {
        let Spare { mut client, carrier, startup, pool } = spare;
        let (inbox, mail) = mpsc::channel(INBOX);
        let (death, dead) = watch::channel(None);
        let (activation, activated) = watch::channel(Activation::Execute);
        let prints = Arc::new(Prints::new(owner));
        let outputs = client.take_outputs();
        let kernel = Self {
            seat,
            members,
            death: dead,
            prober: client.prober(),
            inbox,
            startup,
            implementation: format!("{} {}", client.info().implementation, client.info().implementation_version),
            process_id: client.process().id(),
            carrier,
            working_dir: client.options().spec.working_dir.clone(),
            joining: Semaphore::new(1),
            known: Mutex::default(),
            activation: activated,
            tasks: Mutex::default(),
        };
        if let Some(outputs) = outputs {
            let (prints, counters) = (prints.clone(), client.shared_counters());
            kernel.keep(tokio::spawn(prints.forward(outputs, counters, Member::news)));
        }
        (kernel, Parts { client, inbox: mail, death, activation, prints, pool })
    }

    /// Let its task run.
    pub(super) fn run(
        &self,
        parts: Parts,
        runtime: &Runtime,
        source: &PluginSource,
        graph: SharedGraph,
        name: Arc<str>,
    ) -> Result<(), LoadError> {
        let (Some(language), Some(_)) = (&runtime.language, &runtime.shim) else {
            return Err(LoadError::NoShim { kernelspec: runtime.kernelspec.clone() });
        };
        let Parts { client, inbox, death, activation, prints, pool } = parts;
        let outbox = pool.zip(client.process().blobs());
        let outbox = outbox.map(|(pool, path)| Outbox::open(pool, path, source.sandbox.read_only)).transpose()?;
        let cells = source.live.as_ref().map(|_| client.others());
        let actor = Actor {
            name,
            members: self.members.clone(),
            seat: self.seat.clone(),
            death,
            client,
            language: language.clone(),
            way: Way::first(self.carrier.unwrap_or(Carrier::Pipe)),
            activation,
            limit_bytes: usize::try_from(source.limits.result_bytes).unwrap_or(usize::MAX),
            outbox,
            prints,
            graph,
            inbox,
            cells,
            state: State::default(),
        };
        self.keep(tokio::spawn(actor.run()));
        Ok(())
    }

    /// Can a plugin still join it?
    pub fn is_open(&self) -> bool {
        self.death.borrow().is_none() && !self.members.is_closed()
    }

    /// Did it die while this plugin was served?
    pub fn blames(&self, plugin: &str) -> bool {
        self.members.blamed().is_some_and(|member| *member.name == *plugin)
    }

    pub(super) fn keep(&self, task: JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    pub(super) fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn learn(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Does its task know all that the first plugin found out?
    pub(super) fn has_settled(&self) -> bool {
        self.known().is_some_and(|known| known.is_settled)
    }

    pub(super) fn settle(&self, way: Way) {
        if let Some(known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            (known.way, known.is_settled) = (way, true);
        }
    }

    /// When this returns there is no process and no file left.
    pub(super) async fn end(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.inbox.send(Mail::Stop { grace, done }).await.is_ok() {
            // The actor's own waits are bounded.
            let _ = stopped.await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // Ended by itself, or panicked, which the runtime has reported.
            let _ = task.await;
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Plugin {
    /// Load a plugin into a kernel that others may be in.
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the plugin gone from the kernel; the others are as before, unless the kernel died of it.
    pub async fn join(
        kernel: &Arc<Kernel>,
        runtime: &Runtime,
        source: &PluginSource,
        host: Arc<dyn HostCalls>,
    ) -> Result<Self, LoadError> {
        let began = Instant::now();
        let name: Arc<str> = source.name.as_str().into();
        let Some(member) = kernel.members.join(name, host, source.limits.output_bytes) else {
            return Err(ClientError::Closed.into());
        };
        let mut about = About::new(runtime, kernel);
        if kernel.known().is_some() {
            about.startup = Startup { warm: true, ..Startup::default() };
        }
        let mut plugin = Self::new(kernel.clone(), member, about);
        let Some(language) = &runtime.language else {
            return Err(LoadError::NoShim { kernelspec: runtime.kernelspec.clone() });
        };
        // Wherever the kernel works, each plugin has a folder of its own.
        let folder = working_dir(source);
        plugin.initialize(runtime, language, source, folder, began + source.limits.startup).await?;
        plugin.about.startup_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(plugin)
    }

    /// Did its kernel die, and while another plugin was served?
    pub fn is_innocent(&self) -> bool {
        let blamed = self.kernel.members.blamed();
        self.kernel.death.borrow().is_some() && blamed.is_some_and(|blamed| !Arc::ptr_eq(&blamed, &self.member))
    }
}
