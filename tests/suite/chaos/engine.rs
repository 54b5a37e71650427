//! Plugins in several languages under fire, in a host that is itself under fire: kernels are killed, stopped and left
//! without an interpreter, their own code exits, hangs, raises and floods, and the host is killed and started anew on
//! the same store, while events flow.
//!
//! Used by the test (short) and by `benches/chaos.rs` (long), so it knows nothing of either. The host is this program
//! once more (`victim.rs`), the driver (here) tells it how far it may go, hurts it, and keeps the books.

mod books;
mod orders;
mod victim;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use kernelbridge::{provision::memory_bytes, store::Store};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin},
    task::JoinHandle,
    time::sleep,
};

pub use self::{
    books::Tally,
    victim::{obey, ordered},
};

use self::{
    books::Books,
    orders::{END, ORDERS, Orders, Told, what},
};

/// Plugins that take part: language, source, further lines of the manifest.
pub const PLUGINS: &[(&str, &str, &str)] = &[
    ("python", include_str!("plugins/chaos.py"), "instances = 2\norder-by = \"key\"\n"),
    ("r", include_str!("plugins/chaos.R"), ""),
    ("javascript", include_str!("plugins/chaos.js"), ""),
    ("lua", include_str!("plugins/chaos.lua"), ""),
    ("bash", include_str!("plugins/chaos.sh"), ""),
];

/// How many hosts may not come up.
const MOST_NOT_STARTED: u64 = 10;
/// How long a killed host's kernels, folders and guardian may be there.
const CLEARED: Duration = Duration::from_secs(30);

/// What is done to them.
pub struct Plan {
    /// This program once more, to be told to be the host.
    pub program: fn() -> Command,
    /// Languages to leave out.
    pub without: Vec<String>,
    /// Events for each plugin.
    pub events: u64,
    /// One event in so many makes its handler misbehave.
    pub one_in: u64,
    /// Faults from outside.
    pub faults: usize,
    /// How many of them are `kill -9` of the host.
    pub kills: usize,
    /// How long is waited between two of them, half more or less.
    pub pause: Duration,
    /// Of the random numbers.
    pub seed: u64,
    /// How long all of it may take.
    pub deadline: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// By what was done.
    pub faults: BTreeMap<String, u64>,
    /// Events that some host said were accepted.
    pub accepted: u64,
    /// Events that were being emitted when the host was killed: each plugin got them or did not.
    pub unsure: u64,
    /// By plugin.
    pub plugins: BTreeMap<String, Tally>,
    /// Hosts that could not be started in time, and were started again.
    pub not_started: u64,
    /// Longest time from a fault to the next event that the plugin handled.
    pub worst_recovery: Duration,
    /// The same, from the death of the host to the plugin that came last.
    pub worst_host_recovery: Duration,
    /// Longest time from the death of the host until nothing of it was left.
    pub worst_clearing: Duration,
    /// Memory of the first host when it was ready, of the last one when all was done, and the most of any.
    pub memory_bytes: (u64, u64, u64),
    pub elapsed: Duration,
    /// Rows of the backlog, processes and folders that are left; must be empty.
    pub left: Vec<String>,
}

/// Run it.
pub async fn run(plan: &Plan, dir: &Path) -> Report {
    let began = Instant::now();
    let taking_part: Vec<_> =
        PLUGINS.iter().filter(|(language, ..)| !plan.without.iter().any(|without| without == language)).collect();
    let names = taking_part.iter().map(|(language, ..)| format!("chaos-{language}")).collect();
    fs::create_dir_all(dir.join("home")).expect("a folder");
    for (language, source, manifest) in &taking_part {
        plugin(dir, language, source, manifest);
    }
    let mut driver = Driver {
        plan,
        dir,
        names,
        random: fastrand::Rng::with_seed(plan.seed),
        allowed: 0,
        life: 0,
        books: Arc::default(),
        clearing: Vec::new(),
        report: Report::default(),
    };
    tokio::time::timeout(plan.deadline, driver.run()).await.expect("it never hangs");
    let mut report = driver.report;
    report.elapsed = began.elapsed();
    report
}

struct Driver<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    names: Vec<String>,
    random: fastrand::Rng,
    /// Events up to here may be emitted.
    allowed: u64,
    /// Hosts before this one.
    life: u32,
    books: Arc<Mutex<Books>>,
    clearing: Vec<JoinHandle<Result<Duration, Vec<String>>>>,
    report: Report,
}

/// A host that runs.
struct Life {
    child: Child,
    process: u32,
    orders: ChildStdin,
    reading: JoinHandle<()>,
    folder: PathBuf,
}

