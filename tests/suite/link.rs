//! Other processes attach to a running host: copies of events, a plugin's place and back, and peers that misbehave.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kernelbridge::{
    host::{Host, HostBuilder, ListenOptions, News},
    link::{Address, Link, LinkError, LinkRequest, Requests, Wanted, base, running},
    pattern::Pattern,
    rpc::{Attach, ErrorKind, Handler, HandlerKind, Mode, RpcError},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{host::plugin, support::Installed};

/// Long enough for anything here, also where it is slow.
const PATIENCE: Duration = Duration::from_secs(60);

const COUNTER: &str = r#"
import os
seen = []

@bridge.on("quake.*")
def rate(event):
    seen.append(event.data)
    return "plugin"

@bridge.export
def whose():
    return "plugin"

@bridge.export
def seen_so_far():
    return seen

@bridge.export
def through(name, x):
    return bridge.call(name, x)
"#;

/// A host of these plugins that listens in `dir`.
async fn host(dir: &Path, options: ListenOptions, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, Address) {
    let socket = dir.join("host.sock");
    let options = ListenOptions { path: Some(socket.clone()), ..options };
    let host = build(Host::builder().listen(options)).build().await.expect("a host");
    (host, Address::of_socket(&socket))
}

fn counter(dir: &Path, manifest: &str) -> std::path::PathBuf {
    plugin(dir, "counter", "python", COUNTER, manifest)
}

async fn attached(address: &Address, attach: Attach) -> (Link, Requests) {
    let (link, requests) = Link::connect(address).await.expect("connected");
    let attach = Attach { name: "peer".into(), ..attach };
    link.attach(attach).await.expect("attached");
    (link, requests)
}

fn replace(plugin: &str, handlers: Vec<Handler>) -> Attach {
    Attach { mode: Mode::Replace, plugin: Some(plugin.into()), name: "peer".into(), handlers, ..Attach::default() }
}

async fn request(requests: &mut Requests) -> LinkRequest {
    loop {
        if let Wanted::Request(request) = timeout(PATIENCE, requests.next()).await.expect("in time").expect("a link") {
            return request;
        }
    }
}

