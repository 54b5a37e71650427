//! What a further plugin costs in a kernel that others share: `cargo bench --bench shared [-- PLUGINS [LANGUAGE ...]]`.
//!
//! 100 plugins in each language that can, unless told otherwise, added one after the other to a running host. The time
//! is from `Host::load` to loaded, discovery of kernelspecs included, and that from joining the kernel to loaded; memory
//! is that of the kernel's processes, and of this process, for each plugin.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use kernelbridge::{
    discover::{Environment, Languages, discover},
    host::Host,
    supervision::State,
};

/// Plugins before anything is measured: the first ones pay for what interpreters compile and allocate once.
const BEFORE: usize = 10;

const SOURCES: [(&str, &str); 5] = [
    ("python", "@bridge.export\ndef answer():\n    return 42\n"),
    ("r", "bridge$export('answer', function() 42)\n"),
    ("javascript", "bridge.export('answer', () => 42);\n"),
    ("node", "bridge.export('answer', () => 42);\n"),
    ("lua", "bridge.export('answer', function() return 42 end)\n"),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let plugins = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(100);
    let named: Vec<&String> = args.iter().filter(|arg| arg.parse::<usize>().is_err()).collect();
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, &[]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("language      load ms  (most)   join ms  (most)   kernel KB each   host KB each   own kernel: ms, MB");
    for (language, source) in SOURCES {
        let is_wanted = named.is_empty() || named.iter().any(|name| *name == language);
        if is_wanted && languages.kernelspec_for(&discovery, language).is_ok() {
            runtime.block_on(bench(language, source, plugins));
        }
    }
}

async fn bench(language: &str, source: &str, plugins: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let made = |number: usize| plugin(dir.path(), language, source, number);
    let host = Host::builder().plugin(made(0)).build().await.expect("starts");
    for number in 1..=BEFORE {
        host.load(made(number)).await.expect("loaded");
    }
    let own = host.plugins()[0].about.startup_ms;
    let State::Ready { process_id } = host.plugins()[0].instances[0] else { panic!("not ready") };
    let (before, ours) = (tree_kb(process_id), resident_kb(std::process::id()));
    let (mut loads, mut joins) = (Vec::new(), Vec::new());
    for number in BEFORE + 1..=BEFORE + plugins {
        let path = made(number);
        let began = Instant::now();
        host.load(path).await.expect("loaded");
        loads.push(began.elapsed().as_secs_f64() * 1000.0);
        let startup = host.plugins().last().expect("it is there").about.startup;
        joins.push(startup.initialize_ms + startup.load_ms);
    }
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / plugins as f64;
    let kernel = each(before, tree_kb(process_id));
    let ours = each(ours, resident_kb(std::process::id()));
    let processes: Vec<u32> = (host.plugins().iter())
        .filter_map(|info| match info.instances[0] {
            State::Ready { process_id } => Some(process_id),
            _ => None,
        })
        .collect();
    assert!(processes.len() == BEFORE + plugins + 1 && processes.iter().all(|other| *other == process_id));
    let answer: u64 = host.call(&format!("n{plugins}.answer"), ()).await.expect("answered");
    assert_eq!(answer, 42);
    let ((load, most_load), (join, most_join)) = (middle(loads), middle(joins));
    println!(
        "{language:<12} {load:>8.1} {most_load:>8.1} {join:>9.1} {most_join:>8.1} {kernel:>16.1} {ours:>14.1}   {own} ms, {:.0} MB",
        before as f64 / 1000.0
    );
    host.shutdown().await;
}

/// The median and the largest.
fn middle(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() - 1])
}

fn plugin(dir: &Path, language: &str, source: &str, number: usize) -> PathBuf {
    let (name, languages) = (format!("n{number}"), Languages::built_in());
    let folder = dir.join(&name);
    fs::create_dir_all(&folder).expect("a folder");
    let entry = format!("plugin.{}", languages.find(language).expect("a language").language.extension);
    let manifest = format!(
        "[plugin]\nname = \"{name}\"\nlanguage = \"{language}\"\nentry = \"{entry}\"\nisolation = \"shared\"\n"
    );
    fs::write(folder.join("plugin.toml"), manifest).expect("written");
    fs::write(folder.join(entry), source).expect("written");
    folder
}

/// Of a kernel and the interpreter behind it.
fn tree_kb(process_id: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{process_id}/task/{process_id}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    resident_kb(process_id) + children.map(tree_kb).sum::<u64>()
}

fn resident_kb(process_id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or_default()
}
