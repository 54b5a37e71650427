//! Turns that a comm opens, where kernels treat code otherwise than in cells: output, interrupts, comms that are gone.

use std::{path::Path, time::Duration};

use kernelbridge::{
    client::Output,
    host::{Host, News, Subscription},
    language::Activation,
    plugin::PluginNews,
    rpc::ErrorKind,
};
use serde_json::{Value, json};

use crate::{host::plugin, support::Installed};

/// Longer than any turn stays open without work.
const PAUSE: Duration = Duration::from_millis(300);

/// A host with one plugin `p` whose turns a comm opens.
async fn comm_host(dir: &Path, language: &str, source: &str, manifest: &str) -> Host {
    let folder = plugin(dir, "p", language, source, manifest);
    let file = folder.join("plugin.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    std::fs::write(&file, text.replace("bridge = ", "activation = \"comm\"\nbridge = ")).expect("written");
    let host = Host::builder().plugin(folder).build().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host.plugins()[0].about.activation, Some(Activation::Comm));
    host
}

/// What a plugin showed, until the host was shut down: the text of each stream, in runs, and the types of what else.
async fn shown(mut news: Subscription) -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = Vec::new();
    while let Some(news) = news.next().await {
        let News::Plugin { news, .. } = news else { continue };
        let (name, text) = match news {
            PluginNews::Output(Output::Stream { name, text }) => (name, text),
            PluginNews::Output(Output::Display { data, .. }) => {
                ("display".into(), if data.contains_key("image/png") { "png" } else { "?" }.into())
            }
            PluginNews::OutputDropped { bytes, .. } => ("dropped".into(), bytes.to_string()),
            PluginNews::Odd { reason } => ("odd".into(), reason),
            _ => continue,
        };
        match shown.last_mut() {
            Some((last, before)) if *last == name && name.starts_with("std") => before.push_str(&text),
            _ => shown.push((name, text)),
        }
    }
    shown
}

const PRINTS: &str = r#"
bridge$export("streams", function() {
  cat("a\n")
  print(1:2)
  message("b")
  cat("no line feed")
  warning("c")
  f <- function() warning("d")
  f()
  suppressWarnings(warning("unseen"))
  suppressMessages(message("unseen"))
  try(stop("e"))
  unseen <- capture.output(print("unseen"))
  cat("caf\xe9\n")
  cat("\u00e4\U1F980\n")
  sink(tempfile()); cat("unseen"); message("f")
  NULL
})
bridge$export("plots", function() {
  png(own <- tempfile(fileext = ".png")); plot(1); dev.off()
  par(mfrow = c(1, 2)); plot(1); plot(2)
  par(mfrow = c(1, 1)); plot(3)
  persp(volcano)
  cat(file.size(own) > 0, "\n")
})
bridge$export("many", function(n) { x <- strrep("\u00e4\U1F980", 1e5); for (i in seq_len(n)) cat(x); NULL })
bridge$export("close_all", function() { closeAllConnections(); NULL })
bridge$export("hello", function() { cat("hello\n"); 1 })
"#;

