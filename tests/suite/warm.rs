//! Starting: phases, kernels at hand, plugins and instances that are added to a running host.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kernelbridge::{
    host::{BuildError, Event, Host, PluginInfo},
    supervision::State,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::support::{Installed, copy_files, root};

const DEADLINE: Duration = Duration::from_secs(60);

const PYTHON: &str = r#"
import os, time

@bridge.export
def process():
    return os.getpid()

@bridge.export
def folder():
    return os.getcwd()

@bridge.export
def beside():
    return open("plugin.toml").readline()

@bridge.on("work")
def work(event):
    time.sleep(0.01)
    return [event.data, os.getpid()]
"#;

fn plugin(dir: &Path, name: &str, sections: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let manifest = format!("[plugin]\nname = \"{name}\"\nlanguage = \"python\"\nentry = \"plugin.py\"\n{sections}");
    fs::write(folder.join("plugin.toml"), manifest).expect("written");
    fs::write(folder.join("plugin.py"), PYTHON).expect("written");
    folder
}

fn info(host: &Host, name: &str) -> PluginInfo {
    host.plugins().into_iter().find(|plugin| plugin.name == name).expect("it is loaded")
}

fn process_id(host: &Host, name: &str) -> u32 {
    match info(host, name).instances[0] {
        State::Ready { process_id } | State::Busy { process_id, .. } => process_id,
        ref other => panic!("{other:?}"),
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn spare(host: &Host, name: &str) {
    until("a spare becomes ready", || info(host, name).spares > 0).await;
}

fn is_alive(process_id: u32) -> bool {
    kill(Pid::from_raw(process_id.cast_signed()), None).is_ok()
}

#[tokio::test]
async fn a_kernel_at_hand_takes_the_place_of_one_that_died() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host =
        Host::builder().plugin(plugin(dir.path(), "warm", "[delivery]\nwarm = 1\n")).build().await.expect("starts");
    let cold = info(&host, "warm").about;
    assert!(!cold.startup.warm, "{cold:?}");
    let startup = cold.startup;
    for (phase, ms) in startup.phases() {
        assert!(ms > 0.0 || ["queued", "iopub"].contains(&phase), "{phase}: {startup:?}");
    }
    let sum: f64 = startup.phases().iter().map(|(_, ms)| ms).sum();
    let own = startup.discover_ms + startup.queued_ms;
    assert!(sum - own <= cold.startup_ms as f64 + 1.0 && startup.host_ms < sum, "{cold:?}");
    spare(&host, "warm").await;
    assert!(info(&host, "warm").spare_memory_bytes > 5_000_000, "{:?}", info(&host, "warm"));

    let first = process_id(&host, "warm");
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).expect("killed");
    until(
        "its death is noticed",
        || !matches!(info(&host, "warm").instances[0], State::Ready { process_id } if process_id == first),
    )
    .await;
    let second: u32 = host.call("warm.process", ()).await.expect("the spare answers");
    assert_ne!(first, second);
    assert!(info(&host, "warm").about.startup.warm);
    let (_, stats) = host.stats().remove(0);
    assert_eq!((stats.restarts, stats.spares_used, stats.spares_died), (1, 1, 0));

    // A reload takes the next one.
    spare(&host, "warm").await;
    host.reload("warm").await.expect("reloaded");
    assert!(info(&host, "warm").about.startup.warm);
    assert_eq!(host.stats()[0].1.spares_used, 2);
    spare(&host, "warm").await;
    let last = host.spare_processes("warm");
    assert!(last.iter().all(|&pid| is_alive(pid)));
    host.shutdown().await;
    assert!(last.into_iter().all(|pid| !is_alive(pid)), "no spare is left");
}

#[tokio::test]
async fn a_kernel_at_hand_that_dies_is_replaced() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host =
        Host::builder().plugin(plugin(dir.path(), "careful", "[delivery]\nwarm = 1\n")).build().await.expect("starts");
    spare(&host, "careful").await;
    let first = process_id(&host, "careful");
    let spares: Vec<u32> = host.spare_processes("careful");
    assert_eq!(spares.len(), 1);
    assert_ne!(spares[0], first);
    kill(Pid::from_raw(spares[0].cast_signed()), Signal::SIGKILL).expect("killed");
    until("it is replaced", || host.spare_processes("careful").first().is_some_and(|pid| *pid != spares[0])).await;
    let (_, stats) = host.stats().remove(0);
    assert_eq!((stats.spares_died, stats.spares_used, stats.restarts), (1, 0, 0));
    assert_eq!(process_id(&host, "careful"), first, "the plugin went on");
    host.shutdown().await;
}

