//! One list of cases for every language folder, over every carrier that the language has.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use kernelbridge::{
    client::Output,
    discover::Environment,
    host::{BuildError, Caller, Host, News, Subscription},
    language::{Interrupt, Language},
    plugin::{LoadError, PluginNews},
    rpc::{ErrorKind, HandlerKind, LogLevel, RpcError},
    store::Store,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Installed, copy_files, processes_with, root};

/// Two cores: more kernels at once only wait for each other.
static KERNELS: Semaphore = Semaphore::const_new(2);

/// How long anything may take that should not take long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Largest string over the `jupyter` and `pipe` carriers, unless language.toml says less.
const LARGE: usize = 10_000_000;

macro_rules! languages {
    ($($language:ident),*) => {
        const LANGUAGES: &[&str] = &[$(stringify!($language)),*];
        $(mod $language {
            #[tokio::test]
            async fn pipe() {
                super::conforms(stringify!($language), "pipe").await;
            }

            #[tokio::test]
            async fn jupyter() {
                super::conforms(stringify!($language), "jupyter").await;
            }
        })*
    };
}

languages!(bash, javascript, lua, node, octave, prolog, python, r);

/// No kernel of theirs is in a registry; docs/languages.md says how they are tested.
const BY_HAND: &[&str] = &["julia", "ruby"];

#[test]
fn every_language_folder_with_a_shim_is_tested() {
    let mut folders: Vec<String> = fs::read_dir(root().join("kernelspecs"))
        .expect("kernelspecs")
        .flatten()
        .filter(|folder| folder.path().join("conformance").is_dir())
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut tested: Vec<&str> = LANGUAGES.iter().chain(BY_HAND).copied().collect();
    tested.sort_unstable();
    assert_eq!(folders, tested);
}

/// What came of each case.
struct Report {
    language: String,
    carrier: &'static str,
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    async fn case(&mut self, name: &str, case: impl Future<Output = Result<(), String>>) {
        let began = Instant::now();
        let outcome = match tokio::time::timeout(DEADLINE * 2, case).await {
            Ok(outcome) => outcome,
            Err(_) => Err("hangs".into()),
        };
        let elapsed = began.elapsed();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("{}/{}: {name}: ok, {elapsed:.1?}", self.language, self.carrier);
            }
            Err(reason) => {
                println!("{}/{}: {name}: FAILED, {elapsed:.1?}: {reason}", self.language, self.carrier);
                self.failed.push(format!("{name}: {reason}"));
            }
        }
    }
}

/// Values that a language cannot give back as they were, and what it gives instead; from `conformance/expect.json`.
type Expect = BTreeMap<String, Value>;

struct Subject {
    name: String,
    /// A kernelspec to use instead of the language's best, and the environment it is found in.
    kernel: Option<(String, Environment)>,
    language: Language,
    carrier: &'static str,
    dir: tempfile::TempDir,
    expect: Expect,
}

impl Subject {
    fn new(name: &str, language: &Language, carrier: &'static str) -> Self {
        let expect = match fs::read_to_string(root().join("kernelspecs").join(name).join("conformance/expect.json")) {
            Ok(text) => serde_json::from_str(&text).expect("expect.json"),
            Err(_) => Expect::new(),
        };
        let dir = tempfile::tempdir().expect("a folder");
        Self { name: name.into(), kernel: None, language: language.clone(), carrier, dir, expect }
    }

    fn plugin_name(&self) -> String {
        format!("conformance-{}", self.name)
    }

