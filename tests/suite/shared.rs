//! Many plugins in one kernel: apart in names, permissions, counters and deaths of their own making; together in the rest.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kernelbridge::{
    discover::Languages,
    host::{Host, News, PluginInfo},
    plugin::PluginNews,
    rpc::ErrorKind,
    supervision::State,
};
use serde_json::{Value, json};

use crate::support::{Installed, root};

const DEADLINE: Duration = Duration::from_secs(60);

const PYTHON: &str = r#"
import helper, os, sys, threading, time
count = 0

@bridge.export
def about():
    return {"name": bridge.plugin["name"], "word": bridge.config.get("word"), "folder": os.path.basename(os.getcwd()),
            "beside": open("helper.py").readline().strip(), "helper": helper.NAME}

@bridge.export
def process():
    return os.getpid()

@bridge.export
def bump():
    global count
    count += 1
    return count

@bridge.export
def ask(name, *args):
    return bridge.call(name, *args)

@bridge.export
def ask_and_tell(name):
    before = os.path.basename(os.getcwd())
    bridge.call(name)
    import helper as again
    return [before, os.path.basename(os.getcwd()), again.NAME]

@bridge.export
def steal(other, name):
    return sys.modules["plugin_" + other].bridge.call(name)

@bridge.export
def say(text):
    print(text, flush=True)
    bridge.log.info(text)

@bridge.export
def later(text):
    def run():
        time.sleep(0.2)
        bridge.log.info(text)
    threading.Thread(target=run).start()

@bridge.on("work")
def work(event):
    return [bridge.plugin["name"], event.data]

@bridge.on("boom")
def boom(event):
    if event.data == bridge.plugin["name"]:
        os._exit(3)

@bridge.export
def crash():
    os._exit(3)

@bridge.on_shutdown
def bye():
    open("bye.txt", "a").write("x")
"#;

/// A plugin that shares its kernel.
fn plugin(dir: &Path, name: &str, source: &str, manifest: &str) -> PathBuf {
    written(dir, name, "python", source, "isolation = \"shared\"", manifest)
}

fn written(dir: &Path, name: &str, language: &str, source: &str, isolation: &str, manifest: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let languages = Languages::built_in();
    let entry = format!("plugin.{}", languages.find(language).expect("a language").language.extension);
    fs::write(folder.join(&entry), source).expect("written");
    fs::write(folder.join("helper.py"), format!("NAME = \"{name}\"\n")).expect("written");
    let text = format!(
        "[plugin]\nname = \"{name}\"\nlanguage = \"{language}\"\nentry = \"{entry}\"\n{isolation}\n{manifest}\
         [config]\nword = \"of {name}\"\n"
    );
    fs::write(folder.join("plugin.toml"), text).expect("written");
    folder
}

const ALL: &str = "[permissions]\ncall = [\"*\"]\nemit = [\"*\"]\n";

async fn host(plugins: impl IntoIterator<Item = PathBuf>) -> Host {
    let builder = plugins.into_iter().fold(Host::builder(), |builder, plugin| builder.plugin(plugin));
    builder.build().await.unwrap_or_else(|error| panic!("{error}"))
}

fn info(host: &Host, name: &str) -> PluginInfo {
    host.plugins().into_iter().find(|plugin| plugin.name == name).expect("it is loaded")
}

async fn process(host: &Host, name: &str) -> u32 {
    host.call(&format!("{name}.process"), ()).await.expect("answered")
}

