//! A language as it is tested: its conformance plugin in a host, and what came of each case.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use kernelbridge::{
    discover::Environment,
    host::{BuildError, Caller, Host},
    language::{Activation, Language},
    rpc::RpcError,
};
use serde_json::Value;

use super::{DEADLINE, LARGE};
use crate::support::{copy_files, root};

/// What came of each case.
pub struct Report {
    pub subject: String,
    pub passed: usize,
    pub failed: Vec<String>,
}

impl Report {
    pub async fn case(&mut self, name: &str, case: impl Future<Output = Result<(), String>>) {
        let began = Instant::now();
        let outcome = match tokio::time::timeout(DEADLINE * 2, case).await {
            Ok(outcome) => outcome,
            Err(_) => Err("hangs".into()),
        };
        let elapsed = began.elapsed();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("{}: {name}: ok, {elapsed:.1?}", self.subject);
            }
            Err(reason) => {
                println!("{}: {name}: FAILED, {elapsed:.1?}: {reason}", self.subject);
                self.failed.push(format!("{name}: {reason}"));
            }
        }
    }
}

/// Values that a language cannot give back as they were, and what it gives instead; from `conformance/expect.json`.
pub type Expect = BTreeMap<String, Value>;

pub struct Subject {
    pub name: String,
    /// A kernelspec to use instead of the language's best, and the environment it is found in.
    pub kernel: Option<(String, Environment)>,
    pub language: Language,
    pub carrier: &'static str,
    pub activation: Activation,
    /// Its plugins share a kernel.
    pub shared: bool,
    pub dir: tempfile::TempDir,
    pub expect: Expect,
    /// With what `test.seen` was called.
    pub seen: Arc<Mutex<Vec<i64>>>,
}

impl Subject {
    pub fn new(name: &str, language: &Language, carrier: &'static str, activation: Activation) -> Self {
        let expect = match fs::read_to_string(root().join("kernelspecs").join(name).join("conformance/expect.json")) {
            Ok(text) => serde_json::from_str(&text).expect("expect.json"),
            Err(_) => Expect::new(),
        };
        let dir = tempfile::tempdir().expect("a folder");
        let (name, kernel, language) = (name.into(), None, language.clone());
        Self { name, kernel, language, carrier, activation, shared: false, dir, expect, seen: Arc::default() }
    }

    pub fn plugin_name(&self) -> String {
        format!("conformance-{}", self.name)
    }

    /// A copy of the language's conformance plugin with another name, entry, carrier, permissions and timeout.
    pub fn plugin(&self, language: &str, name: &str, broken: bool, timeout: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy_files(&root().join("kernelspecs").join(language).join("conformance"), &to);
        let file = to.join("plugin.toml");
        let mut manifest: toml::Table = fs::read_to_string(&file).expect("plugin.toml").parse().expect("TOML");
        let plugin = manifest["plugin"].as_table_mut().expect("[plugin]");
        plugin.insert("name".into(), name.into());
        if language == self.name {
            plugin.insert("carrier".into(), self.carrier.into());
            plugin.insert("activation".into(), self.activation.name().into());
            if self.shared {
                plugin.insert("isolation".into(), "shared".into());
            }
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
        if let Some(delivery) = manifest.get_mut("delivery").and_then(toml::Value::as_table_mut) {
            // Batches are those that the cases mean.
            delivery.insert("linger".into(), "50ms".into());
        }
        let mut limits = toml::Table::new();
        limits.insert("timeout".into(), timeout.into());
        limits.insert("startup".into(), "120s".into());
        manifest.insert("limits".into(), limits.into());
        fs::write(&file, manifest.to_string()).expect("written");
        to
    }

    pub async fn host(&self, other: bool, timeout: &str) -> Result<(Host, Arc<AtomicBool>), BuildError> {
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
        let seen = self.seen.clone();
        let see = move |(n,): (f64,)| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(n as i64);
            async move { Ok::<_, String>(n as i64 * 2) }
        };
        let mut builder = Host::builder()
            .plugin(self.plugin(&self.name, &self.plugin_name(), false, timeout))
            .state(self.dir.path().join("state.db"))
            .function("test.echo", |(value,): (Value,)| async move { Ok::<_, String>(value) })
            .function("test.add", |(a, b): (f64, f64)| async move { Ok::<_, String>(a + b) })
            .function("test.fail", |()| async { Err::<(), _>("host said no") })
            .function("test.seen", see)
            .function_with_caller("test.nest", nest);
        if let Some((_, environment)) = &self.kernel {
            builder = builder.environment(environment.clone());
        }
        if other {
            builder = builder.plugin(self.plugin("python", "conformance-other", false, timeout));
        }
        Ok((builder.build().await?, alternate))
    }

    pub fn limit(&self) -> usize {
        let limits = &self.language.limits;
        let bytes = if self.carrier == "pipe" { limits.pipe_value_bytes } else { limits.jupyter_value_bytes };
        bytes.map_or(LARGE, |bytes| usize::try_from(bytes).expect("a size")).min(LARGE)
    }
}