    /// A copy of the language's conformance plugin with another name, entry, carrier, permissions and timeout.
    fn plugin(&self, language: &str, name: &str, broken: bool, timeout: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy_files(&root().join("kernelspecs").join(language).join("conformance"), &to);
        let file = to.join("plugin.toml");
        let mut manifest: toml::Table = fs::read_to_string(&file).expect("plugin.toml").parse().expect("TOML");
        let plugin = manifest["plugin"].as_table_mut().expect("[plugin]");
        plugin.insert("name".into(), name.into());
        if language == self.name {
            plugin.insert("carrier".into(), self.carrier.into());
            if let Some((kernel, _)) = &self.kernel {
                plugin.insert("kernel".into(), kernel.as_str().into());
            }
        }
        if broken {
            let entry = plugin["entry"].as_str().expect("entry").replace("plugin.", "broken.");
            plugin.insert("entry".into(), entry.into());
        }
        let call = ["test.*", "state.*", "conformance-*"].map(toml::Value::from).to_vec();
        let permissions = toml::toml! { emit = ["conf.*"] };
        let mut permissions = permissions;
        permissions.insert("call".into(), call.into());
        manifest.insert("permissions".into(), permissions.into());
        let mut limits = toml::Table::new();
        limits.insert("timeout".into(), timeout.into());
        limits.insert("startup".into(), "120s".into());
        manifest.insert("limits".into(), limits.into());
        fs::write(&file, manifest.to_string()).expect("written");
        to
    }

    async fn host(&self, other: bool, timeout: &str) -> Result<(Host, Arc<AtomicBool>), BuildError> {
        let alternate = Arc::new(AtomicBool::new(false));
        let (zigzag, own) = (alternate.clone(), self.plugin_name());
        let nest = move |caller: Caller, (n,): (f64,)| {
            let target = match (zigzag.load(Ordering::Relaxed), caller.plugin == own) {
                (true, true) => "conformance-other".to_owned(),
                _ => own.clone(),
            };
            async move {
                // Languages without integers of their own send 50.0; Bash reads integers only.
                let below: f64 = caller.call(&format!("{target}.nest"), (n as i64 - 1,)).await?;
                Ok::<_, RpcError>(below as i64 + 1)
            }
        };
        let mut builder = Host::builder()
            .plugin(self.plugin(&self.name, &self.plugin_name(), false, timeout))
            .state(self.dir.path().join("state.db"))
            .function("test.echo", |(value,): (Value,)| async move { Ok::<_, String>(value) })
            .function("test.add", |(a, b): (f64, f64)| async move { Ok::<_, String>(a + b) })
            .function("test.fail", |()| async { Err::<(), _>("host said no") })
            .function_with_caller("test.nest", nest);
        if let Some((_, environment)) = &self.kernel {
            builder = builder.environment(environment.clone());
        }
        if other {
            builder = builder.plugin(self.plugin("python", "conformance-other", false, timeout));
        }
        Ok((builder.build().await?, alternate))
    }

    fn limit(&self) -> usize {
        let limits = &self.language.limits;
        let bytes = if self.carrier == "pipe" { limits.pipe_value_bytes } else { limits.jupyter_value_bytes };
        bytes.map_or(LARGE, |bytes| usize::try_from(bytes).expect("a size")).min(LARGE)
    }
}

async fn conforms(name: &str, carrier: &'static str) {
    let installed = Installed::look();
    if !installed.has(name) {
        return;
    }
    let language = &installed.languages.find(name).expect("a folder").language;
    let offered = if carrier == "pipe" { &language.turn.pipe } else { &language.turn.jupyter };
    if offered.is_none() {
        println!("{name} has no carrier `{carrier}`");
        return;
    }
    let _permit = KERNELS.acquire().await.expect("open");
    all_cases(Subject::new(name, language, carrier)).await;
}

