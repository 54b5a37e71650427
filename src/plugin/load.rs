//! Loading a plugin: kernel, shim, carrier, author's source.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    blob::{BlobError, Pool},
    chain::Chain,
    client::{ClientError, Executed, KernelClient, LaunchOptions, Output, milliseconds},
    language::{Activation, Interrupt, Language},
    manifest::{self, Manifest, ManifestError, Problem, Sandbox, Template},
    plugin::{
        About, Carrier, HostCalls, Kernel, Mail, Plugin, SharedGraph, Way,
        kernel::{Known, Parts},
        member::{Member, Members},
        spare::Spare,
        template::{self, TemplateActor},
    },
    provision::{self, LaunchSpec},
    rpc::{self, Cell, Initialize, InitializeResult, Load, LoadResult, PluginId, RpcError},
    wire::content::{ExecuteRequest, Status},
};

/// How long a kernel may take to start, if no manifest says.
const STARTUP: Duration = Duration::from_secs(60);

/// A kernel to run plugins in: an installed kernelspec and what is known of its language.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Name of the kernelspec.
    pub kernelspec: String,
    /// Its `argv`, with everything but `{connection_file}` expanded.
    pub argv: Vec<String>,
    /// Its `env`, expanded.
    pub env: BTreeMap<String, String>,
    /// How `kernel.json` says that it is interrupted.
    pub interrupt: Interrupt,
    /// The language folder; `None`: basic level.
    pub language: Option<Arc<Language>>,
    /// Text of the language's shim.
    pub shim: Option<Arc<str>>,
}

/// What is loaded into a kernel.
#[derive(Debug, Clone)]
pub struct PluginSource {
    /// Name in the manifest.
    pub name: String,
    /// Version in the manifest.
    pub version: String,
    /// The entry file, for tracebacks and imports next to it.
    pub path: Option<PathBuf>,
    /// Source, cell by cell.
    pub cells: Vec<Cell>,
    /// `[config]`.
    pub config: Map<String, Value>,
    /// Names of the host's variables that its kernel gets.
    pub env: Vec<String>,
    /// What its kernel is kept from.
    pub sandbox: Sandbox,
    /// `[limits]`.
    pub limits: manifest::Limits,
    /// Which of several instances it is.
    pub instance: Option<u32>,
    /// Does it share its kernel with others?
    pub shared: bool,
    /// A carrier that must be used; `None`: the first that works.
    pub carrier: Option<Carrier>,
    /// What must make it serve us; `None`: the quickest that the language has.
    pub activation: Option<Activation>,
    /// For a plugin at the basic level: code to execute for events and calls.
    pub template: Option<Template>,
    /// Its code comes in cells that somebody else has the kernel run, who knows this key; it is served in turns between
    /// them.
    pub live: Option<String>,
}

/// Why a plugin could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The kernel could not be started.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The kernel's folder for large values could not be opened.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The kernel has no shim and the plugin no template.
    #[error(
        "kernelspec `{kernelspec}` has no language folder and so no shim; a plugin for it needs a `[template]` in its \
         manifest"
    )]
    NoShim {
        /// The kernelspec.
        kernelspec: String,
    },
    /// The kernel did not take the shim.
    #[error("kernelspec `{kernelspec}` does not run the shim: {reason}")]
    Shim {
        /// The kernelspec.
        kernelspec: String,
        /// What it said.
        reason: String,
    },
    /// No carrier works.
    #[error("no carrier works with kernelspec `{kernelspec}`: {}", list(tried))]
    NoCarrier {
        /// The kernelspec.
        kernelspec: String,
        /// What was tried and what came of it.
        tried: Vec<(Carrier, RpcError)>,
    },
    /// The manifest wants an activation that the language or the carrier does not have.
    #[error(
        "kernelspec `{kernelspec}` cannot do `activation = \"{activation}\"` over carrier `{carrier}`; leave it out, or \
         write `activation = \"execute\"`"
    )]
    NoActivation {
        /// The kernelspec.
        kernelspec: String,
        /// What is wanted.
        activation: Activation,
        /// The carrier that works.
        carrier: Carrier,
    },
    /// The shim speaks another version of the protocol.
    #[error("the shim speaks version `{found}` of the plugin protocol, not `{expected}`", expected = rpc::VERSION)]
    Version {
        /// What it speaks.
        found: String,
    },
    /// The author's source raised, or has a syntax error.
    #[error("{}", .0.report())]
    Raised(RpcError),
}

impl LoadError {
    /// Would it be the same in any other kernel: is it about the author's source, or about how kernel and shim are made?
    pub fn is_authors(&self) -> bool {
        match self {
            Self::Raised(error) => error.kind != rpc::ErrorKind::Gone,
            Self::NoShim { .. } | Self::NoActivation { .. } | Self::Version { .. } => true,
            Self::Client(_) | Self::Blob(_) | Self::Shim { .. } | Self::NoCarrier { .. } => false,
        }
    }
}

