//! What `bridge` reaches from a notebook: its own handlers and exports, and a host.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use serde_json::{Value, value::RawValue};

use crate::{
    blob::Parcel,
    chain::Chain,
    client::Output,
    host::Event,
    pattern::Pattern,
    plugin::{Answer, Emission, HostCalls, Plugin, PluginNews},
    relay::{
        NAME, dispatch,
        iopub::Filter,
        linked::{Linked, Wish},
    },
    rpc::{self, ErrorKind, Handler, HandlerKind, LogLevel, RpcError},
};

/// What `bridge.connect` and `bridge.disconnect` call.
const CONNECT: &str = "host.connect";
const DISCONNECT: &str = "host.disconnect";

/// How long a handler may take, if nobody who waits for it says less.
pub(super) const HANDLER: Duration = Duration::from_secs(3600);

/// What cells have registered, the patterns of topics parsed.
type Registered = Arc<[(Handler, Option<Pattern>)]>;

/// Serves one notebook.
pub(super) struct Desk {
    host: Arc<dyn HostCalls>,
    pub filter: Arc<Filter>,
    plugin: OnceLock<Weak<Plugin>>,
    /// So far.
    handlers: Mutex<Registered>,
    /// A running host, instead of the scratch host.
    linked: Mutex<Option<Arc<Linked>>>,
    me: OnceLock<Weak<Self>>,
}

impl Desk {
    pub fn new(host: Arc<dyn HostCalls>, filter: Arc<Filter>) -> Self {
        let handlers = Mutex::new(Arc::from([]));
        let linked = Mutex::default();
        Self { host, filter, plugin: OnceLock::new(), handlers, linked, me: OnceLock::new() }
    }

    /// The kernel is there.
    pub fn serve(self: &Arc<Self>, plugin: &Arc<Plugin>) {
        // Once each.
        let _ = self.plugin.set(Arc::downgrade(plugin));
        let _ = self.me.set(Arc::downgrade(self));
    }

    /// Say something in the cell that runs, or ran last.
    pub fn warn(&self, text: &str) {
        self.filter.show(&Output::Stream { name: "stderr".into(), text: text.to_owned() }, self.filter.cell());
    }

    /// The kernel; while it is being loaded or ended there is none.
    pub fn plugin(&self) -> Result<Arc<Plugin>, RpcError> {
        let plugin = self.plugin.get().and_then(Weak::upgrade);
        plugin.ok_or_else(|| RpcError::new(ErrorKind::Gone, "the notebook's kernel is being started or ended"))
    }

    fn me(&self) -> Result<Arc<Self>, RpcError> {
        let me = self.me.get().and_then(Weak::upgrade);
        me.ok_or_else(|| RpcError::new(ErrorKind::Gone, "the notebook's kernel is being started or ended"))
    }

    /// What the cells have registered.
    pub fn handlers(&self) -> Registered {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The host that the notebook is attached to.
    pub fn linked(&self) -> Option<Arc<Linked>> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The link is no more.
    pub fn unlink(&self, why: &str) {
        if self.linked.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.warn(why);
        }
    }

    /// Hand an event to the scratch host, or say that a running host did not get it.
    pub async fn pass_on(&self, chain: Chain, event: &Event) -> Result<(), RpcError> {
        if let Some(linked) = self.linked() {
            self.warn(&format!(
                "`{}` was not sent to host `{}`, of whose events this notebook gets copies; only its own handlers had it\n",
                event.topic, linked.host
            ));
            return Ok(());
        }
        let emission = Emission {
            topic: event.topic.to_string(),
            data: (*event.data).to_owned(),
            key: event.key.as_deref().map(str::to_owned),
        };
        self.host.emit(NAME, chain, emission).await
    }

    /// `bridge.connect(host, replace)`
    async fn connect(self: Arc<Self>, args: Box<RawValue>) -> Result<Parcel, RpcError> {
        let invalid = |error: serde_json::Error| {
            RpcError::new(ErrorKind::Invalid, format!("connect takes a host's name and `replace`, a plugin's: {error}"))
        };
        let (wish,): (Option<Wish>,) = serde_json::from_str(args.get()).map_err(invalid)?;
        Parcel::pack(&self.link(wish.unwrap_or_default()).await?).map_err(invalid)
    }

    /// As [`Desk::connect`], from outside.
    pub async fn attach(self: Arc<Self>, host: Option<&str>, replace: Option<&str>) -> Result<Value, RpcError> {
        let owned = |name: Option<&str>| name.map(str::to_owned);
        self.link(Wish { host: owned(host), replace: owned(replace) }).await
    }

