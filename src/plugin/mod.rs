//! One plugin in one kernel.
//!
//! # Theory of operation
//!
//! [`Plugin::load`] starts the kernel, executes the shim, finds a carrier that works, and sends the author's source.
//! From then on one task (`plugin::actor`) owns the kernel. Requests reach it through a bounded inbox; it opens a turn when
//! there is work, ends it when there is none or after a bounded time, and keeps the plugin's stack: requests that the
//! plugin serves and calls that it waits for, last in, first out. A request that arrives while the plugin waits is
//! served in the middle of that wait if it belongs to a chain on the stack, or if queueing it would never end
//! ([`crate::chain`]). All it knows of the host is the trait [`HostCalls`].

mod actor;
mod kernel;
mod load;
mod member;
mod pipe;
mod prints;
mod spare;
mod template;
mod turn;
mod visit;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};

use crate::{
    blob::Parcel,
    chain::{Chain, WaitGraph},
    client::{ClientError, Output, Prober, Startup, milliseconds},
    language::{Activation, Language},
    plugin::{member::Member, visit::Visit},
    rpc::{self, Handler, LogLevel, Params, RpcError},
};

pub use kernel::Kernel;
pub use load::{LoadError, PluginSource, Runtime, check_sandbox, launch_options, not_enforced};
pub use spare::Spare;
pub use visit::{CellEvent, Look};

/// How long the shim of a shared kernel has to drop a plugin that is gone.
const FORGET: Duration = Duration::from_secs(60);

/// How RPC messages travel while a turn is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// Two FIFOs in the kernel's private folder.
    Pipe,
    /// `input_request` and `input_reply` on stdin.
    Jupyter,
}

impl Carrier {
    /// As in `initialize` and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pipe => "pipe",
            Self::Jupyter => "jupyter",
        }
    }

    /// Those that a language has, the better one first; `only` this one, if it is named.
    fn offered(language: &Language, only: Option<Self>) -> impl Iterator<Item = Self> {
        let turn = &language.turn;
        let all = [(Self::Pipe, turn.pipe.is_some()), (Self::Jupyter, turn.jupyter.is_some())];
        let wanted = move |carrier: &Self| only.is_none_or(|only| only == *carrier);
        all.into_iter().filter_map(|(carrier, exists)| exists.then_some(carrier)).filter(wanted)
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The answer to a host call, sooner or later.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, RpcError>> + Send>>;

/// All that a plugin knows of the host.
pub trait HostCalls: Send + Sync + 'static {
    /// `plugin` calls a function of the host or of another plugin. `chain` is that of the request it serves.
    fn call(&self, plugin: &str, chain: Chain, name: String, args: Box<RawValue>) -> Answer<Parcel>;
    /// `plugin` emits an event.
    fn emit(&self, plugin: &str, chain: Chain, event: Emission) -> Answer<()>;
    /// Something that needs no answer. Must not block.
    fn news(&self, plugin: &str, news: PluginNews);
}

/// An event as a plugin emits it.
#[derive(Debug)]
pub struct Emission {
    /// The topic.
    pub topic: String,
    /// The data.
    pub data: Box<RawValue>,
    /// The key.
    pub key: Option<String>,
}

/// News of a plugin.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PluginNews {
    /// It printed or showed something.
    Output(Output),
    /// It printed and showed more than one event or call may (`[limits] output`).
    OutputDropped {
        /// Outputs that were dropped, or cut short.
        outputs: u64,
        /// How much that was.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// It logged something.
    Log {
        /// How bad it is.
        level: LogLevel,
        /// The text.
        message: String,
        /// Further values.
        fields: serde_json::Value,
    },
    /// Its long work goes on.
    Progress {
        /// How much is done.
        done: f64,
        /// Of how much, if known.
        total: Option<f64>,
        /// What is being done.
        message: String,
    },
    /// It has registered more since it was loaded; these are all.
    Handlers(Vec<Handler>),
    /// Its shim sent something that the protocol does not have.
    Odd {
        /// What.
        reason: String,
    },
    /// Its kernel is gone.
    Gone {
        /// How.
        reason: String,
    },
}

