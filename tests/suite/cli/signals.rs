//! Ctrl-C once, twice, and kill -9: never an orphan.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cli::{Desk, Ended, kernel_folders, one_at_a_time, until},
    support::Installed,
};

/// Says when it begins, and sleeps as long as it is told, with a child of its own.
const SLEEPER: &str = r#"
import subprocess, time

@bridge.on("sleep")
def sleep(event):
    child = subprocess.Popen(["sleep", "60"])
    bridge.emit("begun", event.data)
    time.sleep(event.data)
    child.kill()
    return event.data
"#;

/// A program whose plugin is busy with the first of its events.
struct Busy {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    /// More events may follow for as long as it is open.
    _input: ChildStdin,
}

fn busy(desk: &Desk, events: &str, args: &[&str]) -> Busy {
    desk.python("sleeper", "[permissions]\nemit = [\"begun\"]\n", SLEEPER);
    let all = [&["run", "sleeper", "--topic", "sleep", "--events", "-", "--state", ":memory:"], args].concat();
    let mut command = desk.command(&all);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(events.as_bytes()).expect("written");
    // Results are buffered when they go into a pipe, so ask the system: the handler runs once its child does.
    until("the handler runs", Duration::from_secs(60), || {
        desk.alive().iter().any(|command| command.starts_with("sleep 60"))
    });
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    Busy { child, out, _input: input }
}

impl Busy {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().expect("a pid")), signal).expect("sent");
    }

    fn end(self) -> Ended {
        let lines: Vec<String> = self.out.lines().map(|line| line.expect("text")).collect();
        let mut ended = Ended::of(self.child);
        ended.out = lines.join("\n");
        ended
    }
}

#[test]
fn ctrl_c_lets_what_was_accepted_end() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let busy = busy(&desk, "1\n0.1\n", &[]);
    busy.signal(Signal::SIGINT);
    let ended = busy.end().with(0);
    let results: Vec<_> = ended.lines().into_iter().filter(|line| line["type"] == "result").collect();
    assert_eq!(results.len(), 2, "{}", ended.out);
    assert!(ended.err.starts_with("stopping; Ctrl-C again to kill\n"), "{}", ended.err);
    desk.leaves_nothing();
}

#[test]
fn a_second_ctrl_c_kills_at_once() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let busy = busy(&desk, "50\n50\n", &[]);
    let folders = kernel_folders(&desk);
    assert!(!folders.is_empty());
    busy.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    busy.signal(Signal::SIGINT);
    let ended = busy.end().with(1);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(ended.err.starts_with("stopping; Ctrl-C again to kill\n"), "{}", ended.err);
    desk.leaves_nothing();
    assert!(folders.iter().all(|folder| !folder.exists()));
}

#[test]
fn the_drain_after_ctrl_c_is_bounded() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let busy = busy(&desk, "50\n50\n50\n", &["--drain-timeout", "200ms"]);
    let began = Instant::now();
    busy.signal(Signal::SIGINT);
    let ended = busy.end().with(1);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(ended.err.ends_with("\nplugin `sleeper` dropped 3 of `sleep` (shutdown)\n"), "{}", ended.err);
    desk.leaves_nothing();
}

#[test]
fn sigterm_is_as_ctrl_c() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let busy = busy(&desk, "0.5\n", &[]);
    busy.signal(Signal::SIGTERM);
    busy.end().with(0);
    desk.leaves_nothing();
}

#[test]
fn kill_9_leaves_no_process_and_no_folder() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    let busy = busy(&desk, "50\n", &[]);
    let folders = kernel_folders(&desk);
    assert!(!folders.is_empty() && folders.iter().all(|folder| folder.is_dir()));
    busy.signal(Signal::SIGKILL);
    assert_eq!(busy.end().code, None);
    desk.leaves_nothing();
    until("the folders are gone", Duration::from_secs(5), || folders.iter().all(|folder| !folder.exists()));
}

#[test]
fn ctrl_c_while_kernels_start_ends_everything() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", "import time\ntime.sleep(30)\n");
    let child = desk.command(&["run", "p", "--state", ":memory:"]).spawn().expect("starts");
    until("a kernel is there", Duration::from_secs(60), || !kernel_folders(&desk).is_empty());
    kill(Pid::from_raw(child.id().try_into().expect("a pid")), Signal::SIGINT).expect("sent");
    assert_eq!(Ended::of(child).with(2).err, "error: interrupted\n");
    desk.leaves_nothing();
}

#[test]
fn ctrl_c_ends_commands_that_wait_for_one_answer() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("p", "", "import time\n@bridge.export\ndef nap():\n    time.sleep(50)\n");
    desk.write("p/p.test.json", r#"[{"call": {"function": "nap"}}]"#);
    for args in [&["call", "--plugins", "p", "p.nap", "--state", ":memory:"][..], &["test", "p"], &["doctor", "python"]]
    {
        let child = desk.command(args).spawn().expect("starts");
        until("a kernel is there", Duration::from_secs(60), || !kernel_folders(&desk).is_empty());
        let folders = kernel_folders(&desk);
        // `doctor` has enough to do, but is not to end by itself before the signal comes.
        std::thread::sleep(Duration::from_millis(if args[0] == "doctor" { 50 } else { 500 }));
        kill(Pid::from_raw(child.id().try_into().expect("a pid")), Signal::SIGINT).expect("sent");
        let ended = Ended::of(child);
        assert_ne!(ended.code, Some(0), "{args:?}: {}", ended.err);
        desk.leaves_nothing();
        until("the folders are gone", Duration::from_secs(5), || folders.iter().all(|folder| !folder.exists()));
    }
}
