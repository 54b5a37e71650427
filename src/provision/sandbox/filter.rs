//! System calls that a sandboxed kernel must not make, for what Landlock cannot decide.

use std::collections::BTreeMap;

use nix::libc::{self, c_int};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::manifest::Sandbox;

/// Low bits of a socket's type; the others are flags.
const TYPE_MASK: u64 = 0xf;

/// The calls and, where not all of a kind are meant, which of them.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filter's programs.
pub(super) fn programs(sandbox: Sandbox) -> Result<Vec<BpfProgram>, seccompiler::Error> {
    let mut refused = Rules::new();
    // It makes system calls, sockets too, that no filter sees.
    refused.insert(libc::SYS_io_uring_setup, Vec::new());
    if sandbox.no_network {
        no_network(&mut refused)?;
    } else {
        // Behind Unix sockets are services that change files for whoever asks; Landlock knows them from version 9 on.
        refused.insert(libc::SYS_socket, vec![rule([equals(0, libc::AF_UNIX)?])?]);
    }
    let mut programs = vec![without_x32(), program(refused, libc::EACCES)?];
    if sandbox.read_only {
        // As on a file system that has no modes: half of the world copies files with their modes, IPython at its start,
        // and would fail in its own folder too.
        programs.push(program(all(&modes()), 0)?);
        programs.push(program(all(&ATTRIBUTES), libc::EOPNOTSUPP)?);
    }
    programs.retain(|program| !program.is_empty());
    Ok(programs)
}

fn program(rules: Rules, errno: c_int) -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(errno as u32);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

fn all(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Landlock lets modes and owners be changed wherever something may be read.
fn modes() -> Vec<i64> {
    /// Newer than some C libraries' tables; the same everywhere.
    const SYS_FCHMODAT2: i64 = 452;
    let mut calls = vec![libc::SYS_fchmod, libc::SYS_fchmodat, SYS_FCHMODAT2, libc::SYS_fchown, libc::SYS_fchownat];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown]);
    calls
}

/// Extended attributes, for access lists are some; the last of either kind is newer than the C libraries' tables.
const ATTRIBUTES: [i64; 8] = [
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    463,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    466,
];

/// Only TCP remains, where Landlock decides; and questions about interfaces, which libzmq asks before it binds.
fn no_network(rules: &mut Rules) -> Result<(), BackendError> {
    let mut socket = vec![
        rule([differs(0, libc::AF_INET)?, differs(0, libc::AF_NETLINK)?])?,
        rule([equals(0, libc::AF_NETLINK)?, differs(2, libc::NETLINK_ROUTE)?])?,
    ];
    // MPTCP, SCTP and SMC connect to TCP's peers, and Landlock does not look at them.
    socket.push(rule([equals(0, libc::AF_INET)?, differs(2, 0)?, differs(2, libc::IPPROTO_TCP)?])?);
    for kind in (0..=TYPE_MASK).filter(|kind| *kind != libc::SOCK_STREAM as u64) {
        socket.push(rule([equals(0, libc::AF_INET)?, masked(1, TYPE_MASK, kind)?])?);
    }
    rules.insert(libc::SYS_socket, socket);
    // Nothing that may be opened has anything to connect to.
    rules.insert(libc::SYS_connect, Vec::new());
    // Sending with this flag connects, unseen by Landlock.
    let fast_open = libc::MSG_FASTOPEN as u64;
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, vec![rule([masked(flags, fast_open, fast_open)?])?]);
    }
    Ok(())
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

fn equals(argument: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Eq, value as u64)
}

fn differs(argument: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Ne, value as u64)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

/// Only the low half of the register is looked at, as the system does with an `int`.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// On x86-64 each call has a second number (x32) that the rules do not name.
fn without_x32() -> BpfProgram {
    #[cfg(target_arch = "x86_64")]
    {
        const LOAD_NUMBER: u16 = 0x20;
        const JUMP_IF_AT_LEAST: u16 = 0x35;
        const RETURN: u16 = 0x06;
        const X32: u32 = 0x4000_0000;
        vec![
            sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
            sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32 },
            sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 },
            sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        ]
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
