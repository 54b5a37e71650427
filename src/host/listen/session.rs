//! One link, from its first message to its last.

use std::{
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    blob::{self, Parcel},
    chain::Chain,
    host::{
        Event, News,
        lane::{Entry, Face},
        listen::{
            Desk, LinkInfo,
            console::Console,
            mirror::{Mirror, Mirroring},
            stand_in::StandIn,
        },
        shared::{Shared, deliver},
    },
    link::{Arrived, Incoming, LARGEST_BEFORE_BYTES, LARGEST_BYTES, Peer},
    manifest::Manifest,
    pattern::{NameError, Pattern},
    plugin::{Emission, PluginNews},
    rpc::{
        self, AboutPlugin, Attach, Attached, ErrorKind, Handler, HandlerKind, LogLevel, May, Mode, Plea, RpcError,
        SetHandlers,
    },
    suggest::did_you_mean,
};

/// How long a peer may take to say who it is.
const ATTACH: Duration = Duration::from_secs(5);
/// How many copies a mirror may have that it has not answered.
const WINDOW: usize = 64;
/// No further copy is sent while more than this waits for the peer to read it.
const BEHIND_BYTES: usize = 4 << 20;
/// How long a copy is waited for, and a mirror's calls may take in all; nothing depends on it.
const MIRRORED: Duration = Duration::from_secs(3600);
/// How long a call may take that says nothing.
const CALL: Duration = Duration::from_secs(30);
/// Most calls of a peer at the same time.
const MOST_CALLS: usize = 256;
/// Most handlers of a peer.
const MOST_HANDLERS: usize = 1000;
/// Longest name of a peer, in bytes.
const LONGEST_NAME: usize = 64;
/// What mirrors may call, whatever the options say.
const READS: [&str; 3] = ["state.get", "state.read", "state.list"];

/// Serves one link.
pub(super) struct Session {
    desk: Arc<Desk>,
    peer: Peer,
    incoming: Incoming,
    /// What the peer is told at the end.
    farewell: String,
}

/// What the peer is.
enum Role {
    Mirror { mirror: Arc<Mirror>, told: u64, _mirroring: Mirroring },
    Replace(Seat),
    Console(Console),
}

/// A stand-in in its place. Dropping it gives the plugin everything back.
struct Seat {
    entry: Arc<Entry>,
    stand_in: Arc<StandIn>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.entry.unseat(&self.stand_in);
    }
}

/// A call of the peer's under way.
pub(super) type Call = Pin<Box<dyn Future<Output = (u64, Result<Parcel, RpcError>)> + Send>>;

/// Beyond what `call` and `emit` of a plugin have.
#[derive(Default, Deserialize)]
struct Context {
    /// The request of ours that it is made for.
    during: Option<u64>,
    within_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Log {
    #[serde(default)]
    level: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    fields: serde_json::Value,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.desk.book.bad.fetch_add(self.peer.bad() as u64, Ordering::Relaxed);
        self.peer.dismiss(&self.farewell);
    }
}

impl Session {
    pub fn new(stream: UnixStream, desk: Arc<Desk>) -> Self {
        let (peer, incoming) = Peer::new(stream, LARGEST_BEFORE_BYTES);
        Self { desk, peer, incoming, farewell: "the host was shut down".to_owned() }
    }

    pub async fn run(mut self) {
        let attached = match timeout(ATTACH, self.attach()).await {
            Ok(attached) => attached,
            Err(_) => Err(format!("nothing was asked within {ATTACH:?}")),
        };
        match attached {
            Ok((attach, mut role)) => {
                let desk = self.desk.clone();
                let info = LinkInfo { name: attach.name, mode: attach.mode, plugin: attach.plugin };
                let noted = desk.book.note(info.clone());
                self.tell(&info, true, "");
                let reason = self.serve(&mut role, &link_name(&info.name)).await;
                // First everything is given back, then it is told.
                drop((role, noted));
                self.tell(&info, false, &reason);
                self.farewell = reason;
            }
            Err(reason) => {
                self.desk.book.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(reason, "a link was refused");
                self.farewell = reason;
            }
        }
    }

    fn tell(&self, info: &LinkInfo, is_attached: bool, reason: &str) {
        let LinkInfo { name, mode, plugin } = info;
        tracing::info!(name, ?mode, ?plugin, is_attached, reason, "link");
        if let Some(shared) = self.desk.shared.upgrade() {
            shared.newsroom.publish(News::Link { info: info.clone(), is_attached, reason: reason.into() });
        }
    }

