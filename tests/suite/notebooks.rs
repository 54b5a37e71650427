//! Notebook kernels: cells that define handlers, emit events, call the host, and attach to a running one.
//!
//! `KernelClient` is the frontend here: to it a notebook kernel is a kernel like any other.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use kernelbridge::{
    client::{Executed, KernelClient, LaunchOptions, Output},
    discover::Environment,
    host::{Host, HostBuilder, ListenOptions, runtime_for},
    language::Interrupt,
    plugin::launch_options,
    provision::LaunchSpec,
    wire::content::{ExecuteRequest, Status},
};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    host::plugin,
    support::{Installed, processes_with},
};

const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(3);

/// How the same is said in each language.
struct Dialect {
    language: &'static str,
    /// Defines a handler of `quake.*` that prints, asks the state for `factor`, and returns the product.
    handler: &'static str,
    /// The same name and topic, but it raises `no`.
    broken: &'static str,
    /// Sets `factor` to 2 and emits `quake.new` with 21.
    emit: &'static str,
    /// Exports `twice`, and calls it for 4 as another plugin would; its value is shown.
    export: &'static str,
    /// A call of what is not there.
    missing: &'static str,
    /// Runs for ever.
    endless: &'static str,
    /// Shows the value of `factor`.
    factor: &'static str,
}

const DIALECTS: [Dialect; 3] = [
    Dialect {
        language: "python",
        handler: "@bridge.on('quake.*')\ndef rate(event):\n    print('rating', event.data)\n    return event.data * bridge.state.get('factor')",
        broken: "@bridge.on('quake.*')\ndef rate(event): raise ValueError('no')",
        emit: "bridge.state.set('factor', 2)\nbridge.emit('quake.new', 21)",
        export: "@bridge.export\ndef twice(x): return 2 * x\nbridge.call('notebook.twice', 4)",
        missing: "bridge.call('no.where')",
        endless: "while True: pass",
        factor: "bridge.state.get('factor')",
    },
    Dialect {
        language: "r",
        handler: "bridge$on('quake.*', function(event) { cat('rating', event$data, '\\n'); event$data * bridge$state$get('factor') })",
        broken: "bridge$on('quake.*', function(event) stop('no'))",
        emit: "bridge$state$set('factor', 2)\nbridge$emit('quake.new', 21)",
        export: "bridge$export('twice', function(x) 2 * x)\nbridge$call('notebook.twice', 4)",
        missing: "bridge$call('no.where')",
        endless: "while (TRUE) {}",
        factor: "bridge$state$get('factor')",
    },
    Dialect {
        language: "javascript",
        handler: "bridge.on('quake.*', function rate(event) { console.log('rating', event.data); return event.data * bridge.state.get('factor') })",
        broken: "bridge.on('quake.*', function rate(event) { throw new Error('no') })",
        emit: "bridge.state.set('factor', 2); bridge.emit('quake.new', 21)",
        export: "bridge.export('twice', (x) => 2 * x); bridge.call('notebook.twice', 4)",
        missing: "bridge.call('no.where')",
        endless: "while (true) {}",
        factor: "bridge.state.get('factor')",
    },
];

async fn notebook(language: &str) -> KernelClient {
    notebook_with(language, &[]).await
}

async fn notebook_with(language: &str, more: &[&str]) -> KernelClient {
    let usual = [env!("CARGO_BIN_EXE_kernelbridge"), "kernel", "--language", language, "-f", "{connection_file}"];
    let argv = usual.iter().chain(more);
    let options = LaunchOptions {
        spec: LaunchSpec {
            kernel_name: format!("{language} notebook"),
            argv: argv.map(|arg| (*arg).to_owned()).collect(),
            ..LaunchSpec::default()
        },
        startup: PATIENCE,
        interrupt: Interrupt::Signal,
        no_control: false,
        no_shutdown: false,
        unready_version: None,
    };
    KernelClient::launch(options).await.expect("a notebook kernel")
}

