//! The program, as a user has it: arguments in, files, two streams and an exit status out.

mod bad_input;
mod dead_letters;
mod delivery;
mod doctor;
mod live;
mod new_and_test;
mod run;
mod signals;
mod watch;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::support::processes_with;

/// The program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_kernelbridge");
/// Marks everything that one program starts.
const MARK: &str = "KERNELBRIDGE_TEST_MARK";

/// A folder to work in, with nothing of the user's but the kernels.
pub struct Desk {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    mark: String,
}

/// A program that runs, with stderr in the file `err`.
pub struct Running<'a> {
    desk: &'a Desk,
    child: Child,
    input: ChildStdin,
}

/// What a program that ended left.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Kernels at once only wait for each other, and some tests measure.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static KERNELS: Mutex<()> = Mutex::new(());
    KERNELS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mark = uuid::Uuid::new_v4().to_string();
        fs::create_dir(dir.path().join("run")).expect("a folder");
        let env = [
            // So that messages do not depend on whose machine it is.
            ("XDG_CONFIG_HOME", dir.path().join("config")),
            ("JUPYTER_PATH", dir.path().join("jupyter")),
            // Private folders are not where temporary files are, as for whoever sits at the machine.
            ("XDG_RUNTIME_DIR", dir.path().join("run")),
        ];
        let env = env.map(|(name, path)| (name.to_owned(), path.display().to_string()));
        Self { dir, env: env.into(), mark }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its own path, for messages.
    pub fn shown(&self) -> String {
        self.dir.path().display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, text).expect("written");
        path
    }

    /// A plugin in Python, its name being that of its folder.
    pub fn python(&self, name: &str, manifest: &str, source: &str) {
        let head = format!("[plugin]\nname = \"{name}\"\nlanguage = \"python\"\nentry = \"plugin.py\"\n");
        self.write(&format!("{name}/plugin.toml"), &(head + manifest));
        self.write(&format!("{name}/plugin.py"), source);
    }

    /// A kernelspec that only this desk has.
    pub fn kernelspec(&self, name: &str, argv: &[&str], language: &str) -> PathBuf {
        let json = serde_json::json!({ "argv": argv, "display_name": name, "language": language });
        self.write(&format!("jupyter/kernels/{name}/kernel.json"), &json.to_string())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(self.dir.path()).envs(self.env.iter().cloned()).env(MARK, &self.mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Run the program to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).spawn().expect("starts"))
    }

    /// Run the program with this on its stdin.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let file = self.write("stdin", input);
        let mut command = self.command(args);
        command.stdin(fs::File::open(file).expect("a file"));
        Ended::of(command.spawn().expect("starts"))
    }

    /// Lines of a file as JSON, as far as they are there.
    pub fn lines(&self, name: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Command lines of what the programs of this desk started and what still lives.
    pub fn alive(&self) -> Vec<String> {
        processes_with(&format!("{MARK}={}", self.mark))
    }

    /// Nothing is left, or will be within five seconds.
    #[track_caller]
    pub fn leaves_nothing(&self) {
        until("everything has ended", Duration::from_secs(5), || self.alive().is_empty());
    }
}

impl<'a> Running<'a> {
    pub fn start(desk: &'a Desk, args: &[&str]) -> Self {
        let err = fs::File::create(desk.path("err")).expect("a file");
        let mut child = desk.command(args).stdin(Stdio::piped()).stderr(err).spawn().expect("starts");
        let input = child.stdin.take().expect("a pipe");
        Self { desk, child, input }
    }

    /// Write to its stdin.
    pub fn write(&self, text: &str) {
        (&self.input).write_all(text.as_bytes()).expect("written");
    }

    /// What it wrote to stderr so far.
    pub fn err(&self) -> String {
        fs::read_to_string(self.desk.path("err")).expect("a file")
    }

    /// Wait until something is so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&Desk) -> bool) {
        let began = Instant::now();
        while !is_so(self.desk) {
            assert!(began.elapsed() < Duration::from_secs(60), "not yet: {what}; stderr:\n{}", self.err());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Close its stdin and wait for its end.
    pub fn end(self) -> Ended {
        drop(self.input);
        let ended = Ended::of(self.child);
        Ended { err: fs::read_to_string(self.desk.path("err")).expect("a file"), ..ended }
    }
}

impl Ended {
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It ended with this exit status.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Lines of stdout as JSON.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Wait until something is so.
#[track_caller]
pub fn until(what: &str, deadline: Duration, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < deadline, "after {deadline:?} not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Folders of kernels that carry the desk's mark: private ones, and those for temporary files.
pub fn kernel_folders(mark_of: &Desk) -> Vec<PathBuf> {
    let mark = format!("{MARK}={}", mark_of.mark);
    let mut folders = Vec::new();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let variables: Vec<_> = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        let value = |name: &str| variables.iter().find_map(|variable| variable.strip_prefix(name)).map(PathBuf::from);
        if variables.iter().any(|variable| *variable == mark)
            && let Some(folder) = value("KERNELBRIDGE_DIR=")
        {
            folders.push(folder);
            folders.extend(value("TMPDIR="));
        }
    }
    folders
}