    /// What the peer wants to be, or why not.
    async fn attach(&mut self) -> Result<(Attach, Role), String> {
        loop {
            match self.incoming.next().await {
                None => return Err(self.peer.closed().await),
                Some(Arrived::Notification { .. }) => {}
                Some(Arrived::Request { id, method, params }) => {
                    let granted = match &*method {
                        "attach" => self.admit(&params),
                        _ => {
                            let message = format!("`{method}` before `attach`, which comes first");
                            Err(RpcError::new(ErrorKind::Denied, message))
                        }
                    };
                    let answered = granted.and_then(|(attach, role, attached)| {
                        let answer = serde_json::to_string(&attached)
                            .map_err(|error| RpcError::new(ErrorKind::Host, error.to_string()))?;
                        Ok((attach, role, answer))
                    });
                    return match answered {
                        Ok((attach, role, answer)) => {
                            self.peer.trust();
                            self.peer.respond(id, Ok(&answer));
                            Ok((attach, role))
                        }
                        Err(error) => {
                            self.peer.respond(id, Err(&error));
                            Err(error.message)
                        }
                    };
                }
            }
        }
    }

    fn admit(&self, params: &RawValue) -> Result<(Attach, Role, Attached), RpcError> {
        let refuse = |kind, message: String| Err(RpcError::new(kind, message));
        let attach: Attach = serde_json::from_str(params.get())
            .map_err(|error| RpcError::new(ErrorKind::Invalid, format!("parameters of `attach`: {error}")))?;
        if !is_same(&attach.token, &self.desk.token) {
            let message = "the token is not this host's; it is in the file `token` beside the socket";
            return refuse(ErrorKind::Denied, message.to_owned());
        }
        if attach.bridge != rpc::VERSION {
            let message =
                format!("the peer speaks version {} of the protocol, this host {}", attach.bridge, rpc::VERSION);
            return refuse(ErrorKind::Invalid, message);
        }
        if attach.name.is_empty() || attach.name.len() > LONGEST_NAME || attach.name.contains(char::is_control) {
            let message = format!("a peer needs a name of at most {LONGEST_NAME} bytes, for people to read");
            return refuse(ErrorKind::Invalid, message);
        }
        let shared = self.shared()?;
        let handlers = all_handlers(&attach.handlers, &attach.exports)?;
        let (role, may, entry) = match attach.mode {
            Mode::Mirror => {
                let mirror = Arc::new(Mirror::default());
                mirror.set(copied(&handlers)?);
                let mirroring = shared.links.add(mirror.clone());
                (Role::Mirror { mirror, told: 0, _mirroring: mirroring }, self.may_mirror(), None)
            }
            Mode::Replace => {
                let entry = find(&shared, attach.plugin.as_deref(), "replace")?;
                let face = guest_face(&handlers, &entry.manifest, &attach.features)?;
                let features = attach.features.clone();
                let stand_in = Arc::new(StandIn::new(attach.name.clone(), &entry, self.peer.clone(), features, face));
                if let Err(holder) = entry.seat(stand_in.clone()) {
                    let message = format!("plugin `{}` is replaced by `{}` already", entry.name, holder.name);
                    return refuse(ErrorKind::Denied, message);
                }
                let may = may_plugin(&entry.manifest);
                (Role::Replace(Seat { entry: entry.clone(), stand_in }), may, Some(entry))
            }
            Mode::Console => {
                let entry = find(&shared, attach.plugin.as_deref(), "console")?;
                let console = Console { entry, allows_code: self.desk.options.allow_console };
                (Role::Console(console), May::default(), None)
            }
        };
        let attached = Attached {
            bridge: rpc::VERSION.to_owned(),
            link: entry.as_ref().map_or_else(|| link_name(&attach.name), |entry| entry.name.to_string()),
            host: self.desk.about.clone(),
            plugins: shared.entries().iter().map(|entry| about(entry)).collect(),
            functions: sorted(shared.functions.names()),
            may,
            timeout_ms: entry.as_ref().map_or(0, |entry| milliseconds(entry.manifest.limits.timeout)),
            config: entry.map(|entry| entry.manifest.config.clone().into()).unwrap_or_default(),
        };
        Ok((attach, role, attached))
    }

    fn shared(&self) -> Result<Arc<Shared>, RpcError> {
        self.desk.shared.upgrade().ok_or_else(|| RpcError::new(ErrorKind::Cancelled, "the host is gone"))
    }

