//! One kernel's process and everything it starts.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
    },
    unistd::{Pid, getppid, setsid},
};
use rustix::process::PidfdFlags;
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
    runtime::Handle,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::provision::{
    Folder, LaunchSpec, Overrun,
    cgroup::Cgroup,
    environment,
    guardian::{Guardian, HOST_MARK},
    limits::Rlimits,
    memory::memory_bytes,
    ports::Ports,
    sampler::Watched,
    sandbox::Prepared,
    tail::Tail,
};

/// Environment variable with the private folder's path; also marks all descendants of one kernel.
const FOLDER_MARK: &str = "KERNELBRIDGE_DIR";
/// Environment variable with the path of the folder for large values that the kernel sends.
const BLOBS: &str = "KERNELBRIDGE_BLOBS";
/// Variables that say where programs write what nobody keeps: temporary files, ilua's pipes, IPython's history and that
/// of the kernels built on it.
const SCRATCH: [&str; 5] = ["TMPDIR", "TMP", "TEMP", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"];
/// How long the pipes of an ended process may still deliver.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// As the system tells it.
    pub status: ExitStatus,
    /// The limit that we ended it for.
    pub overrun: Option<Overrun>,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(signal) => write!(f, "signal {signal}"),
                Err(_) => write!(f, "signal {signal}"),
            },
            (None, None) => f.write_str("an unknown status"),
        }?;
        self.overrun.map_or(Ok(()), |overrun| write!(f, ": it {overrun}"))
    }
}

/// A kernel's process. Dropping it kills the process with all its descendants and removes its folders.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    tail: Tail,
    folder: Folder,
    _temporary: Option<Folder>,
    blobs: Option<Folder>,
    waiter: JoinHandle<()>,
    _watched: Option<Arc<Watched>>,
    _guardian: Arc<Guardian>,
    /// Somebody else's: it is not ours to end.
    is_adopted: bool,
}

/// All that a kernel is given when it is started.
pub(super) struct Outfit {
    pub argv: Vec<String>,
    pub folder: Folder,
    pub temporary: Option<Folder>,
    pub blobs: Option<Folder>,
    pub guardian: Arc<Guardian>,
    pub ports: Option<Ports>,
    pub sandbox: Option<Prepared>,
}

impl Process {
    pub(super) async fn spawn(spec: &LaunchSpec, outfit: Outfit) -> io::Result<Self> {
        let Outfit { argv, folder, temporary, blobs, guardian, ports, sandbox } = outfit;
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().envs(environment::kept(std::env::vars_os(), &spec.pass_env));
        if let Some(temporary) = &temporary {
            // SWI-Prolog 9 knows only the second.
            command.env("TMPDIR", temporary.path()).env("TMP", temporary.path());
            if spec.shared_key.is_none() {
                // ilua keeps its pipes there, which are left when it is killed, and in the way of the next of its number.
                command.env("JUPYTER_RUNTIME_DIR", temporary.path());
            }
        }
        command.envs(&spec.env);
        if let Some(temporary) = temporary.as_ref().filter(|_| spec.sandbox.read_only) {
            command.envs(SCRATCH.map(|name| (name, temporary.path())));
        }
        command.env("JPY_PARENT_PID", std::process::id().to_string());
        command.env(HOST_MARK, guardian.id()).env(FOLDER_MARK, folder.path());
        if let Some(blobs) = &blobs {
            command.env(BLOBS, blobs.path());
        }
        let instead = temporary.as_ref().filter(|_| spec.sandbox.read_only && spec.writes_where_started);
        if let Some(dir) = instead.map(Folder::path).or(spec.working_dir.as_deref()) {
            command.current_dir(dir);
        }
        let host = Pid::this();
        let rlimits = Rlimits::new(spec.limits, spec.stack_bytes);
        let group_name = folder.path().file_name().unwrap_or_default().to_string_lossy();
        let cgroup = spec.limits.memory_bytes.and_then(|bytes| Cgroup::new(&group_name, bytes));
        let door = cgroup.as_ref().and_then(Cgroup::door);
        // SAFETY: only system calls that are async-signal-safe, and nothing is allocated between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // A session of its own, as a terminal's Ctrl-C is for the host; not only a group, or `bash -i` breaks.
                setsid()?;
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != host {
                    return Err(io::Error::from(nix::errno::Errno::ESRCH));
                }
                if let Some(door) = &door {
                    door.enter();
                }
                rlimits.set()?;
                // Last, as it may refuse what comes before it.
                sandbox.as_ref().map_or(Ok(()), Prepared::enter)
            });
        }
        let mut child = spawn_from_lasting_thread(command, ports).await?;
        let pid = Pid::from_raw(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default());

        let tail = Tail::without(&spec.noise);
        let pipes = [
            child.stdout.take().map(|pipe| tokio::spawn(tail.clone().fill_from(pipe))),
            child.stderr.take().map(|pipe| tokio::spawn(tail.clone().fill_from(pipe))),
        ];
        let (sender, exit) = watch::channel(None);
        let overrun = Arc::new(OnceLock::new());
        let watched = Watched::begin(pid, folder.path(), spec.limits, exit.clone(), overrun.clone());
        let waiter = tokio::spawn(async move {
            let status = child.wait().await;
            for mut pipe in pipes.into_iter().flatten() {
                // A grandchild may hold the pipe open for ever.
                if timeout(LAST_WORDS, &mut pipe).await.is_err() {
                    pipe.abort();
                }
            }
            // `wait` fails only if somebody else reaped the child; it has ended all the same.
            let status = status.unwrap_or_default();
            let overrun = overrun.get().copied().or_else(|| cgroup.as_ref()?.overrun());
            sender.send_replace(Some(Exit { status, overrun }));
        });
        Ok(Self {
            pid,
            exit,
            tail,
            folder,
            _temporary: temporary,
            blobs,
            waiter,
            _watched: watched,
            _guardian: guardian,
            is_adopted: false,
        })
    }

    /// Watch a process that somebody else has started.
    pub(super) fn adopt(id: u32, folder: Folder, guardian: Arc<Guardian>) -> io::Result<Self> {
        let pid = i32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        let end = end_of(Pid::from_raw(pid))?;
        let (sender, exit) = watch::channel(None);
        let waiter = tokio::spawn(async move {
            // An error would mean that nobody can tell any more.
            drop(end.readable().await);
            // Only its parent learns how.
            sender.send_replace(Some(Exit { status: ExitStatus::default(), overrun: None }));
        });
        Ok(Self {
            pid: Pid::from_raw(pid),
            exit,
            tail: Tail::without(&[]),
            folder,
            _temporary: None,
            blobs: None,
            waiter,
            _watched: None,
            _guardian: guardian,
            is_adopted: true,
        })
    }

    /// Is it somebody else's, and not ours to end?
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Becomes `Some` when the process has ended. The authority on death.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// The last 64 KiB it wrote to its own stdout and stderr.
    pub fn output_tail(&self) -> Tail {
        self.tail.clone()
    }

    /// Its private folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its folder for large values that it sends, if it has one.
    pub fn blobs(&self) -> Option<&Path> {
        self.blobs.as_ref().map(Folder::path)
    }

    /// Send a signal to the kernel's process group. Returns whether there was one.
    pub fn signal_group(&self, signal: Signal) -> bool {
        // Of somebody else's process we do not know what else is in its group.
        let send = if self.is_adopted { kill::<Signal> } else { killpg::<Signal> };
        self.exit.borrow().is_none() && send(self.pid, signal).is_ok()
    }

    /// Send a signal to the descendants of the kernel's process only. Returns whether there was one.
    pub fn signal_children(&self, signal: Signal) -> bool {
        let mut sent = false;
        for pid in self.marked().into_iter().filter(|&pid| pid != self.pid) {
            sent |= kill(pid, signal).is_ok();
        }
        sent
    }

    /// All its living processes.
    pub fn tree(&self) -> Vec<u32> {
        processes_of(self.folder.path())
    }

    /// What becomes readable when one of the processes ends that the kernel has started so far.
    pub fn child_exits(&self) -> io::Result<Vec<AsyncFd<OwnedFd>>> {
        self.marked().into_iter().filter(|&pid| pid != self.pid).map(end_of).collect()
    }

    /// Memory of all its living processes in bytes; see [`memory_bytes`].
    pub fn memory_bytes(&self) -> u64 {
        self.tree().into_iter().map(memory_bytes).sum()
    }

    /// Kill the process and every descendant, also those in other sessions, and wait until the process is gone.
    pub async fn kill_tree(&self) {
        if self.is_adopted {
            return;
        }
        self.kill_marked();
        let mut exit = self.exit();
        // SIGKILL cannot be ignored; the bound is for a process stuck in the system (state D).
        let _ = timeout(Duration::from_secs(5), exit.wait_for(Option::is_some)).await;
    }

    fn kill_marked(&self) {
        if self.is_adopted {
            return;
        }
        kill_all(self.pid, self.folder.path(), &self.exit);
    }

    fn marked(&self) -> Vec<Pid> {
        marked(self.folder.path())
    }
}

