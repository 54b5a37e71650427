//! Many plugins in one host: shared state, crossing calls, full queues, deadlines over several hops, lossless streams.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kernelbridge::{
    discover::Languages,
    host::{Host, News},
    rpc::ErrorKind,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{Installed, copy_files, root};

/// A plugin's folder with this source and these extra lines in its manifest.
pub fn plugin(dir: &Path, name: &str, language: &str, source: &str, manifest: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let languages = Languages::built_in();
    let entry = format!("plugin.{}", languages.find(language).expect("a language").language.extension);
    fs::write(folder.join(&entry), source).expect("written");
    let text = format!(
        "[plugin]\nname = \"{name}\"\nversion = \"0.1.0\"\nlanguage = \"{language}\"\nentry = \"{entry}\"\nbridge = \"1\"\n\
         [permissions]\ncall = [\"*\"]\nemit = [\"*\"]\n{manifest}"
    );
    fs::write(folder.join("plugin.toml"), text).expect("written");
    folder
}

#[tokio::test]
async fn two_languages_count_to_exactly_2000() {
    let installed = Installed::look();
    if !(installed.has("python") && installed.has("lua")) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut builder = Host::builder().state(dir.path().join("state.db"));
    for language in ["python", "lua"] {
        let to = dir.path().join(language);
        copy_files(&root().join("kernelspecs").join(language).join("conformance"), &to);
        builder = builder.plugin(to);
    }
    let host = builder.build().await.expect("a host");
    let python = host.call::<Value>("conformance-python.increment", ("counter", 1000));
    let lua = host.call::<Value>("conformance-lua.increment", ("counter", 1000));
    let (python, lua) = tokio::join!(python, lua);
    python.expect("counted");
    lua.expect("counted");
    let counter = host.store().get("counter").expect("readable").expect("there");
    assert_eq!(counter.get(), "2000");
    host.shutdown().await;
}

const CROSSING: &str = r#"
@bridge.on("go")
def go(event):
    return bridge.call(bridge.config["other"] + ".work", event.data)

@bridge.export
def work(n):
    return bridge.call(bridge.config["other"] + ".leaf", n) + 1

@bridge.export
def leaf(n):
    return n * 10
"#;

#[tokio::test]
async fn plugins_that_call_each_other_at_the_same_time_never_hang() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder()
        .plugin(plugin(dir.path(), "left", "python", CROSSING, "[config]\nother = \"right\"\n"))
        .plugin(plugin(dir.path(), "right", "python", CROSSING, "[config]\nother = \"left\"\n"))
        .build()
        .await
        .expect("a host");
    let mut news = host.subscribe();
    for n in 0..300 {
        host.emit("go", &n).await.expect("accepted");
    }
    tokio::time::timeout(Duration::from_secs(60), host.drain()).await.expect("it never hangs");
    for (name, stats) in host.stats() {
        assert_eq!((stats.handled, stats.failed), (300, 0), "{name}");
    }
    host.shutdown().await;
    let mut results = 0;
    while let Some(news) = news.next().await {
        if let News::Handled { event, result, .. } = news {
            let n: i64 = event.data.get().parse().expect("a number");
            assert_eq!(result.get(), (n * 10 + 1).to_string());
            results += 1;
        }
    }
    assert_eq!(results, 600);
}

const ECHO_STORM: &str = r#"
@bridge.on("storm")
def storm(event):
    for n in range(20):
        bridge.emit("drop", n)

@bridge.on("drop")
def drop(event):
    pass
"#;

#[tokio::test]
async fn a_plugin_that_fills_its_own_queue_is_refused_with_deadlock() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let storm = plugin(dir.path(), "storm", "python", ECHO_STORM, "[queue]\ncapacity = 4\n");
    let host = Host::builder().plugin(storm).build().await.expect("a host");
    let mut news = host.subscribe();
    host.emit("storm", &()).await.expect("accepted");
    tokio::time::timeout(Duration::from_secs(60), host.drain()).await.expect("it never hangs");
    host.shutdown().await;
    let mut reports = Vec::new();
    while let Some(news) = news.next().await {
        if let News::Failed { error, .. } = news {
            assert!(error.is_caused_by(ErrorKind::Deadlock), "{}", error.report());
            reports.push(error.report());
        }
    }
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].contains("the queue of plugin `storm` is full"), "{}", reports[0]);
}

const OUTER: &str = r#"
@bridge.export
def outer():
    return bridge.call("inner.sleep", 30)

@bridge.export
def ping():
    return "pong"
"#;

const INNER: &str = r#"
import time

