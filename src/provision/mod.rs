//! Gets a process: starts a kernel on this machine, knows when it ends, and ends it with everything it started.
//!
//! No policy lives here: no retry, no deadline, no protocol. Whoever starts a kernel decides those.
//!
//! # Theory of operation
//!
//! A kernel gets a private folder (0700) with its connection file (0600), FIFOs and shim, a second one for its temporary
//! files, which a killed R would leave behind, a third one, in memory, for large values that it sends, a session of its own, and two markers in its environment that all its
//! descendants inherit: `KERNELBRIDGE_DIR`, by which [`Process::kill_tree`] finds what a wrapper kernel started in other
//! sessions, and `KERNELBRIDGE_HOST`, by which a guardian does the same if this process is killed.

mod cgroup;
mod environment;
mod folder;
mod guardian;
mod limits;
mod memory;
mod ports;
mod process;
mod sampler;
mod sandbox;
mod tail;
mod tree;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use crate::{connection::ConnectionInfo, manifest::Sandbox};

pub use folder::{Folder, GuardedFolder};
pub use limits::{Limits, Overrun};
pub use memory::memory_bytes;
pub use ports::Reservation;
use process::Outfit;
pub use process::{Exit, Process, processes_of};
pub use sandbox::{SandboxError, check as check_sandbox};
pub use tail::Tail;

/// What to start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchSpec {
    /// Name of the kernelspec.
    pub kernel_name: String,
    /// Program and arguments; `{connection_file}` is replaced wherever it occurs.
    pub argv: Vec<String>,
    /// Added to the environment, which has of ours only what an interpreter needs. Without `TMPDIR`, the kernel gets a
    /// folder for temporary files that goes when it does.
    pub env: BTreeMap<String, String>,
    /// Names of our variables that it gets as well.
    pub pass_env: Vec<String>,
    /// Where it starts; `None`: where we are.
    pub working_dir: Option<PathBuf>,
    /// Unix sockets instead of loopback tcp, if it has no sandbox.
    pub ipc: bool,
    /// Stack limit in bytes.
    pub stack_bytes: Option<u64>,
    /// What it may use.
    pub limits: Limits,
    /// What it is kept from.
    pub sandbox: Sandbox,
    /// Its interpreter runs in a terminal, which a sandbox has to leave it.
    pub terminal: bool,
    /// It writes where it is started, which a read-only sandbox would not let it.
    pub writes_where_started: bool,
    /// What occurs in lines that are left out of its last output.
    pub noise: Vec<String>,
    /// Files put into its private folder: name and text.
    pub files: Vec<(String, Arc<str>)>,
    /// Key of its signatures, if others talk to it too; else one is made that only we know.
    pub shared_key: Option<String>,
    /// A folder of large values that it may read. It then gets one of its own, too, to put some into.
    pub blobs: Option<PathBuf>,
}

/// A started kernel.
#[derive(Debug)]
pub struct Launched {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub connection: ConnectionInfo,
    /// Its ports; to be dropped when it listens. `None` over Unix sockets.
    pub reservation: Option<Reservation>,
}