fn stats(host: &Host, name: &str) -> kernelbridge::host::PluginStats {
    host.stats().into_iter().find(|(plugin, _)| plugin == name).expect("it is loaded").1
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn twenty_plugins_in_one_kernel_keep_their_names_apart() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let names: Vec<String> = (1..=20).map(|number| format!("p{number}")).collect();
    let host = host(names.iter().map(|name| plugin(dir.path(), name, PYTHON, ALL))).await;
    let mut processes = BTreeSet::new();
    for (number, name) in names.iter().enumerate() {
        processes.insert(process(&host, name).await);
        let about: Value = host.call(&format!("{name}.about"), ()).await.expect("answered");
        let word = format!("of {name}");
        let beside = format!("NAME = \"{name}\"");
        assert_eq!(
            about,
            json!({ "name": name, "word": word, "folder": name, "beside": beside, "helper": name }),
            "{name}"
        );
        for bump in 1..=number {
            assert_eq!(host.call::<usize>(&format!("{name}.bump"), ()).await.expect("answered"), bump);
        }
    }
    assert_eq!(processes.len(), 1, "one kernel");

    // Each handler of one topic is its plugin's own.
    let mut news = host.subscribe_lossless();
    for number in 0..10 {
        host.emit("work", &number).await.expect("accepted");
    }
    let mut handled = Vec::new();
    while handled.len() < 10 * names.len() {
        if let Some(News::Handled { plugin, result, .. }) = news.next().await {
            let result: (String, u64) = serde_json::from_str(result.get()).expect("what it returns");
            assert_eq!(*plugin, *result.0);
            handled.push(result);
        }
    }
    handled.sort();
    handled.dedup();
    assert_eq!(handled.len(), 200);
    drop(news);
    for (number, name) in names.iter().enumerate() {
        let stats = stats(&host, name);
        assert_eq!((stats.handled, stats.called, stats.failed), (10, 2 + number as u64, 0), "{name}");
    }
    host.shutdown().await;
    for name in &names {
        assert_eq!(fs::read_to_string(dir.path().join(name).join("bye.txt")).expect("written"), "x");
    }
}

#[tokio::test]
async fn each_has_its_own_permissions_and_calls_the_others() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let strong = plugin(dir.path(), "strong", PYTHON, ALL);
    let weak = plugin(dir.path(), "weak", PYTHON, "[permissions]\ncall = [\"strong.ask\"]\n");
    let host = host([strong, weak]).await;
    assert_eq!(process(&host, "strong").await, process(&host, "weak").await);
    let listed: Value = host.call("strong.ask", ("state.list", "")).await.expect("allowed");
    assert_eq!(listed, json!([]));
    let denied = host.call::<Value>("weak.ask", ("state.list", "")).await.expect_err("not allowed");
    assert!(denied.is_caused_by(ErrorKind::Denied), "{denied:?}");
    // The other's `bridge` does not help: the host knows who is served.
    let denied = host.call::<Value>("weak.steal", ("strong", "state.list")).await.expect_err("not allowed");
    assert!(denied.is_caused_by(ErrorKind::Denied) && denied.to_string().contains("`weak`"), "{denied:?}");
    // What it may call acts with rights of its own, and comes back, over three hops in one kernel.
    let listed: Value = host.call("weak.ask", ("strong.ask", "state.list")).await.expect("allowed");
    assert_eq!(listed, json!([]));
    let bumped: Value =
        host.call("strong.ask", ("weak.ask", "strong.ask", "weak.bump")).await.expect("whoever waits, serves");
    assert_eq!(bumped, json!(1));
    // Folder and modules are in place again when a call returns.
    let told: Value = host.call("strong.ask_and_tell", ("weak.about",)).await.expect("allowed");
    assert_eq!(told, json!(["strong", "strong", "strong"]));

    // Prints and log lines are their plugin's, also from a thread while another is served.
    let mut news = host.subscribe_lossless();
    host.call::<Value>("weak.later", ("from a thread",)).await.expect("begun");
    host.call::<Value>("strong.say", ("hello",)).await.expect("said");
    let (mut printed, mut logged) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while logged.len() < 2 || printed.is_empty() {
        assert!(began.elapsed() < DEADLINE, "{printed:?} {logged:?}");
        let next = tokio::time::timeout(Duration::from_millis(50), news.next()).await;
        match next.ok().flatten() {
            Some(News::Plugin { plugin, news: PluginNews::Log { message, .. } }) => {
                logged.push((plugin.to_string(), message));
            }
            Some(News::Plugin { plugin, news: PluginNews::Output(_) }) => printed.push(plugin.to_string()),
            _ => {}
        }
        // What a thread logs goes with the next message.
        host.call::<Value>("strong.bump", ()).await.expect("answered");
    }
    logged.sort();
    assert_eq!(logged, [("strong".into(), "hello".into()), ("weak".into(), "from a thread".into())]);
    assert!(printed.iter().all(|plugin| plugin == "strong"), "{printed:?}");
    drop(news);
    host.shutdown().await;
}