@bridge.export
def sleep(seconds):
    time.sleep(seconds)

@bridge.export
def ping():
    return "pong"
"#;

#[tokio::test]
async fn the_deadline_of_the_root_holds_on_every_hop() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = Host::builder()
        .plugin(plugin(dir.path(), "outer", "python", OUTER, "[limits]\ntimeout = \"1s\"\n"))
        .plugin(plugin(dir.path(), "inner", "python", INNER, "[limits]\ntimeout = \"60s\"\n"))
        .build()
        .await
        .expect("a host");
    let began = Instant::now();
    let error = host.call::<Value>("outer.outer", ()).await.expect_err("too late");
    assert_eq!(error.kind, ErrorKind::Timeout, "{}", error.report());
    assert!(began.elapsed() < Duration::from_secs(20));
    for name in ["inner.ping", "outer.ping"] {
        let pong: String = host.call(name, ()).await.expect("both were interrupted and live on");
        assert_eq!(pong, "pong");
    }
    assert!(began.elapsed() < Duration::from_secs(25), "the inner one slept on for {:?}", began.elapsed());
    host.shutdown().await;
}

const SLOW: &str = r#"
import time

@bridge.on("tick")
def tick(event):
    time.sleep(0.02)
"#;

#[tokio::test]
async fn every_dropped_event_is_counted() {
    if !Installed::look().has("python") {
        return;
    }
    for policy in ["drop-oldest", "drop-newest", "coalesce"] {
        let dir = tempfile::tempdir().expect("a folder");
        let manifest = format!("[queue]\ncapacity = 5\nwhen-full = \"{policy}\"\n");
        let slow = plugin(dir.path(), "slow", "python", SLOW, &manifest);
        let host = Host::builder().plugin(slow).build().await.expect("a host");
        for n in 0..100 {
            host.emit("tick", &n).await.expect("accepted");
        }
        tokio::time::timeout(Duration::from_secs(60), host.drain()).await.expect("it never hangs");
        let (_, stats) = host.stats().remove(0);
        assert!(stats.dropped > 50, "{policy}: {stats:?}");
        assert_eq!(stats.handled + stats.dropped, 100, "{policy}: {stats:?}");
        host.shutdown().await;
    }
}

#[tokio::test]
async fn the_application_may_answer_the_keyboard() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source = "@bridge.export\ndef ask():\n    return input('name? ')\n";
    let host = Host::builder()
        .plugin(plugin(dir.path(), "asker", "python", source, ""))
        .on_input(|prompt| async move { Ok(format!("answer to {prompt}")) })
        .build()
        .await
        .expect("a host");
    let answer: String = host.call("asker.ask", ()).await.expect("answered");
    assert_eq!(answer, "answer to name? ");
    host.shutdown().await;
}

/// Octave would save its variables when its wrapper is gone.
#[tokio::test]
async fn a_killed_octave_leaves_nothing_beside_the_plugin() {
    if !Installed::look().has("octave") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folder = plugin(dir.path(), "p", "octave", "bridge_export (\"pid\", @() getpid ())", "");
    let host = Host::builder().plugin(&folder).build().await.expect("a host");
    let octave: f64 = host.call("p.pid", ()).await.expect("its process");
    let wrapper = host.plugins()[0].about.process_id;
    kill(Pid::from_raw(i32::try_from(wrapper).expect("a pid")), Signal::SIGKILL).expect("killed");
    let alive = PathBuf::from(format!("/proc/{octave}"));
    tokio::time::timeout(Duration::from_secs(10), async {
        while alive.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it ends");
    host.shutdown().await;
    let mut left: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["plugin.m", "plugin.toml"]);
}

#[tokio::test]
async fn a_notebook_is_a_plugin() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let cell = |tags: Value, source: &str| json!({ "cell_type": "code", "metadata": { "tags": tags }, "source": source, "outputs": [], "execution_count": null });
    let notebook = json!({
        "nbformat": 4, "nbformat_minor": 5, "metadata": {},
        "cells": [
            { "cell_type": "markdown", "metadata": {}, "source": "# Not code" },
            cell(json!([]), "%time factor = 2"),
            cell(json!(["skip"]), "raise Exception('skipped cells do not run')"),
            cell(json!([]), "@bridge.export\ndef double(x):\n    return factor * x"),
            cell(json!(["test"]), "raise Exception('test cells do not run')"),
        ],
    });
    let folder = plugin(dir.path(), "notebook", "python", "", "");
    fs::write(folder.join("plugin.ipynb"), notebook.to_string()).expect("written");
    let manifest = fs::read_to_string(folder.join("plugin.toml")).expect("read").replace("plugin.py", "plugin.ipynb");
    fs::write(folder.join("plugin.toml"), manifest).expect("written");
    let host = Host::builder().plugin(&folder).build().await.expect("a host");
    assert_eq!(host.call::<i64>("notebook.double", (21,)).await.expect("a number"), 42);
    host.shutdown().await;
}