/// What becomes readable when a process ends.
fn end_of(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let Some(pid) = rustix::process::Pid::from_raw(pid.as_raw()) else { return Err(io::ErrorKind::NotFound.into()) };
    let end = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an `OwnedFd` is the same open file for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(end, Interest::READABLE) }?)
}

/// The living processes of the kernel whose private folder this is or was. Empty where there is no `/proc`.
pub fn processes_of(folder: &Path) -> Vec<u32> {
    marked(folder).into_iter().map(|pid| pid.as_raw().unsigned_abs()).collect()
}

/// Kill a kernel's process and all that carry its mark.
pub(super) fn kill_all(pid: Pid, folder: &Path, exit: &watch::Receiver<Option<Exit>>) {
    if exit.borrow().is_none() {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    // Several passes, as a process may fork while it is looked for.
    for _ in 0..5 {
        let marked = marked(folder);
        if marked.is_empty() {
            return;
        }
        for pid in marked {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Living processes with a kernel's folder in their environment.
fn marked(folder: &Path) -> Vec<Pid> {
    let mark = format!("{FOLDER_MARK}={}", folder.display());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        // A zombie's environment reads as empty.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    })
    .map(Pid::from_raw)
    .collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_marked();
        self.waiter.abort();
    }
}

type Job = (Command, Option<Ports>, Handle, oneshot::Sender<io::Result<Child>>);

/// PR_SET_PDEATHSIG fires when the *thread* that started the child ends, and runtimes end threads at will. So one thread
/// that lives as long as the program starts all kernels.
async fn spawn_from_lasting_thread(command: Command, ports: Option<Ports>) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || {
            for (mut command, ports, runtime, reply) in jobs {
                let _runtime = runtime.enter();
                // Nobody can take the ports between here and the kernel's own bind, but for the milliseconds of exec.
                if let Some(ports) = ports {
                    ports.release();
                }
                // If the asker is gone, the child is dropped, and killed by PDEATHSIG at the latest.
                let _ = reply.send(command.kill_on_drop(true).spawn());
            }
        };
        // If the thread cannot be started, the sends below fail.
        let _ = std::thread::Builder::new().name("kernelbridge-spawner".into()).spawn(work);
        sender
    });
    let gone = || io::Error::other("the thread that starts kernels is gone");
    let (reply, answer) = oneshot::channel();
    spawner.send((command, ports, Handle::current(), reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}