#[tokio::test]
async fn one_is_loaded_anew_or_unloaded_while_the_others_keep_their_state() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let names = ["one", "two", "three"];
    let host = host(names.map(|name| plugin(dir.path(), name, PYTHON, ALL))).await;
    let kernel = process(&host, "one").await;
    for name in names {
        assert_eq!(host.call::<u32>(&format!("{name}.bump"), ()).await.expect("answered"), 1);
    }
    // A broken edit keeps the old code and its state.
    let entry = dir.path().join("two/plugin.py");
    fs::write(&entry, "this is no Python").expect("written");
    host.reload("two").await.expect_err("refused");
    assert_eq!(host.call::<u32>("two.bump", ()).await.expect("answered"), 2);
    // A good one begins anew, beside the others, with its own modules read again.
    fs::write(&entry, PYTHON.replace("count = 0", "count = 100")).expect("written");
    fs::write(dir.path().join("two/helper.py"), "NAME = \"second edition\"\n").expect("written");
    host.reload("two").await.expect("loaded");
    assert_eq!(host.call::<u32>("two.bump", ()).await.expect("answered"), 101);
    let about: Value = host.call("two.about", ()).await.expect("answered");
    assert_eq!(about["helper"], "second edition");
    let about: Value = host.call("one.about", ()).await.expect("answered");
    assert_eq!(about["helper"], "one");
    until("the old code says goodbye", || dir.path().join("two/bye.txt").exists()).await;

    // One more comes into the running kernel, and goes again.
    host.load(plugin(dir.path(), "four", PYTHON, ALL)).await.expect("loaded");
    assert_eq!(process(&host, "four").await, kernel);
    host.emit("work", &"x").await.expect("accepted");
    host.drain().await;
    assert_eq!(stats(&host, "four").handled, 1);
    host.unload("four").await.expect("unloaded");
    assert!(dir.path().join("four/bye.txt").exists());
    let error = host.call::<Value>("four.bump", ()).await.expect_err("gone");
    assert_eq!(error.kind, ErrorKind::NotFound);
    host.emit("work", &"x").await.expect("accepted");
    host.drain().await;
    host.load(dir.path().join("four")).await.expect("loaded again");
    assert_eq!(host.call::<u32>("four.bump", ()).await.expect("answered"), 1);

    for name in ["one", "three"] {
        assert_eq!(process(&host, name).await, kernel);
        assert_eq!(host.call::<u32>(&format!("{name}.bump"), ()).await.expect("answered"), 2);
        assert_eq!((stats(&host, name).restarts, stats(&host, name).handled), (0, 2));
    }
    // The last one that leaves ends it.
    for name in ["one", "two", "three", "four"] {
        host.unload(name).await.expect("unloaded");
    }
    assert!(!Path::new(&format!("/proc/{kernel}")).exists(), "the kernel is gone");
    host.unload("one").await.expect_err("it is not there");
    host.shutdown().await;
}

#[tokio::test]
async fn a_crash_restarts_all_says_so_and_counts_for_the_guilty() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let names = ["calm", "wild", "mild"];
    let restart = format!("{ALL}[restart]\ndeaths = 2\n[delivery]\nattempts = 1\n");
    let host = host(names.map(|name| plugin(dir.path(), name, PYTHON, &restart))).await;
    let kernel = process(&host, "calm").await;
    let mut news = host.subscribe();
    // Events wait for all of them behind the one that kills the kernel.
    host.emit("boom", &"wild").await.expect("accepted");
    for number in 0..20 {
        host.emit("work", &number).await.expect("accepted");
    }
    host.drain().await;
    for name in names {
        assert_eq!(stats(&host, name).handled + stats(&host, name).failed, 21, "{name}: {:?}", stats(&host, name));
        assert_eq!(stats(&host, name).restarts, 1, "{name}");
        assert_eq!(stats(&host, name).failed, u64::from(name == "wild"), "{name}");
    }
    let second = process(&host, "calm").await;
    assert_ne!(second, kernel);
    for name in names {
        assert_eq!(process(&host, name).await, second, "together again");
    }
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Some(News::State { plugin, state: State::Restarting { reason, deaths, .. }, .. }) = news.next().await {
            told.push((plugin.to_string(), deaths));
            assert!(
                reason.contains("shared by `calm`, `mild` and `wild`") && reason.contains("served `wild`"),
                "{reason}"
            );
        }
    }
    told.sort();
    assert_eq!(told, [("calm".into(), 0), ("mild".into(), 0), ("wild".into(), 1)]);
    drop(news);

    // Again: the guilty one is left alone, the others go on without it.
    let error = host.call::<Value>("wild.crash", ()).await.expect_err("gone");
    assert_eq!(error.kind, ErrorKind::Gone);
    until("it is in quarantine", || matches!(info(&host, "wild").instances[0], State::Quarantined { .. })).await;
    for name in ["calm", "mild"] {
        assert_eq!(host.call::<u32>(&format!("{name}.bump"), ()).await.expect("answered"), 1, "{name}");
        assert_eq!(stats(&host, name).restarts, 2);
    }
    let third = process(&host, "calm").await;
    host.release("wild").expect("released");
    until("it is back", || matches!(info(&host, "wild").instances[0], State::Ready { .. })).await;
    assert_eq!(process(&host, "wild").await, third, "it joined the others");
    host.shutdown().await;
}

