//! The processes of one kernel and what they use, cheaply enough to look five times a second.
//!
//! A full search reads the environment of every process of the machine. So children are followed from the kernel's
//! process, whatever was seen once stays a member for as long as it lives, also when its parent has ended, and only now
//! and then everything is searched for what slipped away between two looks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{SysconfVar, sysconf};

use crate::provision::{memory_bytes, processes_of};

/// Every so many looks everything is searched; more often where the system does not tell children.
const SEARCH_EVERY: u32 = 25;
const SEARCH_WITHOUT_CHILDREN: u32 = 5;

/// The processes that one kernel is known to have.
#[derive(Debug)]
pub(super) struct Tree {
    root: u32,
    folder: PathBuf,
    /// Process ids, each with the time it was started, by which it is told from a later one of the same id.
    members: BTreeMap<u32, u64>,
    looks: u32,
    search_every: u32,
    page_bytes: u64,
    ticks_per_second: u64,
}

/// What all of them use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Resident memory; pages that several share are counted for each.
    pub resident_bytes: u64,
    /// Time on processors, of ended children too.
    pub cpu: Duration,
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    started: u64,
}

impl Tree {
    pub fn new(root: u32, folder: &Path) -> Self {
        let system = |variable| sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok());
        Self {
            root,
            folder: folder.to_owned(),
            members: BTreeMap::new(),
            looks: 0,
            search_every: if Path::new("/proc/thread-self/children").exists() {
                SEARCH_EVERY
            } else {
                SEARCH_WITHOUT_CHILDREN
            },
            page_bytes: system(SysconfVar::PAGE_SIZE).unwrap_or(4096),
            ticks_per_second: system(SysconfVar::CLK_TCK).unwrap_or(100).max(1),
        }
    }

    /// Who there is, and what they use.
    pub fn look(&mut self) -> Usage {
        let mut waiting: Vec<u32> = self.members.keys().copied().chain([self.root]).collect();
        if self.looks % self.search_every == self.search_every - 1 {
            waiting.extend(processes_of(&self.folder));
        }
        self.looks = self.looks.wrapping_add(1);
        let mut found = BTreeMap::new();
        let (mut pages, mut ticks) = (0, 0);
        while let Some(pid) = waiting.pop() {
            if found.contains_key(&pid) {
                continue;
            }
            let Some(stat) = stat(pid) else { continue };
            if self.members.get(&pid).is_some_and(|started| *started != stat.started) {
                // Another process has its id now; if it is ours it is found as a child.
                self.members.remove(&pid);
                continue;
            }
            found.insert(pid, stat.started);
            pages += resident_pages(pid);
            ticks += stat.cpu_ticks;
            waiting.extend(children(pid));
        }
        self.members = found;
        Usage {
            resident_bytes: pages * self.page_bytes,
            cpu: Duration::from_millis(ticks * 1000 / self.ticks_per_second),
        }
    }

    /// Memory, with shared pages counted in part: slow, as the system has to walk all of it.
    pub fn memory_bytes(&self) -> u64 {
        self.members.keys().copied().map(memory_bytes).sum()
    }
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields by number, as in proc(5); the second, in parentheses, may hold anything. `None` for a zombie as well.
fn parse(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let cpu_ticks = (14..=17).filter_map(number).sum();
    Some(Stat { cpu_ticks, started: number(22)? })
}

/// The number in `stat` is inaccurate; a small process has none there.
fn resident_pages(pid: u32) -> u64 {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default()
}

fn children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    // A child belongs to the thread that started it.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_program_is_called() {
        let line =
            "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 500 60 7 8 20 0 1 0 98765 1000000 300 18446744073709551615";
        assert_eq!(parse(line), Some(Stat { cpu_ticks: 575, started: 98765 }));
        assert_eq!(parse(&line.replace(") S ", ") Z ")), None);
        for line in ["", "42", "42 (x", "42 (x) S 1"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_member_stays_one_when_its_parent_has_ended() {
        // `sh` starts `sleep`, waits for a line, and ends.
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 60 & read line"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = shell.spawn().expect("starts");
        let mut tree = Tree::new(shell.id(), Path::new("/nowhere"));
        while tree.members.len() < 2 {
            assert!(tree.look().resident_bytes > 0);
        }
        drop(shell.stdin.take());
        shell.wait().expect("ended");
        let usage = tree.look();
        assert_eq!(tree.members.len(), 1);
        assert!(usage.resident_bytes > 0 && tree.memory_bytes() > 0);
        for pid in tree.members.keys() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(*pid).expect("an id"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
        }
        while !tree.members.is_empty() {
            tree.look();
        }
    }
}