/// A loaded plugin. Dropping it kills its kernel, unless others share that.
#[derive(Debug)]
pub struct Plugin {
    member: Arc<Member>,
    kernel: Arc<Kernel>,
    handlers: Vec<Handler>,
    features: Vec<String>,
    about: About,
    has_left: AtomicBool,
}

/// What is known of a loaded plugin's interpreter.
#[derive(Debug, Clone, Default, Serialize)]
pub struct About {
    /// The language folder's name.
    pub language: String,
    /// For people: `CPython 3.11.7, ipykernel 7.4.0`.
    pub interpreter: String,
    /// The kernelspec.
    pub kernelspec: String,
    /// How RPC messages travel; `None` at the basic level.
    pub carrier: Option<Carrier>,
    /// What makes it serve us at the moment; `None` at the basic level.
    pub activation: Option<Activation>,
    /// From launch to loaded; from a waiting kernel to loaded if there was one.
    pub startup_ms: u64,
    /// Where that time went.
    pub startup: Startup,
    /// The kernel's process.
    pub process_id: u32,
}

/// How turns are opened, and how messages travel in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    carrier: Carrier,
    activation: Activation,
    is_async: bool,
    /// Does the shim take several requests in one message?
    takes_batches: bool,
    /// Does it take parameters as a pickle?
    takes_pickles: bool,
}

impl Way {
    /// Until more is known of the shim and the plugin.
    fn first(carrier: Carrier) -> Self {
        Self { carrier, activation: Activation::Execute, is_async: false, takes_batches: false, takes_pickles: false }
    }
}

/// What the actor finds in its inbox.
#[derive(Debug)]
enum Mail {
    Job(Job),
    /// From the next turn on.
    Use(Way),
    /// The shim has the feature [`BLOB`](rpc::BLOB).
    TakeBlobs,
    /// Whatever the kernel has started by now is the interpreter.
    WatchInterpreter,
    /// To be done between two requests.
    Visit(Visit),
    /// Interrupt the visit, if there is one.
    InterruptVisit,
    /// Interrupt whatever runs: somebody asks for it who sees that it does.
    Interrupt,
    Stop {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// Where the answer to a request goes.
type Reply = oneshot::Sender<Result<Parcel, RpcError>>;

/// A request to the plugin.
#[derive(Debug)]
struct Job {
    member: Arc<Member>,
    method: &'static str,
    /// Events or calls in it.
    count: usize,
    /// Compact JSON.
    params: String,
    chain: Chain,
    deadline: Instant,
    reply: Reply,
}

/// The graph of who waits for whom, shared by all plugins of a host.
pub type SharedGraph = Arc<Mutex<WaitGraph>>;

impl About {
    /// Before a plugin is loaded.
    fn new(runtime: &Runtime, kernel: &Kernel) -> Self {
        Self {
            language: runtime.language.as_ref().map_or_else(|| "other".into(), |language| language.name.clone()),
            interpreter: kernel.implementation.clone(),
            kernelspec: runtime.kernelspec.clone(),
            startup: kernel.startup,
            process_id: kernel.process_id,
            ..Self::default()
        }
    }
}

impl Plugin {
    fn new(kernel: Arc<Kernel>, member: Arc<Member>, about: About) -> Self {
        let has_left = AtomicBool::new(false);
        Self { member, kernel, handlers: Vec::new(), features: Vec::new(), about, has_left }
    }

    /// Its name in the manifest.
    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// What it registered.
    pub fn handlers(&self) -> &[Handler] {
        &self.handlers
    }

    /// Its name in the graph of who waits for whom: its own, with the number of its instance if there are several, or
    /// that of the kernel it shares.
    pub fn seat(&self) -> &str {
        &self.kernel.seat
    }

    /// Becomes `Some` when its kernel is gone; every request fails from then on.
    pub fn death(&self) -> watch::Receiver<Option<RpcError>> {
        self.kernel.death.clone()
    }

    /// Does its shim have this feature, [`rpc::SERIES`] or another?
    pub fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature == name)
    }

    /// What is known of its interpreter.
    pub fn about(&self) -> About {
        let activation = self.about.activation.map(|_| *self.kernel.activation.borrow());
        About { activation, ..self.about.clone() }
    }

