//! What a kernel can really do, found out by starting it.
//!
//! Every question has a deadline, and an answer is a value: that a kernel cannot do something is no error. Only a kernel
//! that does not start at all is one.

mod probes;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    blob::Parcel,
    chain::Chain,
    client::{ClientError, KernelClient, LaunchOptions, Startup},
    language::Interrupt,
    plugin::{Answer, Carrier, Emission, HostCalls, PluginNews, Runtime, launch_options},
    provision::LaunchError,
    rpc::{Cell, ErrorKind, RpcError},
};

/// How long a kernel may take to start; Julia compiles, R reads a cold disk.
const STARTUP: Duration = Duration::from_secs(90);
/// How long a kernel gets to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How long an idle kernel may take to answer a question.
const ANSWER: Duration = Duration::from_secs(3);

/// What is examined.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The kernel.
    pub runtime: Runtime,
    /// Source of a plugin that exports `busy(seconds)`; the conformance plugin of a language folder does. Without it some
    /// questions stay open.
    pub busy: Option<Cell>,
}

/// What came of the examination.
#[derive(Debug, Clone, Serialize)]
pub struct Examination {
    /// Name and version of the kernel.
    pub kernel: String,
    /// Version of the message spec that it speaks.
    pub protocol_version: String,
    /// From launch until it answered on shell and iopub.
    pub startup_ms: u64,
    /// Where that time went, the shim and what follows it left out.
    pub startup: Startup,
    /// Memory of all its processes after the start.
    pub memory_bytes: u64,
    /// How many processes those are.
    pub processes: usize,
    /// Does an `input_request` arrive?
    pub stdin: Finding,
    /// Does a turn open over the FIFO pair?
    pub pipe: Finding,
    /// Does a turn open over stdin?
    pub jupyter: Finding,
    /// Is `comm_info_request` answered?
    pub comm: Finding,
    /// Was `iopub_welcome` sent?
    pub iopub_welcome: Finding,
    /// Is `kernel_info_request` answered on control while code runs?
    pub control_while_busy: Finding,
    /// Does the heartbeat answer while code runs?
    pub heartbeat_while_busy: Finding,
    /// What interrupts running code.
    pub interrupt: Interrupt,
    /// Does a busy handler end by that, with kernel and plugin alive afterwards?
    pub interrupted: Finding,
    /// Does it start with unix sockets instead of tcp?
    pub ipc: Finding,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Finding {
    /// It does.
    Yes {
        /// How long it took, where that says something.
        #[serde(skip_serializing_if = "Option::is_none")]
        ms: Option<f64>,
    },
    /// It does not.
    No {
        /// What happened instead.
        reason: String,
    },
    /// It was not tried.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl Finding {
    /// It does, and took so long.
    pub fn took(elapsed: Duration) -> Self {
        Self::Yes { ms: Some((elapsed.as_secs_f64() * 1e4).round() / 10.0) }
    }

    /// It does not.
    pub fn no(reason: impl ToString) -> Self {
        // Errors may hold a kernel's whole last output.
        let reason = reason.to_string();
        Self::No { reason: reason.lines().next().unwrap_or_default().to_owned() }
    }

    /// It was not tried.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: reason.into() }
    }

    /// Does it?
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes { .. })
    }
}

/// Examine one kernel, for a minute or so at most when it does nothing right. Nothing of it is left afterwards.
///
/// `say` hears what is being done.
///
/// # Errors
///
/// [`ClientError`] when the kernel does not start.
pub async fn examine(subject: &Subject, mut say: impl FnMut(&str)) -> Result<Examination, ClientError> {
    let Subject { runtime, busy } = subject;
    let desk = tempfile::tempdir().map_err(|source| LaunchError::Folder { path: std::env::temp_dir(), source })?;
    let mut options = LaunchOptions { startup: STARTUP, ..launch_options(runtime, None) };
    // Octave leaves `octave-workspace` where it was when it is ended by a signal.
    options.spec.working_dir = Some(desk.path().to_owned());
    say("starting");
    let began = Instant::now();
    let client = KernelClient::launch(options.clone()).await?;
    let (startup, phases) = (began.elapsed(), client.startup());
    let language = runtime.language.as_deref();
    let no_shim = || Finding::unknown("there is no shim to try it with");

    say("asking");
    let asked = Instant::now();
    let comm = match client.comm_info(ANSWER).await {
        Ok(_) => Finding::took(asked.elapsed()),
        Err(error) => Finding::no(error),
    };
    let iopub_welcome = if client.welcomed() { Finding::Yes { ms: None } } else { Finding::no("it was not sent") };
    let (processes, memory_bytes) = (client.process().tree().len(), client.process().memory_bytes());
    let (kernel, protocol_version) = {
        let info = client.info();
        (format!("{} {}", info.implementation, info.implementation_version), info.protocol_version.clone())
    };
    say("stdin");
    let stdin = match (language, &runtime.shim) {
        (Some(language), Some(shim)) => probes::stdin(&client, language, shim).await,
        _ => no_shim(),
    };
    client.shutdown(GRACE).await;

    let mut carriers = Vec::new();
    for carrier in [Carrier::Pipe, Carrier::Jupyter] {
        carriers.push(match (language, &runtime.shim) {
            (Some(language), Some(_)) => {
                say(carrier.name());
                probes::carrier(runtime, language, carrier, desk.path()).await
            }
            _ => no_shim(),
        });
    }
    let [pipe, jupyter] = carriers.try_into().unwrap_or_else(|_| [no_shim(), no_shim()]);

    let busy = match busy {
        Some(cell) if pipe.is_yes() || jupyter.is_yes() => {
            say("working");
            probes::busy(runtime, cell, desk.path()).await
        }
        Some(_) => probes::Busy::unknown("no turn opens"),
        None => probes::Busy::unknown("the language folder has no conformance plugin to keep it busy"),
    };
    let ipc = if options.spec.ipc {
        // It was started that way.
        Finding::took(startup)
    } else {
        say("ipc");
        probes::ipc(options.clone()).await
    };
    Ok(Examination {
        kernel: kernel.trim().to_owned(),
        protocol_version,
        startup_ms: u64::try_from(startup.as_millis()).unwrap_or(u64::MAX),
        startup: phases,
        memory_bytes,
        processes,
        stdin,
        pipe,
        jupyter,
        comm,
        iopub_welcome,
        control_while_busy: busy.control,
        heartbeat_while_busy: busy.heartbeat,
        interrupt: options.interrupt,
        interrupted: busy.interrupted,
        ipc,
    })
}

/// A host that offers nothing, for plugins that ask for nothing.
struct Nobody;

impl HostCalls for Nobody {
    fn call(&self, _: &str, _: Chain, name: String, _: Box<RawValue>) -> Answer<Parcel> {
        Box::pin(async move { Err(RpcError::new(ErrorKind::NotFound, format!("no function `{name}`"))) })
    }

    fn emit(&self, _: &str, _: Chain, _: Emission) -> Answer<()> {
        Box::pin(async { Ok(()) })
    }

    fn news(&self, _: &str, _: PluginNews) {}
}

fn nobody() -> Arc<dyn HostCalls> {
    Arc::new(Nobody)
}