/// Two plugins of one source in each language, whose handlers, exports and variables have the same names.
const SAME: &[(&str, &str)] = &[
    (
        "python",
        "count = 0\n@bridge.export\ndef bump():\n    global count\n    count += 1\n    return count\n\
     @bridge.export\ndef word():\n    return bridge.config[\"word\"]\n\
     @bridge.export\ndef beside():\n    return open(\"helper.py\").readline().strip()\n\
     @bridge.export\ndef ask(name):\n    return [bridge.call(name), open(\"helper.py\").readline().strip()]\n\
     @bridge.on(\"work\")\ndef work(event):\n    return bridge.config[\"word\"]\n",
    ),
    (
        "lua",
        "local count = 0\ncounted = 0\n\
     bridge.export('bump', function() counted = counted + 1 return counted end)\n\
     bridge.export('word', function() return bridge.config.word end)\n\
     local function line() return (io.lines('helper.py')()) end\n\
     bridge.export('beside', line)\n\
     bridge.export('ask', function(name) return bridge.array { bridge.call(name), line() } end)\n\
     bridge.on('work', function() return bridge.config.word end)\n",
    ),
    (
        "r",
        "count <- 0\nbridge$export('bump', function() { count <<- count + 1; count })\n\
     bridge$export('word', function() bridge$config$word)\n\
     bridge$export('beside', function() readLines('helper.py')[[1]])\n\
     bridge$export('ask', function(name) list(bridge$call(name), readLines('helper.py')[[1]]))\n\
     bridge$on('work', function(event) bridge$config$word)\n",
    ),
    ("javascript", JAVASCRIPT),
    ("node", NODE),
];
const JAVASCRIPT: &str = "import fs from 'node:fs';\nlet count = 0;\nconst line = () => fs.readFileSync('helper.py', 'utf8').trim();\n\
     bridge.export('bump', () => ++count);\nbridge.export('word', () => bridge.config.word);\n\
     bridge.export('beside', line);\nbridge.export('ask', (name: string) => [bridge.call(name), line()]);\n\
     bridge.on('work', async () => { await new Promise((done) => setTimeout(done, 5)); return bridge.config.word; });\n";
const NODE: &str = "const fs = require('node:fs');\nlet count = 0;\nconst line = () => fs.readFileSync('helper.py', 'utf8').trim();\n\
     bridge.export('bump', () => ++count);\nbridge.export('word', () => bridge.config.word);\n\
     bridge.export('beside', line);\nbridge.export('ask', (name) => [bridge.call(name), line()]);\n\
     bridge.on('work', async () => { await new Promise((done) => setTimeout(done, 5)); return bridge.config.word; });\n";

