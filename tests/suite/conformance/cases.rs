//! The cases that need one healthy kernel.

use std::sync::atomic::Ordering;

use kernelbridge::{
    client::Output,
    host::{Host, News, PluginInfo},
    plugin::PluginNews,
    rpc::{ErrorKind, HandlerKind, LogLevel},
    store::Store,
};
use serde_json::{Value, json};

use super::{
    LARGE,
    blobs::blob_cases,
    endings::{folders, nothing_left},
    subject::{Report, Subject},
    values::{contains, equal, equal_ok, handled, integral, is_png, normal, output, wait},
};
use crate::support::Installed;

/// Types, what is missing, what is null, what is nested, what is mixed; and a batch that fails.
async fn columns(host: &Host, plugin: &str) -> Result<(), String> {
    let rows = [
        json!({ "n": 1, "text": "é🦀 \"x\"", "flag": true, "float": 0.1, "mixed": 1 }),
        json!({ "n": 2, "text": null, "flag": false, "nested": { "k": "v" }, "mixed": "a" }),
        json!({ "text": "NA", "n": null, "float": -2.5e-7, "later": "x" }),
        json!({ "n": -3, "text": "", "flag": null, "nested": { "k": "w" }, "mixed": true }),
    ];
    let mut news = host.subscribe();
    for row in &rows {
        host.emit("conf.columns", row).await.map_err(|error| error.report())?;
    }
    for row in &rows {
        let (id, result) = wait(&mut news, |news| match news {
            News::Handled { plugin: from, event, result, .. } if **from == *plugin => {
                Some((event.id.to_string(), serde_json::from_str::<Value>(result.get())))
            }
            _ => None,
        })
        .await?;
        let result = result.map_err(|error| error.to_string())?;
        equal(result["id"].clone(), json!(id))?;
        for name in ["text", "flag", "float", "nested", "mixed", "later"] {
            equal(normal(json!([name, result[name]])), normal(json!([name, row[name]])))?;
        }
        equal(normal(result["n"].clone()), json!(row["n"].as_i64().map(|n| n * 2)))?;
    }
    host.emit("conf.columns", &json!({ "fail": 1, "n": 1 })).await.map_err(|error| error.report())?;
    let kind = wait(&mut news, |news| match news {
        News::Failed { plugin: from, error, .. } if **from == *plugin => Some(error.kind),
        _ => None,
    });
    equal(json!(kind.await?), json!("Raised"))
}

/// A column of one value is a column.
async fn column_of_one(host: &Host, plugin: &str) -> Result<(), String> {
    let mut news = host.subscribe();
    let row = json!({ "n": 21, "text": "one", "flag": true, "nested": { "k": "v" } });
    host.emit("conf.columns", &row).await.map_err(|error| error.report())?;
    let mut result = handled(&mut news, plugin, "conf.columns").await?;
    result["id"].take();
    equal(normal(result), json!({ "n": 42, "text": "one", "flag": true, "nested": { "k": "v" }, "id": null }))
}

pub async fn main_cases(subject: &Subject, report: &mut Report) {
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
    report
        .case("carrier and activation", async {
            equal(json!([about.carrier, about.activation]), json!([subject.carrier, subject.activation]))
        })
        .await;
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
    if has(HandlerKind::On, "conf.columns") {
        report.case("columns", columns(&host, &plugin)).await;
        report.case("columns one by one", column_of_one(&host, &plugin)).await;
    }
    if has(HandlerKind::On, "conf.async") {
        report
            .case("async handler", async {
                host.emit("conf.async", &json!(null)).await.map_err(|error| error.report())?;
                equal(handled(&mut news, &plugin, "conf.async").await?, json!("async-ok"))
            })
            .await;
    }
    if has(HandlerKind::On, "conf.once") {
        report
            .case("an event updates a key once", async {
                // The handler does it twice.
                for _ in 1..=2 {
                    host.emit("conf.once", &json!(null)).await.map_err(|error| error.report())?;
                    handled(&mut news, &plugin, "conf.once").await?;
                }
                host.drain().await;
                let takes_it =
                    |plugin: &&PluginInfo| plugin.handlers.iter().any(|handler| handler.topic == "conf.once");
                let expected = 2 * host.plugins().iter().filter(takes_it).count();
                let stored = host.store().get("once").map_err(|error| error.to_string())?.ok_or("not stored")?;
                equal(json!(stored.get()), json!(expected.to_string()))?;
                Ok(())
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
        .case("many calls at the same time", async {
            let calls = (0..64).map(|n| call("call_host", json!(["test.seen", [n]])));
            for (n, outcome) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
                equal_ok(outcome.map(integral), json!(2 * n))?;
            }
            let seen = std::mem::take(&mut *subject.seen.lock().map_err(|error| error.to_string())?);
            equal(json!(seen), json!((0..64).collect::<Vec<_>>()))
        })
        .await;
    report
        .case("many calls that come back", async {
            let nest = (0..16).map(|n| call("nest", json!([n % 3])));
            for (n, outcome) in futures_util::future::join_all(nest).await.into_iter().enumerate() {
                equal_ok(outcome.map(integral), json!(n % 3))?;
            }
            Ok(())
        })
        .await;
    report
        .case("one that fails among many calls", async {
            let calls = (0..64).map(|n| {
                let (function, argument) =
                    if n % 20 == 10 { ("fail", json!(["no"])) } else { ("identity", json!([n])) };
                call(function, argument)
            });
            for (n, outcome) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
                match outcome {
                    Err(error) if n % 20 == 10 => equal(json!(error.kind), json!("Raised"))?,
                    outcome => equal_ok(outcome.map(integral), json!(n))?,
                }
            }
            Ok(())
        })
        .await;
    report
        .case("one that fails among others", async {
            for n in 0..60 {
                let topic = if n % 20 == 10 { "conf.fail" } else { "conf.echo" };
                host.emit(topic, &json!(n)).await.map_err(|error| error.report())?;
            }
            for n in 0..60 {
                let data = wait(&mut news, |news| match news {
                    News::Handled { plugin: from, event, .. } if **from == *plugin && n % 20 != 10 => {
                        Some(event.data.clone())
                    }
                    News::Failed { plugin: from, event, .. } if **from == *plugin && n % 20 == 10 => {
                        Some(event.data.clone())
                    }
                    _ => None,
                });
                equal(json!(data.await?.get()), json!(n.to_string()))?;
            }
            Ok(())
        })
        .await;
    blob_cases(&host, subject, report, other).await;
    report
        .case("shutdown runs on_shutdown and leaves nothing", async {
            let about = host.plugins()[0].about.clone();
            let folders = folders(about.process_id)?;
            host.shutdown().await;
            let store = Store::open(subject.dir.path().join("state.db")).map_err(|error| error.to_string())?;
            let set = store.get(&format!("shutdown/{}", subject.name)).map_err(|error| error.to_string())?;
            equal(json!(set.as_ref().map(|value| value.get())), json!("true"))?;
            nothing_left(&folders)
        })
        .await;
}