async fn run(client: &mut KernelClient, code: &str) -> (Executed, String) {
    let request = ExecuteRequest { store_history: true, ..ExecuteRequest::new(code) };
    let execution = client.execute(&request).await.expect("sent");
    let executed = execution.finish(PATIENCE).await.expect("a reply");
    let mut shown = text(&executed.outputs);
    // What comes after `idle`, as Deno's outputs do.
    if let Some(outputs) = client.take_outputs() {
        drop(outputs);
    }
    shown.push('\n');
    (executed, shown)
}

fn text(outputs: &[Output]) -> String {
    let texts = outputs.iter().map(|output| match output {
        Output::Stream { text, .. } => text.clone(),
        Output::Display { data, .. } => data.get("text/plain").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Output::Error { ename, evalue, .. } => format!("{ename}: {evalue}"),
        _ => String::new(),
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Run a cell until what it shows, or showed, has this in it.
async fn shows(client: &mut KernelClient, code: &str, wanted: &[&str]) {
    let began = Instant::now();
    let mut shown = String::new();
    while began.elapsed() < PATIENCE {
        shown = run(client, code).await.1;
        if wanted.iter().all(|wanted| shown.contains(wanted)) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{code}\ndoes not show {wanted:?} but\n{shown}");
}

async fn whole_story(dialect: &Dialect) {
    if !Installed::look().has(dialect.language) {
        return;
    }
    let mut client = notebook(dialect.language).await;
    let folder = client.folder().to_owned();
    assert_eq!(run(&mut client, dialect.handler).await.0.reply.status, Status::Ok);
    // Deno shows what comes late in none of these, so the cell is run again until it does.
    shows(&mut client, dialect.emit, &["rating 21", ": 42 ("]).await;
    assert_eq!(run(&mut client, dialect.broken).await.0.reply.status, Status::Ok);
    shows(&mut client, dialect.emit, &["failed: ", "no ("]).await;
    // The handler of before is no more, and nothing is lost by what it raised.
    assert!(!run(&mut client, dialect.emit).await.1.contains("rating"));
    shows(&mut client, dialect.export, &["8"]).await;
    let (executed, _) = run(&mut client, dialect.missing).await;
    assert_eq!(executed.reply.status, Status::Error);

    let execution = client.execute(&ExecuteRequest::new(dialect.endless)).await.expect("sent");
    sleep(Duration::from_millis(500)).await;
    client.interrupt().await.expect("sent");
    assert_ne!(execution.finish(PATIENCE).await.expect("interrupted").reply.status, Status::Ok);
    shows(&mut client, dialect.factor, &["2"]).await;

    // The kernel, and the one behind it, end together.
    client.shutdown(GRACE).await;
    assert!(!folder.exists());
    let mark = format!("KERNELBRIDGE_DIR={}", folder.display());
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

#[tokio::test]
async fn cells_in_python_define_handlers_and_emit() {
    whole_story(&DIALECTS[0]).await;
}

#[tokio::test]
async fn cells_in_r_define_handlers_and_emit() {
    whole_story(&DIALECTS[1]).await;
}

#[tokio::test]
async fn cells_in_javascript_define_handlers_and_emit() {
    whole_story(&DIALECTS[2]).await;
}

const COUNTER: &str = r#"
@bridge.on("quake.*")
def rate(event):
    bridge.state.set("by", "plugin")
    return "plugin"

@bridge.export
def whose():
    return "plugin"
"#;

async fn listening(dir: &Path, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, String) {
    let socket = dir.join("host.sock");
    // Several hosts listen in this one process.
    let name = uuid::Uuid::new_v4().simple().to_string();
    let options = ListenOptions { path: Some(socket.clone()), name: Some(name), ..ListenOptions::default() };
    let host = build(Host::builder().listen(options)).build().await.expect("a host");
    (host, socket.to_string_lossy().into_owned())
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_notebook_gets_live_events_takes_a_plugins_place_and_gives_it_back() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = plugin(dir.path(), "counter", "python", COUNTER, "");
    let (host, socket) = listening(dir.path(), |host| host.plugin(path)).await;
    let by = |host: &Host| host.store().get("by").expect("the store").map(|value| value.get().to_owned());
    let mut client = notebook("python").await;

    // Copies: the plugin goes on, and the notebook may look at the state of the host, but change nothing.
    run(&mut client, "seen = []\n@bridge.on('quake.*')\ndef rate(event): seen.append(event.data)").await;
    let (_, shown) = run(&mut client, &format!("bridge.connect({socket:?})")).await;
    assert!(shown.contains("'mode': 'mirror'") && shown.contains("connected"), "{shown}");
    host.emit("quake.new", &json!({"n": 1})).await.expect("accepted");
    shows(&mut client, "seen", &["{'n': 1}"]).await;
    host.drain().await;
    assert_eq!(by(&host).as_deref(), Some("\"plugin\""));
    shows(&mut client, "bridge.state.get('by')", &["plugin"]).await;
    assert_eq!(run(&mut client, "bridge.state.set('by', 'mirror')").await.0.reply.status, Status::Error);
    assert_eq!(run(&mut client, "bridge.connect()").await.0.reply.status, Status::Error);
    shows(&mut client, "bridge.emit('quake.new', 5)", &["was not sent"]).await;
    assert_eq!(run(&mut client, "bridge.disconnect()").await.0.reply.status, Status::Ok);

    // In the plugin's place, with its permissions: a handler that is defined later counts too.
    let (_, shown) = run(&mut client, &format!("%bridge connect {socket} replace counter")).await;
    assert!(shown.contains("'link': 'counter'"), "{shown}");
    run(
        &mut client,
        "@bridge.on('quake.*')\ndef rate(event):\n    bridge.state.set('by', 'notebook')\n    return 'notebook'",
    )
    .await;
    run(&mut client, "@bridge.export\ndef whose(): return 'notebook'").await;
    until("the notebook's handler is called", async || {
        host.emit("quake.new", &json!({"n": 2})).await.expect("accepted");
        host.drain().await;
        by(&host).as_deref() == Some("\"notebook\"")
    })
    .await;
    until("the notebook's function is called", async || {
        host.call::<String>("counter.whose", ()).await.expect("one of the two") == "notebook"
    })
    .await;

    // Another notebook is told who is there already.
    let mut second = notebook("python").await;
    let (executed, shown) = run(&mut second, &format!("bridge.connect({socket:?}, replace='counter')")).await;
    assert_eq!(executed.reply.status, Status::Error);
    assert!(shown.contains("notebook"), "{shown}");
    second.shutdown(GRACE).await;

    // An event that comes while a cell runs waits for it.
    let cell = client.execute(&ExecuteRequest::new("import time; time.sleep(1.5)")).await.expect("sent");
    sleep(Duration::from_millis(300)).await;
    host.emit("quake.new", &json!({"n": 3})).await.expect("accepted");
    assert_eq!(cell.finish(PATIENCE).await.expect("a reply").reply.status, Status::Ok);
    timeout(PATIENCE, host.drain()).await.expect("handled after the cell");
    let stats = host.stats().remove(0).1;
    assert_eq!((stats.failed, stats.retried), (0, 0));

    // The notebook's kernel is killed: the plugin has everything back.
    client.shutdown(GRACE).await;
    until("the plugin is back", async || {
        host.emit("quake.new", &json!({"n": 4})).await.expect("accepted");
        host.drain().await;
        by(&host).as_deref() == Some("\"plugin\"")
    })
    .await;
    host.shutdown().await;
}

/// As a kernelspec that was installed with `--connect` has it.
#[tokio::test]
async fn a_notebook_is_attached_from_its_beginning_as_soon_as_the_host_is_there() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("host.sock");
    let mut client = notebook_with("python", &["--connect", &socket.to_string_lossy()]).await;
    run(&mut client, "seen = []\n@bridge.on('quake.*')\ndef rate(event): seen.append(event.data)").await;
    let (host, _) = listening(dir.path(), |host| host).await;
    until("attached", async || !host.links().is_empty()).await;
    // It has no handlers yet where the host is told of them before the cell has run.
    let began = Instant::now();
    loop {
        host.emit("quake.new", &7).await.expect("accepted");
        if run(&mut client, "seen").await.1.contains('7') {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no event came");
    }
    client.shutdown(GRACE).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_host_that_is_not_there_or_goes_is_an_error_in_the_cell() {
    if !Installed::look().has("r") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, socket) = listening(dir.path(), |host| host).await;
    let mut client = notebook("r").await;
    let (executed, shown) = run(&mut client, "bridge$connect('/no/such.sock')").await;
    assert_eq!(executed.reply.status, Status::Error);
    assert!(shown.contains("/no/such.sock"), "{shown}");
    let (executed, _) = run(&mut client, &format!("x <- bridge$connect('{socket}')")).await;
    assert_eq!(executed.reply.status, Status::Ok);
    host.shutdown().await;
    // What it reached is gone; then it reaches the scratch host, whose state is empty.
    shows(&mut client, "is.null(bridge$state$get('by'))", &["TRUE"]).await;

    // A wrong token.
    let (host, socket) = listening(dir.path(), |host| host).await;
    std::fs::write(format!("{socket}.token"), "wrong").expect("written");
    let (executed, shown) = run(&mut client, &format!("bridge$connect('{socket}')")).await;
    assert_eq!(executed.reply.status, Status::Error);
    assert!(shown.contains("token"), "{shown}");
    client.shutdown(GRACE).await;
    host.shutdown().await;
}

/// The kernel is one that a frontend has started, and kernelbridge comes later.
#[tokio::test]
async fn a_stock_kernel_is_attached_from_outside_and_lives_on() {
    let installed = Installed::look();
    if !installed.has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = plugin(dir.path(), "counter", "python", COUNTER, "");
    let (host, socket) = listening(dir.path(), |host| host.plugin(path)).await;
    let found = installed.languages.kernelspec_for(&installed.discovery, "python").expect("found");
    let runtime = runtime_for(found, &installed.languages, &Environment::capture());
    let mut client = KernelClient::launch(launch_options(&runtime, None)).await.expect("a kernel");
    let file = dir.path().join("kernel-1.json");
    std::fs::write(&file, serde_json::to_vec(client.connection()).expect("JSON")).expect("written");
    let attach = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kernelbridge"));
        command.arg("attach").arg(&file).args(["--host", &socket]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    let refused = timeout(PATIENCE, attach(&["--replace", "nobody"]).output()).await.expect("in time").expect("run");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nobody"), "{refused:?}");

    let mut child = attach(&["--replace", "counter"]).spawn().expect("run");
    until("attached", async || !host.links().is_empty()).await;
    run(&mut client, "@bridge.on('quake.*')\ndef rate(event): return bridge.state.set('by', 'notebook')").await;
    until("the notebook's handler is called", async || {
        host.emit("quake.new", &1).await.expect("accepted");
        host.drain().await;
        host.store().get("by").expect("the store").is_some_and(|value| value.get() == "\"notebook\"")
    })
    .await;
    let id = child.id().expect("it runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id as i32), nix::sys::signal::Signal::SIGINT).expect("sent");
    let status = timeout(PATIENCE, child.wait()).await.expect("in time").expect("ended");
    assert!(status.success(), "{status:?}");
    until("the host has everything back", async || host.links().is_empty()).await;
    host.emit("quake.new", &2).await.expect("accepted");
    host.drain().await;
    assert_eq!(host.store().get("by").expect("the store").expect("a value").get(), "\"plugin\"");

    // The kernel is as it was, but that `bridge` reaches nobody.
    assert_eq!(run(&mut client, "6 * 7").await.1.trim(), "42");
    let (executed, _) = run(&mut client, "bridge.state.get('by')").await;
    assert_eq!(executed.reply.status, Status::Error);
    assert!(executed.reply.evalue.contains("no host is attached"), "{:?}", executed.reply);
    client.shutdown(GRACE).await;
    host.shutdown().await;
}
