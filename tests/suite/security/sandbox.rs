//! What a sandboxed plugin tries and cannot do, what it still can, and that the same works without a sandbox.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use kernelbridge::host::{BuildError, Host, HostBuilder};
use serde_json::{Value, json};

use crate::support::{Installed, copy_files, root};

/// Words of `sandbox`.
type Mode = &'static [&'static str];
const NONE: Mode = &[];
const READ_ONLY: Mode = &["read-only"];
const NO_NETWORK: Mode = &["no-network"];
const BOTH: Mode = &["read-only", "no-network"];

const TRIES: &str = r#"
import ctypes, errno, os, socket, subprocess, tempfile

def tcp(port, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(socket.AF_INET, kind, protocol) as s:
        s.connect(("127.0.0.1", port))

def fast_open(port):
    with socket.socket() as s:
        s.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port))

def datagram(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", port))

def bind(_):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))

def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)

def ring(_):
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(425, 1, ctypes.create_string_buffer(120))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    os.close(fd)

def terminal(_):
    for name in filter(str.isdigit, os.listdir("/dev/pts")):
        os.close(os.open(f"/dev/pts/{name}", os.O_WRONLY | os.O_NOCTTY))

def link(path):
    os.link(path, os.path.join(tempfile.gettempdir(), "linked"))

def child(path):
    status = subprocess.run(["sh", "-c", f"echo x >> {path}"], stderr=subprocess.DEVNULL).returncode
    if status:
        raise OSError(errno.EACCES, "status of sh")

def temporary(_):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        for text in "ab":
            with open(path, "w") as file:
                file.write(text)
        os.rename(path, path + "2")
        os.mkfifo(path)
        assert open(path + "2").read() == "b" and len(os.listdir(folder)) == 2

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

TRIES = {
    "append": lambda path: open(path, "a").close(),
    "bind": bind,
    "child": child,
    "chmod": lambda path: os.chmod(path, 0o777),
    "datagram": datagram,
    "fast-open": fast_open,
    "link": link,
    "list": os.listdir,
    "mkdir": lambda path: os.mkdir(path + ".folder"),
    "mptcp": lambda port: tcp(port, protocol=262),
    "null": lambda _: open("/dev/null", "w").write("x"),
    "peek": lambda pid: read(f"/proc/{pid}/environ"),
    "read": read,
    "remove": os.remove,
    "rename": lambda path: os.rename(path, path + ".renamed"),
    "ring": ring,
    "signal": lambda pid: os.kill(pid, 0),
    "symlink": lambda path: os.symlink("/", path + ".link"),
    "tcp": tcp,
    "temporary": temporary,
    "terminal": terminal,
    "truncate": lambda path: os.truncate(path, 0),
    "unix": unix,
    "write": write,
    "xattr": lambda path: os.setxattr(path, "user.test", b"x"),
}

@bridge.export
def attempt(name, what):
    try:
        TRIES[name](what)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]

@bridge.on("count")
def count(event):
    bridge.state.update("count", lambda n: n + event.data, 0)
"#;

/// A plugin's folder. Never beside what it is to be kept from.
fn sandboxed(dir: &Path, language: &str, source: &str, mode: Mode) -> PathBuf {
    let folder = dir.join(format!("{language}-{}", mode.join("-")));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("plugin.src"), source).expect("written");
    let manifest = format!(
        "[plugin]\nname = \"plugin\"\nlanguage = \"{language}\"\nentry = \"plugin.src\"\nsandbox = {}\n",
        json!(mode)
    );
    fs::write(folder.join("plugin.toml"), manifest).expect("written");
    folder
}

