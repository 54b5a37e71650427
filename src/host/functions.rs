//! Host functions: what the application offers to plugins, and `state.*`.

use std::{any::Any, collections::HashMap, fmt::Display, future::Future, sync::Arc, time::Instant};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::{
    blob::{self, Parcel},
    chain::Chain,
    host::{
        HostBuilder,
        door::INPUT,
        shared::{Shared, typed},
    },
    plugin::Answer,
    rpc::{self, ErrorKind, RpcError},
    store::{Once, Store, StoreError, Swap},
};

/// Who calls a host function, and how it came to that.
#[derive(Clone)]
pub struct Caller {
    /// The plugin's name.
    pub plugin: String,
    /// From the root event or call down to the plugin that calls.
    pub chain: Chain,
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("plugin", &self.plugin).field("chain", &self.chain.path).finish_non_exhaustive()
    }
}

impl Caller {
    /// Call a plugin's function as part of the same chain, so that it may come back to a plugin that waits in it.
    ///
    /// # Errors
    ///
    /// As [`Host::call`](crate::host::Host::call).
    pub async fn call<T: DeserializeOwned>(&self, name: &str, args: impl Serialize) -> Result<T, RpcError> {
        let args = write_args(name, &args)?;
        typed(name, &self.shared.call_plugin(name, &args, &self.chain, None).await?)
    }
}

impl HostBuilder {
    /// Offer a function to plugins. An [`RpcError`](crate::rpc::RpcError) that it returns reaches the plugin as it is,
    /// any other error as `Raised`. Its arguments are a tuple of types that serde reads: `|(a, b): (f64, f64)| async
    /// move { Ok::<_, String>(a + b) }`. A name has a dot and does not begin with a plugin's name.
    #[must_use]
    pub fn function<A, R, E, F, Fut>(self, name: &str, function: F) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        E: Display + 'static,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.function_with_caller(name, move |_, args| function(args))
    }

    /// As [`HostBuilder::function`], for a function that wants to know who calls, or calls back as part of the chain.
    #[must_use]
    pub fn function_with_caller<A, R, E, F, Fut>(mut self, name: &str, function: F) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        E: Display + 'static,
        F: Fn(Caller, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let called: Arc<str> = name.into();
        let function = move |caller: Caller, args: Box<RawValue>| -> Answer<Parcel> {
            let called = called.clone();
            match read_args::<A>(&args) {
                Ok(args) => {
                    let answer = function(caller, args);
                    Box::pin(async move {
                        let result = answer.await.map_err(|error| raised(&called, &error))?;
                        Parcel::pack(&result).map_err(|error| invalid(&called, &error))
                    })
                }
                Err(error) => Box::pin(std::future::ready(Err(invalid(&called, &error)))),
            }
        };
        self.functions.0.insert(name.to_owned(), Arc::new(function));
        self
    }

    /// Answer what plugins' authors read from a keyboard; without this such reads fail with a clear error.
    #[must_use]
    pub fn on_input<F, Fut>(self, answer: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.function(INPUT, move |(prompt,): (String,)| answer(prompt))
    }
}

type Function = Arc<dyn Fn(Caller, Box<RawValue>) -> Answer<Parcel> + Send + Sync>;

/// Functions by name.
#[derive(Clone, Default)]
pub(super) struct Functions(HashMap<String, Function>);

