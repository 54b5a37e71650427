//! A host with one Python plugin: `cargo run --example quickstart`.
//!
//! Needs an installed Python kernel; `kernelbridge install python` brings one.

use kernelbridge::host::{Host, News};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::builder()
        .plugin(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/plugins/hello"))
        .function("app.greeting", |(language,): (String,)| async move {
            if language == "de" { Ok("Grüß Gott") } else { Err(format!("no greeting in `{language}`")) }
        })
        .build()
        .await?;
    let mut news = host.subscribe();

    // Call an exported function; it calls `app.greeting` in the middle.
    let hello: String = host.call("hello.greet", ("Ada", "de")).await?;
    println!("{hello}");

    // Emit an event; the plugin's handler gets it and emits another.
    host.emit("person.arrived", &serde_json::json!({ "name": "Grace" })).await?;
    host.drain().await;
    host.shutdown().await;
    while let Some(news) = news.next().await {
        if let News::Emitted { plugin, event } = news {
            println!("{plugin:>6} emitted {} {}", event.topic, event.data);
        }
    }
    Ok(())
}