#[tokio::test]
async fn two_plugins_share_a_kernel_in_every_language_that_can() {
    let installed = Installed::look();
    for (language, source) in SAME {
        if !installed.has(language) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let made = |name| written(dir.path(), name, language, source, "isolation = \"shared\"", ALL);
        let host = host([made("a"), made("b")]).await;
        let process = |name: &str| match info(&host, name).instances[0] {
            State::Ready { process_id } | State::Busy { process_id, .. } => process_id,
            ref other => panic!("{other:?}"),
        };
        assert_eq!(process("a"), process("b"), "{language}");
        for round in 1..=2 {
            for name in ["a", "b"] {
                let bumped: f64 = host.call(&format!("{name}.bump"), ()).await.expect("answered");
                assert_eq!(bumped as u32, round, "{language} {name}");
                let word: String = host.call(&format!("{name}.word"), ()).await.expect("answered");
                assert_eq!(word, format!("of {name}"), "{language}");
                let beside: String = host.call(&format!("{name}.beside"), ()).await.expect("answered");
                assert_eq!(beside, format!("NAME = \"{name}\""), "{language}");
            }
        }
        // There, from there back, and home again.
        let told: Value = host.call("a.ask", ("b.beside",)).await.expect("answered");
        assert_eq!(told, json!(["NAME = \"b\"", "NAME = \"a\""]), "{language}");
        let mut news = host.subscribe_lossless();
        for number in 0..5 {
            host.emit("work", &number).await.expect("accepted");
        }
        let mut handled = 0;
        while handled < 10 {
            if let Some(News::Handled { plugin, result, .. }) = news.next().await {
                assert_eq!(result.get(), format!("\"of {plugin}\""), "{language}");
                handled += 1;
            }
        }
        drop(news);
        host.reload("b").await.unwrap_or_else(|error| panic!("{language}: {error}"));
        let b: f64 = host.call("b.bump", ()).await.expect("answered");
        host.unload("b").await.expect("unloaded");
        let a: f64 = host.call("a.bump", ()).await.expect("answered");
        assert_eq!((a as u32, b as u32), (3, 1), "{language}");
        println!("{language}: ok");
        host.shutdown().await;
    }
}

#[tokio::test]
async fn only_equal_kernels_are_shared() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let a = plugin(dir.path(), "a", PYTHON, ALL);
    let limited = plugin(dir.path(), "limited", PYTHON, "[limits]\nmemory = \"1GB\"\n");
    let own = written(dir.path(), "own", "python", PYTHON, "isolation = \"own\"", ALL);
    let two = plugin(dir.path(), "two", PYTHON, "[delivery]\ninstances = 2\n");
    let host = host([a, limited, own, two]).await;
    let (first, limited, own) =
        (process(&host, "a").await, process(&host, "limited").await, process(&host, "own").await);
    assert!(first != limited && first != own && limited != own);
    let instances: Vec<u32> = (info(&host, "two").instances.iter())
        .map(|state| match state {
            State::Ready { process_id } | State::Busy { process_id, .. } => *process_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(instances[0], first, "the first instance is with the other plugins");
    assert!(instances[1] != first && instances[1] != limited && instances[1] != own);
    host.shutdown().await;
}

#[tokio::test]
async fn languages_without_namespaces_are_refused_with_the_reason() {
    let installed = Installed::look();
    let dir = tempfile::tempdir().expect("a folder");
    for language in ["bash", "octave", "prolog"] {
        let folder = &installed.languages.find(language).expect("a folder").language;
        let alone = folder.shim.as_ref().and_then(|shim| shim.alone.clone()).expect("a reason");
        if !installed.has(language) {
            continue;
        }
        let path = written(dir.path(), language, language, "", "isolation = \"shared\"", "");
        let error = Host::builder().plugin(path).build().await.err().expect("refused").to_string();
        assert!(error.contains(":5: `isolation = \"shared\"`") && error.contains(&alone), "{error}");
    }
}

/// What a further plugin costs in a kernel that is there. Bounds are loose: this is for what grows, the bench measures.
#[tokio::test]
async fn a_further_plugin_costs_little() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source = "@bridge.export\ndef answer():\n    return 42\n\n@bridge.export\ndef resident():\n    \
                  return int(open('/proc/self/statm').read().split()[1]) * 4\n";
    let host = host([plugin(dir.path(), "first", source, "")]).await;
    let paths: Vec<PathBuf> = (0..50).map(|number| plugin(dir.path(), &format!("n{number}"), source, "")).collect();
    for path in &paths[..10] {
        host.load(path).await.expect("loaded");
    }
    let before: u64 = host.call("first.resident", ()).await.expect("told");
    for path in &paths[10..] {
        host.load(path).await.expect("loaded");
    }
    let after: u64 = host.call("first.resident", ()).await.expect("told");
    let each = after.saturating_sub(before) / 40;
    assert!(each < 200, "{each} KB for each plugin");
    let ms: Vec<u64> = (10..50).map(|number| info(&host, &format!("n{number}")).about.startup_ms).collect();
    println!("{each} KB each; {ms:?} ms");
    host.shutdown().await;
}

#[test]
fn every_language_says_whether_its_plugins_can_share() {
    for folder in &Languages::built_in().folders {
        let Some(shim) = &folder.language.shim else { continue };
        assert!(shim.shared != shim.alone.is_some(), "{}", folder.language.name);
    }
    assert!(root().join("kernelspecs").is_dir());
}