/// Why the link ended.
async fn end_of(requests: &mut Requests) -> String {
    loop {
        match timeout(PATIENCE, requests.next()).await.expect("in time") {
            Ok(_) => {}
            Err(LinkError::Closed { reason }) => return reason,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the handlers returned for all events, in order.
async fn results(host: Host, news: &mut kernelbridge::host::Subscription) -> Vec<(Value, Value)> {
    timeout(PATIENCE, host.drain()).await.expect("drained");
    host.shutdown().await;
    let mut results = Vec::new();
    while let Some(news) = news.next().await {
        if let News::Handled { event, result, .. } = news {
            let read = |json: &str| serde_json::from_str(json).expect("JSON");
            results.push((read(event.data.get()), read(result.get())));
        }
    }
    results
}

#[tokio::test]
async fn a_mirror_gets_copies_and_one_that_stalls_costs_the_host_nothing() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| host.plugin(counter(dir.path(), ""))).await;
    let mut news = host.subscribe();
    let (link, mut requests) =
        attached(&address, Attach { handlers: vec![Handler::on(5, "quake.*", "look")], ..Attach::default() }).await;
    host.emit("other", &0).await.expect("accepted");
    host.emit("quake.new", &json!({"n": 1})).await.expect("accepted");
    let first = request(&mut requests).await;
    let event = first.event().expect("an event");
    assert_eq!((first.method(), event.handler, event.topic.as_str()), ("event", 5, "quake.new"));
    assert_eq!(event.data.get(), r#"{"n":1}"#);
    // What a mirror answers is of no consequence.
    first.fail(&RpcError::new(ErrorKind::Raised, "ValueError: no"));

    // From here on it neither reads nor answers; the window is 64 and 1024 may wait.
    for n in 2..=1500 {
        host.emit("quake.new", &json!({ "n": n })).await.expect("accepted");
    }
    timeout(PATIENCE, host.drain()).await.expect("the host goes on");
    let stats = &host.stats()[0].1;
    assert_eq!((stats.handled, stats.failed, stats.retried), (1500, 0, 0));
    let dropped = host.link_stats().dropped;
    assert_eq!(dropped, 1499 - 64 - 1024);

    // Then it does, and is told.
    let (mut seen, mut told) = (vec![1], 0);
    while told == 0 || seen.last() != Some(&1500) {
        match timeout(PATIENCE, requests.next()).await.expect("in time").expect("a link") {
            Wanted::Request(request) => {
                let data: Value = serde_json::from_str(request.event().expect("an event").data.get()).expect("JSON");
                seen.push(data["n"].as_u64().expect("a number"));
                request.answer(&()).expect("answered");
            }
            Wanted::Dropped { events, total } => {
                told += events;
                assert_eq!(told, total);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, dropped);
    assert_eq!(seen.len() as u64 + dropped, 1500);
    assert!(seen.is_sorted(), "in order");

    // Handlers may change while it runs.
    link.set_handlers(vec![Handler::on(9, "other", "another")]).await.expect("set");
    host.emit("quake.new", &0).await.expect("accepted");
    host.emit("other", &"now").await.expect("accepted");
    let event = request(&mut requests).await.event().expect("an event");
    assert_eq!((event.handler, event.data.get()), (9, r#""now""#));
    let results = results(host, &mut news).await;
    assert!(results.iter().all(|(_, result)| result == "plugin"), "a mirror's answers are nobody's");
    assert_eq!(end_of(&mut requests).await, "the host was shut down");
    assert!(!address.socket.exists() && !address.token.exists());
}

#[tokio::test]
async fn a_mirror_reads_but_changes_nothing_unless_it_is_allowed() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let options = ListenOptions {
        call: vec![Pattern::parse("counter.whose").expect("a pattern")],
        emit: vec![Pattern::parse("note.*").expect("a pattern")],
        ..ListenOptions::default()
    };
    let (host, address) = host(dir.path(), options, |host| host.plugin(counter(dir.path(), ""))).await;
    host.store().set("k", &serde_json::value::to_raw_value(&7).expect("JSON"), "test").expect("set");
    let (link, _requests) = attached(&address, Attach::default()).await;
    let call = async |name: &str, args: Value| match link.call(name, &args, PATIENCE).await {
        Ok(result) => result.get().to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(call("state.get", json!(["k"])).await, "7");
    assert_eq!(call("counter.whose", json!([])).await, r#""plugin""#);
    assert_eq!(
        call("state.set", json!(["k", 8])).await,
        "a mirror may not call `state.set`; start the host with `--listen-call state.set`, or attach in place of a \
         plugin that may"
    );
    assert_eq!(call("state.get", json!(["k"])).await, "7");
    link.emit("note.new", &1, None, PATIENCE).await.expect("emitted");
    let refused = link.emit("quake.new", &1, None, PATIENCE).await.expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "a mirror may not emit `quake.new`; start the host with `--listen-emit quake.new`, or attach in place of a \
         plugin that may"
    );
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_is_replaced_handler_by_handler_and_has_everything_back_at_once() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| host.plugin(counter(dir.path(), ""))).await;
    let mut news = host.subscribe();
    host.emit("quake.new", &1).await.expect("accepted");
    host.drain().await;
    // Nothing is registered yet, so nothing is replaced.
    let (link, mut requests) = attached(&address, replace("counter", vec![])).await;
    host.emit("quake.new", &2).await.expect("accepted");
    host.drain().await;

    link.set_handlers(vec![Handler::on(1, "quake.*", "rate"), Handler::export(2, "whose")]).await.expect("set");
    let (host, answers) = (Arc::new(host), Arc::new(AtomicUsize::new(0)));
    let counted = answers.clone();
    let serving = tokio::spawn(async move {
        loop {
            let request = request(&mut requests).await;
            counted.fetch_add(1, Ordering::SeqCst);
            match request.method() {
                "event" => {
                    let event = request.event().expect("an event");
                    // Into another plugin's export and back, while the host waits for this.
                    let back = request.call("counter.seen_so_far", &json!([]), PATIENCE).await.expect("called");
                    assert_eq!(back.get(), "[1,2]");
                    if event.data.get() == "4" {
                        request.answer("peer").expect("answered");
                        return requests;
                    }
                    request.answer("peer").expect("answered");
                }
                "call" => request.answer("peer").expect("answered"),
                other => panic!("{other}"),
            }
        }
    });
    assert_eq!(host.call::<String>("counter.whose", ()).await.expect("called"), "peer");
    // The plugin itself calls what stands in for it, as part of a chain.
    let through: String = host.call("counter.through", ("counter.whose", None::<u8>)).await.unwrap_or_default();
    assert_eq!(through, "peer");
    assert_eq!(host.links().len(), 1);
    host.emit("quake.new", &3).await.expect("accepted");
    host.emit("quake.new", &4).await.expect("accepted");
    let mut requests = timeout(PATIENCE, serving).await.expect("in time").expect("served");
    host.drain().await;
    assert_eq!(answers.load(Ordering::SeqCst), 4);
    link.detach().await.expect("detached");
    end_of(&mut requests).await;
    host.emit("quake.new", &5).await.expect("accepted");
    assert_eq!(host.call::<String>("counter.whose", ()).await.expect("called"), "plugin");
    host.drain().await;
    while !host.links().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stats = &host.stats()[0].1;
    assert_eq!((stats.handled, stats.failed, stats.retried, stats.dropped), (5, 0, 0, 0));
    let host = Arc::into_inner(host).expect("ours alone");
    let results = results(host, &mut news).await;
    let who: Vec<_> = results.iter().map(|(_, who)| who.as_str().expect("a name")).collect();
    assert_eq!(who, ["plugin", "plugin", "peer", "peer", "plugin"]);
}

#[tokio::test]
async fn one_plugin_has_one_stand_in_and_its_permissions() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| {
        let folder = counter(dir.path(), "");
        let manifest = std::fs::read_to_string(folder.join("plugin.toml")).expect("a manifest");
        let manifest =
            manifest.replace("call = [\"*\"]\nemit = [\"*\"]", "call = [\"state.get\"]\nemit = [\"alert.*\"]");
        std::fs::write(folder.join("plugin.toml"), manifest).expect("written");
        host.plugin(folder)
    })
    .await;
    let (link, _requests) = attached(&address, replace("counter", vec![])).await;
    let (second, mut its) = Link::connect(&address).await.expect("connected");
    let refused = second.attach(replace("counter", vec![])).await.expect_err("refused");
    assert_eq!(refused.to_string(), "plugin `counter` is replaced by `peer` already");
    assert!(end_of(&mut its).await.contains("replaced by `peer`"));
    let (third, _) = Link::connect(&address).await.expect("connected");
    let refused = third.attach(replace("countr", vec![])).await.expect_err("refused");
    assert_eq!(refused.to_string(), "no plugin `countr` in this host; did you mean `counter`?");
    let refused = link.call("state.set", &json!(["k", 1]), PATIENCE).await.expect_err("refused");
    assert!(refused.to_string().contains("plugin `counter` may not call `state.set`"), "{refused}");
    assert_eq!(link.call("state.get", &json!(["k"]), PATIENCE).await.expect("called").get(), "null");
    link.emit("alert.x", &1, None, PATIENCE).await.expect("emitted");
    link.emit("quake.x", &1, None, PATIENCE).await.expect_err("refused");
    // The place is free again as soon as the first is gone.
    link.detach().await.expect("detached");
    let (fourth, _requests) = attached(&address, replace("counter", vec![])).await;
    fourth.detach().await.expect("detached");
    host.shutdown().await;
}

/// Another process in the place of a plugin, which takes an event and never answers.
const SILENT_PEER: &str = r#"
import json, socket, sys
address, token = sys.argv[1:]
peer = socket.socket(socket.AF_UNIX)
peer.connect(address)
def send(message):
    body = json.dumps(message).encode()
    peer.sendall(b"%d\n%s" % (len(body), body))
files = peer.makefile("rb")
def read():
    return json.loads(files.read(int(files.readline())))
handlers = [{"id": 1, "kind": "on", "topic": "quake.*", "name": "rate"}]
send({"jsonrpc": "2.0", "id": 1, "method": "attach", "params": {
    "token": token, "bridge": "1", "mode": "replace", "plugin": "counter", "name": "silent", "handlers": handlers}})
print(read()["result"]["link"], flush=True)
print(read()["params"]["attempt"], flush=True)
read()
"#;

#[tokio::test]
async fn an_event_whose_peer_is_killed_goes_to_the_plugin_and_counts_no_attempt() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| {
        host.plugin(counter(dir.path(), "[delivery]\nattempts = 1\n"))
    })
    .await;
    let mut news = host.subscribe();
    let token = std::fs::read_to_string(&address.token).expect("a token");
    let mut peer = Command::new("python3")
        .args(["-c", SILENT_PEER, &address.socket.to_string_lossy(), &token])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(peer.stdout.take().expect("its stdout")).lines();
    let mut lines = tokio::task::spawn_blocking(move || {
        assert_eq!(lines.next().expect("a line").expect("text"), "counter");
        lines
    })
    .await
    .expect("attached");
    for n in 1..=3 {
        host.emit("quake.new", &n).await.expect("accepted");
    }
    tokio::task::spawn_blocking(move || assert_eq!(lines.next().expect("a line").expect("text"), "1"))
        .await
        .expect("it has the first event");
    peer.kill().expect("killed");
    peer.wait().expect("gone");
    timeout(PATIENCE, host.drain()).await.expect("the plugin has them");
    let stats = &host.stats()[0].1;
    assert_eq!((stats.handled, stats.failed, stats.retried), (3, 0, 1));
    let results = results(host, &mut news).await;
    assert_eq!(results, [1, 2, 3].map(|n| (json!(n), json!("plugin"))));
}

#[tokio::test]
async fn a_peer_that_is_too_slow_is_detached_and_the_plugin_goes_on() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| {
        host.plugin(counter(dir.path(), "[limits]\ntimeout = \"1s\"\n[delivery]\nattempts = 1\n"))
    })
    .await;
    let mut news = host.subscribe();
    let (_link, mut requests) = attached(&address, replace("counter", vec![Handler::on(1, "quake.*", "rate")])).await;
    host.emit("quake.new", &1).await.expect("accepted");
    let _held = request(&mut requests).await;
    let reason = end_of(&mut requests).await;
    assert_eq!(reason, "no answer to `event` within 1s ([limits] timeout of plugin `counter`)");
    let results = results(host, &mut news).await;
    assert_eq!(results, [(json!(1), json!("plugin"))]);
}

