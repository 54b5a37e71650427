//! Plugins in several languages under fire: their kernels are killed, stopped and left without an interpreter, and their
//! own code exits, hangs, raises and floods, while events flow.
//!
//! Used by the test (short) and by `benches/chaos.rs` (long), so it knows nothing of either.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kernelbridge::{
    host::{Host, News, Subscription},
    provision::{memory_bytes, processes_of},
};
use serde_json::{Value, json};

/// Plugins that take part: language, source, further lines of the manifest.
pub const PLUGINS: &[(&str, &str, &str)] = &[
    ("python", include_str!("plugins/chaos.py"), "instances = 2\norder-by = \"key\"\njournal = true\n"),
    ("r", include_str!("plugins/chaos.R"), ""),
    ("javascript", include_str!("plugins/chaos.js"), "journal = true\n"),
    ("lua", include_str!("plugins/chaos.lua"), ""),
    ("bash", include_str!("plugins/chaos.sh"), ""),
];

/// What is done to them.
pub struct Plan {
    /// Languages to leave out.
    pub without: Vec<String>,
    /// Events for each plugin.
    pub events: u64,
    /// One event in so many makes its handler misbehave.
    pub one_in: u64,
    /// Faults from outside.
    pub faults: usize,
    /// How long is waited between two of them.
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
    /// By plugin.
    pub plugins: BTreeMap<String, Tally>,
    /// Longest time from a fault from outside to the next event handled.
    pub worst_recovery: Duration,
    /// Memory of this process in bytes, before and after.
    pub memory_bytes: (u64, u64),
    pub elapsed: Duration,
    /// Processes and folders that are left; must be empty.
    pub left: Vec<String>,
}

/// One plugin's events.
#[derive(Debug, Default)]
pub struct Tally {
    pub emitted: u64,
    pub handled: u64,
    pub dead: u64,
    /// Neither handled nor a dead letter; must be 0.
    pub lost: u64,
    /// Handled more than once, or handled and a dead letter; must be 0.
    pub twice: u64,
    /// Out of the order of its key; must be 0.
    pub disordered: u64,
    /// Deliveries to the plugin's code beyond the first.
    pub repeated: u64,
    pub restarts: u64,
}

/// Run it.
pub async fn run(plan: &Plan, dir: &Path) -> Report {
    let began = Instant::now();
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(plan.seed)));
    let taking_part: Vec<_> =
        PLUGINS.iter().filter(|(language, ..)| !plan.without.iter().any(|without| without == language)).collect();
    let mut builder = Host::builder().state(dir.join("state.db"));
    for (language, source, manifest) in &taking_part {
        builder = builder.plugin(plugin(dir, language, source, manifest));
    }
    let host = builder.build().await.expect("a host");
    let mut report = Report::default();
    report.memory_bytes.0 = memory_bytes(std::process::id());
    let folders = Arc::new(Mutex::new(BTreeSet::new()));
    let recovery = Arc::new(Mutex::new((BTreeMap::<String, Instant>::new(), Duration::ZERO)));
    let reader = tokio::spawn(read(host.subscribe_lossless(), recovery.clone()));

    let feeding = async {
        for n in 0..plan.events {
            let what = {
                let mut random = random.lock().expect("no panic");
                if random.u64(0..plan.one_in) == 0 { WHATS[random.usize(0..WHATS.len())] } else { "" }
            };
            let always = what == "exit!" || what == "raise!";
            let what = what.trim_end_matches('!');
            let data = json!({ "n": n, "key": n % 7, "what": what, "always": always });
            host.emit("chaos", &data).await.expect("accepted");
            if !what.is_empty() {
                let name = if always { format!("{what} always") } else { what.to_owned() };
                // Each of them does it.
                *report.faults.entry(name).or_default() += taking_part.len() as u64;
            }
            if n % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        host.drain().await;
    };
    let mut outside = BTreeMap::<String, u64>::new();
    let harming = async {
        for _ in 0..plan.faults {
            tokio::time::sleep(plan.pause).await;
            let (victim, how) = {
                let mut random = random.lock().expect("no panic");
                (random.usize(0..taking_part.len()), random.usize(0..HARMS.len()))
            };
            let info = &host.plugins()[victim];
            let process = info.about.process_id;
            folders.lock().expect("no panic").extend(folder_of(process));
            if harm(process, HARMS[how]) {
                *outside.entry(HARMS[how].to_owned()).or_default() += 1;
                recovery.lock().expect("no panic").0.entry(info.name.clone()).or_insert_with(Instant::now);
            }
        }
    };
    tokio::time::timeout(plan.deadline, async { tokio::join!(feeding, harming) }).await.expect("it never hangs");
    host.drain().await;
    report.faults.extend(outside);
    report.elapsed = began.elapsed();
    let stats: BTreeMap<_, _> = host.stats().into_iter().collect();
    for info in host.plugins() {
        folders.lock().expect("no panic").extend(folder_of(info.about.process_id));
    }
    let letters = host.store().dead_letters(None, usize::MAX).expect("readable");
    host.shutdown().await;
    report.memory_bytes.1 = memory_bytes(std::process::id());
    let handled = reader.await.expect("no panic");
    report.worst_recovery = recovery.lock().expect("no panic").1;
    for (language, ..) in &taking_part {
        let name = format!("chaos-{language}");
        let dead: Vec<u64> = letters
            .iter()
            .filter(|letter| letter.event.plugin == name)
            .map(|letter| number(&letter.event.data))
            .collect();
        let handled = handled.get(&name).cloned().unwrap_or_default();
        let log = fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
        report.plugins.insert(name.clone(), tally(plan.events, &handled, &dead, &log, stats[&name].restarts));
    }
    for folder in folders.lock().expect("no panic").iter() {
        report.left.extend(processes_of(folder).iter().map(|process| format!("process {process}")));
        report.left.extend(folder.exists().then(|| folder.display().to_string()));
    }
    report
}