/// The older ipykernel, which has another event loop; `KERNELBRIDGE_TEST_IPYKERNEL6` names a Python that has it.
#[tokio::test]
async fn ipykernel_6_conforms_too() {
    let Some(python) = std::env::var_os("KERNELBRIDGE_TEST_IPYKERNEL6") else {
        assert!(std::env::var_os("KERNELBRIDGE_REQUIRE").is_none(), "KERNELBRIDGE_TEST_IPYKERNEL6 is required");
        println!("skipped: KERNELBRIDGE_TEST_IPYKERNEL6 is not set");
        return;
    };
    let installed = Installed::look();
    if !installed.has("python") {
        return;
    }
    let _permit = KERNELS.acquire().await.expect("open");
    let kernels = tempfile::tempdir().expect("a folder");
    let folder = kernels.path().join("ipykernel6");
    fs::create_dir_all(&folder).expect("a folder");
    let argv = json!([python.to_string_lossy(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]);
    let kernelspec = json!({ "argv": argv, "display_name": "ipykernel 6", "language": "python" });
    fs::write(folder.join("kernel.json"), kernelspec.to_string()).expect("written");
    for carrier in ["pipe", "jupyter"] {
        let mut subject =
            Subject::new("python", &installed.languages.find("python").expect("a folder").language, carrier);
        let environment = Environment::capture().with_kernels_in(kernels.path());
        subject.kernel = Some(("ipykernel6".into(), environment));
        all_cases(subject).await;
    }
}

async fn all_cases(subject: Subject) {
    let (name, carrier) = (subject.name.clone(), subject.carrier);
    let mut report = Report { language: name.clone(), carrier, passed: 0, failed: Vec::new() };
    main_cases(&subject, &mut report).await;
    report.case("syntax error at load", syntax_error(&subject)).await;
    report.case("timeout interrupts a busy handler", timeout(&subject)).await;
    report.case("a killed kernel is gone", killed(&subject)).await;
    println!("{name}/{carrier}: {} cases passed", report.passed);
    assert!(report.failed.is_empty(), "{name}/{carrier}:\n{}", report.failed.join("\n"));
}

async fn main_cases(subject: &Subject, report: &mut Report) {
    let other = Installed::look().has("python");
    let (host, alternate) = match subject.host(other, "20s").await {
        Ok(host) => host,
        Err(error) => return report.failed.push(format!("load: {error}")),
    };
    let plugin = subject.plugin_name();
    let call = |function: &str, args: Value| {
        let name = format!("{plugin}.{function}");
        let host = &host;
        async move { host.call::<Value>(&name, args).await }
    };
    let has = |kind: HandlerKind, name: &str| {
        host.plugins()[0]
            .handlers
            .iter()
            .any(|handler| handler.kind == kind && (handler.name == name || handler.topic == name))
    };
    let about = host.plugins()[0].about.clone();
    println!(
        "{}/{}: {} on {}, loaded in {} ms",
        subject.name, subject.carrier, about.interpreter, about.kernelspec, about.startup_ms
    );
    report.case("carrier", async { equal(json!(about.carrier), json!(subject.carrier)) }).await;
    report
        .case("hello", async {
            equal_ok(call("hello", json!(["Ada"])).await, json!(format!("hello, Ada from {}", subject.name)))
        })
        .await;

    let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        ("unicode", json!("naïve Ω 漢字 🦀 \u{10ffff}")),
        ("newlines and quotes", json!("a\nb\r\n\t\"quoted\" \\ 'single' $HOME `x` %d {}")),
        ("control characters", json!("\u{1}\u{7f}\u{2028}")),
        ("empty string", json!("")),
        ("null", json!(null)),
        ("true", json!(true)),
        ("integer", json!(9_007_199_254_740_991_i64)),
        ("negative", json!(-17)),
        ("float", json!(0.1)),
        ("small float", json!(1.5e-300)),
        ("15 digits", json!(123456.789012345)),
        ("empty array", json!([])),
        ("empty object", json!({})),
        ("array of one", json!([1])),
        ("mixed array", json!([1, "a", null, true, [2], { "b": 3 }])),
        ("array of arrays", json!([[1, 2], [3, 4]])),
        ("array of objects", json!([{ "a": 1 }, { "a": 2 }])),
        ("object", json!({ "a": 1, "b": { "c": [1, 2, 3] }, "d": "text" })),
        ("null in object", json!({ "a": null })),
        ("odd keys", json!({ "with space": 1, "ünï": 2, "1": 3, "a.b": 4 })),
        ("deep", deep),
    ];
    for (name, value) in values {
        let expected = subject.expect.get(name).map_or(value.clone(), |expect| expect["value"].clone());
        report
            .case(&format!("value: {name}"), async { equal_ok(call("identity", json!([value])).await, expected) })
            .await;
    }
    for size in [100_000, 1_000_000, LARGE] {
        let size = size.min(subject.limit());
        // As many characters as fit with their escapes and with the message around them.
        let unit = "aé\n🦀";
        let text = unit.repeat(size.saturating_sub(400) / (unit.len() + 1));
        report
            .case(&format!("value: {size} bytes"), async {
                let back = call("identity", json!([&text])).await.map_err(|error| error.report())?;
                if back == json!(&text) {
                    Ok(())
                } else {
                    Err(format!("{} bytes came back as {}", text.len(), back.to_string().len()))
                }
            })
            .await;
    }

    report
        .case("raise", async {
            let error = call("fail", json!(["that is wrong"])).await.err().ok_or("it did not raise")?;
            equal(json!(error.kind), json!("Raised"))?;
            equal(json!(error.plugin), json!(plugin))?;
            contains(&error.message, "that is wrong")?;
            contains(&error.evalue, "that is wrong")?;
            if error.ename.is_empty() { Err("no ename".into()) } else { Ok(()) }
        })
        .await;
    let mut news = host.subscribe();
    report
        .case("print", async {
            call("print_both", json!(["printed by the plugin"])).await.map_err(|error| error.report())?;
            output(&mut news, |output| matches!(output, Output::Stream { name, text } if name == "stdout" && text.contains("printed by the plugin"))).await
        })
        .await;
    if has(HandlerKind::Export, "plot") {
        report
            .case("plot", async {
                call("plot", json!([])).await.map_err(|error| error.report())?;
                output(&mut news, is_png).await
            })
            .await;
    }
    report
        .case("host function", async {
            equal_ok(call("call_host", json!(["test.add", [2, 40]])).await.map(integral), json!(42))
        })
        .await;
    for (name, function, kind, message) in [
        ("host function raises", "test.fail", "Raised", "host said no"),
        ("denied", "app.secret", "Denied", "app.secret"),
        ("not found", "test.ad", "NotFound", "test.add"),
        ("other plugin's function not found", "conformance-other.helo", "NotFound", "conformance-other.hello"),
    ] {
        if function.starts_with("conformance-other") && !other {
            continue;
        }
        report
            .case(name, async {
                let caught = call("try_call", json!([function, []])).await.map_err(|error| error.report())?;
                equal(caught["kind"].clone(), json!(kind))?;
                contains(caught["message"].as_str().unwrap_or_default(), message)
            })
            .await;
    }
    report
        .case("an error that passes through keeps its cause", async {
            let error = call("call_host", json!(["test.fail", []])).await.err().ok_or("it did not raise")?;
            equal(json!(error.kind), json!("Raised"))?;
            let cause = error.cause.as_ref().ok_or(format!("no cause: {}", error.report()))?;
            contains(&cause.message, "host said no")
        })
        .await;
    report
        .case("unknown function", async {
            let error = call("helo", json!([])).await.err().ok_or("it answered")?;
            equal(json!(error.kind), json!("NotFound"))?;
            contains(&error.message, &format!("{plugin}.hello"))
        })
        .await;
    if other {
        report
            .case("other plugin", async {
                equal_ok(
                    call("call_host", json!(["conformance-other.hello", ["Ada"]])).await,
                    json!("hello, Ada from python"),
                )
            })
            .await;
    }
    let depth = subject.language.limits.depth.unwrap_or(64).min(50);
    report
        .case(&format!("nested {depth} deep"), async {
            equal_ok(call("nest", json!([depth])).await.map(integral), json!(depth))
        })
        .await;
    if other {
        alternate.store(true, Ordering::Relaxed);
        report
            .case(&format!("nested {depth} deep, every other call in Python"), async {
                equal_ok(call("nest", json!([depth])).await.map(integral), json!(depth))
            })
            .await;
        alternate.store(false, Ordering::Relaxed);
    }
    report
        .case("nested too deep is refused", async {
            let error = call("nest", json!([100])).await.err().ok_or("it answered")?;
            if error.is_caused_by(ErrorKind::Invalid) || subject.language.limits.depth.is_some_and(|depth| depth < 64) {
                return equal_ok(
                    call("hello", json!(["Ada"])).await,
                    json!(format!("hello, Ada from {}", subject.name)),
                );
            }
            Err(error.report())
        })
        .await;
    report
        .case("state", async {
            equal_ok(call("state_roundtrip", json!(["conf/key", { "a": [1, 2] }])).await, json!({ "a": [1, 2] }))?;
            equal_ok(call("increment", json!(["conf/count", 20])).await.map(integral), json!(20))?;
            let stored = host.store().get("conf/count").map_err(|error| error.to_string())?.ok_or("not stored")?;
            equal(integral(serde_json::from_str(stored.get()).map_err(|error| error.to_string())?), json!(20))
        })
        .await;
    report
        .case("emit", async {
            call("emit_one", json!(["conf.out", { "n": 1 }])).await.map_err(|error| error.report())?;
            let event = wait(&mut news, |news| match news {
                News::Emitted { plugin: from, event } if &*event.topic == "conf.out" => {
                    Some((from.to_string(), event.data.get().to_owned()))
                }
                _ => None,
            });
            let (from, data) = event.await?;
            equal(json!(from), json!(plugin))?;
            equal(serde_json::from_str(&data).map_err(|error| error.to_string())?, json!({ "n": 1 }))
        })
        .await;
    report
        .case("emit denied", async {
            let error = call("emit_one", json!(["secret.out", null])).await.err().ok_or("it was accepted")?;
            contains(&error.report(), "may not emit `secret.out`")
        })
        .await;
    report
        .case("log", async {
            call("log_one", json!(["warn", "logged by the plugin"])).await.map_err(|error| error.report())?;
            let logged = wait(&mut news, |news| match news {
                News::Plugin { news: PluginNews::Log { level, message, .. }, .. } => Some((*level, message.clone())),
                _ => None,
            });
            let (level, message) = logged.await?;
            equal(json!(level), json!(LogLevel::Warn))?;
            equal(json!(message), json!("logged by the plugin"))
        })
        .await;
    report
        .case("event", async {
            let data = json!({ "text": "é🦀", "n": [1, 2] });
            host.emit("conf.echo", &data).await.map_err(|error| error.report())?;
            let result = handled(&mut news, &plugin, "conf.echo").await?;
            equal(normal(result), json!({ "topic": "conf.echo", "data": data, "attempt": 1 }))
        })
        .await;
    report
        .case("event fails", async {
            host.emit("conf.fail", &json!(null)).await.map_err(|error| error.report())?;
            let kind = wait(&mut news, |news| match news {
                News::Failed { plugin: from, error, attempts: 1, .. } if **from == *plugin => Some(error.kind),
                _ => None,
            });
            equal(json!(kind.await?), json!("Raised"))
        })
        .await;
    report
        .case("batch", async {
            for n in 0..25 {
                host.emit("conf.batch", &json!({ "n": n })).await.map_err(|error| error.report())?;
            }
            for n in 0..25 {
                equal(integral(handled(&mut news, &plugin, "conf.batch").await?), json!(n * 2))?;
            }
            Ok(())
        })
        .await;
    if has(HandlerKind::On, "conf.async") {
        report
            .case("async handler", async {
                host.emit("conf.async", &json!(null)).await.map_err(|error| error.report())?;
                equal(handled(&mut news, &plugin, "conf.async").await?, json!("async-ok"))
            })
            .await;
    }
    report
        .case("filters form a chain", async {
            let data = json!({ "path": ["start"], "drop": false });
            let event = host.filter("conf.filter", &data).await.map_err(|error| error.report())?.ok_or("dropped")?;
            let data: Value = serde_json::from_str(event.data.get()).map_err(|error| error.to_string())?;
            let mut path = vec!["start", subject.name.as_str()];
            path.extend(other.then_some("python"));
            equal(data["path"].clone(), json!(path))?;
            let dropped = host.filter("conf.filter", &json!({ "path": ["start"], "drop": true })).await;
            if dropped.map_err(|error| error.report())?.is_some() { Err("not dropped".into()) } else { Ok(()) }
        })
        .await;
    report
        .case("the keyboard is not eaten", async {
            match call("keyboard", json!([])).await {
                Err(error) => contains(&error.report(), "keyboard"),
                // Where the read cannot be masked it finds an end of file.
                Ok(value) if value.is_null() || value == json!("") || value == json!(-1) => Ok(()),
                Ok(value) => Err(format!("it read {value}")),
            }
        })
        .await;
    report
        .case("events in order, none lost", async {
            for n in 0..200 {
                host.emit("conf.echo", &json!(n)).await.map_err(|error| error.report())?;
            }
            for n in 0..200 {
                equal(integral(handled(&mut news, &plugin, "conf.echo").await?["data"].take()), json!(n))?;
            }
            Ok(())
        })
        .await;
    report
        .case("shutdown runs on_shutdown and leaves nothing", async {
            let about = host.plugins()[0].about.clone();
            let folder = private_folder(about.process_id)?;
            host.shutdown().await;
            let store = Store::open(subject.dir.path().join("state.db")).map_err(|error| error.to_string())?;
            let set = store.get(&format!("shutdown/{}", subject.name)).map_err(|error| error.to_string())?;
            equal(json!(set.as_ref().map(|value| value.get())), json!("true"))?;
            nothing_left(&folder)
        })
        .await;
}