#[tokio::test]
async fn events_that_only_a_stand_in_wanted_go_with_it_and_are_no_dead_letters() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| host.plugin(counter(dir.path(), ""))).await;
    let (link, mut requests) = attached(&address, replace("counter", vec![Handler::on(1, "flood.*", "more")])).await;
    for n in 1..=3 {
        host.emit("flood.new", &n).await.expect("accepted");
    }
    let held = request(&mut requests).await;
    link.detach().await.expect("detached");
    drop(held);
    timeout(PATIENCE, host.drain()).await.expect("drained");
    let stats = &host.stats()[0].1;
    assert_eq!((stats.handled, stats.failed, stats.dropped), (0, 0, 3));
    assert_eq!(stats.drops[0].reason, "detached");
    host.shutdown().await;
}

#[tokio::test]
async fn a_filter_of_a_stand_in_filters_and_its_errors_are_the_plugins() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| {
        host.plugin(counter(dir.path(), "[delivery]\nattempts = 2\n"))
    })
    .await;
    let mut news = host.subscribe();
    let filter = Handler { kind: HandlerKind::Filter, ..Handler::on(3, "quake.*", "clean") };
    let handlers = vec![filter, Handler::on(1, "quake.*", "rate")];
    let (_link, mut requests) = attached(&address, replace("counter", handlers)).await;
    let serving = tokio::spawn(async move {
        let mut attempts = Vec::new();
        while attempts.len() < 2 {
            let request = request(&mut requests).await;
            let event = request.event().expect("an event");
            match request.method() {
                "filter" if event.data.get() == "1" => request.answer(&json!({"data": 10})).expect("answered"),
                "filter" => request.answer(&Value::Null).expect("answered"),
                _ => {
                    assert_eq!(event.data.get(), "10");
                    attempts.push(event.attempt);
                    let mut error = RpcError::new(ErrorKind::Raised, "ValueError: no");
                    error.ename = "ValueError".into();
                    request.fail(&error);
                }
            }
        }
        (attempts, requests)
    });
    assert!(!host.emit("quake.new", &1).await.expect("accepted").filtered_out);
    assert!(host.emit("quake.new", &2).await.expect("accepted").filtered_out);
    let (attempts, _requests) = timeout(PATIENCE, serving).await.expect("in time").expect("served");
    assert_eq!(attempts, [1, 2]);
    timeout(PATIENCE, host.drain()).await.expect("drained");
    let letters = host.store().dead_letters(Some("counter"), 10).expect("readable");
    assert_eq!(letters.len(), 1);
    host.shutdown().await;
    let mut failed = None;
    while let Some(news) = news.next().await {
        if let News::Failed { error, attempts, .. } = news {
            failed = Some((error.to_string(), attempts));
        }
    }
    assert_eq!(failed, Some(("plugin `counter`: ValueError: no".to_owned(), 2)));
}

