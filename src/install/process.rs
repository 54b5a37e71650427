//! One command of an installation: always with a deadline, never with a keyboard, its last output kept.

use std::{
    collections::VecDeque,
    fmt,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Child,
    sync::mpsc::Sender,
    time::timeout,
};

use super::{InstallError, Progress};

/// How much of a command's output is kept for an error message.
const TAIL_LINES: usize = 30;
/// How long a command may take to die of SIGTERM, and its output to end after it did.
const GRACE: Duration = Duration::from_secs(5);
/// A question to the system (is that package there?) that takes longer than this counts as "no".
const QUESTION: Duration = Duration::from_secs(30);
/// Settings of a person's shell that would lead pip out of the managed environment.
const NOT_INHERITED: [&str; 6] =
    ["PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"];

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Name or path of the program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it runs; absent: where we do.
    pub folder: Option<PathBuf>,
    /// Added to its environment.
    pub env: Vec<(String, String)>,
    /// When it is stopped.
    pub deadline: Duration,
    /// What usually helps when it fails.
    pub hint: Option<String>,
}

/// The command line, quoted for a POSIX shell.
impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(out, "{name}={} ", quoted(value))?;
        }
        write!(out, "{}", quoted(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(out, " {}", quoted(arg)))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

impl Command {
    /// `program args...` in our own folder and environment.
    pub fn new(program: impl Into<String>, args: impl IntoIterator<Item: Into<String>>, deadline: Duration) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            folder: None,
            env: Vec::new(),
            deadline,
            hint: None,
        }
    }

    fn spawn(&self, stdin: Stdio) -> Result<Child, InstallError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        // A group of its own, so that a compiler started by npm or pip ends together with them.
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        command.spawn().map_err(InstallError::io("run", &self.program))
    }

    /// Run it to its end, with a `stdin` that has nothing to read. Dropping the future ends the command and its
    /// children with SIGTERM.
    ///
    /// # Errors
    ///
    /// - [`InstallError::Io`] when the program cannot be started.
    /// - [`InstallError::Failed`] when it does not exit with 0.
    /// - [`InstallError::Timeout`] when its deadline passed; it and its children are dead by then.
    pub async fn run(&self, stdin: Stdio, progress: &Sender<Progress>) -> Result<(), InstallError> {
        let mut child = self.spawn(stdin)?;
        let group = Group(child.id());
        let tail = Tail::default();
        let readers = [
            child.stdout.take().map(|out| tokio::spawn(tail.clone().read(out, progress.clone()))),
            child.stderr.take().map(|out| tokio::spawn(tail.clone().read(out, progress.clone()))),
        ];
        let ended = timeout(self.deadline, child.wait()).await;
        if ended.is_err() {
            group.signal(Signal::SIGTERM);
            if timeout(GRACE, child.wait()).await.is_err() {
                group.signal(Signal::SIGKILL);
            }
        }
        // A grandchild that lives on may hold the pipe open: the output is waited for, but not for ever.
        for reader in readers.into_iter().flatten() {
            let _ = timeout(GRACE, reader).await;
        }
        let Ok(status) = ended else {
            return Err(InstallError::Timeout {
                command: self.to_string(),
                deadline: self.deadline,
                tail: tail.text(),
            });
        };
        let status = status.map_err(InstallError::io("wait for", &self.program))?;
        group.forget();
        if status.success() {
            return Ok(());
        }
        let status = status.to_string();
        Err(InstallError::Failed { command: self.to_string(), status, tail: tail.text(), hint: self.hint.clone() })
    }
}

/// Ask a program something: did it exit with 0, and what did it write to stdout?
///
/// A program that is not there, or says nothing for long, has answered "no".
pub async fn ask(program: &str, args: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    match timeout(QUESTION, command.output()).await {
        Ok(Ok(output)) => (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Err(_)) | Err(_) => (false, String::new()),
    }
}

/// A process group that is ended when nobody waits for it any longer.
struct Group(Option<u32>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // An error means that the group is gone already.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
    }
}

/// The last lines of stdout and stderr, as they came.
#[derive(Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    async fn read(self, out: impl AsyncRead + Unpin, progress: Sender<Progress>) {
        let mut out = BufReader::new(out);
        let mut bytes = Vec::new();
        while out.read_until(b'\n', &mut bytes).await.is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&bytes);
            // A progress bar rewrites its line: only what it said last counts.
            let line = text.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
            bytes.clear();
            if line.is_empty() {
                continue;
            }
            // A slow reader of the news loses lines, never the command's time.
            let _ = progress.try_send(Progress::Line(line.clone()));
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == TAIL_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc::channel;

    use super::*;

    fn sh(script: &str, deadline: Duration) -> Command {
        Command::new("sh", ["-c", script], deadline)
    }

    #[test]
    fn command_lines_are_quoted_for_a_shell() {
        let mut command = Command::new("R", ["-e", "f('x y')", ""], GRACE);
        command.env.push(("A".into(), "b c".into()));
        assert_eq!(command.to_string(), r"A='b c' R -e 'f('\''x y'\'')' ''");
    }

    #[tokio::test]
    async fn a_failure_shows_the_last_output_of_both_streams() {
        let (progress, mut news) = channel(100);
        let error = sh("echo one; echo two >&2; exit 3", GRACE).run(Stdio::null(), &progress).await.expect_err("fails");
        let InstallError::Failed { status, tail, .. } = error else { panic!("{error}") };
        assert_eq!(status, "exit status: 3");
        assert!(tail.contains("  one") && tail.contains("  two"), "{tail}");
        assert!(matches!(news.try_recv(), Ok(Progress::Line(_))));
    }

    #[tokio::test]
    async fn only_the_tail_is_kept() {
        let (progress, _news) = channel(1);
        let error = sh("seq 1000; printf 'bar 1\\rbar 2\\n'; exit 1", GRACE)
            .run(Stdio::null(), &progress)
            .await
            .expect_err("fails");
        let InstallError::Failed { tail, .. } = error else { panic!("{error}") };
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("  1000\n  bar 2"), "{tail}");
    }

    #[tokio::test]
    async fn a_deadline_ends_the_command_and_its_children() {
        let (progress, mut news) = channel(100);
        let started = Instant::now();
        let error = sh("sleep 60 & echo $!; wait", Duration::from_millis(500)).run(Stdio::null(), &progress).await;
        assert!(matches!(error, Err(InstallError::Timeout { .. })), "{error:?}");
        assert!(started.elapsed() < GRACE);
        let Ok(Progress::Line(child)) = news.try_recv() else { panic!("no line") };
        let child = Pid::from_raw(child.parse().expect("a process id"));
        // Whoever inherited the dead child may be slow to reap it: a zombie is dead enough.
        for _ in 0..100 {
            let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("process {child} lives on");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let (progress, _news) = channel(1);
        let error =
            Command::new("no-such-program", [""; 0], GRACE).run(Stdio::null(), &progress).await.expect_err("fails");
        assert_eq!(error.to_string(), "cannot run no-such-program");
        assert_eq!(ask("no-such-program", &[]).await, (false, String::new()));
    }
}
