//! Describing a host, and starting it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock, atomic::AtomicUsize},
};

use futures_util::future::join_all;
use tokio::sync::Notify;

use crate::{
    discover::{
        DiscoverError, Discovery, Environment, Found, LanguageFolder, Languages, NoKernelspec, Support, discover,
    },
    host::{
        Host,
        door::Door,
        errands::errands,
        functions::Functions,
        keeper::{Keeper, Recipe},
        lane::{Entry, Lane},
        ledger::{Ledger, work_off},
        news::Newsroom,
        shared::Shared,
        stats::Meter,
        worker::Worker,
    },
    kernelspec::InterruptMode,
    language::Interrupt,
    manifest::{CarrierChoice, Manifest, ManifestError},
    notebook::{Notebook, NotebookError},
    pattern::NameError,
    plugin::{Carrier, HostCalls, LoadError, PluginSource, Runtime, check_sandbox, not_enforced},
    queue::{Queue, QueueError},
    rpc::Cell,
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
    /// No kernelspec runs a plugin's language.
    #[error("plugin `{plugin}`: {source}")]
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

    /// Start all kernels at the same time and load the plugins.
    ///
    /// # Errors
    ///
    /// [`BuildError`], the first in the order of the plugins; then all kernels that were started are gone.
    pub async fn build(self) -> Result<Host, BuildError> {
        let environment = self.environment.unwrap_or_else(Environment::capture);
        let mut manifests: Vec<(Arc<Manifest>, PathBuf)> = Vec::new();
        for path in &self.plugins {
            let (manifest, file) = read_manifest(path)?;
            if let Some((_, first)) = manifests.iter().find(|(other, _)| other.name == manifest.name) {
                let (first, second) = (first.clone(), file);
                return Err(BuildError::SameName { name: manifest.name, first, second });
            }
            manifests.push((Arc::new(manifest), file));
        }
        let store = Arc::new(match &self.state {
            Some(path) => Store::open(path)?,
            None => Store::open_in_memory()?,
        });
        let mut functions = self.functions;
        functions.add_state(&store);
        let shared = Arc::new(Shared {
            functions,
            store,
            graph: Arc::default(),
            newsroom: Newsroom::default(),
            manifests: manifests.iter().map(|(manifest, _)| (manifest.name.clone(), manifest.clone())).collect(),
            meters: manifests.iter().map(|(manifest, _)| (manifest.name.clone(), Arc::<Meter>::default())).collect(),
            entries: RwLock::default(),
            pending: AtomicUsize::new(0),
            drained: Notify::new(),
        });
        let (discovery, languages) = if manifests.is_empty() {
            (None, Languages::default())
        } else {
            (Some(discover(&environment)), Languages::load(&environment, &self.kernelspecs))
        };
        let mut prepared = Vec::new();
        for (manifest, file) in &manifests {
            let Some(discovery) = &discovery else { break };
            let runtime = runtime_of(manifest, discovery, &languages, &environment)?;
            prepared.push((manifest.clone(), runtime, read_source(manifest, file)?));
        }
        let door: Arc<dyn HostCalls> = Arc::new(Door(Arc::downgrade(&shared)));
        let loading = prepared.into_iter().map(|(manifest, runtime, source)| {
            let recipe = Recipe { manifest, runtime, source, door: door.clone(), graph: shared.graph.clone() };
            start(recipe, &shared)
        });
        let (entries, keepers): (Vec<Arc<Entry>>, Vec<Vec<Keeper>>) =
            join_all(loading).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        *shared.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(entries.clone());
        let mut tasks = Vec::new();
        for entry in &entries {
            shared.found(entry, entry.ledger.look()?);
            tasks.push(tokio::spawn(work_off(Arc::downgrade(&shared), entry.clone())));
            let workers = (0..entry.lanes.len()).map(|lane| Worker::new(shared.clone(), entry.clone(), lane));
            tasks.extend(workers.map(|worker| tokio::spawn(worker.run())));
        }
        if self.state.is_some() {
            tasks.push(tokio::spawn(errands(Arc::downgrade(&shared))));
        }
        let keepers = keepers.into_iter().flatten().map(|keeper| tokio::spawn(keeper.run()));
        Ok(Host { tasks, keepers: keepers.collect(), shared })
    }
}

