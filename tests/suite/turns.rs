//! The host and a shim of the test's own, which does what real ones do rarely.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kernelbridge::{host::Host, language::Activation};
use serde_json::{Value, json};

use crate::support::Installed;

const LANGUAGE: &str = r#"
name = "python"
display-name = "Python"
extension = "py"
[kernelspec]
languages = ["python"]
names = ["kernelbridge-python", "python3"]
[shim]
file = "shim.py"
[turn]
pipe = "turn()"
"#;

/// Of its exports, `patient` waits for what it calls; `impatient` answers without, as after an interrupt.
const SHIM: &str = r#"
import json, os, time

calls = 0

def turn():
    folder = os.environ["KERNELBRIDGE_DIR"]
    with open(folder + "/to-host", "w") as up, open(folder + "/to-plugin") as down:
        def say(**message):
            body = json.dumps({"jsonrpc": "2.0", **message}) + "\n"
            up.write(f"{len(body)}\n{body}")
            up.flush()

        def hear():
            down.readline()
            return json.loads(down.readline())

        def serve(method, name=None, args=(), **params):
            global calls
            if method == "initialize":
                return {"bridge": "1", "language": "python", "interpreter": "a test's"}
            if method == "load":
                names = ["patient", "impatient"]
                return {"handlers": [{"id": n, "kind": "export", "name": name} for n, name in enumerate(names)]}
            if method == "call":
                calls += 1
                say(id=calls, method="call", params={"name": args[0], "args": args[1:]})
                if name == "impatient":
                    time.sleep(0.2)
                    return "no time"
                while (heard := hear()).get("id") != calls:
                    pass
                return heard["result"]

        say(method="ready")
        while (message := hear()).get("method") != "end":
            if "method" in message:
                say(id=message["id"], result=serve(message["method"], **message.get("params", {})))
"#;

/// Counts how often it was dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A kernelspecs folder with this shim, and a plugin `p` without source.
fn desk(more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("written");
    };
    write("kernelspecs/python/language.toml", &format!("{LANGUAGE}{more}\n"));
    write("kernelspecs/python/shim.py", SHIM);
    let manifest =
        "[plugin]\nname = \"p\"\nlanguage = \"python\"\nentry = \"plugin.py\"\n[permissions]\ncall = [\"*\"]\n";
    write("p/plugin.toml", manifest);
    write("p/plugin.py", "");
    dir
}

#[tokio::test]
async fn an_activation_that_does_not_work_is_given_up_and_told() {
    if !Installed::look().has("python") {
        return;
    }
    for more in ["loop = \"no_such_function()\"", "comm = \"nobody\""] {
        let dir = desk(more);
        let host = Host::builder()
            .kernelspecs(dir.path().join("kernelspecs"))
            .plugin(dir.path().join("p"))
            .function("app.twice", |(n,): (i64,)| async move { Ok::<_, String>(2 * n) })
            .build()
            .await
            .unwrap_or_else(|error| panic!("{more}: {error}"));
        assert_eq!(host.plugins()[0].about.activation, Some(Activation::Execute), "{more}");
        assert_eq!(host.call::<Value>("p.patient", ("app.twice", 2)).await.expect("it is served"), json!(4));
        assert_eq!(host.plugins()[0].about.activation, Some(Activation::Execute), "{more}");
        host.shutdown().await;
    }
}

#[tokio::test]
async fn a_request_may_be_answered_before_the_call_that_it_made() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = desk("");
    let dropped = Arc::new(AtomicUsize::default());
    let flag = dropped.clone();
    let slow = move |()| {
        let dropped = Dropped(flag.clone());
        async move {
            let _dropped = dropped;
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok::<_, String>(())
        }
    };
    let host = Host::builder()
        .kernelspecs(dir.path().join("kernelspecs"))
        .plugin(dir.path().join("p"))
        .function("app.slow", slow)
        .function("app.twice", |(n,): (i64,)| async move { Ok::<_, String>(2 * n) })
        .build()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let began = Instant::now();
    for n in 0..3 {
        let answer = host.call::<Value>("p.impatient", ("app.slow",)).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(answer, "no time");
        assert_eq!(host.call::<Value>("p.patient", ("app.twice", n)).await.expect("it goes on"), json!(2 * n));
    }
    while dropped.load(Ordering::Relaxed) < 3 {
        assert!(began.elapsed() < Duration::from_secs(10), "calls that nobody waits for go on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.shutdown().await;
}
