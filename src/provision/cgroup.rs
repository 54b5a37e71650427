//! A control group for one kernel, whose memory Linux itself then bounds.
//!
//! Only where we were given leave to make some: the group around our own has to be delegated (systemd's `Delegate=yes`
//! with `DelegateSubgroup=`), of version 2, and able to control memory. It is a wall in addition to the sampler, which
//! works everywhere: between two looks a kernel cannot take the machine's memory.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread::sleep,
    time::Duration,
};

use nix::libc;

use crate::provision::Overrun;

/// A control group. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub(super) struct Cgroup {
    dir: PathBuf,
    limit_bytes: u64,
    /// To be written to by the child.
    procs: File,
}

impl Cgroup {
    /// A new group with this limit; `None` where we may make none.
    pub fn new(name: &str, limit_bytes: u64) -> Option<Self> {
        static PARENT: OnceLock<Option<PathBuf>> = OnceLock::new();
        let parent = PARENT.get_or_init(|| {
            let ours = fs::read_to_string("/proc/self/cgroup").ok()?;
            let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
            delegated_parent(&ours, &mounts, is_delegated)
        });
        match Self::in_parent(parent.as_deref()?, name, limit_bytes) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                tracing::warn!(%error, "no control group; memory is only looked at now and then");
                None
            }
        }
    }

    fn in_parent(parent: &Path, name: &str, limit_bytes: u64) -> io::Result<Self> {
        let has_memory = |file: &str| {
            fs::read_to_string(parent.join(file)).map(|list| list.split_ascii_whitespace().any(|word| word == "memory"))
        };
        if !has_memory("cgroup.subtree_control")? {
            fs::write(parent.join("cgroup.subtree_control"), "+memory")?;
        }
        let dir = parent.join(name);
        fs::create_dir(&dir)?;
        let prepare = || {
            fs::write(dir.join("memory.max"), limit_bytes.to_string())?;
            // All of the kernel or nothing: half of a wrapper kernel is of no use.
            fs::write(dir.join("memory.oom.group"), "1")?;
            // Not there where there is no swap.
            let _ = fs::write(dir.join("memory.swap.max"), "0");
            fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"))
        };
        match prepare() {
            Ok(procs) => Ok(Self { dir, limit_bytes, procs }),
            Err(error) => {
                let _ = fs::remove_dir(&dir);
                Err(error)
            }
        }
    }

    /// For the child between fork and exec: how it enters.
    pub fn door(&self) -> Option<Door> {
        self.procs.try_clone().ok().map(Door)
    }

    /// Was something in it killed for want of memory?
    pub fn overrun(&self) -> Option<Overrun> {
        let events = fs::read_to_string(self.dir.join("memory.events")).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse::<u64>().ok()?;
        let peak = fs::read_to_string(self.dir.join("memory.peak")).ok().and_then(|peak| peak.trim().parse().ok());
        let used_bytes = peak.unwrap_or(self.limit_bytes).max(self.limit_bytes);
        (kills > 0).then_some(Overrun::Memory { used_bytes, limit_bytes: self.limit_bytes })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        // What was killed leaves a moment later.
        for _ in 0..50 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            sleep(Duration::from_millis(2));
        }
    }
}

/// How a process enters a group.
#[derive(Debug)]
pub(super) struct Door(File);

impl Door {
    /// Put the calling process into it. Async-signal-safe. If that fails the sampler still looks.
    pub fn enter(&self) {
        // "0" is whoever writes it.
        let _ = (&self.0).write(b"0");
    }
}

/// The group around ours, if it is delegated to us: beside our own group we may make others.
fn delegated_parent(ours: &str, mounts: &str, is_delegated: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = ours.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Fields of mountinfo: id, parent, device, root, mount point, options, ..., "-", type.
    let mount = mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        (kind.starts_with("cgroup2 ") && fields.next()? == "/").then_some(fields.next()?)
    })?;
    let parent = Path::new(mount).join(path).parent()?.to_owned();
    (parent != Path::new(mount) && parent.starts_with(mount) && is_delegated(&parent)).then_some(parent)
}

/// systemd marks what it delegates.
fn is_delegated(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    [c"user.delegate", c"trusted.delegate"].iter().any(|name| {
        let mut value = [0u8; 8];
        // SAFETY: strings that end, and a buffer of the length that is said.
        let size = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        size == 1 && value[0] == b'1'
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str =
        "25 30 0:23 / /sys rw - sysfs sysfs rw\n26 25 0:24 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";

    #[track_caller]
    fn check(ours: &str, mounts: &str, delegated: &str, expected: Option<&str>) {
        let parent = delegated_parent(ours, mounts, |dir| dir == Path::new(delegated));
        assert_eq!(parent.as_deref(), expected.map(Path::new));
    }

    #[test]
    fn only_a_delegated_group_of_version_2_is_used() {
        let unit = "/sys/fs/cgroup/system.slice/app.service";
        check("0::/system.slice/app.service/host\n", MOUNTS, unit, Some(unit));
        check("0::/system.slice/app.service\n", MOUNTS, unit, None);
        check("0::/user.slice/user-0.slice/session-1.scope\n", MOUNTS, unit, None);
        check("0::/\n", MOUNTS, "/sys/fs/cgroup", None);
        check("0::/a\n", MOUNTS, "/sys/fs/cgroup", None);
        check("4:memory:/system.slice/app.service/host\n", MOUNTS, unit, None);
        check("0::/system.slice/app.service/host\n", &MOUNTS.replace("cgroup2", "cgroup"), unit, None);
        check("", "", unit, None);
    }

    /// In a made-up tree of files, as few machines let tests have a real one.
    #[test]
    fn a_group_is_made_with_its_limit_and_says_what_it_killed() {
        let parent = tempfile::tempdir().expect("a folder");
        fs::write(parent.path().join("cgroup.subtree_control"), "cpu memory\n").expect("written");
        assert!(Cgroup::in_parent(parent.path(), "k", 1 << 30).is_err(), "nothing makes `cgroup.procs` here");
        assert!(!parent.path().join("k/cgroup.procs").exists());
        let dir = parent.path().join("other");
        fs::create_dir(&dir).expect("a folder");
        let procs = File::create(dir.join("cgroup.procs")).expect("a file");
        let cgroup = Cgroup { dir: dir.clone(), limit_bytes: 1 << 30, procs };
        cgroup.door().expect("a door").enter();
        assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).expect("readable"), "0");
        assert_eq!(cgroup.overrun(), None);
        fs::write(dir.join("memory.events"), "low 0\nmax 7\noom 1\noom_kill 0\noom_group_kill 0\n").expect("written");
        assert_eq!(cgroup.overrun(), None);
        fs::write(dir.join("memory.events"), "oom 1\noom_kill 3\n").expect("written");
        fs::write(dir.join("memory.peak"), "1073745920\n").expect("written");
        let overrun = Overrun::Memory { used_bytes: 1_073_745_920, limit_bytes: 1 << 30 };
        assert_eq!(cgroup.overrun(), Some(overrun));
    }
}