fn list(tried: &[(Carrier, RpcError)]) -> String {
    if tried.is_empty() {
        return "the language has none of those allowed".into();
    }
    tried.iter().map(|(carrier, error)| format!("{carrier}: {}", error.message)).collect::<Vec<_>>().join("; ")
}

impl Plugin {
    /// Start a kernel and load a plugin into it.
    ///
    /// Dropping the future kills the kernel.
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the kernel gone.
    pub async fn load(
        runtime: &Runtime,
        source: &PluginSource,
        host: Arc<dyn HostCalls>,
        graph: SharedGraph,
    ) -> Result<Self, LoadError> {
        let began = Instant::now();
        let spare = Spare::start(runtime, source).await?;
        Self::fill(spare, runtime, source, host, graph, began).await
    }

    /// Load a plugin into a kernel that was started for it, or for another with the same wants ([`Spare::fits`]).
    ///
    /// Dropping the future kills the kernel.
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the kernel gone.
    pub async fn load_into(
        spare: Spare,
        runtime: &Runtime,
        source: &PluginSource,
        host: Arc<dyn HostCalls>,
        graph: SharedGraph,
    ) -> Result<Self, LoadError> {
        Self::fill(spare.used(), runtime, source, host, graph, Instant::now()).await
    }

    async fn fill(
        spare: Spare,
        runtime: &Runtime,
        source: &PluginSource,
        host: Arc<dyn HostCalls>,
        graph: SharedGraph,
        began: Instant,
    ) -> Result<Self, LoadError> {
        let deadline = began + source.limits.startup;
        let name: Arc<str> = source.name.as_str().into();
        let seat: Arc<str> = match source.instance {
            Some(number) => format!("{name}/{number}").into(),
            None => name.clone(),
        };
        let output_bytes = source.limits.output_bytes;
        let member = Arc::new(Member { name: name.clone(), space: None, host, output_bytes });
        let members = Arc::new(Members::alone(member.clone()));
        let (kernel, parts) = Kernel::new(spare, members, Some(member.clone()), seat);
        let kernel = Arc::new(kernel);
        let about = About::new(runtime, &kernel);
        let mut plugin = Self::new(kernel.clone(), member, about);
        match (&source.template, &runtime.language) {
            (Some(template), _) => {
                let loading = Instant::now();
                for cell in &source.cells {
                    execute(&parts.client, runtime, &cell.source, deadline).await?;
                }
                plugin.about.startup.load_ms = milliseconds(loading.elapsed());
                plugin.handlers = template::handlers(template);
                let Parts { client, inbox, death, .. } = parts;
                let limit_bytes = source.limits.result_bytes;
                let actor = TemplateActor { name, client, template: template.clone(), limit_bytes, inbox, death };
                kernel.keep(tokio::spawn(actor.run()));
            }
            (None, Some(language)) => {
                kernel.run(parts, runtime, source, graph, name)?;
                // Where its kernel was started already, if nobody kept it at hand for any plugin.
                let folder = working_dir(source).filter(|folder| kernel.working_dir.as_ref() != Some(folder));
                plugin.initialize(runtime, language, source, folder, deadline).await?;
            }
            (None, None) => return Err(LoadError::NoShim { kernelspec: runtime.kernelspec.clone() }),
        }
        plugin.about.startup_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(plugin)
    }

    /// Find a carrier that works, or take that which others found, then send the source.
    pub(super) async fn initialize(
        &mut self,
        runtime: &Runtime,
        language: &Language,
        source: &PluginSource,
        folder: Option<PathBuf>,
        deadline: Instant,
    ) -> Result<(), LoadError> {
        let began = Instant::now();
        let kernel = self.kernel.clone();
        let folder = folder.as_ref().filter(|_| source.path.is_some()).map(|folder| folder.to_string_lossy());
        let folder = folder.as_deref();
        // It is closed with the kernel only.
        let first = kernel.joining.acquire().await.ok().filter(|_| kernel.known().is_none());
        let known = match kernel.known() {
            Some(known) => {
                let carrier = known.way.carrier;
                match self.introduce(source, carrier, folder, deadline).await {
                    Ok(_) => known,
                    Err(error) => {
                        return Err(LoadError::NoCarrier {
                            kernelspec: runtime.kernelspec.clone(),
                            tried: vec![(carrier, error)],
                        });
                    }
                }
            }
            None => self.find_carrier(runtime, language, source, folder, deadline).await?,
        };
        drop(first);
        let Known { way, shim, .. } = known;
        self.about.startup.initialize_ms = milliseconds(began.elapsed());
        self.about.interpreter = shim.interpreter;
        self.about.carrier = Some(way.carrier);
        self.features = shim.features;
        if source.live.is_some() {
            // Its cells come from somebody else.
            self.about.activation = Some(way.activation);
            self.kernel.settle(way);
            return Ok(());
        }
        self.send_source(source, way, deadline).await
    }

