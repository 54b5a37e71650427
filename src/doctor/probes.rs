//! The questions that take more than one message.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json, value::to_raw_value};
use tokio::time::{sleep, timeout};

use crate::{
    chain::Chain,
    client::{ClientError, ExecutionEvent, KernelClient, LaunchOptions},
    doctor::{ANSWER, Finding, GRACE, STARTUP, nobody},
    language::Language,
    manifest::{Limits, Sandbox},
    plugin::{Carrier, LoadError, Plugin, PluginSource, Runtime},
    rpc::{self, Cell, ErrorKind, RpcError},
    wire::content::ExecuteRequest,
};

/// How long the shim and a turn's constant may take in a kernel that runs.
const CODE: Duration = Duration::from_secs(20);
/// How long a busy handler would run if nothing ended it.
const BUSY_SECONDS: u32 = 60;
/// When a busy handler is interrupted. Until then the questions to the busy kernel are asked.
const INTERRUPT_AFTER: Duration = Duration::from_secs(2);
/// How long a handler may take until it is really busy.
const SETTLE: Duration = Duration::from_millis(400);
/// How long a busy kernel may take to answer.
const BUSY_ANSWER: Duration = Duration::from_secs(1);
/// How long a kernel may take to start with unix sockets; those that cannot would use up any deadline.
const IPC_STARTUP: Duration = Duration::from_secs(10);

/// Open a turn over stdin and see whether the shim's first message arrives.
pub(super) async fn stdin(client: &KernelClient, language: &Language, shim: &str) -> Finding {
    let Some(turn) = &language.turn.jupyter else {
        return Finding::no("language.toml has no turn over stdin");
    };
    let bootstrap = language.shim.as_ref().and_then(|shim| shim.bootstrap.as_deref()).unwrap_or(shim);
    let asked = async {
        client.execute(&ExecuteRequest::new(bootstrap)).await?.finish(CODE).await?;
        let began = Instant::now();
        let request =
            ExecuteRequest { allow_stdin: true, silent: language.turn.silent, ..ExecuteRequest::new(turn.clone()) };
        let mut execution = client.execute(&request).await?;
        loop {
            match execution.next().await {
                ExecutionEvent::Input(input) => {
                    let elapsed = began.elapsed();
                    execution.reply_input(&input, &rpc::notification("end")).await?;
                    execution.finish(ANSWER).await?;
                    return Ok(Finding::took(elapsed));
                }
                ExecutionEvent::Reply(reply) => {
                    return Ok(Finding::no(format!("the turn ended without asking: {} {}", reply.ename, reply.evalue)));
                }
                ExecutionEvent::Failed(error) => return Err(error),
                ExecutionEvent::Output(_) | ExecutionEvent::Idle => {}
            }
        }
    };
    match timeout(CODE, asked).await {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => Finding::no(error),
        Err(_) => Finding::no(format!("no `input_request` within {CODE:?}")),
    }
}

/// Load an empty plugin with this carrier and nothing else.
pub(super) async fn carrier(runtime: &Runtime, language: &Language, carrier: Carrier, desk: &Path) -> Finding {
    let offered = match carrier {
        Carrier::Pipe => &language.turn.pipe,
        Carrier::Jupyter => &language.turn.jupyter,
    };
    if offered.is_none() {
        return Finding::no("language.toml has no turn for it");
    }
    match load(runtime, Vec::new(), Some(carrier), desk).await {
        Ok(plugin) => {
            // A turn of its own, since the one of loading may have compiled something.
            let began = Instant::now();
            let chain = Chain::root("doctor", began + CODE);
            let asked = plugin.request("load", &rpc::Load { path: None, cells: &[] }, &chain, began + CODE).await;
            let elapsed = began.elapsed();
            plugin.shutdown(GRACE).await;
            match asked {
                Ok(_) => Finding::took(elapsed),
                Err(error) => Finding::no(error),
            }
        }
        Err(error) => Finding::no(error),
    }
}

/// What can be asked of a kernel only while it works.
pub(super) struct Busy {
    pub control: Finding,
    pub heartbeat: Finding,
    pub interrupted: Finding,
}