/// What handlers are told to do; with `!` in every attempt.
const WHATS: &[&str] = &["exit", "loop", "flood", "hog", "raise", "raise!", "exit!"];
/// What is done from outside.
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

fn plugin(dir: &Path, language: &str, source: &str, manifest: &str) -> PathBuf {
    let name = format!("chaos-{language}");
    let folder = dir.join(&name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("plugin.src"), source).expect("written");
    let text = format!(
        "[plugin]\nname = \"{name}\"\nlanguage = \"{language}\"\nentry = \"plugin.src\"\n\
         [limits]\ntimeout = \"3s\"\nmemory = \"800MiB\"\n[queue]\ncapacity = 500\nwhen-full = \"spill\"\n\
         [restart]\ndeaths = 1000000\nwithin = \"5s\"\n[config]\nlog = {:?}\n\
         [delivery]\nattempts = 3\n{manifest}",
        dir.join(format!("{name}.log")).display().to_string()
    );
    fs::write(folder.join("plugin.toml"), text).expect("written");
    folder
}

/// Who handled what, in order; how long after each fault.
async fn read(
    mut news: Subscription,
    recovery: Arc<Mutex<(BTreeMap<String, Instant>, Duration)>>,
) -> BTreeMap<String, Vec<u64>> {
    let mut handled = BTreeMap::<String, Vec<u64>>::new();
    while let Some(news) = news.next().await {
        if let News::Handled { plugin, event, .. } = news {
            handled.entry(plugin.to_string()).or_default().push(number(event.data.get()));
            let (hurt, worst) = &mut *recovery.lock().expect("no panic");
            if let Some(since) = hurt.remove(&*plugin) {
                *worst = (*worst).max(since.elapsed());
            }
        }
    }
    handled
}

fn number(data: &str) -> u64 {
    serde_json::from_str::<Value>(data).ok().and_then(|data| data["n"].as_u64()).expect("a number")
}

fn tally(emitted: u64, handled: &[u64], dead: &[u64], log: &str, restarts: u64) -> Tally {
    let mut seen = vec![0u64; usize::try_from(emitted).expect("few")];
    let mut last = [None; 7];
    let mut disordered = 0;
    for &n in handled {
        seen[n as usize] += 1;
        let key = (n % 7) as usize;
        disordered += u64::from(last[key].is_some_and(|last| last >= n));
        last[key] = Some(n);
    }
    for &n in dead {
        seen[n as usize] += 1;
    }
    let mut deliveries = BTreeMap::<&str, u64>::new();
    for line in log.lines() {
        *deliveries.entry(line).or_default() += 1;
    }
    Tally {
        emitted,
        handled: handled.len() as u64,
        dead: dead.len() as u64,
        lost: seen.iter().filter(|&&times| times == 0).count() as u64,
        twice: seen.iter().filter(|&&times| times > 1).count() as u64,
        disordered,
        repeated: deliveries.values().map(|times| times - 1).sum(),
        restarts,
    }
}

/// The private folder of the kernel with this process id.
fn folder_of(process: u32) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
    let value =
        environment.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(b"KERNELBRIDGE_DIR="))?;
    Some(PathBuf::from(String::from_utf8_lossy(value).into_owned()))
}
