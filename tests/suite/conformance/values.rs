//! What a case compares, and what it waits for.

use base64::{Engine, prelude::BASE64_STANDARD};
use kernelbridge::{
    client::Output,
    host::{News, Subscription},
    plugin::PluginNews,
    rpc::RpcError,
};
use serde_json::{Value, json};

use super::DEADLINE;

pub async fn wait<T>(news: &mut Subscription, mut wanted: impl FnMut(&News) -> Option<T>) -> Result<T, String> {
    let search = async {
        while let Some(news) = news.next().await {
            if let Some(found) = wanted(&news) {
                return Ok(found);
            }
        }
        Err("the host ended".into())
    };
    tokio::time::timeout(DEADLINE, search).await.map_err(|_| "it never happened".to_owned())?
}

pub async fn output(news: &mut Subscription, wanted: impl Fn(&Output) -> bool) -> Result<(), String> {
    wait(news, |news| match news {
        News::Plugin { news: PluginNews::Output(output), .. } if wanted(output) => Some(()),
        _ => None,
    })
    .await
}

pub async fn handled(news: &mut Subscription, plugin: &str, topic: &str) -> Result<Value, String> {
    let result = wait(news, |news| match news {
        News::Handled { plugin: from, event, result, .. } if **from == *plugin && &*event.topic == topic => {
            Some(Ok(result.get().to_owned()))
        }
        News::Failed { plugin: from, event, error, .. } if **from == *plugin && &*event.topic == topic => {
            Some(Err(error.report()))
        }
        _ => None,
    });
    serde_json::from_str(&result.await??).map_err(|error| error.to_string())
}

pub fn is_png(output: &Output) -> bool {
    let Output::Display { data, .. } = output else { return false };
    let Some(text) = data.get("image/png").and_then(Value::as_str) else { return false };
    let packed: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(packed).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG\r\n"))
}

/// Languages without integers write 42.0.
pub fn integral(value: Value) -> Value {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => json!(number as i64),
        _ => value,
    }
}

pub fn normal(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(normal).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, normal(value))).collect(),
        value => integral(value),
    }
}

pub fn equal(found: Value, expected: Value) -> Result<(), String> {
    let (found, expected) = (normal(found), normal(expected));
    if found == expected { Ok(()) } else { Err(format!("{found}, not {expected}")) }
}

pub fn equal_ok(found: Result<Value, RpcError>, expected: Value) -> Result<(), String> {
    equal(found.map_err(|error| error.report())?, expected)
}

pub fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("`{part}` is not in: {text}")) }
}