impl Driver<'_> {
    async fn run(&mut self) {
        let mut life = self.begin().await;
        self.until(&mut life, |books| books.is_ready).await;
        self.report.memory_bytes.0 = memory_bytes(life.process);
        for (index, how) in (1..).zip(self.harms()) {
            self.allowed = self.plan.events * index / self.plan.faults as u64;
            life.allow(self.allowed).await;
            sleep(self.plan.pause.mul_f64(0.5 + self.random.f64())).await;
            if how == HOST {
                self.kill(&mut life).await;
                life = self.begin().await;
            } else {
                self.harm(&mut life, how).await;
            }
        }
        let last = self.plan.events;
        self.until(&mut life, move |books| books.next >= last).await;
        life.order(END).await;
        self.until(&mut life, |books| books.is_drained).await;
        self.report.memory_bytes.1 = memory_bytes(life.process);
        self.end(life).await;
        self.close_books();
    }

    /// The faults to come, in random order.
    fn harms(&mut self) -> Vec<&'static str> {
        let (kills, faults) = (self.plan.kills, self.plan.faults);
        let mut harms = vec![HOST; kills];
        harms.extend((kills..faults).map(|_| HARMS[self.random.usize(0..HARMS.len())]));
        self.random.shuffle(&mut harms);
        harms
    }

    /// Start a host.
    async fn begin(&mut self) -> Life {
        let folder = self.dir.join(format!("run/{}", self.life));
        fs::create_dir_all(&folder).expect("a folder");
        let first = self.books().next;
        for name in &self.names {
            let manifest = self.dir.join(name).join("plugin.toml");
            let text = fs::read_to_string(&manifest).expect("readable");
            let config = text.find("[config]").expect("there");
            // Each host has logs of its own, so that it is known which of them delivered what.
            let log = log_of(self.dir, name, self.life).display().to_string();
            fs::write(&manifest, format!("{}[config]\nlog = {log:?}\n", &text[..config])).expect("written");
        }
        let orders = Orders {
            plugins: self.names.iter().map(|name| self.dir.join(name)).collect(),
            state: self.dir.join("state.db"),
            first,
            one_in: self.plan.one_in,
            seed: self.plan.seed,
        };
        let mut command = tokio::process::Command::from((self.plan.program)());
        command.env(ORDERS, serde_json::to_string(&orders).expect("JSON"));
        command.env("TMPDIR", &folder).env("XDG_RUNTIME_DIR", &folder);
        // Kernels that are killed while they start must not leave anything in the user's home either: a Bash kernel reads
        // `~/.bashrc`, and what that runs may lock something of the user's.
        if let (Some(home), None) = (std::env::var_os("HOME"), std::env::var_os("XDG_DATA_HOME")) {
            command.env("XDG_DATA_HOME", Path::new(&home).join(".local/share"));
        }
        command.env("HOME", self.dir.join("home"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it runs");
        let (orders, told) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let books = self.books.clone();
        lock(&books).begin(self.life);
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(told).lines();
            while let Some(line) = lines.next_line().await.expect("text") {
                // What is no news is the tests' harness speaking.
                if let Ok(told) = serde_json::from_str::<Told>(&line) {
                    lock(&books).hear(told);
                }
            }
        });
        let process = child.id().expect("it runs");
        let mut life = Life { child, process, orders, reading, folder };
        life.allow(self.allowed).await;
        life
    }

    /// `kill -9` of the host.
    async fn kill(&mut self, life: &mut Life) {
        let memory = memory_bytes(life.process);
        self.report.memory_bytes.2 = self.report.memory_bytes.2.max(memory);
        life.child.kill().await.expect("killed");
        let killed = Instant::now();
        // What it told before is in the pipe.
        (&mut life.reading).await.expect("no panic");
        *self.report.faults.entry(HOST.into()).or_default() += 1;
        let mut books = lock(&self.books);
        if books.is_ready && books.next < self.allowed {
            // Whether it was accepted, and by whom, will be seen.
            let next = books.next;
            books.unsure.push(next);
            books.next += 1;
        }
        books.hurt_all(&self.names, killed);
        self.clearing.push(tokio::spawn(cleared(life.folder.clone(), killed)));
        self.life += 1;
    }

    async fn harm(&mut self, life: &mut Life, how: &'static str) {
        self.until(life, |books| books.is_ready).await;
        let victim = self.names[self.random.usize(0..self.names.len())].clone();
        let mut books = lock(&self.books);
        let kernels: Vec<u32> =
            books.kernels.iter().filter(|((name, _), _)| *name == victim).map(|(_, p)| *p).collect();
        let process = kernels[self.random.usize(0..kernels.len())];
        // One that is being started again already is hurt enough.
        if harm(process, how) {
            *self.report.faults.entry(how.to_owned()).or_default() += 1;
            books.hurt(&victim);
        }
    }

    /// Ends well.
    async fn end(&mut self, mut life: Life) {
        self.report.memory_bytes.2 = self.report.memory_bytes.2.max(self.report.memory_bytes.1);
        drop(life.orders);
        let status = life.child.wait().await.expect("waited for");
        assert!(status.success(), "{status}");
        life.reading.await.expect("no panic");
        // It may leave nothing when it has ended by itself, its guardian included.
        let left = left_of(&life.folder);
        self.report.left.extend(left);
        for clearing in self.clearing.drain(..) {
            match clearing.await.expect("no panic") {
                Ok(took) => self.report.worst_clearing = self.report.worst_clearing.max(took),
                Err(left) => self.report.left.extend(left),
            }
        }
    }

    fn close_books(&mut self) {
        let store = Store::open(self.dir.join("state.db")).expect("opens");
        let letters = store.dead_letters(None, usize::MAX).expect("readable");
        let books = lock(&self.books);
        self.report.unsure = books.unsure.len() as u64;
        self.report.accepted = books.next - self.report.unsure;
        (self.report.worst_recovery, self.report.worst_host_recovery) = books.worst();
        for n in 0..books.next {
            let what = what(self.plan.seed, n, self.plan.one_in);
            if !what.is_empty() {
                let name = what.strip_suffix('!').map_or(what.to_owned(), |what| format!("{what} always"));
                // Each of them does it.
                *self.report.faults.entry(name).or_default() += self.names.len() as u64;
            }
        }
        for name in &self.names {
            let left = store.backlog_len(name).expect("readable");
            self.report.left.extend((left > 0).then(|| format!("{left} events of {name}")));
            let logs: Vec<_> = (0..=self.life)
                .map(|life| fs::read_to_string(log_of(self.dir, name, life)).unwrap_or_default())
                .collect();
            let dead: Vec<_> = letters.iter().filter(|letter| letter.event.plugin == *name).collect();
            self.report.plugins.insert(name.clone(), books.tally(name, &logs, &dead));
        }
    }

    /// Wait for something that the host tells.
    async fn until(&mut self, life: &mut Life, is_so: impl Fn(&Books) -> bool) {
        while !is_so(&self.books()) {
            if let Ok(Some(status)) = life.child.try_wait() {
                let was_ready = self.books().is_ready;
                assert!(!was_ready, "the host ended by itself: {status}, seed {}", self.plan.seed);
                // On a machine that has too much to do a kernel may take longer than its plugin allows.
                self.report.not_started += 1;
                assert!(self.report.not_started <= MOST_NOT_STARTED, "the host does not come up: {status}");
                self.clearing.push(tokio::spawn(cleared(life.folder.clone(), Instant::now())));
                self.life += 1;
                *life = self.begin().await;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }
}

impl Life {
    async fn allow(&mut self, events: u64) {
        self.order(&events.to_string()).await;
    }

    async fn order(&mut self, line: &str) {
        self.orders.write_all(format!("{line}\n").as_bytes()).await.expect("it listens");
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().expect("no panic")
}

const HOST: &str = "kill -9 host";
/// What else is done from outside.
const HARMS: &[&str] = &["kill -9 kernel", "kill -9 interpreter", "SIGSTOP kernel and interpreter", "kill -9 kernel"];

fn harm(process: u32, how: &str) -> bool {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let children: Vec<&str> = children.split_ascii_whitespace().collect();
    let signal = |signal: &str, processes: &[&str]| {
        Command::new("kill").arg(signal).args(processes).output().is_ok_and(|output| output.status.success())
    };
    let kernel = process.to_string();
    match (how, children.as_slice()) {
        ("kill -9 kernel", _) => signal("-9", &[&kernel]),
        ("kill -9 interpreter", [child, ..]) => signal("-9", &[child]),
        // It has none: it is one.
        ("kill -9 interpreter", []) => signal("-9", &[&kernel]),
        (_, children) => signal("-STOP", &[&[&*kernel], children].concat()),
    }
}

fn plugin(dir: &Path, language: &str, source: &str, manifest: &str) {
    let name = format!("chaos-{language}");
    let folder = dir.join(&name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("plugin.src"), source).expect("written");
    let text = format!(
        "[plugin]\nname = \"{name}\"\nlanguage = \"{language}\"\nentry = \"plugin.src\"\n\
         [limits]\nstartup = \"180s\"\ntimeout = \"3s\"\nmemory = \"800MiB\"\n[queue]\ncapacity = 500\nwhen-full = \"spill\"\n\
         [restart]\ndeaths = 1000000\nwithin = \"5s\"\n[delivery]\nattempts = 3\njournal = true\n{manifest}[config]\n"
    );
    fs::write(folder.join("plugin.toml"), text).expect("written");
}

/// Where a plugin writes what it does, while the host of this number runs.
fn log_of(dir: &Path, name: &str, life: u32) -> PathBuf {
    dir.join(format!("{name}.{life}.log"))
}

/// Wait until nothing of a killed host is left: how long that took.
async fn cleared(folder: PathBuf, killed: Instant) -> Result<Duration, Vec<String>> {
    loop {
        let left = left_of(&folder);
        if left.is_empty() {
            return Ok(killed.elapsed());
        }
        if killed.elapsed() > CLEARED {
            return Err(left);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// What lies in a host's folder for temporary files, where FIFOs and Unix sockets are too, and living processes that
/// name that folder in their environment: kernels, all that they started, and the guardian.
fn left_of(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("there").flatten();
    let mut left: Vec<_> = entries.map(|entry| entry.path().display().to_string()).collect();
    let name = format!("{}/", folder.display()).into_bytes();
    let bare = format!("TMPDIR={}\0", folder.display()).into_bytes();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |text: &[u8]| environment.windows(text.len()).any(|window| window == text);
        if has(&name) || has(&bare) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            left.push(format!("process {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    left
}