impl Busy {
    pub fn unknown(reason: &str) -> Self {
        let unknown = || Finding::unknown(reason);
        Self { control: unknown(), heartbeat: unknown(), interrupted: unknown() }
    }
}

/// Keep a handler busy, ask meanwhile, then let its deadline pass and see what is left.
pub(super) async fn busy(runtime: &Runtime, cell: &Cell, desk: &Path) -> Busy {
    let plugin = match load(runtime, vec![cell.clone()], None, desk).await {
        Ok(plugin) => plugin,
        Err(error) => return Busy::unknown(&format!("the conformance plugin does not load: {error}")),
    };
    let no_control = runtime.language.as_ref().is_some_and(|language| language.kernel.no_control);
    let prober = plugin.prober().clone();
    let asking = async {
        sleep(SETTLE).await;
        let control = async {
            if no_control {
                return Finding::no("the kernel binds no control socket");
            }
            let began = Instant::now();
            finding(prober.kernel_info_on_control(BUSY_ANSWER).await, began)
        };
        let heartbeat = async {
            match prober.heartbeat(BUSY_ANSWER).await {
                Ok(elapsed) => Finding::took(elapsed),
                Err(error) => Finding::no(error),
            }
        };
        tokio::join!(control, heartbeat)
    };
    let began = Instant::now();
    let (outcome, (control, heartbeat)) = tokio::join!(call(&plugin, BUSY_SECONDS, INTERRUPT_AFTER), asking);
    let elapsed = began.elapsed().saturating_sub(INTERRUPT_AFTER);
    let interrupted = match outcome {
        Ok(_) => Finding::no("the handler ended before it was interrupted"),
        Err(error) if error.kind == ErrorKind::Timeout => match call(&plugin, 0, CODE).await {
            Ok(_) => Finding::took(elapsed),
            Err(error) => Finding::no(format!("the handler ended, but the plugin did not live on: {}", error.message)),
        },
        Err(error) => Finding::no(error.message),
    };
    plugin.shutdown(GRACE).await;
    Busy { control, heartbeat, interrupted }
}

async fn call(plugin: &Plugin, seconds: u32, deadline: Duration) -> Result<(), RpcError> {
    let deadline = Instant::now() + deadline;
    let args = to_raw_value(&json!([seconds])).map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
    plugin.call("busy", &args, &Chain::root("doctor", deadline), deadline).await.map(drop)
}

/// Start it with unix sockets.
pub(super) async fn ipc(mut options: LaunchOptions) -> Finding {
    options.spec.ipc = true;
    options.startup = IPC_STARTUP;
    let began = Instant::now();
    match KernelClient::launch(options).await {
        Ok(client) => {
            let elapsed = began.elapsed();
            client.shutdown(GRACE).await;
            Finding::took(elapsed)
        }
        Err(ClientError::Deaf { startup, missing, .. }) => {
            Finding::no(format!("not ready within {startup:?}: {missing}"))
        }
        Err(ClientError::DiedAtLaunch { exit, .. }) => Finding::no(format!("it ended with {exit}")),
        Err(error) => Finding::no(error),
    }
}

fn finding<T>(outcome: Result<T, ClientError>, began: Instant) -> Finding {
    match outcome {
        Ok(_) => Finding::took(began.elapsed()),
        Err(error) => Finding::no(error),
    }
}

async fn load(runtime: &Runtime, cells: Vec<Cell>, carrier: Option<Carrier>, desk: &Path) -> Result<Plugin, LoadError> {
    // Conformance plugins greet with what their configuration says.
    let config: Map<String, Value> = std::iter::once(("greeting".to_owned(), json!("hello"))).collect();
    let source = PluginSource {
        name: "doctor".into(),
        version: "0.0.0".into(),
        // Kernels start in their entry's folder; there is no such file.
        path: Some(desk.join("doctor")),
        cells,
        config,
        env: Vec::new(),
        sandbox: Sandbox::default(),
        limits: Limits { startup: STARTUP, ..Limits::default() },
        carrier,
        activation: None,
        template: None,
        instance: None,
        shared: false,
        live: None,
    };
    Plugin::load(runtime, &source, nobody(), Arc::default()).await
}