#[tokio::test]
async fn batches_and_several_instances_are_served_by_a_stand_in_as_well() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| {
        host.plugin(counter(dir.path(), "[delivery]\ninstances = 2\n"))
    })
    .await;
    let mut news = host.subscribe();
    let batch = Handler { batch: 10, ..Handler::on(4, "bulk.*", "bulk") };
    let (_link, mut requests) =
        attached(&address, replace("counter", vec![batch, Handler::on(1, "quake.*", "rate")])).await;
    let serving = tokio::spawn(async move {
        let (mut bulk, mut single) = (0, 0);
        while bulk < 20 || single < 20 {
            let request = request(&mut requests).await;
            let params: Value = serde_json::from_str(request.params().get()).expect("JSON");
            match request.method() {
                "events" => {
                    let count = params["events"].as_array().expect("a list").len();
                    assert!(count <= 10 && params["handler"] == 4, "{params}");
                    bulk += count;
                    let outcomes: Vec<_> = (0..count).map(|_| json!({"result": "peer"})).collect();
                    request.answer(&json!({ "outcomes": outcomes })).expect("answered");
                }
                "event" => {
                    single += 1;
                    request.answer("peer").expect("answered");
                }
                other => panic!("{other}"),
            }
        }
        requests
    });
    for n in 0..20 {
        host.emit("bulk.new", &n).await.expect("accepted");
        host.emit("quake.new", &n).await.expect("accepted");
    }
    let _requests = timeout(PATIENCE, serving).await.expect("in time").expect("served");
    let results = results(host, &mut news).await;
    assert_eq!(results.len(), 40);
    assert!(results.iter().all(|(_, who)| who == "peer"));
}

