//! What is shown of live events: one table, in the cell that connected, that changes as they come.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::{sync::Notify, time::sleep};

use crate::{
    client::Output,
    relay::{
        dispatch::{Row, table},
        iopub::Filter,
    },
    wire::Header,
};

/// How many of the last events are shown.
const SHOWN: usize = 10;
/// How often the table may change.
const PACE: Duration = Duration::from_millis(300);

/// The table of one link.
pub(super) struct Live {
    filter: Arc<Filter>,
    /// Where it is shown: in the cell that connected, else in the first that runs.
    cell: Mutex<Option<Header>>,
    /// Names the display, so that it can be changed.
    id: String,
    about: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    handled: u64,
    failed: u64,
    dropped: u64,
    last: VecDeque<Row>,
    ended: Option<String>,
}

impl Live {
    /// Show it in the cell that runs now.
    pub fn begin(filter: Arc<Filter>, about: String) -> Arc<Self> {
        let id = uuid::Uuid::new_v4().to_string();
        let (cell, state, changed) = (Mutex::default(), Mutex::default(), Notify::new());
        let live = Self { filter, cell, id, about, state, changed };
        live.show();
        Arc::new(live)
    }

    /// Change it when there is something new.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            self.show();
            sleep(PACE).await;
        }
    }

    /// So many events were handled.
    pub fn row(&self, count: usize, topic: &str, mut row: Row) {
        row.handler = [topic, &row.handler].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" → ");
        let mut state = self.lock();
        *(if row.result.is_ok() { &mut state.handled } else { &mut state.failed }) += count as u64;
        state.last.push_front(row);
        state.last.truncate(SHOWN);
        drop(state);
        self.changed.notify_one();
    }

    /// The host dropped copies that we were too slow for.
    pub fn dropped(&self, events: u64) {
        self.lock().dropped += events;
        self.changed.notify_one();
    }

    /// Nothing more will come.
    pub fn end(&self, reason: &str) {
        self.lock().ended = Some(reason.to_owned());
        self.show();
    }

    fn show(&self) {
        let mut cell = self.cell.lock().unwrap_or_else(PoisonError::into_inner);
        let msg_type = if cell.is_some() { "update_display_data" } else { "display_data" };
        if cell.is_none() {
            *cell = self.filter.cell();
        }
        let Some(cell) = cell.clone() else { return };
        let content = {
            let state = self.lock();
            let mut head = format!("{}: {} handled", self.about, state.handled);
            for (count, what) in [(state.failed, "failed"), (state.dropped, "dropped: too slow")] {
                if count > 0 {
                    head.push_str(&format!(", {count} {what}"));
                }
            }
            match &state.ended {
                Some(reason) => head.push_str(&format!("; ended: {reason}")),
                None => head.push_str("; connected"),
            }
            let rows = table(None, state.last.iter());
            let Output::Display { data, .. } = rows else { return };
            let text = |kind: &str| data.get(kind).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (plain, html) = (text("text/plain"), text("text/html"));
            let mut data = Map::new();
            data.insert("text/plain".into(), json!(format!("{head}\n{plain}").trim_end()));
            data.insert("text/html".into(), json!(format!("<p>{}</p>{html}", super::dispatch::escape(&head))));
            json!({ "data": data, "metadata": {}, "transient": { "display_id": self.id } })
        };
        self.filter.say(msg_type, &content, Some(cell));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
