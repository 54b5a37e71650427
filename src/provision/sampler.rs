//! Looks at what kernels use and kills those that use more than they may.
//!
//! One thread does it for all kernels of this program, so that nothing that the program does elsewhere delays it. A
//! kernel can be over its limit for as long as one look takes to come: 200 ms.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use nix::unistd::Pid;
use tokio::sync::watch;

use crate::provision::{
    limits::{Limits, Overrun},
    process::{Exit, kill_all},
    tree::Tree,
};

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(200);

/// A kernel that is looked at for as long as this lives.
#[derive(Debug)]
pub(super) struct Watched {
    pid: Pid,
    folder: PathBuf,
    limits: Limits,
    exit: watch::Receiver<Option<Exit>>,
    overrun: Arc<OnceLock<Overrun>>,
    tree: Mutex<Tree>,
}

static WATCHED: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());
static ARRIVED: Condvar = Condvar::new();

impl Watched {
    /// Look at a kernel from now on; `None` when it has no limit that has to be looked after. What it was killed for
    /// is put into `overrun`, before it is.
    pub fn begin(
        pid: Pid,
        folder: &Path,
        limits: Limits,
        exit: watch::Receiver<Option<Exit>>,
        overrun: Arc<OnceLock<Overrun>>,
    ) -> Option<Arc<Self>> {
        static THREAD: OnceLock<bool> = OnceLock::new();
        if limits.memory_bytes.is_none() && limits.cpu.is_none() {
            return None;
        }
        let tree = Mutex::new(Tree::new(pid.as_raw().unsigned_abs(), folder));
        let watched = Arc::new(Self { pid, folder: folder.to_owned(), limits, exit, overrun, tree });
        lock(&WATCHED).push(Arc::downgrade(&watched));
        let runs =
            THREAD.get_or_init(|| std::thread::Builder::new().name("kernelbridge-sampler".into()).spawn(run).is_ok());
        if !runs {
            tracing::warn!("no thread for limits of memory and CPU; they are not enforced");
        }
        ARRIVED.notify_one();
        Some(watched)
    }

    fn look(&self) {
        if self.exit.borrow().is_some() || self.overrun.get().is_some() {
            return;
        }
        let Some(overrun) = self.overrun_now() else { return };
        tracing::warn!(pid = self.pid.as_raw(), "a kernel {overrun}; killing it");
        if self.overrun.set(overrun).is_ok() {
            kill_all(self.pid, &self.folder, &self.exit);
        }
    }

    fn overrun_now(&self) -> Option<Overrun> {
        let mut tree = lock(&self.tree);
        let usage = tree.look();
        if let Some(limit) = self.limits.cpu.filter(|limit| usage.cpu > *limit) {
            return Some(Overrun::Cpu { used: usage.cpu, limit });
        }
        let limit_bytes = self.limits.memory_bytes.filter(|limit| usage.resident_bytes > *limit)?;
        // Forks share most of their memory, so what is too much at first sight is counted properly.
        let used_bytes = tree.memory_bytes();
        (used_bytes > limit_bytes).then_some(Overrun::Memory { used_bytes, limit_bytes })
    }
}

fn run() {
    loop {
        let mut watched = lock(&WATCHED);
        watched.retain(|kernel| kernel.strong_count() > 0);
        while watched.is_empty() {
            watched = ARRIVED.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
        let kernels: Vec<Arc<Watched>> = watched.iter().filter_map(Weak::upgrade).collect();
        drop(watched);
        for kernel in kernels {
            kernel.look();
        }
        std::thread::sleep(PERIOD);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
