//! Keeps a kernel, and all that it starts, from writing files or from reaching the network.
//!
//! Two parts of Linux do it: Landlock decides by path and port, and a seccomp filter refuses system calls that Landlock
//! does not know of. Both hold for the process that asks for them and for all its descendants, for ever. All is
//! prepared here before the fork; between fork and exec [`Prepared::enter`] makes three system calls and allocates
//! nothing.
//!
//! A restricted process can neither trace nor look into the memory of a process that is not restricted in the same way,
//! so it cannot reach around its sandbox through a neighbour. From Linux 6.12 on it cannot send it signals either.

mod files;
mod filter;

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use nix::libc;
use seccompiler::BpfProgram;

use crate::manifest::Sandbox;

/// Why there can be no sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine's kernel is too old, or was started without Landlock.
    #[error("`{what}` needs Landlock {needed}, in Linux since {since}, and this machine has {}", had(*found))]
    Landlock {
        /// What is asked for.
        what: &'static str,
        /// The least version.
        needed: u32,
        /// The version of Linux that has it.
        since: &'static str,
        /// The version that is there; 0: none.
        found: u32,
    },
    /// The system call filter knows no such processor.
    #[error("`{what}` needs a system call filter, and there is none for `{arch}`")]
    Processor {
        /// What is asked for.
        what: &'static str,
        /// The processor.
        arch: &'static str,
    },
    /// The system did not take the rules.
    #[error("cannot prepare the sandbox: {0}")]
    Ruleset(#[from] RulesetError),
    /// The filter could not be made.
    #[error("cannot prepare the sandbox: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// `SECBIT_NOROOT` and its lock: to be root is no privilege.
const NO_ROOT: libc::c_int = libc::SECBIT_NOROOT | libc::SECBIT_NOROOT_LOCKED;
/// More than Linux has; those that it does not have are refused.
const MOST_CAPABILITIES: libc::c_ulong = 64;

fn had(version: u32) -> String {
    if version == 0 { "none".into() } else { version.to_string() }
}

/// Can this machine do it?
///
/// # Errors
///
/// - [`SandboxError::Landlock`], [`SandboxError::Processor`].
pub fn check(sandbox: Sandbox) -> Result<(), SandboxError> {
    check_on(sandbox, landlock_version(), std::env::consts::ARCH)
}

fn check_on(sandbox: Sandbox, found: u32, arch: &'static str) -> Result<(), SandboxError> {
    // 3 is the first that refuses truncating, 4 the first that knows ports.
    let needs =
        [(sandbox.read_only, Sandbox::READ_ONLY, 3, "6.2"), (sandbox.no_network, Sandbox::NO_NETWORK, 4, "6.7")];
    for (_, what, needed, since) in needs.into_iter().filter(|need| need.0) {
        if found < needed {
            return Err(SandboxError::Landlock { what, needed, since, found });
        }
        if seccompiler::TargetArch::try_from(arch).is_err() {
            return Err(SandboxError::Processor { what, arch });
        }
    }
    Ok(())
}

/// 0 where there is none.
fn landlock_version() -> u32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no pointer and only answers.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// A sandbox that a child can enter.
#[derive(Debug)]
pub(super) struct Prepared {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
}

/// What a sandboxed kernel needs all the same.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    /// Its own folders, the only ones it may change.
    pub own: &'a [&'a Path],
    /// A folder of another's that it may read.
    pub shared: Option<&'a Path>,
    /// Folders in which those of all kernels are.
    pub bases: &'a [PathBuf],
    /// The ports it listens on.
    pub ports: [u16; 5],
    /// Its interpreter runs in a terminal.
    pub terminal: bool,
}

impl Prepared {
    /// Prepare a sandbox; `None` when nothing is asked for.
    ///
    /// # Errors
    ///
    /// [`SandboxError`].
    pub fn new(sandbox: Sandbox, needs: &Needs<'_>) -> Result<Option<Self>, SandboxError> {
        if sandbox == Sandbox::default() {
            return Ok(None);
        }
        check(sandbox)?;
        let ruleset = Self::ruleset(sandbox, needs)?.into();
        let filters = filter::programs(sandbox)?;
        Ok(Some(Self { ruleset, filters }))
    }

    fn ruleset(sandbox: Sandbox, needs: &Needs<'_>) -> Result<RulesetCreated, RulesetError> {
        let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        if sandbox.read_only {
            ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V3))?;
        }
        if sandbox.no_network {
            ruleset = ruleset.handle_access(AccessNet::from_all(ABI::V4))?;
        }
        // What an older Linux does not have goes without.
        ruleset = ruleset.set_compatibility(CompatLevel::BestEffort).scope(Scope::from_all(ABI::V6))?;
        if sandbox.read_only {
            ruleset = ruleset.handle_access(AccessFs::IoctlDev)?;
        }
        let mut ruleset = ruleset.create()?;
        if sandbox.read_only {
            for (path, access) in files::rules(needs) {
                // What is not there, or may not be opened, needs no rule.
                let Ok(fd) = PathFd::new(&path) else { continue };
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
                ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
            }
        }
        if sandbox.no_network {
            for port in needs.ports {
                ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
            }
        }
        Ok(ruleset)
    }

    /// Enter it, for good. Async-signal-safe.
    ///
    /// # Errors
    ///
    /// When the system refuses; then the process must not go on.
    pub fn enter(&self) -> io::Result<()> {
        let ok = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: plain system calls on values of our own.
        unsafe {
            ok(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            // For root: the program that is started next gets none of its privileges, which reach around much of what
            // follows. Anybody else has none, and may not do this.
            libc::prctl(libc::PR_SET_SECUREBITS, NO_ROOT as libc::c_ulong, 0, 0, 0);
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            for capability in 0..MOST_CAPABILITIES {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            if let Some(ruleset) = &self.ruleset {
                ok(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0))?;
            }
        }
        self.filters
            .iter()
            .try_for_each(|filter| seccompiler::apply_filter(filter).map_err(|_| io::Error::last_os_error()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Sandbox = Sandbox { read_only: true, no_network: true };

    #[test]
    fn what_a_machine_cannot_do_is_refused() {
        let check = |sandbox, found, arch, expected: &str| {
            assert_eq!(check_on(sandbox, found, arch).expect_err("refused").to_string(), expected);
        };
        let read_only = Sandbox { no_network: false, ..BOTH };
        check(read_only, 0, "x86_64", "`read-only` needs Landlock 3, in Linux since 6.2, and this machine has none");
        check(BOTH, 3, "x86_64", "`no-network` needs Landlock 4, in Linux since 6.7, and this machine has 3");
        let expected = "`read-only` needs a system call filter, and there is none for `s390x`";
        check(BOTH, 7, "s390x", expected);
        check_on(BOTH, 4, "aarch64").expect("new enough");
        check_on(read_only, 3, "x86_64").expect("new enough");
        check_on(Sandbox::default(), 0, "s390x").expect("nothing is asked for");
    }
}