    async fn link(self: Arc<Self>, wish: Wish) -> Result<Value, RpcError> {
        if let Some(linked) = self.linked() {
            let message = format!("connected to host `{}` already; disconnect first", linked.host);
            return Err(RpcError::new(ErrorKind::Invalid, message));
        }
        let (linked, about) = Linked::connect(&self, wish).await?;
        *self.linked.lock().unwrap_or_else(PoisonError::into_inner) = Some(linked);
        Ok(about)
    }

    /// `bridge.disconnect()`
    async fn disconnect(self: Arc<Self>) -> Result<Parcel, RpcError> {
        let linked = self.linked.lock().unwrap_or_else(PoisonError::into_inner).take();
        match linked {
            Some(linked) => linked.disconnect().await.map(|()| rpc::null().into()),
            None => Err(RpcError::new(ErrorKind::Invalid, "not connected to any host")),
        }
    }

    /// One of the notebook's own functions: by its name alone, or as another plugin would.
    async fn call_own(
        self: Arc<Self>,
        chain: Chain,
        function: String,
        args: Box<RawValue>,
    ) -> Result<Parcel, RpcError> {
        let deadline = Instant::now() + HANDLER;
        let chain = chain.then(format!("{NAME}.{function}"), deadline);
        self.plugin()?.call(&function, &rpc::compact(args), &chain, chain.deadline).await
    }
}

impl HostCalls for Desk {
    fn call(&self, plugin: &str, chain: Chain, name: String, args: Box<RawValue>) -> Answer<Parcel> {
        let function = name.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('.'));
        let is_own = |function: &str| {
            let handlers = self.handlers();
            handlers.iter().any(|(handler, _)| handler.kind == HandlerKind::Export && handler.name == function)
        };
        match (function, self.me()) {
            (Some(function), Ok(me)) if is_own(function) => Box::pin(me.call_own(chain, function.to_owned(), args)),
            (_, Ok(me)) if name == CONNECT => Box::pin(me.connect(args)),
            (_, Ok(me)) if name == DISCONNECT => Box::pin(me.disconnect()),
            _ => match self.linked() {
                Some(linked) => Box::pin(async move { linked.call(&chain, &name, args).await }),
                None => self.host.call(plugin, chain, name, args),
            },
        }
    }

    fn emit(&self, _: &str, chain: Chain, event: Emission) -> Answer<()> {
        if let Some(linked) = self.linked().filter(|linked| linked.may_emit(&event.topic)) {
            // The host hands it to whoever wants it, this notebook as well.
            return Box::pin(async move { linked.emit(&chain, &event).await });
        }
        let begun = || {
            let event = Event::from_raw(&event.topic, event.data, event.key)
                .map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
            Ok::<_, RpcError>((self.me()?, event))
        };
        match begun() {
            Ok((me, event)) => Box::pin(dispatch::emitted(me, chain, event)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn news(&self, _: &str, news: PluginNews) {
        match news {
            PluginNews::Output(output) => self.filter.show(&output, self.filter.cell()),
            PluginNews::Log { level, message, fields } => {
                let level = match level {
                    LogLevel::Debug => "debug",
                    LogLevel::Info => "info",
                    LogLevel::Warn => "warning",
                    LogLevel::Error => "error",
                };
                let fields = match fields.as_object() {
                    Some(fields) if !fields.is_empty() => format!(" {}", Value::Object(fields.clone())),
                    _ => String::new(),
                };
                self.warn(&format!("{level}: {message}{fields}\n"));
            }
            PluginNews::Progress { done, total, message } => {
                let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
                self.warn(&format!("{done}{total} {message}\n"));
            }
            PluginNews::Handlers(handlers) => {
                let parsed = handlers.into_iter().map(|handler| {
                    let pattern = (handler.kind != HandlerKind::Export).then(|| Pattern::parse(&handler.topic));
                    let pattern = pattern.and_then(|pattern| {
                        pattern.inspect_err(|error| self.warn(&format!("handler `{}`: {error}\n", handler.name))).ok()
                    });
                    (handler, pattern)
                });
                *self.handlers.lock().unwrap_or_else(PoisonError::into_inner) = parsed.collect();
                if let Some(linked) = self.linked() {
                    linked.handlers_changed();
                }
            }
            PluginNews::OutputDropped { outputs, bytes, .. } => {
                self.warn(&format!("{outputs} outputs ({bytes} bytes) were dropped\n"));
            }
            PluginNews::Odd { reason } => tracing::warn!(reason, "odd message from the shim"),
            PluginNews::Gone { reason } => tracing::info!(reason, "kernel gone"),
        }
    }
}