/// Start all kernels of a plugin.
async fn start(recipe: Recipe, shared: &Arc<Shared>) -> Result<(Arc<Entry>, Vec<Keeper>), BuildError> {
    let manifest = recipe.manifest.clone();
    let count = manifest.delivery.instances;
    let started = join_all((1..=count).map(|number| {
        let mut recipe = recipe.clone();
        recipe.source.instance = (count > 1).then_some(number);
        Keeper::load(recipe, Arc::downgrade(shared))
    }));
    let (mut lanes, mut keepers, mut face) = (Vec::new(), Vec::new(), None);
    let capacity = manifest.queue.capacity.div_ceil(count as usize);
    for started in started.await {
        let (instance, keeper) = started?;
        face = face.or_else(|| keeper.first.as_ref().map(|loaded| loaded.face.clone()));
        let queue = Queue::new(capacity, manifest.queue.when_full)
            .map_err(|source| BuildError::Queue { plugin: manifest.name.clone(), source })?;
        lanes.push(Lane { queue, instance });
        keepers.push(keeper);
    }
    let meter = shared.meters.get(&manifest.name).cloned().unwrap_or_default();
    let ledger = Arc::new(Ledger::new(shared.store.clone(), &manifest.name, manifest.delivery.journal));
    // There is at least one instance, and it was loaded.
    let face = face.unwrap_or_default();
    Ok((Arc::new(Entry::new(manifest, meter, lanes, ledger, face)), keepers))
}

/// Read a manifest, given its folder or itself.
fn read_manifest(path: &Path) -> Result<(Manifest, PathBuf), BuildError> {
    let file = if path.is_dir() { path.join("plugin.toml") } else { path.to_owned() };
    let text = read(&file)?;
    let file = std::path::absolute(&file).unwrap_or(file);
    let manifest = Manifest::parse(&text, &file)?;
    manifest.check_supported()?;
    check_sandbox(&manifest)?;
    for problem in not_enforced(&manifest) {
        tracing::warn!(plugin = manifest.name, field = problem.field, "{}", problem.message);
    }
    Ok((manifest, file))
}

pub(super) fn read_source(manifest: &Manifest, file: &Path) -> Result<PluginSource, BuildError> {
    let path = file.parent().unwrap_or(Path::new("")).join(&manifest.entry);
    let text = read(&path)?;
    let name = manifest.entry.to_string_lossy().into_owned();
    let cells = if manifest.is_notebook() {
        let notebook = Notebook::parse(&text, &manifest.entry)?;
        notebook.entry_cells().map(|cell| Cell { name: cell.name.clone(), source: cell.source.clone() }).collect()
    } else {
        vec![Cell { name, source: text }]
    };
    Ok(PluginSource {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        path: Some(path),
        cells,
        config: manifest.config.clone(),
        env: manifest.env.clone(),
        sandbox: manifest.sandbox,
        limits: manifest.limits.clone(),
        carrier: match manifest.carrier {
            CarrierChoice::Auto => None,
            CarrierChoice::Jupyter => Some(Carrier::Jupyter),
            CarrierChoice::Pipe => Some(Carrier::Pipe),
        },
        activation: manifest.activation,
        template: manifest.template().cloned(),
        instance: None,
    })
}

fn read(path: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

fn runtime_of(
    manifest: &Manifest,
    discovery: &Discovery,
    languages: &Languages,
    environment: &Environment,
) -> Result<Runtime, BuildError> {
    let plugin = || manifest.name.clone();
    let found = match (manifest.kernelspec(), manifest.language()) {
        (Some(kernelspec), _) => discovery
            .find(kernelspec)
            .map_err(|source| BuildError::Discover { plugin: plugin(), source: Box::new(source) })?,
        (None, language) => languages
            .kernelspec_for(discovery, language.unwrap_or_default())
            .map_err(|source| BuildError::NoKernelspec { plugin: plugin(), source: Box::new(source) })?,
    };
    if let Some(program) = found.missing_program.clone() {
        let (kernelspec, file) = (found.kernelspec.name.clone(), found.dir.join("kernel.json"));
        return Err(BuildError::NoProgram { plugin: plugin(), kernelspec, program, file });
    }
    Ok(runtime_for(found, languages, environment))
}

/// What is needed to run plugins in a kernelspec that was found.
pub fn runtime_for(found: &Found, languages: &Languages, environment: &Environment) -> Runtime {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    // A kernel that the shim was not written for may behave in other ways than its language's folder says.
    let fits = |folder: &LanguageFolder, support| support == Support::Full || folder.shim_text().is_none();
    let folder = languages.for_kernelspec(&found.kernelspec);
    let folder = folder.filter(|(folder, support)| fits(folder, *support)).map(|(folder, _)| folder);
    Runtime {
        kernelspec: found.kernelspec.name.clone(),
        argv: found.argv(Path::new("{connection_file}"), environment).into_iter().map(text).collect(),
        env: found.env(environment).into_iter().map(|(name, value)| (name, text(value))).collect(),
        interrupt: match found.kernelspec.interrupt_mode {
            InterruptMode::Signal => Interrupt::Signal,
            InterruptMode::Message => Interrupt::Message,
        },
        language: folder.map(|folder| Arc::new(folder.language.clone())),
        shim: folder.and_then(|folder| folder.shim_text()).map(Into::into),
    }
}
