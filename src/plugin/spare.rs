//! A kernel that has its language's shim and no plugin yet.
//!
//! Every plugin is loaded into one; a pool keeps some at hand, so that a plugin need not wait for a kernel to start.
//! It belongs to nobody: no name, no permissions, no configuration reach the kernel before the plugin's own first turn.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use crate::{
    blob::Pool,
    client::{KernelClient, LaunchOptions, Others, Startup, milliseconds},
    connection::ConnectionInfo,
    language::{Activation, Language},
    plugin::{
        Carrier, LoadError, PluginSource, Runtime,
        load::{execute, launch_options},
        turn::{Message, Turn, TurnError, TurnEvent},
    },
    provision::{Exit, LaunchSpec},
    rpc::{self, Inbound},
    wire::content::ExecuteRequest,
};

/// How long a first turn may take from its `execute_request` to its end; Julia compiles it.
const FIRST_TURN: Duration = Duration::from_secs(20);
/// More than any message of a turn without requests.
const LIMIT_BYTES: usize = 1 << 20;

/// A kernel that waits for a plugin. Dropping it kills the kernel.
#[derive(Debug)]
pub struct Spare {
    pub(super) client: KernelClient,
    /// The carrier that was seen to work.
    pub(super) carrier: Option<Carrier>,
    pub(super) startup: Startup,
    /// Its sandbox lets it read large values there, so there it has to stay.
    pub(super) pool: Option<Arc<Pool>>,
}

impl Spare {
    /// Start a kernel as `source` wants it, and give it the shim.
    ///
    /// Dropping the future kills the kernel.
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the kernel gone.
    pub async fn start(runtime: &Runtime, source: &PluginSource) -> Result<Self, LoadError> {
        let deadline = Instant::now() + source.limits.startup;
        // Held from before its path is looked up.
        let pool = Pool::get().ok();
        let client = KernelClient::launch(launch_options(runtime, Some(source))).await?;
        let mut startup = client.startup();
        let began = Instant::now();
        // At the basic level there is nothing of ours in a kernel.
        if let (None, Some(language), Some(shim)) = (&source.template, &runtime.language, &runtime.shim) {
            let bootstrap = language.shim.as_ref().and_then(|shim| shim.bootstrap.as_deref()).unwrap_or(shim);
            execute(&client, runtime, bootstrap, deadline).await?;
            startup.shim_ms = milliseconds(began.elapsed());
        }
        Ok(Self { client, carrier: None, startup, pool })
    }

    /// Take part in a kernel that somebody else has started, and give it the shim. It lives on when this is dropped.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: [`LoadError::NoShim`] for a language whose shim serves no cells.
    pub async fn adopt(
        runtime: &Runtime,
        source: &PluginSource,
        connection: ConnectionInfo,
        process_id: u32,
    ) -> Result<Self, LoadError> {
        let deadline = Instant::now() + source.limits.startup;
        let shim = runtime.language.as_ref().and_then(|language| language.shim.as_ref()).zip(runtime.shim.as_ref());
        let Some((adopt, text)) = shim.and_then(|(shim, text)| Some((shim.adopt.as_ref()?, text))) else {
            return Err(LoadError::NoShim { kernelspec: runtime.kernelspec.clone() });
        };
        let options = launch_options(runtime, Some(source));
        let client = KernelClient::adopt(connection, process_id, options).await?;
        // A text in JSON is one in these languages.
        let folder = serde_json::Value::from(client.folder().to_string_lossy()).to_string();
        execute(&client, runtime, &adopt.replace("{folder}", &folder), deadline).await?;
        execute(&client, runtime, text, deadline).await?;
        let startup = client.startup();
        Ok(Self { client, carrier: None, startup, pool: None })
    }

    /// Open a turn and end it: the first one finds the carrier, and costs most, since interpreters compile what they run.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoCarrier`] with none that was tried when the kernel does not come back from it, and is of no use.
    pub async fn warm_up(mut self, runtime: &Runtime, source: &PluginSource) -> Result<Self, LoadError> {
        let Some(language) = runtime.language.as_deref().filter(|_| source.template.is_none()) else { return Ok(self) };
        for carrier in Carrier::offered(language, source.carrier) {
            match timeout(FIRST_TURN, self.turn(language, carrier)).await {
                Ok(Ok(true)) => {
                    self.carrier = Some(carrier);
                    return Ok(self);
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(kernel = runtime.kernelspec, %carrier, %error, "a spare's first turn")
                }
                Err(_) => break,
            }
        }
        Err(LoadError::NoCarrier { kernelspec: runtime.kernelspec.clone(), tried: Vec::new() })
    }