#[tokio::test]
async fn instances_are_added_and_taken_away_without_losing_an_event() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder().plugin(plugin(dir.path(), "many", "")).build().await.expect("starts");
    let mut news = host.subscribe();
    let mut emitted = 0;
    for (instances, of) in [(1, 40), (3, 40), (2, 40), (1, 40), (2, 40)] {
        host.scale("many", instances).await.expect("scaled");
        assert_eq!(info(&host, "many").instances.len(), instances);
        for _ in 0..of {
            let event = Event::from_raw("work", serde_json::value::to_raw_value(&emitted).expect("JSON"), None);
            let key = format!("key {}", emitted % 17);
            host.emit_event(event.expect("an event").with_key(key)).await.expect("accepted");
            emitted += 1;
        }
    }
    tokio::time::timeout(DEADLINE, host.drain()).await.expect("it never hangs");
    let (_, stats) = host.stats().remove(0);
    assert_eq!((stats.handled, stats.failed, stats.dropped), (emitted, 0, 0));
    let (mut seen, mut kernels) = (Vec::new(), Vec::new());
    while seen.len() < emitted as usize {
        let news = tokio::time::timeout(DEADLINE, news.next()).await.expect("in time").expect("the host lives");
        if let kernelbridge::host::News::Handled { result, .. } = news {
            let (number, process): (u64, u32) = serde_json::from_str(result.get()).expect("a pair");
            seen.push(number);
            kernels.push(process);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..emitted).collect::<Vec<_>>());
    kernels.sort_unstable();
    kernels.dedup();
    assert!(kernels.len() >= 3, "the work was shared: {kernels:?}");

    assert!(matches!(host.scale("many", 0).await, Err(BuildError::Instances { instances: 0, .. })));
    assert!(matches!(host.scale("man", 1).await, Err(BuildError::NoPlugin { .. })));
    // One that cannot be loaded leaves all as it was.
    fs::write(dir.path().join("many/plugin.py"), "(").expect("written");
    assert!(host.reload("many").await.is_err());
    host.scale("many", 3).await.expect("what was loaded last is what is loaded");
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_is_added_to_a_running_host() {
    let installed = Installed::look();
    if !installed.has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder().warm("python", 1).build().await.expect("starts");
    until("a spare becomes ready", || !host.spare_processes("python").is_empty()).await;
    let spare = host.spare_processes("python")[0];
    host.load(plugin(dir.path(), "late", "")).await.expect("loaded");
    let about = info(&host, "late").about;
    assert_eq!((about.process_id, about.startup.warm), (spare, true), "{about:?}");
    // It works where its own kernel would.
    let folder = fs::canonicalize(dir.path().join("late")).expect("there");
    assert_eq!(host.call::<PathBuf>("late.folder", ()).await.expect("answers"), folder);
    assert_eq!(host.call::<String>("late.beside", ()).await.expect("answers"), "[plugin]\n");
    host.emit("work", &json!(1)).await.expect("accepted");
    host.drain().await;
    assert_eq!(host.stats()[0].1.handled, 1);

    // One that wants another kernel gets another one.
    until("a spare becomes ready", || !host.spare_processes("python").is_empty()).await;
    host.load(plugin(dir.path(), "limited", "[limits]\nopen-files = 500\n")).await.expect("loaded");
    assert!(!info(&host, "limited").about.startup.warm);
    assert!(matches!(host.load(dir.path().join("late")).await, Err(BuildError::SameName { .. })));
    fs::write(dir.path().join("late/plugin.toml"), "").expect("written");
    assert!(matches!(host.load(dir.path().join("late")).await, Err(BuildError::Manifest(_))));
    assert_eq!(host.plugins().len(), 2);
    host.shutdown().await;
}

/// Every language whose shim says that it can be told where to work.
#[tokio::test]
async fn kernels_at_hand_take_plugins_of_their_language() {
    let installed = Installed::look();
    let dir = tempfile::tempdir().expect("a folder");
    for folder in &installed.languages.folders {
        let language = &folder.language;
        let moves = language.shim.as_ref().is_some_and(|shim| shim.moves);
        if !moves || !installed.has(&language.name) {
            continue;
        }
        let conformance = root().join("kernelspecs").join(&language.name).join("conformance");
        let home = dir.path().join(&language.name);
        copy_files(&conformance, &home);
        let host = Host::builder().warm(&language.name, 1).build().await.expect("starts");
        until(&language.name, || !host.spare_processes(&language.name).is_empty()).await;
        host.load(&home).await.unwrap_or_else(|error| panic!("{}: {error}", language.name));
        let plugin = host.plugins().remove(0);
        assert!(plugin.about.startup.warm, "{}: {:?}", language.name, plugin.about);
        let process_id = plugin.about.process_id;
        let tree = kernelbridge::provision::processes_of(&folder_of(process_id));
        let places = tree.iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/cwd")).ok());
        let home = fs::canonicalize(&home).expect("there");
        assert!(places.into_iter().any(|place| place == home), "{} does not work in its folder", language.name);
        host.shutdown().await;
    }
}

/// A kernel's private folder, from its environment.
fn folder_of(process_id: u32) -> PathBuf {
    let environment = fs::read(format!("/proc/{process_id}/environ")).expect("readable");
    let variables = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let folder = variables.filter_map(|variable| variable.strip_prefix("KERNELBRIDGE_DIR=").map(PathBuf::from));
    folder.into_iter().next().expect("it has our mark")
}