/// Why a kernel could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The kernelspec's `argv` is empty.
    #[error("kernelspec `{name}` has an empty `argv`")]
    NoArgv {
        /// The kernelspec.
        name: String,
    },
    /// The program is not there or cannot be run.
    #[error("cannot run `{program}`, the program of kernelspec `{name}`: {source}")]
    Program {
        /// The kernelspec.
        name: String,
        /// First of its `argv`.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The private folder or something in it could not be made.
    #[error("cannot make {path}: {source}")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process of a kernel that somebody else has started cannot be watched.
    #[error("cannot watch process {process_id}: {source}")]
    Adopt {
        /// Which.
        process_id: u32,
        /// Why.
        source: io::Error,
    },
    /// No free port on the loopback interface.
    #[error("no free port on 127.0.0.1: {0}")]
    Ports(#[source] io::Error),
    /// The guardian, which ends kernels if this process is killed, could not be started.
    #[error("cannot start the guardian `sh`: {0}")]
    Guardian(#[source] io::Error),
    /// The sandbox could not be prepared.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Take part in a kernel that somebody else has started: it gets a private folder of ours, and lives on when the result
/// is dropped.
///
/// # Errors
///
/// [`LaunchError::Folder`], and [`LaunchError::Adopt`] when there is no such process.
pub fn adopt(connection: ConnectionInfo, process_id: u32) -> Result<Launched, LaunchError> {
    let guardian = guardian::Guardian::get().map_err(LaunchError::Guardian)?;
    let folder = Folder::new(guardian.id())?;
    folder.make_fifo(Folder::TO_HOST)?;
    folder.make_fifo(Folder::TO_PLUGIN)?;
    let process =
        Process::adopt(process_id, folder, guardian).map_err(|source| LaunchError::Adopt { process_id, source })?;
    Ok(Launched { process, connection, reservation: None })
}

/// Start a kernel on this machine.
///
/// Returns as soon as the process exists; it is not ready yet. Dropping the result kills it with all its descendants.
///
/// # Errors
///
/// [`LaunchError`], with nothing left behind.
pub async fn launch(spec: &LaunchSpec) -> Result<Launched, LaunchError> {
    let Some(program) = spec.argv.first() else {
        return Err(LaunchError::NoArgv { name: spec.kernel_name.clone() });
    };
    let guardian = guardian::Guardian::get().map_err(LaunchError::Guardian)?;
    let folder = Folder::new(guardian.id())?;
    for (name, text) in &spec.files {
        folder.write(name, text.as_bytes())?;
    }
    folder.make_fifo(Folder::TO_HOST)?;
    folder.make_fifo(Folder::TO_PLUGIN)?;
    let blobs = spec.blobs.as_ref().map(|_| Folder::blobs(guardian.id())).transpose()?;
    let temporary = match spec.env.contains_key("TMPDIR") && !spec.sandbox.read_only {
        true => None,
        false => Some(Folder::temporary(guardian.id())?),
    };

    // A sandbox leaves no Unix sockets.
    let ipc = spec.ipc && spec.sandbox == Sandbox::default();
    let (ports, reservation) = if ipc { None } else { Some(ports::Ports::hold().map_err(LaunchError::Ports)?) }.unzip();
    let [shell_port, iopub_port, stdin_port, control_port, hb_port] =
        ports.as_ref().map_or([1, 2, 3, 4, 5], ports::Ports::numbers);
    let connection = ConnectionInfo {
        transport: if ipc { "ipc" } else { "tcp" }.into(),
        ip: if ipc { folder.path().join("zmq").to_string_lossy().into_owned() } else { "127.0.0.1".into() },
        shell_port,
        iopub_port,
        stdin_port,
        control_port,
        hb_port,
        signature_scheme: "hmac-sha256".into(),
        key: spec.shared_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        kernel_name: spec.kernel_name.clone(),
    };
    let connection_file = folder.path().join("connection.json");
    let json = serde_json::to_vec_pretty(&connection)
        .map_err(|error| LaunchError::Folder { path: connection_file.clone(), source: error.into() })?;
    folder.write("connection.json", &json)?;

    let sandbox = sandbox::Prepared::new(
        spec.sandbox,
        &sandbox::Needs {
            own: &[Some(&folder), temporary.as_ref(), blobs.as_ref()]
                .into_iter()
                .flatten()
                .map(Folder::path)
                .collect::<Vec<_>>(),
            shared: spec.blobs.as_deref(),
            bases: &Folder::bases(),
            ports: [shell_port, iopub_port, stdin_port, control_port, hb_port],
            terminal: spec.terminal,
        },
    )?;
    let argv = spec.argv.iter().map(|arg| arg.replace("{connection_file}", &connection_file.to_string_lossy()));
    let outfit = Outfit { argv: argv.collect(), folder, temporary, blobs, guardian, ports, sandbox };
    let process = Process::spawn(spec, outfit).await.map_err(|source| LaunchError::Program {
        name: spec.kernel_name.clone(),
        program: program.clone(),
        source,
    })?;
    Ok(Launched { process, connection, reservation })
}