    /// Does a turn over this carrier begin and end?
    async fn turn(&self, language: &Language, carrier: Carrier) -> Result<bool, TurnError> {
        let code = match carrier {
            Carrier::Pipe => &language.turn.pipe,
            Carrier::Jupyter => &language.turn.jupyter,
        };
        let request = ExecuteRequest {
            silent: language.turn.silent,
            allow_stdin: carrier == Carrier::Jupyter,
            ..ExecuteRequest::new(code.clone().unwrap_or_default())
        };
        let prepared = Turn::prepare(carrier, self.client.folder(), LIMIT_BYTES)?;
        let mut turn = prepared.open(self.client.execute_turn(&request).await?, Activation::Execute);
        let mut is_ready = false;
        loop {
            match turn.next().await {
                TurnEvent::Message(Inbound::Ready) if !is_ready => {
                    is_ready = true;
                    turn.send(Message::Json(rpc::notification("end")))?;
                }
                TurnEvent::Message(_) | TurnEvent::Keyboard(_) => {}
                TurnEvent::Ended(_) => return Ok(is_ready),
                TurnEvent::Failed(error) => return Err(error),
            }
        }
    }

    /// It was at hand: the time that its own start took is nobody's.
    #[must_use]
    pub fn used(mut self) -> Self {
        (self.startup.warm, self.startup.host_ms) = (true, 0.0);
        self
    }

    /// What came before its start: discovery, and others that were started first.
    pub(crate) fn waited(&mut self, discover: Duration, queued: Duration) {
        let startup = &mut self.startup;
        (startup.discover_ms, startup.queued_ms) = (milliseconds(discover), milliseconds(queued));
        startup.host_ms = milliseconds(discover + Duration::from_secs_f64(startup.host_ms / 1000.0));
    }

    /// Was its kernel started as `source` wants it?
    ///
    /// # Errors
    ///
    /// In what it was not.
    pub fn fits(&self, runtime: &Runtime, source: &PluginSource) -> Result<(), &'static str> {
        let (wanted, own) = (launch_options(runtime, Some(source)), self.options());
        let folder = own.spec.working_dir == wanted.spec.working_dir || self.can_move(runtime);
        let rest = LaunchOptions {
            startup: own.startup,
            spec: LaunchSpec { working_dir: own.spec.working_dir.clone(), ..wanted.spec.clone() },
            ..wanted
        };
        match () {
            () if !folder => Err("the plugin's folder: kernels of its language cannot change theirs"),
            () if rest.spec.sandbox != own.spec.sandbox => Err("the sandbox"),
            () if rest.spec.limits != own.spec.limits => Err("the limits"),
            () if rest.spec.pass_env != own.spec.pass_env => Err("the variables"),
            () if rest != *own => Err("the kernelspec or the language folder"),
            () => Ok(()),
        }
    }

    /// Does its shim change the working folder when it is told to?
    fn can_move(&self, runtime: &Runtime) -> bool {
        let shim = runtime.language.as_ref().and_then(|language| language.shim.as_ref());
        self.options().spec.working_dir.is_none() && shim.is_some_and(|shim| shim.moves)
    }

    /// How its kernel was started.
    pub fn options(&self) -> &LaunchOptions {
        self.client.options()
    }

    /// Becomes `Some` when its process has ended.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.client.exit()
    }

    /// Where its kernel listens, with the key, and the session of our own messages to it: for whoever talks to it too.
    pub(crate) fn identity(&self) -> (ConnectionInfo, String) {
        (self.client.connection().clone(), self.client.session().to_owned())
    }

    /// What its kernel runs of somebody else's.
    pub(crate) fn others(&self) -> watch::Receiver<Others> {
        self.client.others()
    }

    /// The kernel's process.
    pub fn process_id(&self) -> u32 {
        self.client.process().id()
    }

    /// Memory of all its processes.
    pub fn memory_bytes(&self) -> u64 {
        self.client.process().memory_bytes()
    }

    /// End it. When this returns there is no process and no file left.
    pub async fn shutdown(self, grace: Duration) {
        self.client.shutdown(grace).await;
    }
}
