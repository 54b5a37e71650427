//! The host of a chaos run: a process of its own, so that it can be killed.

use std::io::Write;

use kernelbridge::{
    host::{Host, News, Subscription},
    supervision::State,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::orders::{END, ORDERS, Orders, Told, what};

/// The orders, if this process is to be the host.
pub fn ordered() -> Option<Orders> {
    let orders = std::env::var(ORDERS).ok()?;
    Some(serde_json::from_str(&orders).expect("orders"))
}

/// Be the host.
pub async fn obey(orders: &Orders) {
    // The tests' harness has begun a line.
    println!();
    let mut builder = Host::builder().state(&orders.state);
    for plugin in &orders.plugins {
        builder = builder.plugin(plugin);
    }
    let host = match builder.build().await {
        Ok(host) => host,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let news = host.subscribe_lossless();
    for info in host.plugins() {
        for (instance, state) in (1..).zip(&info.instances) {
            tell_kernel(&info.name, instance, state);
        }
    }
    tell(&Told::Ready);
    let telling = tokio::spawn(tell_news(news));
    let mut limits = BufReader::new(tokio::io::stdin()).lines();
    let mut n = orders.first;
    while let Some(limit) = limits.next_line().await.expect("readable")
        && limit != END
    {
        let limit: u64 = limit.parse().expect("a number");
        while n < limit {
            let what = what(orders.seed, n, orders.one_in);
            let data =
                json!({ "n": n, "key": n % 7, "what": what.trim_end_matches('!'), "always": what.ends_with('!') });
            host.emit("chaos", &data).await.expect("accepted");
            tell(&Told::Accepted { n });
            n += 1;
            if n.is_multiple_of(50) {
                tokio::task::yield_now().await;
            }
        }
    }
    host.drain().await;
    tell(&Told::Drained);
    // The driver looks at this process before it lets it go.
    let _ = limits.next_line().await;
    host.shutdown().await;
    telling.await.expect("no panic");
}

async fn tell_news(mut news: Subscription) {
    while let Some(news) = news.next().await {
        match news {
            News::Handled { plugin, event, .. } => {
                let data: Value = serde_json::from_str(event.data.get()).expect("JSON");
                tell(&Told::Handled { plugin: plugin.to_string(), n: data["n"].as_u64().expect("a number") });
            }
            News::State { plugin, instance, state } => tell_kernel(&plugin, instance.max(1), &state),
            _ => {}
        }
    }
}

fn tell_kernel(plugin: &str, instance: u32, state: &State) {
    // It may be at what an earlier process left already.
    if let State::Ready { process_id } | State::Busy { process_id, .. } = state {
        tell(&Told::Kernel { plugin: plugin.to_owned(), instance, process: *process_id });
    }
}

fn tell(told: &Told) {
    let mut line = serde_json::to_string(told).expect("JSON");
    line.push('\n');
    // One write, so that a host that is killed has told it or has not.
    std::io::stdout().lock().write_all(line.as_bytes()).expect("somebody listens");
}
