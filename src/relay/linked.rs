//! A notebook that is attached to a running host: live events come to its handlers, and `bridge` reaches that host.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

use crate::{
    blob::{Held, Parcel},
    chain::{Chain, ChainId},
    link::{Address, Link, LinkError, LinkRequest, Requests, Wanted},
    pattern::Pattern,
    plugin::{Emission, Plugin},
    relay::{NAME, desk::Desk, dispatch::Row, live::Live},
    rpc::{self, Attach, Attached, ErrorKind, Mode, Params, RpcError},
};

/// How long a handler of a live event may take, if nobody waits for it; a cell that runs comes first.
const HANDLER: Duration = Duration::from_secs(300);
/// How long a call of a host may take.
const CALL: Duration = Duration::from_secs(3600);

/// What a cell may say to `bridge.connect`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    /// A host's name, process id, folder or socket; the only one that runs if nothing is given.
    pub host: Option<String>,
    /// A plugin whose place the notebook takes; without it the notebook gets copies.
    pub replace: Option<String>,
}

/// A link that works. Dropping it closes the link, and the host gives everything back.
pub(super) struct Linked {
    link: Link,
    is_mirror: bool,
    may_emit: Vec<Pattern>,
    /// The host's requests under way, by the chain that we gave them.
    during: Mutex<HashMap<ChainId, u64>>,
    changed: Notify,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    pub host: String,
}

impl Drop for Linked {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

/// Parameters as the host sent them: handlers have the numbers that the shim gave them.
struct Passed<'a>(&'a RawValue, usize);

impl serde::Serialize for Passed<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Params for Passed<'_> {
    fn count(&self) -> usize {
        self.1
    }
}

/// As much of the parameters of any request as is shown.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Brief {
    handler: u64,
    topic: String,
    name: String,
    count: Option<usize>,
    events: Vec<serde::de::IgnoredAny>,
}

impl Linked {
    /// Attach a notebook to a host.
    pub async fn connect(desk: &Arc<Desk>, wish: Wish) -> Result<(Arc<Self>, serde_json::Value), RpcError> {
        let plugin = desk.plugin()?;
        let address = Address::find(wish.host.as_deref()).map_err(wrong)?;
        let (link, requests) = Link::connect(&address).await.map_err(wrong)?;
        let mode = if wish.replace.is_some() { Mode::Replace } else { Mode::Mirror };
        let features = [rpc::SERIES, rpc::ROWS, rpc::COLUMNS];
        let features = features.iter().filter(|feature| mode == Mode::Replace && plugin.has_feature(feature));
        let attach = Attach {
            mode,
            plugin: wish.replace.clone(),
            name: NAME.into(),
            handlers: desk.handlers().iter().map(|(handler, _)| handler.clone()).collect(),
            features: features.map(|feature| (*feature).to_owned()).collect(),
            ..Attach::default()
        };
        let attached: Attached = link.attach(attach).await.map_err(wrong)?;
        let may_emit = attached.may.emit.iter().filter_map(|pattern| Pattern::parse(pattern).ok());
        let linked = Arc::new(Self {
            link,
            is_mirror: mode == Mode::Mirror,
            may_emit: may_emit.collect(),
            during: Mutex::default(),
            changed: Notify::new(),
            tasks: Mutex::default(),
            host: attached.host.name.clone(),
        });
        let what = match &wish.replace {
            Some(plugin) => format!("in the place of `{plugin}`"),
            None => "copies of its events".to_owned(),
        };
        let live = Live::begin(desk.filter.clone(), format!("host `{}`, {what}", linked.host));
        let tasks = [
            tokio::spawn(serve(Arc::downgrade(&linked), desk.clone(), plugin, requests, live.clone())),
            tokio::spawn(tell_handlers(Arc::downgrade(&linked), desk.clone())),
            tokio::spawn(live.run()),
        ];
        linked.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        let plugins: Vec<_> = attached.plugins.iter().map(|plugin| &plugin.name).collect();
        let about = json!({
            "host": attached.host.name,
            "link": attached.link,
            "mode": mode.name(),
            "plugins": plugins,
            "functions": attached.functions,
            "may": attached.may,
        });
        Ok((linked, about))
    }

    /// The notebook has other handlers now.
    pub fn handlers_changed(&self) {
        self.changed.notify_one();
    }

    /// Call a function of the host, on behalf of the live event that is handled if there is one.
    pub async fn call(&self, chain: &Chain, name: &str, args: Box<RawValue>) -> Result<Parcel, RpcError> {
        let within = chain.deadline.saturating_duration_since(Instant::now()).min(CALL);
        let args = by_value(Parcel::new(args, Held::default()))?;
        let result = self.link.call_during(self.during(chain), name, &args, within).await;
        result.map(Parcel::from).map_err(wrong)
    }

    /// May the notebook emit this into the host? A copy of an event must not have consequences, unless the host says so.
    pub fn may_emit(&self, topic: &str) -> bool {
        !self.is_mirror || self.may_emit.iter().any(|pattern| pattern.matches(topic))
    }