    fn may_mirror(&self) -> May {
        let options = &self.desk.options;
        let more = options.call.iter().map(|pattern| pattern.as_str().to_owned());
        let call = READS.iter().map(|name| (*name).to_owned()).chain(more).collect();
        May { call, emit: options.emit.iter().map(|pattern| pattern.as_str().to_owned()).collect() }
    }

    /// Until the link ends; says why.
    async fn serve(&mut self, role: &mut Role, name: &str) -> String {
        let mut calls: FuturesUnordered<Call> = FuturesUnordered::new();
        let mut copies = FuturesUnordered::new();
        loop {
            let is_behind = self.peer.waiting_bytes() > BEHIND_BYTES;
            let takes_more = !is_behind && copies.len() < WINDOW;
            let copy = async {
                match &*role {
                    Role::Mirror { mirror, .. } if takes_more => mirror.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                arrived = self.incoming.next() => match arrived {
                    None => return self.peer.closed().await,
                    Some(Arrived::Notification { method, params }) => self.told(name, &method, &params),
                    Some(Arrived::Request { id, method, params }) => {
                        match self.asked(role, name, id, &method, &params, calls.len()) {
                            ControlFlow::Continue(call) => calls.extend(call),
                            ControlFlow::Break(()) => return "it was detached, as it asked".to_owned(),
                        }
                    }
                },
                Some((id, result)) = calls.next(), if !calls.is_empty() => self.answer(id, result),
                Some(()) = copies.next(), if !copies.is_empty() => {}
                (handler, event) = copy => {
                    if let Role::Mirror { mirror, told, .. } = role {
                        self.tell_dropped(mirror.dropped(), told);
                        copies.push(copy_to(self.peer.clone(), handler, event));
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(100)), if is_behind => {}
            }
        }
    }

    fn tell_dropped(&self, total: u64, told: &mut u64) {
        let events = total - *told;
        if events > 0 {
            *told = total;
            self.peer.notify("dropped", &format!(r#"{{"events":{events},"total":{total}}}"#));
        }
    }

    fn told(&self, name: &str, method: &str, params: &RawValue) {
        let Some(shared) = self.desk.shared.upgrade().filter(|_| method == "log") else { return };
        if let Ok(Log { level, message, fields }) = serde_json::from_str(params.get()) {
            let news = PluginNews::Log { level: LogLevel::from_name(&level), message, fields };
            shared.newsroom.publish(News::Plugin { plugin: name.into(), news });
        }
    }

    /// A call that takes its time, or an answer at once; a break after `detach`.
    fn asked(
        &self,
        role: &mut Role,
        name: &str,
        id: u64,
        method: &str,
        params: &RawValue,
        calls: usize,
    ) -> ControlFlow<(), Option<Call>> {
        if let Role::Console(console) = role
            && let Some(begun) = console.begin(&self.peer, id, method, params)
        {
            return match begun {
                Ok(call) => ControlFlow::Continue(Some(call)),
                Err(error) => {
                    self.peer.respond(id, Err(&error));
                    ControlFlow::Continue(None)
                }
            };
        }
        let done = match method {
            "call" | "emit" if matches!(role, Role::Console(_)) => {
                let message = "a console calls and emits nothing";
                Err(RpcError::new(ErrorKind::Denied, message))
            }
            "call" | "emit" if calls >= MOST_CALLS => {
                Err(RpcError::new(ErrorKind::Host, format!("the peer has {calls} calls under way already")))
            }
            "call" | "emit" => match self.begin(role, name, id, method, params) {
                Ok(call) => return ControlFlow::Continue(Some(call)),
                Err(error) => Err(error),
            },
            "handlers" => set_handlers(role, params),
            "detach" => {
                if let Role::Replace(Seat { entry, stand_in }) = role {
                    entry.unseat(stand_in);
                }
                self.peer.respond(id, Ok("null"));
                return ControlFlow::Break(());
            }
            "attach" => Err(RpcError::new(
                ErrorKind::Denied,
                "this link is attached already; another one needs a connection of its own",
            )),
            _ => Err(RpcError::new(ErrorKind::NotFound, format!("no method `{method}`"))),
        };
        self.peer.respond(id, done.as_ref().map(|()| "null"));
        ControlFlow::Continue(None)
    }

    fn begin(&self, role: &Role, name: &str, id: u64, method: &str, params: &RawValue) -> Result<Call, RpcError> {
        let plea = Plea::parse(method, Some(params))?;
        let Context { during, within_ms } = serde_json::from_str(params.get())
            .map_err(|error| RpcError::new(ErrorKind::Invalid, format!("parameters of `{method}`: {error}")))?;
        let within = within_ms.map_or(CALL, Duration::from_millis).min(MIRRORED);
        let deadline = Instant::now() + within;
        let chain = match during {
            None => Chain::root(name, deadline),
            Some(id) => {
                let chain = self.peer.chain_of(id).ok_or_else(|| {
                    RpcError::new(ErrorKind::Cancelled, format!("request {id} is not being served any more"))
                })?;
                Chain { deadline: chain.deadline.min(deadline), ..chain }
            }
        };
        match (plea, role) {
            (Plea::Call { name, args }, Role::Replace(Seat { entry, .. })) => {
                let (args, held) = blob::adopt(args, None, LARGEST_BYTES as u64)?.into_parts();
                let answer = entry.recipe().door.call(&entry.name, chain, name, args);
                Ok(Box::pin(async move {
                    let result = answer.await;
                    drop(held);
                    (id, result)
                }))
            }
            (Plea::Emit { topic, data, key }, Role::Replace(Seat { entry, .. })) => {
                let emitted = entry.recipe().door.emit(&entry.name, chain, Emission { topic, data, key });
                Ok(Box::pin(async move { (id, emitted.await.map(|()| rpc::null().into())) }))
            }
            (Plea::Call { name: function, args }, _) => {
                let options = &self.desk.options;
                let is_read = READS.contains(&&*function);
                if !is_read && !options.call.iter().any(|pattern| pattern.matches(&function)) {
                    let message = format!(
                        "a mirror may not call `{function}`; start the host with `--listen-call {function}`, or \
                         attach in place of a plugin that may"
                    );
                    return Err(RpcError::new(ErrorKind::Denied, message));
                }
                let (args, held) = blob::adopt(args, None, LARGEST_BYTES as u64)?.into_parts();
                let answer = self.shared()?.serve(name, chain, &function, args)?;
                Ok(Box::pin(async move {
                    let result = answer.await;
                    drop(held);
                    (id, result)
                }))
            }
            (Plea::Emit { topic, data, key }, _) => {
                if !self.desk.options.emit.iter().any(|pattern| pattern.matches(&topic)) {
                    let message = format!(
                        "a mirror may not emit `{topic}`; start the host with `--listen-emit {topic}`, or attach in \
                         place of a plugin that may"
                    );
                    return Err(RpcError::new(ErrorKind::Denied, message));
                }
                let event = Event::from_raw(&topic, data, key)
                    .map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
                let (shared, name) = (self.shared()?, name.to_owned());
                Ok(Box::pin(async move {
                    let emitted = tokio::time::timeout_at(deadline.into(), shared.emit(&name, event, Some(&chain)));
                    let result = match emitted.await {
                        Ok(emitted) => emitted.map(|_| rpc::null().into()),
                        Err(_) => {
                            let message = format!("`{topic}` was not accepted by all queues before the deadline");
                            Err(RpcError::new(ErrorKind::Timeout, message))
                        }
                    };
                    (id, result)
                }))
            }
        }
    }

    fn answer(&self, id: u64, result: Result<Parcel, RpcError>) {
        let result = result.and_then(|result| Ok(result.by_value()?)).and_then(|result| match result.get().len() {
            0..=LARGEST_BYTES => Ok(result),
            size => {
                Err(RpcError::new(ErrorKind::Invalid, format!("a result of {size} bytes is more than a link carries")))
            }
        });
        self.peer.respond(id, result.as_ref().map(|result| result.get()));
    }
}

/// Send a copy, and wait until the peer has done something with it.
async fn copy_to(peer: Peer, handler: u64, event: Event) {
    let deadline = Instant::now() + MIRRORED;
    let chain = Chain::root(format!("event {}", event.id), deadline);
    let params = serde_json::to_string(&deliver(handler, &event, 1, &chain)).ok();
    let params = params.and_then(|params| Some(blob::by_value(&params, LARGEST_BYTES as u64 / 16).ok()?.into_owned()));
    if let Some(params) = params {
        // What a mirror makes of it is its own business.
        let _ = peer.request_in("event", &params, Some(chain), deadline).await;
    }
}

fn set_handlers(role: &Role, params: &RawValue) -> Result<(), RpcError> {
    let SetHandlers { handlers, exports } = serde_json::from_str(params.get())
        .map_err(|error| RpcError::new(ErrorKind::Invalid, format!("parameters of `handlers`: {error}")))?;
    let handlers = all_handlers(&handlers, &exports)?;
    match role {
        Role::Mirror { mirror, .. } => mirror.set(copied(&handlers)?),
        Role::Replace(Seat { entry, stand_in }) => {
            stand_in.show(guest_face(&handlers, &entry.manifest, stand_in.features())?);
            entry.look_again();
        }
        Role::Console(_) => return Err(RpcError::new(ErrorKind::Denied, "a console has no handlers")),
    }
    Ok(())
}

/// Handlers and what is only named as exports.
fn all_handlers(handlers: &[Handler], exports: &[String]) -> Result<Vec<Handler>, RpcError> {
    let all: Vec<Handler> =
        handlers.iter().cloned().chain(exports.iter().map(|name| Handler::export(0, name))).collect();
    if all.len() > MOST_HANDLERS {
        let message = format!("{} handlers; a peer may have {MOST_HANDLERS}", all.len());
        return Err(RpcError::new(ErrorKind::Invalid, message));
    }
    Ok(all)
}

/// What a mirror gets copies for. Its filters and exports are of use to nobody.
fn copied(handlers: &[Handler]) -> Result<Vec<(u64, Pattern)>, RpcError> {
    let on = handlers.iter().filter(|handler| handler.kind == HandlerKind::On);
    on.map(|handler| {
        let topic = Pattern::parse(&handler.topic).map_err(|error| bad_topic(&handler.topic, &error))?;
        Ok((handler.id, topic))
    })
    .collect()
}

fn guest_face(handlers: &[Handler], manifest: &Manifest, features: &[String]) -> Result<Face, RpcError> {
    let columns = handlers.iter().find(|handler| !handler.columns.is_empty());
    if let Some(handler) = columns.filter(|_| !features.iter().any(|feature| feature == rpc::COLUMNS)) {
        let message = format!("handler `{}` wants columns, but the peer has not the feature `columns`", handler.name);
        return Err(RpcError::new(ErrorKind::Invalid, message));
    }
    Face::new(handlers, manifest, true).map_err(|(topic, error)| bad_topic(&topic, &error))
}

fn bad_topic(topic: &str, error: &NameError) -> RpcError {
    RpcError::new(ErrorKind::Invalid, format!("a handler for topic `{topic}`: {error}"))
}

fn find(shared: &Shared, plugin: Option<&str>, mode: &str) -> Result<Arc<Entry>, RpcError> {
    let entries = shared.entries();
    let names = || entries.iter().map(|entry| &*entry.name);
    let Some(plugin) = plugin else {
        let message = format!("`{mode}` needs a `plugin`; there are `{}`", names().collect::<Vec<_>>().join("`, `"));
        return Err(RpcError::new(ErrorKind::Invalid, message));
    };
    entries.iter().find(|entry| *entry.name == *plugin).cloned().ok_or_else(|| {
        let hint = match did_you_mean(plugin, names()) {
            Some(hint) => format!("; {hint}"),
            None => format!("; there are `{}`", names().collect::<Vec<_>>().join("`, `")),
        };
        RpcError::new(ErrorKind::NotFound, format!("no plugin `{plugin}` in this host{hint}"))
    })
}

fn about(entry: &Entry) -> AboutPlugin {
    let face = entry.own_face();
    AboutPlugin {
        name: entry.name.to_string(),
        version: entry.manifest.version.clone(),
        language: face.about.language.clone(),
        interpreter: face.about.interpreter.clone(),
        handlers: face.handlers.clone(),
        replaced_by: entry.stand_in().map(|stand_in| stand_in.name.clone()),
    }
}

fn may_plugin(manifest: &Manifest) -> May {
    let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    May { call: texts(&manifest.permissions.call), emit: texts(&manifest.permissions.emit) }
}

/// As others see a mirror's calls, events and log.
fn link_name(name: &str) -> String {
    format!("link:{name}")
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Takes as long whatever is different.
fn is_same(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |differences, (one, other)| differences | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_whole_token() {
        assert!(is_same("abc", "abc"));
        for wrong in ["", "ab", "abcd", "abd", "xbc"] {
            assert!(!is_same(wrong, "abc"), "{wrong}");
        }
    }
}
