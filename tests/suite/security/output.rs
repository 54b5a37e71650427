//! Plugins that print more than anybody reads.

use std::{fs, process::Stdio, time::Duration};

use kernelbridge::{
    client::Output,
    host::{Host, News},
    plugin::PluginNews,
};

use crate::{
    cli::{Desk, one_at_a_time},
    host::plugin,
    support::Installed,
};

const FLOOD: &str = r#"
@bridge.on("flood")
def flood(event):
    for n in range(event.data):
        print("x" * 99_999, flush=True)

@bridge.on("say")
def say(event):
    print(event.data)

@bridge.on("shout")
def shout(event):
    for n in range(event.data):
        bridge.log.info("x" * 1_000_000)
"#;

#[tokio::test]
async fn a_flood_of_prints_is_cut_off_and_counted() {
    if !Installed::look().has("python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folder = plugin(dir.path(), "flood", "python", FLOOD, "[limits]\noutput = \"1MiB\"\n");
    let host = Host::builder().plugin(folder).build().await.expect("a host");
    let mut news = host.subscribe();
    for (topic, data) in [("flood", 300.into()), ("say", "now".into()), ("flood", serde_json::Value::from(5))] {
        host.emit(topic, &data).await.expect("accepted");
        host.drain().await;
        // Outputs come on a channel of their own, and later.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    host.shutdown().await;
    let (mut texts, mut dropped) = (vec![0], Vec::new());
    while let Some(news) = news.next().await {
        match news {
            News::Plugin { news: PluginNews::Output(Output::Stream { text, .. }), .. } if text.contains("now") => {
                texts.extend([0, 0]);
            }
            News::Plugin { news: PluginNews::Output(Output::Stream { text, .. }), .. } => {
                *texts.last_mut().expect("one at least") += text.len() as u64;
            }
            News::Plugin { news: PluginNews::OutputDropped { bytes, limit_bytes, .. }, .. } => {
                dropped.push((bytes, limit_bytes));
            }
            _ => {}
        }
    }
    assert_eq!(texts, [1 << 20, 0, 500_000]);
    assert_eq!(dropped, [(30_000_000 - (1 << 20), 1 << 20)]);
}

/// Neither prints nor log entries fill the memory of a program whose output nobody reads.
#[test]
fn no_flood_fills_memory() {
    if !Installed::look().has("python") {
        return;
    }
    let _one = one_at_a_time();
    let desk = Desk::new();
    desk.python("flood", "[limits]\noutput = \"64MiB\"\n", FLOOD);
    for events in ["{\"topic\": \"flood\", \"data\": 4000}\n", "{\"topic\": \"shout\", \"data\": 400}\n"] {
        let events = desk.write("events", events);
        let mut command = desk.command(&["run", "flood", "--state", ":memory:", "--events", "-"]);
        command.stdin(fs::File::open(events).expect("a file")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let mut most_kb = 0;
        while child.try_wait().expect("waited for").is_none() {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            most_kb = peak.and_then(|kb| kb.trim().parse::<u64>().ok()).unwrap_or_default().max(most_kb);
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("peak {most_kb} kB");
        assert!((1..150_000).contains(&most_kb), "{most_kb} kB");
    }
    desk.leaves_nothing();
}
