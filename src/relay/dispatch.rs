//! An event in a notebook: what each of its handlers makes of it, and how that is shown.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, json, value::RawValue};

use crate::{
    blob::Parcel,
    chain::Chain,
    client::Output,
    host::Event,
    plugin::Plugin,
    relay::{
        NAME,
        desk::{Desk, HANDLER},
    },
    rpc::{self, Batch, Columns, Deliver, Done, ErrorKind, Filtered, Handler, HandlerKind, RpcError},
    wire::Header,
};

/// As much of a result as is shown.
const SHOWN_CHARS: usize = 2000;

/// What one handler made of an event.
pub(super) struct Row {
    pub handler: String,
    pub result: Result<String, RpcError>,
    pub took: Duration,
}

/// A cell, or a handler, emits an event: the notebook's own handlers get it at once, and then the scratch host.
pub(super) async fn emitted(desk: Arc<Desk>, chain: Chain, event: Event) -> Result<(), RpcError> {
    // Whatever it shows belongs to the cell that runs now.
    let cell = desk.filter.cell();
    let (rows, event, later) = handled(&desk, &chain, event).await?;
    let topic = event.as_ref().map(|event| event.topic.to_string());
    for error in rows.iter().filter_map(|row| row.result.as_ref().err()) {
        let name = if error.ename.is_empty() { format!("{:?}", error.kind) } else { error.ename.to_string() };
        // Whose it is needs no word when it is the notebook's own.
        let traceback = if *error.plugin == *NAME && !error.traceback.is_empty() && error.cause.is_none() {
            error.traceback.iter().map(ToString::to_string).collect()
        } else {
            error.report().lines().map(str::to_owned).collect()
        };
        let output = Output::Error { ename: name, evalue: error.message.clone(), traceback };
        desk.filter.show(&output, cell.clone());
    }
    desk.filter.show(&table(topic.as_deref(), rows.iter()), cell.clone());
    if let Some(event) = event.clone().filter(|_| !later.is_empty()) {
        tokio::spawn(handled_later(desk.clone(), event, later, cell));
    }
    match event {
        Some(event) => desk.pass_on(chain, &event).await,
        None => Ok(()),
    }
}

/// What the notebook's filters and handlers make of an event, and the event as the filters left it, if they did.
pub(super) async fn handled(
    desk: &Desk,
    chain: &Chain,
    mut event: Event,
) -> Result<(Vec<Row>, Option<Event>, Vec<Handler>), RpcError> {
    let plugin = desk.plugin()?;
    let chain = chain.then(format!("event {}", event.id), Instant::now() + HANDLER);
    let (all, mut rows, mut later) = (desk.handlers(), Vec::new(), Vec::new());
    let wants = |kind: HandlerKind, topic: &str| {
        let fits = |(handler, pattern): &&(Handler, Option<crate::pattern::Pattern>)| {
            handler.kind == kind && pattern.as_ref().is_some_and(|pattern| pattern.matches(topic))
        };
        all.iter().filter(fits).map(|(handler, _)| handler.clone()).collect::<Vec<_>>()
    };
    let mut filters = wants(HandlerKind::Filter, &event.topic);
    filters.sort_by_key(|filter| filter.priority);
    for filter in filters {
        let began = Instant::now();
        let result = plugin.request("filter", &deliver(&filter, &event, &chain), &chain, chain.deadline).await;
        let result = result.and_then(|result| {
            let filtered: Option<Filtered> = serde_json::from_str(result.get())
                .map_err(|error| RpcError::new(ErrorKind::Invalid, format!("a filter's result: {error}")))?;
            Ok((filtered, result))
        });
        let (kept, shown) = match result {
            Ok((None, _)) => (false, Ok("dropped the event".to_owned())),
            Ok((Some(filtered), result)) => {
                if let Some(data) = filtered.data {
                    event.data = rpc::compact(data).into();
                    event.held = result.into_parts().1;
                }
                event.topic = filtered.topic.map_or(event.topic, Into::into);
                event.key = filtered.key.map(Into::into);
                (true, Ok("passed it on".to_owned()))
            }
            Err(error) => (false, Err(error)),
        };
        rows.push(Row { handler: format!("filter {}", filter.name), result: shown, took: began.elapsed() });
        if !kept {
            return Ok((rows, None, Vec::new()));
        }
    }
    for handler in wants(HandlerKind::On, &event.topic) {
        let began = Instant::now();
        let mut result = hand_over(&plugin, &handler, &event, &chain).await;
        let name = handler.name.clone();
        if result.as_ref().is_err_and(|error| error.kind == ErrorKind::Deadlock) {
            // JavaScript cannot wait for what is async in the middle of a cell.
            result = Ok("async: runs when the cell has ended".to_owned());
            later.push(handler);
        }
        rows.push(Row { handler: name, result, took: began.elapsed() });
    }
    Ok((rows, Some(event), later))
}

/// What had to wait for the end of the cell.
async fn handled_later(desk: Arc<Desk>, event: Event, handlers: Vec<Handler>, cell: Option<Header>) {
    let Ok(plugin) = desk.plugin() else { return };
    let mut rows = Vec::new();
    for handler in handlers {
        let began = Instant::now();
        let chain = Chain::root(format!("event {}", event.id), began + HANDLER);
        let result = hand_over(&plugin, &handler, &event, &chain).await;
        rows.push(Row { handler: handler.name, result, took: began.elapsed() });
    }
    desk.filter.show(&table(Some(&event.topic), rows.iter()), cell);
}