#[tokio::test]
async fn whatever_comes_over_the_socket_the_host_goes_on() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (host, address) = host(dir.path(), ListenOptions::default(), |host| host.plugin(counter(dir.path(), ""))).await;
    let token = std::fs::read_to_string(&address.token).expect("a token");
    let attach = |token: &str, bridge: &str| {
        json!({"jsonrpc": "2.0", "id": 1, "method": "attach",
               "params": {"token": token, "bridge": bridge, "name": "raw"}})
        .to_string()
    };
    let framed = |body: &str| format!("{}\n{body}", body.len()).into_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (framed(&attach("wrong", "1")), "the token is not this host's"),
        (framed(&attach(&token[..63], "1")), "the token is not this host's"),
        (framed(&attach(&token, "2")), "the peer speaks version 2 of the protocol, this host 1"),
        (framed(r#"{"jsonrpc":"2.0","id":1,"method":"call","params":{"name":"state.get"}}"#), "before `attach`"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "a frame does not begin with its length"),
        (vec![b'7'; 5000], "a frame does not begin with its length"),
        (b"999999999\n".to_vec(), "a message of 999999999 bytes; at most 262144 are taken here"),
        (framed("\u{1}\u{2} no JSON"), "not a JSON-RPC message"),
    ];
    let count = cases.len() as u64;
    for (bytes, expected) in cases {
        let socket = address.socket.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut peer = UnixStream::connect(socket).expect("connected");
            peer.set_read_timeout(Some(PATIENCE)).expect("set");
            peer.write_all(&bytes).expect("written");
            peer.shutdown(std::net::Shutdown::Write).expect("shut down");
            let mut answer = Vec::new();
            // An error after the answer is the end as well.
            let _ = peer.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        });
        let answer = timeout(PATIENCE, answer).await.expect("in time").expect("read");
        assert!(answer.contains(expected) && answer.contains("\"error\""), "{expected}: {answer}");
    }
    // More than it takes; then as many as before.
    let idle: Vec<_> = (0..40).map(|_| UnixStream::connect(&address.socket).expect("connected")).collect();
    let (late, mut requests) = Link::connect(&address).await.expect("connected");
    let refused = late.attach(Attach { name: "late".into(), ..Attach::default() }).await;
    assert!(matches!(refused, Err(LinkError::Closed { .. })), "{refused:?}");
    assert!(end_of(&mut requests).await.contains("takes no more"));
    drop(idle);
    let attached = async {
        loop {
            let (link, requests) = Link::connect(&address).await.expect("connected");
            if link.attach(Attach { name: "peer".into(), ..Attach::default() }).await.is_ok() {
                return (link, requests);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (link, _requests) = timeout(PATIENCE, attached).await.expect("in time");
    assert_eq!(link.call("state.get", &json!(["k"]), PATIENCE).await.expect("called").get(), "null");
    host.emit("quake.new", &1).await.expect("accepted");
    timeout(PATIENCE, host.drain()).await.expect("drained");
    let stats = host.link_stats();
    assert!(stats.refused > count && stats.bad >= 4, "{stats:?}");
    host.shutdown().await;
}

#[tokio::test]
async fn a_host_is_found_by_name_and_leaves_nothing_behind() {
    let name = format!("test-{}", uuid());
    let options = ListenOptions { name: Some(name.clone()), ..ListenOptions::default() };
    let host = Host::builder().listen(options.clone()).build().await.expect("a host");
    let found = running().into_iter().find(|host| host.about.name == name).expect("listed");
    assert_eq!(found.about.process_id, std::process::id());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    };
    let folder = base().join(&name);
    assert_eq!((mode(&folder), mode(&found.token), mode(&found.socket)), (0o700, 0o600, 0o600));
    let Err(taken) = Host::builder().listen(options).build().await else { panic!("two of one name") };
    assert!(taken.to_string().contains("is where another host listens"), "{taken}");
    let (link, mut requests) = Link::connect(&Address::find(Some(&name)).expect("found")).await.expect("connected");
    let attached = link.attach(Attach { name: "peer".into(), ..Attach::default() }).await.expect("attached");
    assert_eq!((attached.host.name.as_str(), attached.link.as_str()), (name.as_str(), "link:peer"));
    drop(host);
    assert_eq!(end_of(&mut requests).await, "the host was shut down");
    assert!(!folder.exists());
    // What a host that was killed has left goes when somebody looks; its process's number may be another's by now.
    let stale = base().join(format!("{name}-stale"));
    std::fs::create_dir(&stale).expect("a folder");
    let mut about = serde_json::to_value(&found).expect("JSON");
    about["process_started"] = json!(found.process_started + 1);
    about["socket"] = json!(stale.join("socket"));
    about["token"] = json!(stale.join("token"));
    std::fs::write(stale.join("token"), "secret").expect("written");
    std::fs::write(stale.join("host.json"), about.to_string()).expect("written");
    assert!(running().iter().all(|host| host.about.name != name));
    assert!(!stale.exists());
    let error = Address::find(Some(&name)).expect_err("gone");
    assert!(error.to_string().starts_with(&format!("no running host `{name}`")), "{error}");
    let error = link.call("state.get", &json!(["k"]), PATIENCE).await.expect_err("gone");
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
}

fn uuid() -> String {
    let bytes: [u8; 8] = std::array::from_fn(|_| fastrand_byte());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fastrand_byte() -> u8 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u8
}
