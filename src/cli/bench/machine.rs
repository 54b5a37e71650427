//! The machine: what it is, what a process takes of it, and where one runs.

use std::{fs, process::Command, time::Duration};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::resource::{UsageWho, getrusage},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Where the numbers come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub system: String,
    pub kernel: String,
    /// Load average at the beginning and at the end.
    pub load: Vec<f64>,
    pub date: String,
    /// Of programs and packages.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// This one, and what `python` has installed.
    pub fn describe(python: &std::path::Path) -> Self {
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix([':', '=']));
            line.map(|value| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
        };
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes: f64 = kilobytes.trim_end_matches(" kB").parse().unwrap_or_default();
        let mut versions = vec![("kernelbridge".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        versions.extend(packages(python));
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gb: (kilobytes / 1e6).round(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: vec![load()],
            date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
            versions,
        }
    }
}

/// The versions that matter, as the peers' Python knows them.
fn packages(python: &std::path::Path) -> Vec<(String, String)> {
    let code = "import sys, platform, importlib.metadata as m\n\
                print('Python', platform.python_version())\n\
                for name in sys.argv[1:]:\n\
                \x20   try: print(name, m.version(name))\n\
                \x20   except m.PackageNotFoundError: pass";
    let names = ["ipykernel", "jupyter_client", "grpcio", "redpanda-connect", "numpy", "pyarrow"];
    let output = Command::new(python).args(["-c", code]).args(names).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(name, version)| (name.into(), version.into())).collect()
}

/// How busy the machine is.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// From now on this process, and all that it starts, runs on one core.
pub(super) fn pin() -> anyhow::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).unwrap_or(0);
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(this, &one)?;
    Ok(())
}

/// The time that this process has computed for so far.
pub(super) fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(Duration::ZERO, |usage| {
        [usage.user_time(), usage.system_time()]
            .into_iter()
            .map(|time| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64))
            .sum()
    })
}

/// Resident memory of a process, in bytes.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// Resident memory of a process and all that it has started.
pub(super) fn tree_bytes(root: u32) -> u64 {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    all.into_iter().map(resident_bytes).sum()
}