fn deliver<'a>(handler: &Handler, event: &'a Event, chain: &'a Chain) -> Deliver<'a> {
    Deliver {
        handler: handler.id,
        id: &event.id,
        topic: &event.topic,
        time: &event.time,
        attempt: 1,
        key: event.key.as_deref(),
        chain: &chain.path,
        data: &event.data,
    }
}

/// The result as JSON.
async fn hand_over(plugin: &Plugin, handler: &Handler, event: &Event, chain: &Chain) -> Result<String, RpcError> {
    let text = |result: Parcel| result.get().to_owned();
    let has_columns = !handler.columns.is_empty();
    if handler.batch == 0 && !has_columns {
        return plugin.request("event", &deliver(handler, event, chain), chain, chain.deadline).await.map(text);
    }
    if !has_columns && !plugin.has_feature(rpc::ROWS) {
        let body = rpc::EventBody {
            handler: None,
            id: &event.id,
            topic: &event.topic,
            time: &event.time,
            attempt: 1,
            key: event.key.as_deref(),
            data: &event.data,
        };
        let params = rpc::DeliverBatch { handler: handler.id, chain: &chain.path, events: vec![body] };
        return plugin.request("events", &params, chain, chain.deadline).await.and_then(|result| first(&result));
    }
    let mut batch = Batch::new(handler.id, &chain.path, 1);
    batch.ids.push(&event.id);
    batch.topics.push(&*event.topic);
    batch.times.push(&*event.time);
    batch.attempts.push(1);
    batch.keys.push(event.key.as_deref());
    let method = if has_columns {
        let mut columns = Columns::default();
        columns.push(&event.data);
        batch.mixed = columns.mixed();
        batch.columns = Some(columns);
        "columns"
    } else {
        batch.data = Some(vec![&event.data]);
        "rows"
    };
    plugin.request(method, &batch, chain, chain.deadline).await.and_then(|result| first(&result))
}

/// The outcome of a batch of one.
fn first(result: &Parcel) -> Result<String, RpcError> {
    let no_bytes = |_: &RawValue| Err(serde::de::Error::custom("one event is too little to be sent as bytes"));
    match Done::read(result, 1, no_bytes)? {
        Done::All(results) => Ok(results.rows(1).first().map_or("null", |row| row.get()).to_owned()),
        Done::Each(outcomes) => match outcomes.into_iter().next() {
            Some(outcome) if outcome.error.is_some() => Err(RpcError::from_json(&outcome.error.unwrap_or_default())),
            Some(outcome) => Ok(outcome.result.map_or("null".into(), |result| result.get().to_owned())),
            None => Ok("null".into()),
        },
    }
}

/// For a notebook: what came of an event. `topic` is none when a filter dropped it.
pub(super) fn table<'a>(topic: Option<&str>, rows: impl ExactSizeIterator<Item = &'a Row>) -> Output {
    let (mut html, mut text) = (String::new(), String::new());
    // Writing to a text cannot fail.
    match topic {
        Some(topic) if rows.len() == 0 => {
            let _ = write!(text, "no handler here wants `{topic}`");
            let _ = write!(html, "<i>no handler here wants <code>{}</code></i>", escape(topic));
        }
        None if rows.len() == 0 => {}
        _ => {
            html.push_str("<table><thead><tr><th style=\"text-align:left\">handler</th><th style=\"text-align:left\">result</th><th>ms</th></tr></thead><tbody>");
            for Row { handler, result, took } in rows {
                let result = match result {
                    Ok(json) => shorten(json),
                    Err(error) => format!("failed: {}", shorten(&error.message)),
                };
                let ms = took.as_secs_f64() * 1000.0;
                let _ = writeln!(text, "{handler}: {result} ({ms:.1} ms)");
                let _ = write!(
                    html,
                    "<tr><td style=\"text-align:left\"><code>{}</code></td><td style=\"text-align:left\"><code>{}</code></td><td>{ms:.1}</td></tr>",
                    escape(handler),
                    escape(&result)
                );
            }
            html.push_str("</tbody></table>");
        }
    }
    let mut data = Map::new();
    data.insert("text/plain".into(), json!(text.trim_end()));
    data.insert("text/html".into(), json!(html));
    Output::Display { data, metadata: Map::new() }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_text_for_whoever_reads_them() {
        let row = |result| Row { handler: "alert".into(), result, took: Duration::from_micros(1500) };
        let error = RpcError::new(ErrorKind::Raised, "<b>");
        let Output::Display { data, .. } = table(Some("a.b"), [row(Ok("\"<i>\"".into())), row(Err(error))].iter())
        else {
            panic!("a display")
        };
        let html = data["text/html"].as_str().expect("HTML");
        assert!(html.contains("&quot;&lt;i&gt;&quot;") && html.contains("failed: &lt;b&gt;"), "{html}");
        assert_eq!(data["text/plain"], "alert: \"<i>\" (1.5 ms)\nalert: failed: <b> (1.5 ms)");
        assert_eq!(shorten(&"é".repeat(3000)).chars().filter(|c| *c == 'é').count(), SHOWN_CHARS);
    }
}