    async fn find_carrier(
        &self,
        runtime: &Runtime,
        language: &Language,
        source: &PluginSource,
        folder: Option<&str>,
        deadline: Instant,
    ) -> Result<Known, LoadError> {
        let mut tried = Vec::new();
        for carrier in Carrier::offered(language, source.carrier.or(self.kernel.carrier)) {
            // What a comm's handler shows has the last cell for a parent, which may be somebody else's.
            let is_lonely = source.live.is_none();
            let activation =
                Activation::choose(&language.turn, source.activation, carrier == Carrier::Pipe).map(|activation| {
                    if is_lonely || activation != Activation::Comm { activation } else { Activation::Execute }
                });
            let Some(activation) = activation else {
                let (kernelspec, activation) =
                    (runtime.kernelspec.clone(), source.activation.unwrap_or(Activation::Execute));
                return Err(LoadError::NoActivation { kernelspec, activation, carrier });
            };
            let mut way = Way { activation, ..Way::first(carrier) };
            self.tell(Mail::Use(way)).await;
            let shim = match self.introduce(source, carrier, folder, deadline).await {
                Ok(shim) => shim,
                Err(error) => {
                    tried.push((carrier, error));
                    continue;
                }
            };
            if shim.bridge != rpc::VERSION {
                return Err(LoadError::Version { found: shim.bridge });
            }
            let has = |feature: &str| shim.features.iter().any(|other| other == feature);
            if source.shared && !has(rpc::SHARED) {
                let reason = "it does not keep plugins apart, as its `language.toml` says".to_owned();
                return Err(LoadError::Shim { kernelspec: runtime.kernelspec.clone(), reason });
            }
            if language.kernel.child_interpreter {
                self.tell(Mail::WatchInterpreter).await;
            }
            if has(rpc::BLOB) {
                self.tell(Mail::TakeBlobs).await;
            }
            way.takes_batches = has(rpc::BATCH);
            way.takes_pickles = has(rpc::PICKLE) && carrier == Carrier::Pipe;
            let known = Known { way, is_settled: false, shim };
            self.kernel.learn(known.clone());
            return Ok(known);
        }
        Err(LoadError::NoCarrier { kernelspec: runtime.kernelspec.clone(), tried })
    }

    async fn introduce(
        &self,
        source: &PluginSource,
        carrier: Carrier,
        folder: Option<&str>,
        deadline: Instant,
    ) -> Result<InitializeResult, RpcError> {
        let initialize = Initialize {
            bridge: rpc::VERSION,
            carrier: carrier.name(),
            plugin: PluginId { name: &source.name, version: &source.version },
            features: rpc::FEATURES,
            cells: source.live.is_some(),
            folder,
            config: &source.config,
        };
        self.ask("initialize", &initialize, deadline).await
    }

    async fn send_source(&mut self, source: &PluginSource, mut way: Way, deadline: Instant) -> Result<(), LoadError> {
        let began = Instant::now();
        let path = source.path.as_ref().map(|path| path.to_string_lossy());
        let load = Load { path: path.as_deref(), cells: &source.cells };
        let raised = |mut error: RpcError| {
            // Whoever reports it says which plugin could not be loaded.
            if *error.plugin == *source.name {
                error.plugin = Box::default();
            }
            LoadError::Raised(error)
        };
        let result = self.ask::<LoadResult>("load", &load, deadline).await.map_err(raised)?;
        self.about.startup.load_ms = milliseconds(began.elapsed());
        self.handlers = result.handlers;
        self.about.activation = Some(way.activation);
        // In a shared kernel one plugin that is async makes turns async for all; else nothing has changed since.
        let is_async = result.is_async || self.kernel.known().is_some_and(|known| known.way.is_async);
        if self.member.space.is_none() || is_async != way.is_async || !self.kernel.has_settled() {
            way.is_async = is_async;
            self.kernel.settle(way);
            self.tell(Mail::Use(way)).await;
        }
        Ok(())
    }

    async fn tell(&self, mail: Mail) {
        // If the actor is gone, the next request says so.
        let _ = self.kernel.inbox.send(mail).await;
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl rpc::Params,
        deadline: Instant,
    ) -> Result<T, RpcError> {
        let chain = Chain::root(format!("{method} {}", self.name()), deadline);
        let result = self.request(method, params, &chain, deadline).await?;
        serde_json::from_str(result.get()).map_err(|error| {
            let message = format!("the shim's answer to `{method}` does not fit the protocol: {error}");
            RpcError::new(rpc::ErrorKind::Invalid, message).in_plugin(self.name())
        })
    }
}