    /// What came before the start of its own: discovery, and others that were started first.
    pub(crate) fn waited(&mut self, discover: Duration, queued: Duration) {
        let startup = &mut self.about.startup;
        (startup.discover_ms, startup.queued_ms) = (milliseconds(discover), milliseconds(queued));
        startup.host_ms = milliseconds(discover + Duration::from_secs_f64(startup.host_ms / 1000.0));
    }

    /// Asks its kernel on the side, also while it is busy.
    pub fn prober(&self) -> &Prober {
        &self.kernel.prober
    }

    /// Call an exported function.
    ///
    /// # Errors
    ///
    /// [`RpcError`]: what the plugin raised, or `Timeout`, `Gone`, `NotFound`.
    pub async fn call(
        &self,
        name: &str,
        args: &RawValue,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Parcel, RpcError> {
        self.request("call", &rpc::Call { name, chain: &chain.path, args }, chain, deadline).await
    }

    /// Send a request with parameters of [`crate::rpc`]. The blobs that they name have to be held until it returns.
    ///
    /// # Errors
    ///
    /// As [`Plugin::call`].
    pub async fn request(
        &self,
        method: &'static str,
        params: &impl Params,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Parcel, RpcError> {
        let gone = || RpcError::new(rpc::ErrorKind::Gone, "the plugin has been shut down").in_plugin(self.name());
        let (reply, answer) = oneshot::channel();
        let job = self.job(method, params, chain, deadline, reply)?;
        self.kernel.inbox.send(Mail::Job(job)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    fn job(
        &self,
        method: &'static str,
        params: &impl Params,
        chain: &Chain,
        deadline: Instant,
        reply: Reply,
    ) -> Result<Job, RpcError> {
        let count = params.count();
        let mut params =
            serde_json::to_string(params).map_err(|error| RpcError::new(rpc::ErrorKind::Invalid, error.to_string()))?;
        if let Some(space) = self.member.space {
            rpc::in_space(method, &mut params, space);
        }
        Ok(Job { member: self.member.clone(), method, count, params, chain: chain.clone(), deadline, reply })
    }

    /// Interrupt whatever its kernel runs, a cell or a handler, also while that waits for an answer.
    pub async fn interrupt(&self) {
        // Of a kernel that is gone nothing runs.
        let _ = self.kernel.inbox.send(Mail::Interrupt).await;
    }

    /// Run `on_shutdown` handlers and end the kernel. When this returns there is no process and no file left. From a
    /// kernel that others share only the plugin is gone, with all that it registered.
    ///
    /// `grace` is how long the handlers may take, and then again how long the kernel may take to end by itself.
    pub async fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let chain = Chain::root(rpc::SHUTDOWN, deadline);
        let empty = serde_json::Map::new();
        let mut has_ended = self.kernel.death.borrow().is_some();
        if !has_ended {
            match self.request(rpc::SHUTDOWN, &empty, &chain, deadline).await {
                Ok(_) => has_ended = true,
                Err(error) => tracing::debug!(plugin = self.name(), %error, "shutdown"),
            }
        }
        self.has_left.store(true, Ordering::Relaxed);
        if self.kernel.members.leave(&self.member) {
            self.kernel.end(grace).await;
        } else if !has_ended {
            self.forget();
        }
    }

    /// The others in its kernel go on without what it left behind. Nobody waits; the shim does it when it gets there.
    fn forget(&self) {
        let deadline = Instant::now() + FORGET;
        let chain = Chain::root(rpc::SHUTDOWN, deadline);
        let (reply, _) = oneshot::channel();
        if let Ok(job) = self.job(rpc::SHUTDOWN, &serde_json::Map::new(), &chain, deadline, reply) {
            // A kernel whose inbox is full has greater worries.
            let _ = self.kernel.inbox.try_send(Mail::Job(job));
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if !self.has_left.load(Ordering::Relaxed) && !self.kernel.members.leave(&self.member) {
            self.forget();
        }
    }
}

/// An error of the client's as the protocol has it.
fn gone(error: &ClientError) -> RpcError {
    RpcError::new(rpc::ErrorKind::Gone, error.to_string())
}