async fn syntax_error(subject: &Subject) -> Result<(), String> {
    let folder = subject.plugin(&subject.name, "conformance-broken", true, "20s");
    let mut builder = Host::builder().plugin(folder);
    if let Some((_, environment)) = &subject.kernel {
        builder = builder.environment(environment.clone());
    }
    let built = builder.build().await;
    match built {
        Ok(_) => Err("it loaded".into()),
        Err(BuildError::Load { source, .. }) if matches!(*source, LoadError::Raised(_)) => {
            let report = source.to_string();
            contains(&report, "broken.")?;
            contains(&report, "3")
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn timeout(subject: &Subject) -> Result<(), String> {
    let (host, _) = subject.host(false, "2s").await.map_err(|error| error.to_string())?;
    let plugin = subject.plugin_name();
    let before = host.plugins()[0].about.process_id;
    let began = Instant::now();
    let error = host.call::<Value>(&format!("{plugin}.busy"), (120,)).await.err().ok_or("it was not interrupted")?;
    equal(json!(error.kind), json!("Timeout"))?;
    if began.elapsed() > Duration::from_secs(20) {
        return Err(format!("the caller waited {:?}", began.elapsed()));
    }
    let again = tokio::time::timeout(DEADLINE, async {
        loop {
            match host.call::<Value>(&format!("{plugin}.hello"), ("Ada",)).await {
                // It waits for the plugin, which is being interrupted.
                Err(error) if error.kind == ErrorKind::Timeout => {}
                outcome => return outcome,
            }
        }
    });
    let again = again.await.map_err(|_| "it never came back")?;
    let outcome = if subject.language.kernel.interrupt == Some(Interrupt::None) {
        match again {
            Err(error) if error.kind == ErrorKind::Gone => Ok(()),
            other => Err(format!("language.toml says that nothing interrupts it, but {other:?}")),
        }
    } else {
        equal_ok(again, json!(format!("hello, Ada from {}", subject.name)))
            .and_then(|()| equal(json!(host.plugins()[0].about.process_id), json!(before)))
    };
    host.shutdown().await;
    outcome
}

async fn killed(subject: &Subject) -> Result<(), String> {
    let (host, _) = subject.host(false, "20s").await.map_err(|error| error.to_string())?;
    let plugin = subject.plugin_name();
    let folder = private_folder(host.plugins()[0].about.process_id)?;
    for (function, args) in [("exit_now", json!([])), ("hello", json!(["Ada"]))] {
        let error = host.call::<Value>(&format!("{plugin}.{function}"), args).await.err().ok_or("it answered")?;
        if error.kind != ErrorKind::Gone {
            return Err(format!("{:?}, not Gone: {}", error.kind, error.report()));
        }
    }
    host.shutdown().await;
    nothing_left(&folder)
}

/// The private folder of the kernel with this process id.
fn private_folder(process_id: u32) -> Result<PathBuf, String> {
    let environment = fs::read(format!("/proc/{process_id}/environ")).map_err(|error| error.to_string())?;
    let mark = b"KERNELBRIDGE_DIR=";
    let variable = environment.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(mark));
    Ok(PathBuf::from(String::from_utf8_lossy(variable.ok_or("no private folder")?).into_owned()))
}

fn nothing_left(folder: &Path) -> Result<(), String> {
    let left = processes_with(&format!("KERNELBRIDGE_DIR={}", folder.display()));
    if !left.is_empty() {
        return Err(format!("processes are left: {left:?}"));
    }
    if folder.exists() { Err(format!("{} is left", folder.display())) } else { Ok(()) }
}

async fn wait<T>(news: &mut Subscription, mut wanted: impl FnMut(&News) -> Option<T>) -> Result<T, String> {
    let search = async {
        while let Some(news) = news.next().await {
            if let Some(found) = wanted(&news) {
                return Ok(found);
            }
        }
        Err("the host ended".into())
    };
    tokio::time::timeout(DEADLINE, search).await.map_err(|_| "it never happened".to_owned())?
}

async fn output(news: &mut Subscription, wanted: impl Fn(&Output) -> bool) -> Result<(), String> {
    wait(news, |news| match news {
        News::Plugin { news: PluginNews::Output(output), .. } if wanted(output) => Some(()),
        _ => None,
    })
    .await
}

async fn handled(news: &mut Subscription, plugin: &str, topic: &str) -> Result<Value, String> {
    let result = wait(news, |news| match news {
        News::Handled { plugin: from, event, result, .. } if **from == *plugin && &*event.topic == topic => {
            Some(Ok(result.get().to_owned()))
        }
        News::Failed { plugin: from, event, error, .. } if **from == *plugin && &*event.topic == topic => {
            Some(Err(error.report()))
        }
        _ => None,
    });
    serde_json::from_str(&result.await??).map_err(|error| error.to_string())
}

fn is_png(output: &Output) -> bool {
    let Output::Display { data, .. } = output else { return false };
    let Some(text) = data.get("image/png").and_then(Value::as_str) else { return false };
    let packed: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(packed).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG\r\n"))
}

/// Languages without integers write 42.0.
fn integral(value: Value) -> Value {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => json!(number as i64),
        _ => value,
    }
}

fn normal(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(normal).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, normal(value))).collect(),
        value => integral(value),
    }
}

fn equal(found: Value, expected: Value) -> Result<(), String> {
    let (found, expected) = (normal(found), normal(expected));
    if found == expected { Ok(()) } else { Err(format!("{found}, not {expected}")) }
}

fn equal_ok(found: Result<Value, RpcError>, expected: Value) -> Result<(), String> {
    equal(found.map_err(|error| error.report())?, expected)
}

fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("`{part}` is not in: {text}")) }
}