/// `None` where the machine cannot do it, and says so.
async fn build(builder: HostBuilder) -> Option<Host> {
    match builder.build().await {
        Ok(host) => Some(host),
        Err(BuildError::Manifest(error)) if error.to_string().contains("needs Landlock") => {
            println!("skipped: {error}");
            assert!(std::env::var_os("KERNELBRIDGE_REQUIRE").is_none_or(|names| names != "sandbox"), "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What there is for a plugin to spoil.
struct Bait {
    dir: tempfile::TempDir,
    tcp: TcpListener,
    _unix: UnixListener,
    neighbour: Host,
    neighbours_key: PathBuf,
}

impl Bait {
    async fn lay() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let unix = UnixListener::bind(dir.path().join("socket")).expect("a socket");
        let folder = sandboxed(dir.path(), "python", "", NONE);
        let neighbour = Host::builder().plugin(folder).build().await.expect("a host");
        let process = neighbour.plugins()[0].about.process_id;
        let environment = fs::read(format!("/proc/{process}/environ")).expect("readable");
        let variables = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let folder =
            variables.filter_map(|variable| Some(variable.strip_prefix("KERNELBRIDGE_DIR=")?.to_owned())).next();
        let neighbours_key = Path::new(&folder.expect("a private folder")).join("connection.json");
        Self { dir, tcp, _unix: unix, neighbour, neighbours_key }
    }

    /// Try everything, each on a file of its own; what came of it by name.
    async fn outcomes(&self, mode: Mode) -> Option<BTreeMap<&'static str, String>> {
        let folder = sandboxed(self.dir.path(), "python", TRIES, mode);
        let host = build(Host::builder().plugin(&folder)).await?;
        let files = tempfile::tempdir_in(self.dir.path()).expect("a folder");
        let port = self.tcp.local_addr().expect("bound").port();
        let here = std::process::id();
        let mut outcomes = BTreeMap::new();
        for name in [
            "append", "child", "chmod", "link", "mkdir", "read", "remove", "rename", "symlink", "truncate", "write",
            "xattr",
        ] {
            let path = files.path().join(name);
            if name != "write" {
                fs::write(&path, "text").expect("written");
            }
            outcomes.insert(name, attempt(&host, name, json!(path)).await);
        }
        let mode_bits = fs::metadata(files.path().join("chmod")).expect("there").permissions().mode() & 0o777;
        outcomes.insert("chmod, seen from outside", format!("{mode_bits:o}"));
        for name in ["bind", "null", "ring", "temporary", "terminal"] {
            outcomes.insert(name, attempt(&host, name, Value::Null).await);
        }
        for name in ["datagram", "fast-open", "mptcp", "tcp"] {
            outcomes.insert(name, attempt(&host, name, json!(port)).await);
        }
        for name in ["peek", "signal"] {
            outcomes.insert(name, attempt(&host, name, json!(here)).await);
        }
        outcomes.insert("unix", attempt(&host, "unix", json!(self.dir.path().join("socket"))).await);
        outcomes.insert("list", attempt(&host, "list", json!("/")).await);
        outcomes.insert("key, to read", attempt(&host, "read", json!(self.neighbours_key)).await);
        outcomes.insert("key, to write", attempt(&host, "append", json!(self.neighbours_key)).await);
        outcomes.insert("its own source", attempt(&host, "append", json!(folder.join("plugin.src"))).await);

        // And it works.
        for n in 1..=10 {
            host.emit("count", &n).await.expect("accepted");
        }
        host.drain().await;
        let count = host.store().get("count").expect("readable").expect("there");
        assert_eq!(count.get(), "55", "{mode:?}");
        host.shutdown().await;
        Some(outcomes)
    }
}

async fn attempt(host: &Host, name: &str, what: Value) -> String {
    host.call("plugin.attempt", (name, what)).await.unwrap_or_else(|error| panic!("{name}: {}", error.report()))
}

/// By name: with which mode it fails; without any it has to work, or this machine does not have it.
const REFUSED: &[(&str, Mode)] = &[
    ("append", READ_ONLY),
    ("bind", NO_NETWORK),
    ("child", READ_ONLY),
    ("chmod", NONE),
    ("datagram", NO_NETWORK),
    ("fast-open", NO_NETWORK),
    ("its own source", READ_ONLY),
    ("key, to read", READ_ONLY),
    ("key, to write", READ_ONLY),
    ("link", READ_ONLY),
    ("list", NONE),
    ("mkdir", READ_ONLY),
    ("mptcp", NO_NETWORK),
    ("null", NONE),
    ("peek", BOTH),
    ("read", NONE),
    ("remove", READ_ONLY),
    ("rename", READ_ONLY),
    ("ring", BOTH),
    ("symlink", READ_ONLY),
    ("tcp", NO_NETWORK),
    ("temporary", NONE),
    ("truncate", READ_ONLY),
    ("unix", BOTH),
    ("write", READ_ONLY),
    ("xattr", READ_ONLY),
];

#[tokio::test]
async fn a_sandboxed_plugin_tries_and_cannot() {
    if !Installed::look().has("python") {
        return;
    }
    let bait = Bait::lay().await;
    let free = bait.outcomes(NONE).await.expect("no sandbox");
    // Where the machine itself refuses, nothing is proved.
    let lacks = ["EPROTONOSUPPORT", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EPERM"];
    assert_eq!(free["chmod, seen from outside"], "777");
    for mode in [READ_ONLY, NO_NETWORK, BOTH] {
        let Some(found) = bait.outcomes(mode).await else { return };
        for (name, refused) in REFUSED {
            if lacks.contains(&free[name].as_str()) {
                println!("not here: {name}: {}", free[name]);
                continue;
            }
            assert_eq!(free[name], "ok", "{name} without a sandbox");
            let is_refused = refused.iter().any(|word| mode.contains(word));
            assert_eq!(found[name] != "ok", is_refused, "{name} with {mode:?}: {}", found[name]);
            assert!(
                !is_refused || ["EACCES", "EPERM", "EXDEV", "ENOTSUP", "EOPNOTSUPP"].contains(&found[name].as_str()),
                "{found:?}"
            );
        }
        let bits = if mode.contains(&"read-only") { "644" } else { "777" };
        assert_eq!(found["chmod, seen from outside"], bits, "{mode:?}");
        // From version 6 on.
        println!("signal with {mode:?}: {}, terminal: {}", found["signal"], found["terminal"]);
    }
    bait.neighbour.shutdown().await;
}

const R: &str = r#"
bridge$export("attempt", function(path, port) {
  tried <- function(expr) tryCatch({ suppressWarnings(force(expr)); "ok" }, error = function(e) "refused")
  file <- tempfile(fileext = ".png")
  list(write = tried(writeLines("x", path)), append = tried(cat("x", file = path, append = TRUE)),
       connect = tried(close(socketConnection("127.0.0.1", port, timeout = 2))),
       child = if (system(paste("echo x >>", path), ignore.stderr = TRUE) == 0) "ok" else "refused",
       plot = tried({ png(file); plot(1:10); dev.off(); stopifnot(file.size(file) > 1000) }),
       save = tried({ f <- tempfile(); saveRDS(1:10, f); stopifnot(sum(readRDS(f)) == 55) }))
})
bridge$on("count", function(event) { bridge$state$update("count", function(n) n + event$data, 0); NULL })
"#;

const DENO: &str = r#"
const tried = async (f) => { try { await f(); return "ok"; } catch { return "refused"; } };
bridge.export("attempt", async (path, port) => ({
  write: await tried(() => Deno.writeTextFileSync(path, "x")),
  append: await tried(() => Deno.writeTextFileSync(path, "x", { append: true })),
  connect: await tried(async () => (await Deno.connect({ port })).close()),
  child: new Deno.Command("sh", { args: ["-c", `echo x >> ${path}`] }).outputSync().success ? "ok" : "refused",
  plot: "ok",
  save: await tried(() => { const f = Deno.makeTempFileSync(); Deno.writeTextFileSync(f, "x"); Deno.removeSync(f); }),
}));
bridge.on("count", (event) => { bridge.state.update("count", (n) => n + event.data, 0); });
"#;

#[tokio::test]
async fn so_do_plugins_in_r_and_javascript() {
    let installed = Installed::look();
    let dir = tempfile::tempdir().expect("a folder");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("bound").port();
    for (language, source) in [("r", R), ("javascript", DENO)] {
        for mode in [NONE, READ_ONLY, NO_NETWORK, BOTH] {
            if !installed.has(language) {
                continue;
            }
            let Some(host) = build(Host::builder().plugin(sandboxed(dir.path(), language, source, mode))).await else {
                return;
            };
            let path = dir.path().join("target");
            let found: BTreeMap<String, String> = host.call("plugin.attempt", (&path, port)).await.expect("answered");
            let (writes, connects) = (mode.contains(&"read-only"), mode.contains(&"no-network"));
            let expected = |is_refused| if is_refused { "refused" } else { "ok" };
            for name in ["write", "append", "child"] {
                assert_eq!(found[name], expected(writes), "{name} in {language} with {mode:?}");
            }
            assert_eq!(found["connect"], expected(connects), "{language} with {mode:?}");
            assert_eq!((&*found["plot"], &*found["save"]), ("ok", "ok"), "{language} with {mode:?}");
            for n in 1..=10 {
                host.emit("count", &n).await.expect("accepted");
            }
            host.drain().await;
            let count = host.store().get("count").expect("readable").expect("there");
            assert_eq!(count.get(), "55", "{language} with {mode:?}");
            host.shutdown().await;
        }
    }
}

/// docs/security.md says so.
#[tokio::test]
async fn every_kernel_works_in_both_sandboxes() {
    let installed = Installed::look();
    for language in ["python", "r", "javascript", "node", "lua", "octave", "bash", "prolog"] {
        if !installed.has(language) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a folder");
        copy_files(&root().join("kernelspecs").join(language).join("conformance"), dir.path());
        let manifest = fs::read_to_string(dir.path().join("plugin.toml")).expect("readable");
        let manifest = manifest.replace("[plugin]", &format!("[plugin]\nsandbox = {}", json!(BOTH)));
        fs::write(dir.path().join("plugin.toml"), manifest).expect("written");
        let Some(host) = build(Host::builder().plugin(dir.path())).await else { return };
        let name = |function: &str| format!("conformance-{language}.{function}");
        let value = json!({"text": "ä\n\"", "list": [1, 2.5, null, true]});
        let same: Value = host.call(&name("identity"), [&value]).await.expect("answered");
        assert_eq!(same["text"], value["text"], "{language}");
        let stored: Value = host.call(&name("state_roundtrip"), ("key", "value")).await.expect("answered");
        assert!(stored.to_string().contains("value"), "{language}: {stored}");
        host.call::<Value>(&name("print_both"), ("printed",)).await.expect("answered");
        host.shutdown().await;
    }
}
