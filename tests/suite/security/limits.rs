//! Plugins that take more than `[limits]` gives them.

use std::{
    fs,
    time::{Duration, Instant},
};

use kernelbridge::{
    host::Host,
    rpc::{ErrorKind, RpcError},
};
use serde_json::{Value, json};

use crate::{
    host::plugin,
    support::{Installed, copy_files, root},
};

const GREEDY: &str = r#"
import os, subprocess, sys, time

@bridge.export
def take(mib):
    held = bytearray(mib << 20)
    time.sleep(60)

@bridge.export
def have_taken(mib):
    subprocess.run([sys.executable, "-c", f"held = bytearray({mib} << 20); import time; time.sleep(60)"])

@bridge.export
def hide(mib):
    # Twice forked and in a session of its own, it belongs to nobody.
    subprocess.run(["setsid", "sh", "-c", f"{sys.executable} -c 'h = bytearray({mib} << 20); import time; time.sleep(60)' &"])
    time.sleep(60)

@bridge.export
def spin():
    while True:
        pass

@bridge.export
def open_files():
    files = []
    try:
        while len(files) < 5000:
            files.append(open("/dev/null"))
    except OSError as error:
        return [len(files), error.strerror]

@bridge.export
def ping():
    return "pong"
"#;

async fn greedy(limits: &str) -> Option<(Host, tempfile::TempDir)> {
    if !Installed::look().has("python") {
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let greedy = plugin(dir.path(), "greedy", "python", GREEDY, &format!("[limits]\n{limits}"));
    Some((Host::builder().plugin(greedy).build().await.expect("a host"), dir))
}

async fn gone(host: &Host, function: &str, args: &[u32]) -> RpcError {
    let began = Instant::now();
    let error = host.call::<Value>(&format!("greedy.{function}"), args).await.expect_err("it was killed");
    assert_eq!(error.kind, ErrorKind::Gone, "{}", error.report());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    error
}

#[tokio::test]
async fn a_plugin_that_takes_too_much_memory_is_killed_and_told_why() {
    for (function, sized) in [("take", true), ("have_taken", true), ("hide", true), ("ping", false)] {
        let Some((host, _dir)) = greedy("memory = \"300MiB\"\n").await else { return };
        if sized {
            let error = gone(&host, function, &[500]).await;
            let (_, reason) = error.message.split_once("signal SIGKILL: it used ").expect("a reason");
            let (used, reason) = reason.split_once(" MiB, ").expect("a size");
            assert!((300.0..700.0).contains(&used.parse::<f64>().expect("a number")), "{}", error.message);
            assert!(reason.starts_with("more than the limit of 300 MiB ([limits] memory)"), "{}", error.message);
        } else {
            assert_eq!(host.call::<String>("greedy.ping", ()).await.expect("within its limit"), "pong");
        }
        host.shutdown().await;
    }
}

#[tokio::test]
async fn a_plugin_that_takes_too_much_time_is_killed_and_told_why() {
    let Some((host, _dir)) = greedy("cpu = \"4s\"\ntimeout = \"50s\"\n").await else { return };
    assert_eq!(host.call::<String>("greedy.ping", ()).await.expect("within its limit"), "pong");
    let error = gone(&host, "spin", &[]).await;
    let message = error.message;
    assert!(message.contains("signal SIGKILL: it used 4."), "{message}");
    assert!(message.contains(" s of CPU, more than the limit of 4 s ([limits] cpu)"), "{message}");
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_opens_no_more_files_than_it_may() {
    let Some((host, _dir)) = greedy("open-files = 200\n").await else { return };
    let (count, error): (u32, String) = host.call("greedy.open_files", ()).await.expect("a pair");
    assert_eq!(error, "Too many open files");
    assert!((50..200).contains(&count), "{count}");
    assert_eq!(host.call::<String>("greedy.ping", ()).await.expect("it lives"), "pong");
    host.shutdown().await;
}

/// The interpreter of a wrapper kernel is not the process that was started.
#[tokio::test]
async fn limits_hold_for_the_interpreter_behind_a_kernel() {
    if !Installed::look().has("bash") {
        return;
    }
    let source = "spin() { while :; do :; done; }\nbridge_export spin spin\n";
    let dir = tempfile::tempdir().expect("a folder");
    let folder = plugin(dir.path(), "greedy", "bash", source, "[limits]\ncpu = \"6s\"\ntimeout = \"50s\"\n");
    let host = Host::builder().plugin(folder).build().await.expect("a host");
    let error = gone(&host, "spin", &[]).await;
    assert!(error.message.contains("more than the limit of 6 s ([limits] cpu)"), "{}", error.message);
    host.shutdown().await;
}

const LANGUAGES: [&str; 8] = ["python", "r", "javascript", "node", "lua", "octave", "bash", "prolog"];

/// What is too large is an error in the plugin or at its caller, and the plugin lives on.
#[tokio::test]
async fn messages_beyond_the_limit_are_errors_in_every_language() {
    let installed = Installed::look();
    for (language, carrier) in
        LANGUAGES.map(|language| (language, "pipe")).into_iter().chain([("python", "jupyter"), ("r", "jupyter")])
    {
        if !installed.has(language) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a folder");
        copy_files(&root().join("kernelspecs").join(language).join("conformance"), dir.path());
        let manifest = fs::read_to_string(dir.path().join("plugin.toml")).expect("readable");
        let manifest = manifest.replace("[plugin]", &format!("[plugin]\ncarrier = \"{carrier}\""));
        fs::write(dir.path().join("plugin.toml"), manifest + "[limits]\nresult = \"100KB\"\n").expect("written");
        let size = |(text,): (String,)| async move { Ok::<_, String>(text.len()) };
        let host = Host::builder().plugin(dir.path()).function("test.size", size).build().await.expect("a host");
        let name = |function: &str| format!("conformance-{language}.{function}");
        let (fits, large) = ("x".repeat(90_000), "x".repeat(300_000));

        let result: Value = host.call(&name("identity"), (&fits,)).await.expect("it fits");
        assert_eq!(result, fits, "{language} over {carrier}");
        let error = host.call::<Value>(&name("identity"), (&large,)).await.expect_err("it does not fit");
        assert_eq!(error.kind, ErrorKind::Invalid, "{language} over {carrier}: {}", error.report());
        assert!(error.message.contains("more than the limit of 100000; raise `result` in [limits]"), "{error}");

        let result: Value = host.call(&name("try_call"), ("test.size", [&fits])).await.expect("it fits");
        assert_eq!(result, json!(90_000), "{language} over {carrier}");
        let result: Value = host.call(&name("try_call"), ("test.size", [&large])).await.expect("an error it caught");
        assert_eq!(result["kind"], "Invalid", "{language} over {carrier}: {result}");
        let hello: String = host.call(&name("hello"), ("Ada",)).await.expect("it lives");
        assert!(hello.contains("Ada"), "{language} over {carrier}: {hello}");
        host.shutdown().await;
    }
}