#[tokio::test]
async fn a_kernel_without_a_shim_works_at_the_basic_level() {
    let installed = Installed::look();
    if !installed.has("scheme") {
        return;
    }
    let kernelspec =
        installed.languages.kernelspec_for(&installed.discovery, "scheme").expect("found").kernelspec.name.clone();
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("basic");
    fs::create_dir_all(&folder).expect("a folder");
    let manifest = format!(
        r#"
[plugin]
name = "basic"
version = "0.1.0"
language = "other"
kernel = "{kernelspec}"
entry = "plugin.ss"
bridge = "1"
turn = "template"

[template]
event = '(handle {{event}})'
topic = ["word.*"]
exports = {{ size = '(size {{args}})' }}
"#
    );
    fs::write(folder.join("plugin.toml"), manifest).expect("written");
    fs::write(
        folder.join("plugin.ss"),
        "(import \"json\")\n(define (size args) (string-length args))\n(define (handle event) (string-length event))\n",
    )
    .expect("written");
    let host = Host::builder().plugin(&folder).build().await.unwrap_or_else(|error| panic!("{error}"));
    let size: usize = host.call("basic.size", ("abc", 7)).await.expect("a number");
    assert_eq!(size, r#"["abc",7]"#.len());
    let mut news = host.subscribe();
    host.emit("word.new", &json!({ "text": "quote \" and $HOME" })).await.expect("accepted");
    host.drain().await;
    host.shutdown().await;
    let mut handled = 0;
    while let Some(news) = news.next().await {
        match news {
            News::Handled { result, .. } => {
                assert!(result.get().parse::<usize>().expect("a length") > 50, "{result}");
                handled += 1;
            }
            News::Failed { error, .. } => panic!("{}", error.report()),
            _ => {}
        }
    }
    assert_eq!(handled, 1);
}

/// A plugin in this language that counts its events and adds up their numbers.
const COUNTERS: &[(&str, &str)] = &[
    (
        "python",
        "n = total = 0\n@bridge.on('tick')\ndef tick(event):\n    global n, total\n    n, total = n + 1, total + event.data\n\
         @bridge.export\ndef result():\n    return [n, total]\n",
    ),
    (
        "r",
        "n <- 0; total <- 0\nbridge$on('tick', function(event) { n <<- n + 1; total <<- total + event$data; NULL })\n\
         bridge$export('result', function() list(n, total))\n",
    ),
    (
        "javascript",
        "let n = 0, total = 0;\nbridge.on('tick', (event) => { n += 1; total += event.data; });\nbridge.export('result', () => [n, total]);\n",
    ),
    (
        "lua",
        "local n, total = 0, 0\nbridge.on('tick', function(event) n = n + 1; total = total + event.data end)\n\
         bridge.export('result', function() return { n, total } end)\n",
    ),
];

#[tokio::test]
async fn of_100_000_events_none_is_lost() {
    const EVENTS: i64 = 100_000;
    let installed = Installed::look();
    let dir = tempfile::tempdir().expect("a folder");
    let mut builder = Host::builder();
    let mut names = Vec::new();
    for (language, source) in COUNTERS {
        if installed.has(language) {
            builder = builder.plugin(plugin(dir.path(), &format!("count-{language}"), language, source, ""));
            names.push(format!("count-{language}"));
        }
    }
    let host = builder.build().await.unwrap_or_else(|error| panic!("{error}"));
    for n in 1..=EVENTS {
        host.emit("tick", &n).await.expect("accepted");
    }
    tokio::time::timeout(Duration::from_secs(600), host.drain()).await.expect("it never hangs");
    for name in names {
        let (count, total): (f64, f64) = host.call(&format!("{name}.result"), ()).await.expect("a pair");
        assert_eq!((count as i64, total as i64), (EVENTS, EVENTS * (EVENTS + 1) / 2), "{name}");
    }
    for (name, stats) in host.stats() {
        println!("{name}: {} handled, p50 {} ms, p99 {} ms", stats.handled, stats.p50_ms, stats.p99_ms);
        assert_eq!((stats.handled, stats.failed, stats.dropped), (EVENTS as u64, 0, 0), "{name}");
    }
    host.shutdown().await;
}
