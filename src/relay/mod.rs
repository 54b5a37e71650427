//! A notebook's kernel: a stock kernel in which the name `bridge` is there, for any Jupyter frontend.
//!
//! # Theory of operation
//!
//! A frontend starts [`Relay`] as it would start the stock kernel, with a connection file whose ports are ours to open. We
//! start the stock kernel behind it with the same key, load the shim, and from then on move bytes: each connection of a
//! frontend has one of its own to the kernel (`relay::doors`), so that nothing is parsed, signed or counted twice, and
//! whatever the two agree on works as without us. We are one more client of that kernel, as a host is: it serves the
//! handlers that cells define in turns between the cells, and the calls that cells make while they run
//! (`plugin::actor::cells`). What belongs to our own requests is kept from the frontend, and what handlers print is
//! shown as an output of the cell that emitted the event, or ran last (`relay::iopub`).
//!
//! Behind `bridge` there is a scratch host with a state in memory, and whatever plugins it was given (`relay::desk`).

mod adopted;
mod desk;
mod dispatch;
mod doors;
mod iopub;
mod linked;
mod live;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client::ClientError,
    connection::ConnectionInfo,
    host::{BuildError, Guest, Host},
    language::Activation,
    manifest::{Limits, Sandbox},
    plugin::{Carrier, LoadError, Plugin, PluginSource, Runtime, Spare},
    wire::{Signer, SignerError},
};
pub use adopted::Adopted;
use desk::Desk;
use iopub::Filter;

/// How often it is looked whether a host listens that a notebook is to be attached to.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the kernel gets to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// What a notebook is called where plugins have names.
pub const NAME: &str = "notebook";

/// How to start one.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// What the frontend wrote into the connection file.
    pub connection: ConnectionInfo,
    /// The stock kernel.
    pub runtime: Runtime,
    /// Plugins of the scratch host, loaded beside the kernel.
    pub plugins: Vec<PathBuf>,
    /// Folders with language folders.
    pub kernelspecs: Vec<PathBuf>,
    /// What `bridge` has as its configuration.
    pub config: Map<String, Value>,
    /// Names of the variables that the kernel gets.
    pub env: Vec<String>,
    /// How long it may take until it answers.
    pub startup: Duration,
}

/// Why there is no notebook kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// A port of the connection file cannot be opened.
    #[error("port {port} of the connection file cannot be opened: {source}")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The connection file asks for signatures that we do not have.
    #[error(transparent)]
    Signature(#[from] SignerError),
    /// The stock kernel could not be started, or does not take the shim.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The scratch host could not be made.
    #[error(transparent)]
    Host(#[from] BuildError),
}

/// A running notebook kernel. Dropping it kills the stock kernel; [`Relay::shutdown`] asks it first.
pub struct Relay {
    desk: Arc<Desk>,
    plugin: Arc<Plugin>,
    host: Arc<Host>,
    tasks: JoinSet<()>,
}

impl Relay {
    /// Open the ports, start the kernel, load the shim, and serve frontends.
    ///
    /// # Errors
    ///
    /// [`RelayError`], with the kernel gone.
    pub async fn start(options: RelayOptions) -> Result<Self, RelayError> {
        let RelayOptions { connection, runtime, plugins, kernelspecs, config, env, startup } = options;
        // Frontends that come before the kernel is there wait here.
        let doors = doors::open(&connection).await.map_err(|(port, source)| RelayError::Port { port, source })?;
        let signer = Signer::new(&connection.signature_scheme, connection.key.as_bytes())?;
        let source = source(&connection, config, env, startup);
        let host = kernelspecs.into_iter().fold(Host::builder(), |builder, dir| builder.kernelspecs(dir));
        let host = Arc::new(host.build().await?);
        let began = Instant::now();
        let spare = Spare::start(&runtime, &source).await?;
        tracing::info!(kernel = runtime.kernelspec, took = ?began.elapsed(), "the stock kernel runs");
        let (kernel, session) = spare.identity();
        let filter = Arc::new(Filter::new(session, signer, spare.others()));
        let guest = guest(&host)?;
        let desk = Arc::new(Desk::new(guest.calls, filter.clone()));
        let plugin = Plugin::load_into(spare, &runtime, &source, desk.clone(), guest.graph).await?;
        let plugin = Arc::new(plugin);
        desk.serve(&plugin);

        let mut tasks = JoinSet::new();
        let kernel = Arc::new(kernel);
        for (door, port) in doors.into_iter().zip(kernel.ports()) {
            let filter = (port == kernel.iopub_port).then(|| filter.clone());
            tasks.spawn(doors::serve(door, kernel.clone(), port, filter));
        }
        if !plugins.is_empty() {
            let (host, desk) = (host.clone(), desk.clone());
            tasks.spawn(async move {
                for path in plugins {
                    if let Err(error) = host.load(&path).await {
                        desk.warn(&format!("plugin `{}` is not there: {error}\n", path.display()));
                    }
                }
            });
        }
        Ok(Self { desk, plugin, host, tasks })
    }

    /// Attach the notebook to a running host, as soon as that listens.
    pub fn attach(&mut self, host: String) {
        let desk = self.desk.clone();
        self.tasks.spawn(async move {
            while let Err(error) = desk.clone().attach(Some(&host), None).await {
                tracing::debug!(host, %error, "not attached yet");
                sleep(AGAIN).await;
            }
        });
    }

    /// Interrupt what the kernel runs, a cell or a handler.
    pub async fn interrupt(&self) {
        self.plugin.interrupt().await;
    }

    /// Wait until the kernel has ended: because it was told to by a frontend, or by itself.
    pub async fn ended(&self) -> String {
        let mut death = self.plugin.death();
        match death.wait_for(Option::is_some).await {
            Ok(error) => error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            // Its task is gone with it.
            Err(_) => String::new(),
        }
    }

    /// End everything. When this returns there is no process and no file left.
    pub async fn shutdown(mut self) {
        self.plugin.shutdown(GRACE).await;
        self.tasks.shutdown().await;
        drop(self.plugin);
        if let Some(host) = Arc::into_inner(self.host) {
            host.shutdown().await;
        }
    }
}

/// Cells may do whatever the notebook's author may.
const MANIFEST: &str = r#"
[plugin]
name = "notebook"
language = "notebook"
entry = "notebook.ipynb"

[permissions]
call = ["*"]
emit = ["*"]
"#;

fn guest(host: &Host) -> Result<Guest, BuildError> {
    host.guest(MANIFEST, Path::new("notebook/plugin.toml"))
}

fn source(
    connection: &ConnectionInfo,
    config: Map<String, Value>,
    env: Vec<String>,
    startup: Duration,
) -> PluginSource {
    PluginSource {
        name: NAME.into(),
        version: "0.0.0".into(),
        path: None,
        cells: Vec::new(),
        config,
        env,
        sandbox: Sandbox::default(),
        limits: Limits { startup, output_bytes: u64::MAX / 4, ..Limits::default() },
        instance: None,
        shared: false,
        carrier: Some(Carrier::Pipe),
        // Cells open the pipes for themselves, so no turn may stand there.
        activation: Some(Activation::Execute),
        template: None,
        live: Some(connection.key.clone()),
    }
}

impl From<ClientError> for RelayError {
    fn from(error: ClientError) -> Self {
        Self::Load(error.into())
    }
}