/// How to start the kernel of a runtime: in a plugin's folder, or where we are.
pub fn launch_options(runtime: &Runtime, source: Option<&PluginSource>) -> LaunchOptions {
    let behaviour = runtime.language.as_ref().map(|language| language.kernel.clone()).unwrap_or_default();
    let mut env = runtime.env.clone();
    env.extend(behaviour.env);
    let file = runtime.language.as_ref().and_then(|language| Some(language.shim.as_ref()?.file.clone()));
    let files = file.zip(runtime.shim.clone()).into_iter().collect();
    let has_shim = runtime.shim.is_some() && source.is_some_and(|source| source.template.is_none());
    let pool = has_shim
        .then(Pool::get)
        .and_then(|pool| pool.inspect_err(|error| tracing::warn!(%error, "large values are sent by value")).ok());
    LaunchOptions {
        spec: LaunchSpec {
            kernel_name: runtime.kernelspec.clone(),
            argv: runtime.argv.clone(),
            env,
            pass_env: source.map(|source| source.env.clone()).unwrap_or_default(),
            // Plugins that share a kernel each have a folder of their own, and none of them is the kernel's.
            working_dir: source.filter(|source| !source.shared).and_then(working_dir),
            ipc: behaviour.ipc,
            stack_bytes: behaviour.stack_bytes,
            sandbox: source.map(|source| source.sandbox).unwrap_or_default(),
            terminal: behaviour.terminal,
            writes_where_started: behaviour.writes_where_started,
            noise: behaviour.noise,
            limits: source.map(|source| process_limits(&source.limits)).unwrap_or_default(),
            files,
            shared_key: source.and_then(|source| source.live.clone()),
            blobs: pool.as_ref().map(|pool| pool.path().to_owned()),
        },
        startup: source.map_or(STARTUP, |source| source.limits.startup),
        interrupt: behaviour.interrupt.unwrap_or(runtime.interrupt),
        no_control: behaviour.no_control,
        no_shutdown: behaviour.no_shutdown,
        unready_version: behaviour.unready_version,
    }
}

/// The folder of a plugin's entry file, where its kernel works.
pub(super) fn working_dir(source: &PluginSource) -> Option<PathBuf> {
    source.path.as_ref()?.parent().filter(|dir| dir.is_dir()).map(ToOwned::to_owned)
}

fn process_limits(limits: &manifest::Limits) -> provision::Limits {
    let manifest::Limits { memory_bytes, cpu, open_files, .. } = *limits;
    provision::Limits { memory_bytes, cpu, open_files }
}

/// Limits of a manifest that this machine cannot keep. The plugin runs; the host warns.
pub fn not_enforced(manifest: &Manifest) -> Vec<Problem> {
    let problems = process_limits(&manifest.limits).not_enforced();
    let problem = |(key, why)| manifest.problem(&format!("limits.{key}"), format!("`{key}` in [limits] {why}"), None);
    problems.into_iter().map(problem).collect()
}

/// Can this machine make the sandbox that a manifest asks for?
///
/// # Errors
///
/// - [`ManifestError`] when it cannot: running without would be worse.
pub fn check_sandbox(manifest: &Manifest) -> Result<(), ManifestError> {
    provision::check_sandbox(manifest.sandbox).map_err(|error| {
        let hint = Some("use a machine that has it, or leave the sandbox out".to_owned());
        let problem = manifest.problem("plugin.sandbox", error.to_string(), hint);
        ManifestError { path: manifest.path.clone(), problems: vec![problem] }
    })
}

/// Execute code that is ours, or the author's at the basic level.
pub(super) async fn execute(
    client: &KernelClient,
    runtime: &Runtime,
    code: &str,
    deadline: Instant,
) -> Result<(), LoadError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let Executed { reply, outputs, .. } = client.execute(&ExecuteRequest::new(code)).await?.finish(left).await?;
    if reply.status == Status::Ok {
        return Ok(());
    }
    let printed = outputs.iter().filter_map(|output| match output {
        Output::Stream { text, .. } => Some(text.clone()),
        Output::Error { ename, evalue, .. } => Some(format!("{ename}: {evalue}")),
        Output::Display { .. } => None,
    });
    let reason = format!("{} {} {}", reply.ename, reply.evalue, printed.collect::<String>());
    Err(LoadError::Shim { kernelspec: runtime.kernelspec.clone(), reason: reason.trim().to_owned() })
}