#[tokio::test]
async fn what_r_prints_in_a_comms_handler_arrives() {
    if !Installed::look().has("r") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = comm_host(dir.path(), "r", PRINTS, "[limits]\noutput = \"1MiB\"\n").await;
    let call = async |name: &str, args: Value| host.call::<Value>(&format!("p.{name}"), args).await;
    let news = host.subscribe();
    for name in ["streams", "plots"] {
        call(name, json!([])).await.unwrap_or_else(|error| panic!("{name}: {}", error.report()));
        // Plots come on a channel of their own.
        tokio::time::sleep(PAUSE).await;
    }
    call("many", json!([5])).await.unwrap_or_else(|error| panic!("{}", error.report()));
    tokio::time::sleep(PAUSE).await;
    let error = call("close_all", json!([])).await.expect_err("its pipes are among them");
    assert_eq!(error.kind, ErrorKind::Cancelled, "{}", error.report());
    assert_eq!(call("hello", json!([])).await.expect("the next turn has its own"), 1);
    assert_eq!(host.plugins()[0].about.activation, Some(Activation::Comm));
    host.shutdown().await;
    let mut shown = shown(news).await;
    // On another channel than the rest, so before or after it.
    let is_display = |(name, _): &mut (String, String)| name == "display";
    let displays: Vec<_> = shown.extract_if(.., is_display).map(|(_, text)| text).collect();
    assert_eq!(displays, ["png"; 3]);
    let flood = shown.iter().position(|(_, text)| text.len() > 1 << 19).expect("it was shown");
    let (_, text) = shown.remove(flood);
    // The next character has no room.
    assert_eq!(text.len(), (1 << 20) - 2);
    assert!(text.chars().eq("ä🦀".chars().cycle().take(text.chars().count())), "characters were cut");
    let dropped = (5 * 600_000 - text.len()).to_string();
    let expected = [
        ("stdout", "a\n[1] 1 2\n"),
        ("stderr", "b\n"),
        ("stdout", "no line feed"),
        ("stderr", "Warning message in fn():\n“c”\nWarning message in f():\n“d”\n"),
        ("stdout", "Error in try(stop(\"e\")) : e\ncaf<e9>\nä🦀\n"),
        ("stderr", "f\n"),
        ("stdout", "TRUE \n"),
        ("dropped", &dropped),
        ("stdout", "hello\n"),
    ];
    assert_eq!(shown, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

const SLOW: &str = r#"
bridge$export("slow", function(seconds) { cat("."); message("!"); Sys.sleep(seconds); bridge$call("app.add", 1, 2) })
bridge$export("busy", function(seconds) { end <- Sys.time() + seconds; while (Sys.time() < end) message("!"); 1 })
bridge$export("hello", function() 1)
"#;

/// An interrupt that IRkernel's comm handler does not catch ends the kernel.
#[tokio::test]
async fn r_survives_interrupts_in_a_comms_handler() {
    if !Installed::look().has("r") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folder = plugin(dir.path(), "p", "r", SLOW, "[limits]\ntimeout = \"150ms\"\n");
    let add = |(a, b): (f64, f64)| async move { Ok::<_, String>(a + b) };
    let host = Host::builder().plugin(folder).function("app.add", add).build().await.expect("a host");
    let before = host.plugins()[0].about.process_id;
    let (mut late, mut done) = (0, 0);
    for n in 0..40 {
        let name = ["p.slow", "p.busy"][n % 2];
        match host.call::<Value>(name, (0.02 * (n % 20) as f64,)).await {
            Ok(_) => done += 1,
            Err(error) if error.kind == ErrorKind::Timeout => late += 1,
            Err(error) => panic!("{}", error.report()),
        }
        if n % 3 == 0 {
            tokio::time::sleep(PAUSE / 3).await;
        }
    }
    assert_eq!(host.plugins()[0].about.process_id, before);
    assert!(done > 0 && late > 0, "{done} in time, {late} late");
    host.shutdown().await;
}

const CLEARS: [(&str, &str); 2] = [
    (
        "r",
        r#"
bridge$export("clear", function() { manager <- IRkernel::comm_manager(); manager$commid_to_comm <- list(); 1 })
bridge$export("hello", function() 2)
"#,
    ),
    (
        "python",
        r#"
@bridge.export
def clear():
    get_ipython().kernel.shell_handlers.pop("comm_msg")
    return 1

@bridge.export
def hello():
    return 2
"#,
    ),
];

#[tokio::test]
async fn a_comm_that_is_gone_is_told_and_done_without() {
    for (language, source) in CLEARS {
        if !Installed::look().has(language) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let host = comm_host(dir.path(), language, source, "").await;
        let before = host.plugins()[0].about.process_id;
        assert_eq!(host.call::<Value>("p.clear", json!([])).await.expect("cleared"), 1);
        tokio::time::sleep(PAUSE).await;
        assert_eq!(host.call::<Value>("p.hello", json!([])).await.expect("it is served"), 2);
        let about = host.plugins()[0].about.clone();
        assert_eq!((about.activation, about.process_id), (Some(Activation::Execute), before), "{language}");
        host.shutdown().await;
    }
}

const FORKS: &str = r#"
bridge$export("fork", function() { parallel::mcparallel(Sys.sleep(60)); 1 })
bridge$export("hello", function() 2)
"#;

/// A child that was forked has the pipes, so their end does not show; the kernel's `idle` does.
#[tokio::test]
async fn a_child_that_holds_the_pipes_delays_nothing() {
    if !Installed::look().has("r") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let host = comm_host(dir.path(), "r", FORKS, "[limits]\ntimeout = \"5s\"\n").await;
    let before = host.plugins()[0].about.process_id;
    assert_eq!(host.call::<Value>("p.fork", json!([])).await.expect("forked"), 1);
    for _ in 0..3 {
        tokio::time::sleep(PAUSE).await;
        assert_eq!(host.call::<Value>("p.hello", json!([])).await.unwrap_or_else(|error| panic!("{error}")), 2);
    }
    let about = host.plugins()[0].about.clone();
    assert_eq!((about.activation, about.process_id), (Some(Activation::Comm), before));
    host.shutdown().await;
}