    /// Put an event onto the host's bus.
    pub async fn emit(&self, chain: &Chain, event: &Emission) -> Result<(), RpcError> {
        let within = chain.deadline.saturating_duration_since(Instant::now()).min(CALL);
        let data = by_value(Parcel::new(event.data.clone(), Held::default()))?;
        let emitted = self.link.emit_during(self.during(chain), &event.topic, &data, event.key.as_deref(), within);
        emitted.await.map_err(wrong)
    }

    /// End the link; the host has everything back when this returns.
    pub async fn disconnect(&self) -> Result<(), RpcError> {
        self.link.detach().await.map_err(wrong)
    }

    fn during(&self, chain: &Chain) -> Option<u64> {
        self.during.lock().unwrap_or_else(PoisonError::into_inner).get(&chain.id).copied()
    }
}

/// Over a link go no files.
fn by_value(parcel: Parcel) -> Result<Box<RawValue>, RpcError> {
    parcel.by_value().map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))
}

/// As a plugin's error has it.
fn wrong(error: LinkError) -> RpcError {
    match error {
        LinkError::Refused(error) => error,
        LinkError::Timeout { .. } => RpcError::new(ErrorKind::Timeout, error.to_string()),
        LinkError::Closed { .. } | LinkError::Connect { .. } => RpcError::new(ErrorKind::Gone, error.to_string()),
        error => RpcError::new(ErrorKind::Host, error.to_string()),
    }
}

/// Hand what the host wants to the notebook's kernel, until the link ends.
async fn serve(linked: Weak<Linked>, desk: Arc<Desk>, plugin: Arc<Plugin>, mut requests: Requests, live: Arc<Live>) {
    let reason = loop {
        match requests.next().await {
            Ok(Wanted::Request(request)) => {
                let Some(linked) = linked.upgrade() else { return };
                // A call may come while an event is handled, and belong to it.
                tokio::spawn(serve_one(linked, desk.clone(), plugin.clone(), request, live.clone()));
            }
            Ok(Wanted::Dropped { events, .. }) => live.dropped(events),
            // What runs is not interrupted: it may be a cell.
            Ok(Wanted::Cancelled { .. } | Wanted::Output(_)) => {}
            Err(error) => break error.to_string(),
        }
    };
    live.end(&reason);
    let host = linked.upgrade().map(|linked| linked.host.clone()).unwrap_or_default();
    desk.unlink(&format!("host `{host}`: {reason}; `bridge` reaches the scratch host again\n"));
}

async fn serve_one(linked: Arc<Linked>, desk: Arc<Desk>, plugin: Arc<Plugin>, request: LinkRequest, live: Arc<Live>) {
    let brief: Brief = serde_json::from_str(request.params().get()).unwrap_or_default();
    let Some(method) = ["event", "filter", "call", "events", "series", "rows", "columns"]
        .into_iter()
        .find(|method| *method == request.method())
    else {
        let error = RpcError::new(ErrorKind::NotFound, format!("no method `{}`", request.method()));
        return request.fail(&error);
    };
    let chain = Chain::root(format!("{method} of host {}", linked.host), Instant::now() + HANDLER);
    linked.during.lock().unwrap_or_else(PoisonError::into_inner).insert(chain.id, request.id());
    let count = brief.count.unwrap_or(brief.events.len().max(1));
    let began = Instant::now();
    let params = rpc::compact(request.params().to_owned());
    let params = Passed(&params, count);
    let result = plugin.request(method, &params, &chain, chain.deadline).await;
    linked.during.lock().unwrap_or_else(PoisonError::into_inner).remove(&chain.id);
    let handlers = desk.handlers();
    let name = handlers.iter().find(|(handler, _)| handler.id == brief.handler && brief.name.is_empty());
    let name = name.map_or(brief.name, |(handler, _)| handler.name.clone());
    let result = result.and_then(by_value);
    let shown = result.as_ref().map(|json| json.get().to_owned()).map_err(Clone::clone);
    live.row(count, &brief.topic, Row { handler: name, result: shown, took: began.elapsed() });
    match result {
        // A value that cannot be sent has told the host so.
        Ok(json) => drop(request.answer(&json)),
        Err(error) => request.fail(&error),
    }
}

/// Cells are run again and register anew: the host is to know, but not of each line of a cell.
async fn tell_handlers(linked: Weak<Linked>, desk: Arc<Desk>) {
    loop {
        let Some(now) = linked.upgrade() else { return };
        tokio::select! {
            () = now.changed.notified() => {}
            // With it everything here ends.
            _ = now.link.closed() => return,
        }
        sleep(Duration::from_millis(50)).await;
        let handlers = desk.handlers().iter().map(|(handler, _)| handler.clone()).collect();
        if let Err(error) = now.link.set_handlers(handlers).await {
            desk.warn(&format!("the host did not take the handlers: {error}\n"));
        }
    }
}