impl Functions {
    pub fn get(&self, name: &str) -> Option<&Function> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// `state.*`, as docs/protocol.md has them.
    pub fn add_state(&mut self, store: &Arc<Store>) {
        let add = |functions: &mut Self,
                   name: &str,
                   function: fn(&Store, &str, &RawValue) -> Result<Box<RawValue>, RpcError>| {
            let (store, called) = (store.clone(), name.to_owned());
            // SQLite answers in microseconds; handing that to another thread would cost more than it takes.
            let function = move |caller: Caller, args: Box<RawValue>| -> Answer<Parcel> {
                // What is in the store outlives all blobs.
                let args = Parcel::from(args).inline().map_err(RpcError::from);
                let result = args.and_then(|args| function(&store, &caller.plugin, &args)).map_err(|mut error| {
                    error.message = format!("{called}: {}", error.message);
                    error
                });
                Box::pin(std::future::ready(result.map(Parcel::from)))
            };
            functions.0.insert(name.to_owned(), Arc::new(function));
        };
        add(self, "state.get", |store, _, args| {
            let (key,): (String,) = read(args)?;
            Ok(store.get(&key).map_err(stored)?.unwrap_or_else(rpc::null))
        });
        add(self, "state.set", |store, plugin, args| {
            let (key, value): (String, Box<RawValue>) = read(args)?;
            write(&store.set(&key, &value, plugin).map_err(stored)?)
        });
        add(self, "state.read", |store, _, args| {
            let (key,): (String,) = read(args)?;
            match store.read(&key).map_err(stored)? {
                Some(entry) => write(&Versioned { value: entry.value, version: entry.version }),
                None => write(&Versioned { value: rpc::null(), version: 0 }),
            }
        });
        add(self, "state.swap", |store, plugin, args| {
            let (key, version, value): (String, f64, Box<RawValue>) = read(args)?;
            match store.swap(&key, version as u64, &value, plugin).map_err(stored)? {
                Swap::Swapped { version } => write(&json!({ "swapped": true, "version": version })),
                Swap::Conflict { version } => write(&json!({ "swapped": false, "version": version })),
            }
        });
        add(self, "state.once", |store, plugin, args| {
            let (event_id, key, version, value): (String, String, f64, Box<RawValue>) = read(args)?;
            match store.swap_once(&event_id, &key, version as u64, &value, plugin).map_err(stored)? {
                Once::Done => write(&json!({ "swapped": false, "done": true })),
                Once::Swap(Swap::Swapped { version }) => {
                    write(&json!({ "swapped": true, "done": true, "version": version }))
                }
                Once::Swap(Swap::Conflict { version }) => {
                    write(&json!({ "swapped": false, "done": false, "version": version }))
                }
            }
        });
        add(self, "state.delete", |store, _, args| {
            let (key,): (String,) = read(args)?;
            write(&store.delete(&key).map_err(stored)?)
        });
        add(self, "state.list", |store, _, args| {
            let prefixes: Vec<String> = read(args)?;
            write(&store.list(prefixes.first().map_or("", String::as_str)).map_err(stored)?)
        });
    }
}

/// The result of `state.read`.
#[derive(Serialize)]
struct Versioned {
    value: Box<RawValue>,
    version: u64,
}

/// Arguments of a call as a JSON array; `()` stands for none.
pub(super) fn write_args(name: &str, args: &impl Serialize) -> Result<Box<RawValue>, RpcError> {
    // The application's own values may hold JSON as it was written by others.
    let args = rpc::compact(to_raw_value(args).map_err(|error| invalid(name, &error))?);
    match args.get() {
        "null" => to_raw_value::<[(); 0]>(&[]).map_err(|error| invalid(name, &error)),
        array if array.starts_with('[') => Ok(args),
        other => {
            let message = format!("arguments of `{name}` are a tuple, `(x,)` for a single one; not {other:.40}");
            Err(RpcError::new(ErrorKind::Invalid, message))
        }
    }
}

/// Arguments as a tuple; `()` takes none.
fn read_args<A: DeserializeOwned>(args: &RawValue) -> serde_json::Result<A> {
    blob::read(if args.get() == "[]" { "null" } else { args.get() }).or_else(|_| blob::read(args.get()))
}

fn read<A: DeserializeOwned>(args: &RawValue) -> Result<A, RpcError> {
    serde_json::from_str(args.get()).map_err(|error| RpcError::new(ErrorKind::Invalid, format!("arguments: {error}")))
}

fn write(value: &impl Serialize) -> Result<Box<RawValue>, RpcError> {
    to_raw_value(value).map_err(|error| RpcError::new(ErrorKind::Host, error.to_string()))
}

fn stored(error: StoreError) -> RpcError {
    RpcError::new(ErrorKind::Host, error.to_string())
}

pub(super) fn invalid(name: &str, error: &serde_json::Error) -> RpcError {
    RpcError::new(ErrorKind::Invalid, format!("`{name}`: {error}"))
}

/// A function that only passes on what a call of its own raised does not hide it.
fn raised<E: Display + 'static>(name: &str, error: &E) -> RpcError {
    if let Some(passed_on) = (error as &dyn Any).downcast_ref::<RpcError>() {
        return passed_on.clone();
    }
    let mut raised = RpcError::new(ErrorKind::Raised, format!("`{name}`: {error}"));
    (raised.ename, raised.evalue) = ("HostError".into(), error.to_string());
    raised
}

/// The deadline of a request that may take `timeout`, inside a chain.
pub(super) fn deadline(chain: Option<&Chain>, timeout: std::time::Duration) -> Instant {
    let own = Instant::now() + timeout;
    chain.map_or(own, |chain| own.min(chain.deadline))
}
