//! What all parts of a host share: routing of calls and events, permissions, deadlines.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::{
    blob::{self, Parcel},
    chain::Chain,
    host::{
        Event,
        functions::{Functions, deadline, invalid},
        kernels::Kernels,
        lane::{Coming, Entry},
        listen::Links,
        news::Newsroom,
        pending::Pending,
        pool::Pool,
        stats::PluginStats,
    },
    manifest::Manifest,
    plugin::SharedGraph,
    rpc::{self, Deliver, ErrorKind, RpcError},
    store::Store,
    suggest::did_you_mean,
};

/// What all parts of a host share.
pub(crate) struct Shared {
    pub functions: Functions,
    pub store: Arc<Store>,
    pub graph: SharedGraph,
    pub newsroom: Newsroom,
    /// Kernels that may be started at the same time.
    pub places: Arc<Semaphore>,
    /// The same for those that nobody waits for.
    pub spare_places: Arc<Semaphore>,
    /// Those that several plugins share.
    pub kernels: Kernels,
    /// Kernels at hand for plugins that are loaded later, language by language.
    pub pools: Vec<Arc<Pool>>,
    /// In the order in which they were named, then in that in which they were added; complete once all are loaded.
    pub entries: RwLock<Arc<Vec<Arc<Entry>>>>,
    /// Deliveries accepted and not yet done.
    pub pending: Pending,
    /// What is in the store is for other hosts.
    pub leaves_backlog: bool,
    /// Who gets copies of events.
    pub links: Arc<Links>,
    /// Where large values are, the same folder for as long as the host lives: kernels that are told of another one are
    /// not alike.
    pub _large_values: Option<Arc<blob::Pool>>,
}

impl Shared {
    pub fn entries(&self) -> Arc<Vec<Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stats(&self) -> Vec<(String, PluginStats)> {
        let entries = self.entries();
        let stats = entries.iter().map(|entry| {
            let waiting = entry.waiting() as u64 + entry.ledger.stored();
            let spares = entry.pool.stats();
            let (spares, spares_used, spares_died) = (spares.ready, spares.used, spares.died);
            let stats = PluginStats { waiting, spares, spares_used, spares_died, ..entry.meter.stats() };
            (entry.name.to_string(), stats)
        });
        stats.collect()
    }

    /// Call a plugin's exported function.
    pub async fn call_plugin(
        &self,
        name: &str,
        args: &RawValue,
        chain: &Chain,
        caller: Option<&str>,
    ) -> Result<Parcel, RpcError> {
        let (entry, function) = self.find(name)?;
        if let Some(caller) = caller
            && !entry.manifest.may_be_called_by(caller)
        {
            let message = format!("plugin `{}` does not let plugin `{caller}` call it ([exports] allow)", entry.name);
            return Err(RpcError::new(ErrorKind::Denied, message));
        }
        let deadline = deadline(Some(chain), entry.manifest.limits.timeout);
        let chain = self.deeper(chain, &entry.name, &function, deadline, &entry.manifest)?;
        entry.called(&function, args, &chain, deadline).await
    }

    /// The plugin and the function that `plugin.function` names.
    pub fn find(&self, name: &str) -> Result<(Arc<Entry>, String), RpcError> {
        let entries = self.entries();
        if let Some((plugin, function)) = name.split_once('.')
            && let Some(entry) = entries.iter().find(|entry| &*entry.name == plugin)
            && entry.face().exports().any(|export| export == function)
        {
            return Ok((entry.clone(), function.to_owned()));
        }
        let all: Vec<String> = entries
            .iter()
            .flat_map(|entry| {
                let face = entry.face();
                face.exports().map(|export| format!("{}.{export}", entry.name)).collect::<Vec<_>>()
            })
            .chain(self.functions.names().map(str::to_owned))
            .collect();
        let plugin = name.split_once('.').and_then(|(plugin, _)| entries.iter().find(|entry| *entry.name == *plugin));
        let exports = plugin.map(|entry| entry.face().exports().collect::<Vec<_>>().join("`, `"));
        let hint = match (did_you_mean(name, all.iter().map(String::as_str)), plugin, exports.as_deref()) {
            (Some(hint), _, _) => format!("; {hint}"),
            (None, Some(entry), Some("")) => format!("; plugin `{}` exports nothing", entry.name),
            (None, Some(entry), Some(exports)) => format!("; plugin `{}` exports `{exports}`", entry.name),
            _ => String::new(),
        };
        Err(RpcError::new(ErrorKind::NotFound, format!("no function `{name}`{hint}")))
    }

    /// The chain with one more request to a plugin, if it may be that deep.
    pub fn deeper(
        &self,
        chain: &Chain,
        plugin: &str,
        function: &str,
        deadline: Instant,
        manifest: &Manifest,
    ) -> Result<Chain, RpcError> {
        let limit = manifest.limits.depth as usize;
        if chain.depth() > limit {
            let message = format!(
                "calls are nested {limit} deep, the limit of plugin `{plugin}` ([limits] depth): ... > {}",
                chain.path[chain.path.len().saturating_sub(3)..].join(" > ")
            );
            return Err(RpcError::new(ErrorKind::Invalid, message));
        }
        Ok(chain.then(format!("{plugin}.{function}"), deadline))
    }
}

impl Entry {
    /// Call an export and count it.
    async fn called(
        &self,
        function: &str,
        args: &RawValue,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Parcel, RpcError> {
        self.meter.count(|stats| stats.called += 1);
        let began = Instant::now();
        let call = rpc::Call { name: function, chain: &chain.path, args };
        let stand_in = self.stand_in().filter(|stand_in| stand_in.has_export(function));
        let result = match stand_in {
            Some(stand_in) => stand_in.request("call", &call, chain, deadline).await,
            None => self.idlest().instance.request("call", &call, chain, deadline).await,
        };
        self.meter.took(began.elapsed());
        result
    }

    /// The instance that has least to do.
    pub fn idlest(&self) -> Coming<'_> {
        self.choose(|active| {
            let lanes = (0..active).min_by_key(|&lane| self.lanes[lane].instance.requests());
            lanes.unwrap_or_default()
        })
    }
}

/// The parameters of `event` and `filter`.
pub(super) fn deliver<'a>(handler: u64, event: &'a Event, attempt: u32, chain: &'a Chain) -> Deliver<'a> {
    Deliver {
        handler,
        id: &event.id,
        topic: &event.topic,
        time: &event.time,
        attempt,
        key: event.key.as_deref(),
        chain: &chain.path,
        data: &event.data,
    }
}

/// As [`Shared::call_plugin`] for the application, with a chain of its own.
pub(super) async fn call_root(shared: &Shared, name: &str, args: &RawValue) -> Result<Parcel, RpcError> {
    let (entry, function) = shared.find(name)?;
    let deadline = deadline(None, entry.manifest.limits.timeout);
    let chain = Chain::root(format!("call {name}"), deadline);
    entry.called(&function, args, &chain, deadline).await
}

/// Read a result as a type.
pub(super) fn typed<T: serde::de::DeserializeOwned>(name: &str, result: &Parcel) -> Result<T, RpcError> {
    result.read().map_err(|error| invalid(name, &error))
}

/// How long a handler's retry waits, the first being 1.
pub(super) fn backoff(attempt: u32) -> Duration {
    // Handlers that failed of one cause must not all come back at one moment.
    (Duration::from_millis(100) * 2u32.pow(attempt.saturating_sub(1).min(6))).mul_f64(0.8 + 0.4 * fastrand::f64())
}
