//! Describing a host, and starting it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::{
    blob,
    discover::{DiscoverError, Environment, NoKernelspec},
    host::{
        Host,
        errands::errands,
        functions::Functions,
        kernels::Kernels,
        landscape::{Landscape, blank, read_manifest},
        listen::{self, ListenOptions},
        lock,
        news::Newsroom,
        pending::Pending,
        plugins::{MOST_INSTANCES, same_name, start},
        pool::Pool,
        shared::Shared,
    },
    link::LinkError,
    manifest::{Manifest, ManifestError},
    notebook::NotebookError,
    pattern::NameError,
    plugin::LoadError,
    queue::QueueError,
    store::{Store, StoreError},
};

/// Describes a host. Made by [`Host::builder`].
#[derive(Default)]
pub struct HostBuilder {
    plugins: Vec<PathBuf>,
    pub(super) functions: Functions,
    state: Option<PathBuf>,
    kernelspecs: Vec<PathBuf>,
    environment: Option<Environment>,
    warm: Vec<(String, usize)>,
    starts: Option<usize>,
    leaves_backlog: bool,
    pub(super) listen: Option<ListenOptions>,
}

/// Why a host could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A file of a plugin cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A notebook is wrong.
    #[error(transparent)]
    Notebook(#[from] NotebookError),
    /// Two plugins have one name.
    #[error("two plugins are called `{name}`: {} and {}", first.display(), second.display())]
    SameName {
        /// The name.
        name: String,
        /// One manifest.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// There is no plugin of that name.
    #[error("{message}")]
    NoPlugin {
        /// What was asked for, and the nearest name.
        message: String,
    },
    /// So many kernels cannot share a plugin's work.
    #[error("plugin `{plugin}` cannot have {instances} instances; there are between 1 and {MOST_INSTANCES}")]
    Instances {
        /// The plugin.
        plugin: String,
        /// How many.
        instances: usize,
    },
    /// No kernelspec runs a plugin's language, or one that [`HostBuilder::warm`] names (then the plugin is empty).
    #[error("{}{source}", if plugin.is_empty() { String::new() } else { format!("plugin `{plugin}`: ") })]
    NoKernelspec {
        /// The plugin.
        plugin: String,
        /// Why.
        source: Box<NoKernelspec>,
    },
    /// There is no kernelspec of the name that a manifest gives.
    #[error("plugin `{plugin}`: {source}")]
    Discover {
        /// The plugin.
        plugin: String,
        /// Why.
        source: Box<DiscoverError>,
    },
    /// The kernelspec that a manifest names is there, the program it starts is not.
    #[error("plugin `{plugin}`: kernelspec `{kernelspec}` starts `{program}`, which is not installed: {}", file.display())]
    NoProgram {
        /// The plugin.
        plugin: String,
        /// The kernelspec.
        kernelspec: String,
        /// The program.
        program: String,
        /// The file that names it.
        file: PathBuf,
    },
    /// A plugin could not be loaded.
    #[error("plugin `{plugin}` could not be loaded: {source}")]
    Load {
        /// The plugin.
        plugin: String,
        /// Why.
        source: Box<LoadError>,
    },
    /// A plugin registered a handler for a pattern that is none.
    #[error("plugin `{plugin}` registered a handler for topic `{topic}`: {source}")]
    Topic {
        /// The plugin.
        plugin: String,
        /// The pattern.
        topic: String,
        /// Why.
        source: NameError,
    },
    /// A queue's settings are wrong.
    #[error("plugin `{plugin}`: {source}")]
    Queue {
        /// The plugin.
        plugin: String,
        /// Why.
        source: QueueError,
    },
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot listen for links.
    #[error(transparent)]
    Listen(#[from] LinkError),
}

impl HostBuilder {
    /// Add a plugin: its folder or its `plugin.toml`.
    #[must_use]
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.push(path.into());
        self
    }

    /// Keep shared state in this SQLite file. Without this it is in memory and gone with the host.
    #[must_use]
    pub fn state(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = Some(path.into());
        self
    }

    /// Leave to other hosts what is in the store: events that an earlier or another process left there, and what the
    /// command line asks of a running host. For one call, beside a host that works or instead of one that will.
    ///
    /// Events that are emitted all the same are delivered, unless their plugin has events in the store already or no
    /// place in memory; then they join those, and the next host delivers them.
    #[must_use]
    pub fn leave_backlog(mut self) -> Self {
        self.leaves_backlog = true;
        self
    }

    /// Also look for language folders in this folder.
    #[must_use]
    pub fn kernelspecs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.kernelspecs.push(dir.into());
        self
    }

    /// Look for kernelspecs in this environment instead of the process's.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Keep `count` kernels of this language at hand, with its shim and no plugin in them, for plugins that are
    /// [loaded later](Host::load). They are started one at a time, once all plugins are loaded, and replaced when they
    /// are used. A plugin gets one if it wants no sandbox and no limit that is set when a kernel is started, and no
    /// variables of its own.
    #[must_use]
    pub fn warm(mut self, language: impl Into<String>, count: usize) -> Self {
        self.warm.push((language.into(), count));
        self
    }

    /// Start so many kernels at the same time, at least 1; without this twice as many as there are processors. The
    /// others wait for their turn, and their `startup` deadline with them: interpreters that are started together all
    /// come late.
    #[must_use]
    pub fn starts(mut self, count: usize) -> Self {
        self.starts = Some(count.max(1));
        self
    }

    /// Start the kernels, several at the same time, and load the plugins.
    ///
    /// # Errors
    ///
    /// [`BuildError`], the first in the order of the plugins; then all kernels that were started are gone.
    pub async fn build(self) -> Result<Host, BuildError> {
        let environment = self.environment.unwrap_or_else(Environment::capture);
        let mut manifests: Vec<(Arc<Manifest>, PathBuf)> = Vec::new();
        for path in &self.plugins {
            let (manifest, file) = read_manifest(path)?;
            if let Some((other, _)) = manifests.iter().find(|(other, _)| other.name == manifest.name) {
                return Err(same_name(other, &file));
            }
            manifests.push((Arc::new(manifest), file));
        }
        let folders = manifests.iter().filter_map(|(_, file)| Some(file.parent()?.to_string_lossy().into_owned()));
        let open = self.listen.map(|options| listen::Open::new(options, folders.collect())).transpose()?;
        let store = Arc::new(match &self.state {
            Some(path) => Store::open(path)?,
            None => Store::open_in_memory()?,
        });
        let mut functions = self.functions;
        functions.add_state(&store);
        let mut landscape = match manifests.is_empty() && self.warm.is_empty() {
            true => None,
            false => Some(Landscape::survey(environment.clone(), &self.kernelspecs)),
        };
        let mut pools = Vec::new();
        for (language, count) in &self.warm {
            let Some(landscape) = &mut landscape else { break };
            let runtime = landscape.runtime_of_language(language)?;
            pools.push(Arc::new(Pool::new(language, runtime, blank(), *count)));
        }
        let starts = self.starts.unwrap_or_else(|| 2 * std::thread::available_parallelism().map_or(1, usize::from));
        let shared = Arc::new(Shared {
            functions,
            store,
            graph: Arc::default(),
            newsroom: Newsroom::default(),
            places: Arc::new(Semaphore::new(starts.min(Semaphore::MAX_PERMITS))),
            spare_places: Arc::new(Semaphore::new(1)),
            kernels: Kernels::default(),
            pools,
            entries: RwLock::default(),
            pending: Pending::new(),
            leaves_backlog: self.leaves_backlog,
            links: Arc::default(),
            // Without it they are sent by value, and the first launch says why.
            _large_values: blob::Pool::get().ok(),
        });
        let mut recipes = Vec::new();
        for (manifest, file) in &manifests {
            let Some(landscape) = &mut landscape else { break };
            recipes.push(landscape.recipe(manifest, file, &shared)?);
        }
        let started = join_all(recipes.into_iter().map(start)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let host = Host {
            shared: shared.clone(),
            kernelspecs: (self.kernelspecs, environment),
            adding: Semaphore::new(1),
            tasks: Mutex::default(),
            keepers: Mutex::default(),
            pools: Mutex::default(),
            listening: Mutex::default(),
        };
        // All of them before the first event.
        let entries = started.iter().map(|(entry, _)| entry.clone()).collect();
        *shared.entries.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
        for (entry, keepers) in started {
            host.begin(&entry, keepers)?;
        }
        for pool in &shared.pools {
            host.keep_full(pool.clone());
        }
        if self.state.is_some() && !shared.leaves_backlog {
            lock(&host.tasks).push(tokio::spawn(errands(Arc::downgrade(&shared))));
        }
        if let Some(open) = open {
            *lock(&host.listening) = Some(open.serve(&shared)?);
        }
        Ok(host)
    }
}
