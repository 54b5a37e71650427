//! A kernel that misbehaves (`hostile/kernel.py`), over real sockets and FIFOs.
//!
//! Whatever it does, it ends in the right typed error within its deadline, the host is healthy, the next event is
//! handled, and nothing is left: no process, no folder.
//!
//! - `starting`: from the launch until the plugin is loaded, and its end
//! - `handling`: in the middle of an event, over both carriers
//! - `messages`: what is refused changes nothing and is counted
//! - `wire`: what ZeroMQ's library never says, on each channel
//! - `crowd`: 50 at once

mod crowd;
mod handling;
mod messages;
mod starting;
mod wire;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kernelbridge::{
    client::LaunchOptions,
    discover::Environment,
    host::{BuildError, Host, HostBuilder, News, Subscription},
    language::Interrupt,
    provision::LaunchSpec,
    rpc::RpcError,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{processes_with, root};

/// The interpreter that has pyzmq.
const PYTHON: &str = "KERNELBRIDGE_TEST_PYTHON";
/// How long a kernel may take to start; one that is silent takes all of it.
const STARTUP: Duration = Duration::from_secs(30);
/// How long a handler may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

const LANGUAGE: &str = r#"
name = "hostile"
display-name = "Hostile"
extension = "hostile"
[kernelspec]
languages = ["hostile"]
[shim]
file = "shim.hostile"
[turn]
pipe = "pipe"
jupyter = "jupyter"
linger-ms = 20
[kernel]
interrupt = "signal"
"#;

/// Kernelspecs and plugins of hostile kernels in a folder of their own.
struct Rig {
    dir: TempDir,
    python: String,
    startup: Duration,
}

impl Rig {
    /// Or say that the test is skipped and why.
    fn new() -> Option<Self> {
        let Ok(python) = std::env::var(PYTHON) else {
            assert!(std::env::var_os("KERNELBRIDGE_REQUIRE").is_none(), "{PYTHON} is required: a Python with pyzmq");
            println!("skipped: {PYTHON} names no Python with pyzmq");
            return None;
        };
        let dir = tempfile::tempdir().expect("a folder");
        let rig = Self { dir, python, startup: STARTUP };
        rig.write("kernelspecs/hostile/language.toml", LANGUAGE);
        rig.write("kernelspecs/hostile/shim.hostile", "shim");
        rig.write("folders", "");
        Some(rig)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    /// What the plugin's kernel does wrong the next time it starts.
    fn set_mode(&self, plugin: &str, mode: &str) {
        self.write(&format!("modes/{plugin}"), mode);
    }

    fn argv(&self) -> Vec<String> {
        let script = root().join("tests/suite/hostile/kernel.py");
        vec![self.python.clone(), script.display().to_string(), "{connection_file}".into()]
    }

    fn env(&self, plugin: &str) -> [(&'static str, String); 3] {
        let text = |path: PathBuf| path.display().to_string();
        [
            ("HOSTILE_MODE", text(self.path(&format!("modes/{plugin}")))),
            ("HOSTILE_FOLDERS", text(self.path("folders"))),
            ("HOSTILE_MARK", text(self.dir.path().to_owned())),
        ]
    }

    /// A plugin with a kernelspec of its own. Returns its folder.
    fn plugin(&self, name: &str, mode: &str, carrier: &str) -> PathBuf {
        self.plugin_with(name, mode, carrier, TIMEOUT)
    }

    fn plugin_with(&self, name: &str, mode: &str, carrier: &str, timeout: Duration) -> PathBuf {
        self.set_mode(name, mode);
        let env: BTreeMap<_, _> = self.env(name).into();
        let kernel = json!({ "argv": self.argv(), "display_name": name, "language": "hostile", "env": env });
        self.write(&format!("kernels/hostile-{name}/kernel.json"), &kernel.to_string());
        let manifest = format!(
            "[plugin]\nname = \"{name}\"\nlanguage = \"hostile\"\nkernel = \"hostile-{name}\"\nentry = \"plugin.hostile\"\n\
             carrier = \"{carrier}\"\n[permissions]\ncall = [\"app.*\"]\nemit = [\"*\"]\n[limits]\nstartup = \"{}s\"\n\
             timeout = \"{}s\"\n[delivery]\nattempts = 1\n[restart]\ndeaths = 1000\nwithin = \"1s\"\n",
            self.startup.as_secs(),
            timeout.as_secs(),
        );
        self.write(&format!("plugins/{name}/plugin.toml"), &manifest);
        self.write(&format!("plugins/{name}/plugin.hostile"), "");
        self.path("plugins").join(name)
    }

    fn builder(&self) -> HostBuilder {
        let environment = Environment::capture().with_kernels_in(self.path("kernels"));
        Host::builder().environment(environment).kernelspecs(self.path("kernelspecs"))
    }

    async fn host(&self, plugins: &[PathBuf]) -> Result<Host, BuildError> {
        plugins.iter().fold(self.builder(), |builder, plugin| builder.plugin(plugin)).build().await
    }

    /// Its kernel without any plugin.
    fn options(&self, mode: &str) -> LaunchOptions {
        self.set_mode("none", mode);
        let env = self.env("none").map(|(name, value)| (name.to_owned(), value)).into();
        LaunchOptions {
            spec: LaunchSpec { kernel_name: "hostile".into(), argv: self.argv(), env, ..LaunchSpec::default() },
            startup: self.startup,
            interrupt: Interrupt::Signal,
            no_control: false,
            no_shutdown: false,
            unready_version: None,
        }
    }

    /// No process, no folder. To be asked when everything was shut down.
    fn assert_nothing_left(&self) {
        let mark = format!("HOSTILE_MARK={}", self.dir.path().display());
        assert_eq!(processes_with(&mark), Vec::<String>::new());
        let folders = fs::read_to_string(self.path("folders")).expect("readable");
        let left: Vec<_> = folders.lines().filter(|folder| Path::new(folder).exists()).collect();
        assert_eq!(left, Vec::<&str>::new());
    }
}

/// Emit an event and wait for what comes of it.
async fn emit(host: &Host, news: &mut Subscription, topic: &str, data: Value) -> Result<String, RpcError> {
    host.emit(topic, &data).await.expect("accepted");
    let outcome = async {
        loop {
            match news.next().await.expect("the host lives") {
                News::Handled { event, result, .. } if &*event.topic == topic => return Ok(result.get().to_owned()),
                News::Failed { event, error, .. } if &*event.topic == topic => return Err(error),
                _ => {}
            }
        }
    };
    let began = Instant::now();
    tokio::time::timeout(DEADLINE, outcome)
        .await
        .unwrap_or_else(|_| panic!("`{topic}` {data} hangs, {:?}; {:?}", began.elapsed(), host.plugins()[0].instances))
}
