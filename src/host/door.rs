//! What the plugins know of the host, and what they may do.

use std::sync::{Arc, Weak};

use serde_json::value::RawValue;
use tokio::time::timeout_at;

use crate::{
    blob::Parcel,
    chain::Chain,
    host::{Event, News, functions::Caller, shared::Shared, stats::Meter},
    manifest::Manifest,
    plugin::{Answer, Emission, HostCalls, PluginNews},
    rpc::{self, ErrorKind, RpcError},
};

/// What one plugin knows of the host. A plugin's task may outlive the host by a moment, so it does not own it.
pub(super) struct Door {
    pub shared: Weak<Shared>,
    /// What the plugin may do is known before it is loaded, since it may call while it is.
    pub manifest: Arc<Manifest>,
    pub meter: Arc<Meter>,
}

impl Door {
    fn shared(&self) -> Result<Arc<Shared>, RpcError> {
        self.shared.upgrade().ok_or_else(|| RpcError::new(ErrorKind::Cancelled, "the host is gone"))
    }

    fn call(&self, plugin: &str, chain: Chain, name: &str, args: Box<RawValue>) -> Result<Answer<Parcel>, RpcError> {
        let shared = self.shared()?;
        self.meter.count(|stats| stats.calls += 1);
        // Keyboard reads are allowed by the host's input policy, not by the manifest.
        let allowed = name == INPUT || self.manifest.may_call(name);
        if !allowed {
            let message = format!(
                "plugin `{plugin}` may not call `{name}`; add it to `call` in [permissions] of its plugin.toml"
            );
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        shared.serve(plugin, chain, name, args)
    }

    fn emit(&self, plugin: &str, chain: Chain, emission: Emission) -> Result<Answer<()>, RpcError> {
        let shared = self.shared()?;
        let Emission { topic, data, key } = emission;
        if !self.manifest.may_emit(&topic) {
            let message = format!(
                "plugin `{plugin}` may not emit `{topic}`; add it to `emit` in [permissions] of its plugin.toml"
            );
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let event =
            Event::from_raw(&topic, data, key).map_err(|error| RpcError::new(ErrorKind::Invalid, error.to_string()))?;
        self.meter.count(|stats| stats.emitted += 1);
        let plugin = plugin.to_owned();
        Ok(Box::pin(async move { shared.emit(&plugin, event, Some(&chain)).await.map(drop) }))
    }
}

impl Shared {
    /// Call a function of the host or of a plugin for one who may.
    pub fn serve(
        self: Arc<Self>,
        plugin: &str,
        chain: Chain,
        name: &str,
        args: Box<RawValue>,
    ) -> Result<Answer<Parcel>, RpcError> {
        let shared = self;
        if let Some(function) = shared.functions.get(name) {
            let function = function.clone();
            let caller = Caller { plugin: plugin.to_owned(), chain, shared };
            let deadline = caller.chain.deadline;
            let name = name.to_owned();
            return Ok(Box::pin(async move {
                match timeout_at(deadline.into(), function(caller, args)).await {
                    Ok(result) => result,
                    Err(_) => {
                        Err(RpcError::new(ErrorKind::Timeout, format!("`{name}` did not return before the deadline")))
                    }
                }
            }));
        }
        if name == INPUT {
            let message = "plugins have no keyboard; the application can answer with `Host::builder().on_input(...)`";
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let (name, plugin, args) = (name.to_owned(), plugin.to_owned(), rpc::compact(args));
        Ok(Box::pin(async move { shared.call_plugin(&name, &args, &chain, Some(&plugin)).await }))
    }
}

/// The host function that an author's own keyboard read becomes.
pub(super) const INPUT: &str = "host.input";

impl HostCalls for Door {
    fn call(&self, plugin: &str, chain: Chain, name: String, args: Box<RawValue>) -> Answer<Parcel> {
        self.call(plugin, chain, &name, args).unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }

    fn emit(&self, plugin: &str, chain: Chain, event: Emission) -> Answer<()> {
        self.emit(plugin, chain, event).unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }

    fn news(&self, plugin: &str, news: PluginNews) {
        match &news {
            PluginNews::Odd { reason } => tracing::warn!(plugin, reason, "odd message from the shim"),
            PluginNews::Gone { reason } => tracing::warn!(plugin, reason, "kernel gone"),
            _ => {}
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.newsroom.publish(News::Plugin { plugin: plugin.into(), news });
        }
    }
}
