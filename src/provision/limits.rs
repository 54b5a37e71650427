//! What a kernel may use, and what it used more of.

use std::{fmt, io, path::Path, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::manifest::units::format_size;

/// What a kernel and all that it starts may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes together.
    pub memory_bytes: Option<u64>,
    /// Time on processors of all its processes together.
    pub cpu: Option<Duration>,
    /// Open files of each of its processes.
    pub open_files: Option<u32>,
}

impl Limits {
    /// Those that this machine cannot keep as they are: the key in `[limits]`, and why.
    pub fn not_enforced(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !Path::new("/proc/self/stat").exists() {
            let sampled = [("memory", self.memory_bytes.is_some()), ("cpu", self.cpu.is_some())];
            for (key, _) in sampled.into_iter().filter(|(_, is_set)| *is_set) {
                problems.push((key, "is not enforced here: there is no /proc to see processes in".to_owned()));
            }
        }
        if let (Some(files), Ok((_, most))) = (self.open_files, getrlimit(Resource::RLIMIT_NOFILE))
            && u64::from(files) > most
        {
            problems.push(("open-files", format!("is {files}, but this program itself may have no more than {most}")));
        }
        problems
    }
}

/// Which limit a kernel was ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overrun {
    /// It took more memory than `[limits] memory`.
    Memory {
        /// How much it took when that was seen.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// It took more time than `[limits] cpu`.
    Cpu {
        /// How much it took when that was seen.
        used: Duration,
        /// The limit.
        limit: Duration,
    },
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { used_bytes, limit_bytes } => {
                let (used, limit) = (format_size(*used_bytes), format_size(*limit_bytes));
                write!(f, "used {used}, more than the limit of {limit} ([limits] memory)")
            }
            Self::Cpu { used, limit } => {
                let (used, limit) = (used.as_secs_f64(), limit.as_secs_f64());
                write!(f, "used {used:.1} s of CPU, more than the limit of {limit} s ([limits] cpu)")
            }
        }
    }
}

/// Limits as a process gets them, known before it is forked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rlimits {
    stack_bytes: Option<u64>,
    cpu_seconds: Option<u64>,
    open_files: Option<u64>,
}

impl Rlimits {
    pub fn new(limits: Limits, stack_bytes: Option<u64>) -> Self {
        // Where we may use less ourselves, that is the limit.
        let most = |resource, wanted: u64| wanted.min(getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard));
        Self {
            stack_bytes,
            // The sampler, which sees the whole tree and can say why, comes first; this holds if we are gone.
            cpu_seconds: limits.cpu.map(|cpu| most(Resource::RLIMIT_CPU, cpu.as_secs() + 2)),
            open_files: limits.open_files.map(|files| most(Resource::RLIMIT_NOFILE, files.into())),
        }
    }

    /// For the calling process, for good. Async-signal-safe.
    pub fn set(&self) -> io::Result<()> {
        if let Some(bytes) = self.stack_bytes {
            // Where the hard limit is lower, the kernel just nests less deep.
            let _ = setrlimit(Resource::RLIMIT_STACK, bytes, bytes);
        }
        if let Some(seconds) = self.cpu_seconds {
            // At once SIGKILL: Octave and others catch the signal that would come before.
            setrlimit(Resource::RLIMIT_CPU, seconds, seconds)?;
        }
        if let Some(files) = self.open_files {
            setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_is_said() {
        let limits = Limits { memory_bytes: Some(1), cpu: Some(Duration::ZERO), open_files: Some(16) };
        assert_eq!(limits.not_enforced(), []);
        let files = Limits { open_files: Some(u32::MAX), ..limits };
        assert_eq!(files.not_enforced().len(), 1, "nobody may have so many");
    }

    #[test]
    fn an_overrun_names_limit_and_key() {
        let memory = Overrun::Memory { used_bytes: 1_288_490_189, limit_bytes: 1 << 30 };
        assert_eq!(memory.to_string(), "used 1.2 GiB, more than the limit of 1 GiB ([limits] memory)");
        let cpu = Overrun::Cpu { used: Duration::from_millis(60_190), limit: Duration::from_secs(60) };
        assert_eq!(cpu.to_string(), "used 60.2 s of CPU, more than the limit of 60 s ([limits] cpu)");
    }
}
