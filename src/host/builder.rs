//! Describing a host, and starting it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{sync::Semaphore, time::sleep};

use crate::{
    blob,
    discover::{
        DiscoverError, Discovery, Environment, Found, LanguageFolder, Languages, NoKernelspec, Support, discover,
    },
    host::{
        GRACE, Host,
        door::Door,
        errands::errands,
        functions::Functions,
        keeper::{Keeper, Recipe},
        kernels::Kernels,
        lane::{Entry, Lane},
        lanes::Lanes,
        ledger::{Ledger, work_off},
        listen::{self, ListenOptions},
        lock,
        news::Newsroom,
        pending::Pending,
        pool::Pool,
        shared::Shared,
        stats::Meter,
        worker::Worker,
    },
    kernelspec::InterruptMode,
    language::{Interrupt, Shim},
    link::LinkError,
    manifest::{CarrierChoice, Isolation, Limits, Manifest, ManifestError, Sandbox, of_notebook},
    notebook::{Notebook, NotebookError},
    pattern::NameError,
    plugin::{Carrier, LoadError, PluginSource, Runtime, check_sandbox, not_enforced},
    queue::{Queue, QueueError},
    rpc::Cell,
    store::{Store, StoreError},
    supervision::State,
};

/// As many as a manifest may ask for.
const MOST_INSTANCES: usize = 1000;
/// How often an instance that is to end is looked at.
const ENDING: Duration = Duration::from_millis(5);

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

/// What kernels are started from, as it was found.
pub(super) struct Landscape {
    discovery: Discovery,
    languages: Languages,
    environment: Environment,
    /// By kernelspec: plugins of one language share what is known of it, the text of its shim among it.
    runtimes: HashMap<String, Runtime>,
    /// How long that took.
    elapsed: Duration,
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

impl Host {
    /// Load one more plugin: its folder or its `plugin.toml`. Its handlers get the events that are emitted from then on.
    ///
    /// # Errors
    ///
    /// [`BuildError`], with the host as it was before.
    pub async fn load(&self, path: impl AsRef<Path>) -> Result<(), BuildError> {
        // One after the other, so that two of one name cannot both be added.
        let _turn = self.adding.acquire().await;
        let (manifest, file) = read_manifest(path.as_ref())?;
        if let Some(other) = self.shared.entries().iter().find(|entry| *entry.name == *manifest.name) {
            return Err(same_name(&other.manifest, &file));
        }
        let (kernelspecs, environment) = &self.kernelspecs;
        let mut landscape = Landscape::survey(environment.clone(), kernelspecs);
        let recipe = landscape.recipe(&Arc::new(manifest), &file, &self.shared)?;
        let (entry, keepers) = start(recipe).await?;
        {
            let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
            let more = entries.iter().cloned().chain([entry.clone()]).collect();
            *entries = Arc::new(more);
        }
        self.begin(&entry, keepers)
    }

    /// Take a plugin out: it gets no further events and calls, does what waits for it, its `on_shutdown` functions run,
    /// and its kernel ends, unless others share that.
    ///
    /// # Errors
    ///
    /// [`BuildError::NoPlugin`].
    pub async fn unload(&self, plugin: &str) -> Result<(), BuildError> {
        let _turn = self.adding.acquire().await;
        let entry = self.entry(plugin).map_err(|error| BuildError::NoPlugin { message: error.message })?;
        let _alone = entry.scaling.acquire().await;
        {
            let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
            *entries = Arc::new(entries.iter().filter(|other| !Arc::ptr_eq(other, &entry)).cloned().collect());
        }
        if let Some(stand_in) = entry.stand_in() {
            stand_in.dismiss("its plugin was taken out of the host");
        }
        let kept: Vec<_> = lock(&self.pools).extract_if(.., |(pool, _)| Arc::ptr_eq(pool, &entry.pool)).collect();
        for (pool, _) in &kept {
            pool.close();
        }
        join_all(entry.lanes.iter().map(|lane| async {
            while !lane.is_done() || entry.ledger.stored() > 0 {
                sleep(ENDING).await;
            }
            lane.queue.close();
            lane.instance.stop(GRACE).await;
        }))
        .await;
        entry.ledger.end();
        for (_, keeping) in kept {
            // Ended by itself.
            let _ = keeping.await;
        }
        Ok(())
    }

    /// Let so many kernels share a plugin's work, whatever `instances` in its manifest says, until the host ends.
    ///
    /// Further ones are loaded before they get anything; what waits for those there are stays with them. Those that are
    /// too many get nothing more, end when they have done what waits for them, and this returns then. With N kernels each
    /// key (see `order-by`) has its own; a kernel more takes over about one of N + 1 keys, and one less gives its keys to
    /// the others. Events of a key that moves, which were accepted before, may be handled at the same time as later ones
    /// on the new kernel: whoever needs their order waits for [`Host::drain`] first.
    ///
    /// # Errors
    ///
    /// [`BuildError`], with as many kernels as before: when one could not be loaded, when there is no such plugin, or when
    /// there would be none or more than 1,000.
    pub async fn scale(&self, plugin: &str, instances: usize) -> Result<(), BuildError> {
        let entry = self.entry(plugin).map_err(|error| BuildError::NoPlugin { message: error.message })?;
        if !(1..=MOST_INSTANCES).contains(&instances) {
            return Err(BuildError::Instances { plugin: plugin.to_owned(), instances });
        }
        let _turn = entry.scaling.acquire().await;
        let before = entry.active().count();
        let recipe = entry.recipe();
        let capacity = capacity(&entry.manifest);
        let more = join_all((before..instances).map(|index| {
            let (entry, mut recipe) = (&entry, recipe.clone());
            async move {
                if let Some(lane) = entry.lanes.get(index) {
                    return lane.instance.reload(recipe.source).await.map(|()| None);
                }
                recipe.source.instance = Some(u32::try_from(index + 1).unwrap_or(u32::MAX));
                Keeper::load(recipe).await.map(Some)
            }
        }));
        let (mut keepers, mut failed) = (Vec::new(), None);
        for started in more.await {
            match started {
                Ok(keeper) => keepers.extend(keeper),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for (instance, keeper) in keepers {
            let queue = Queue::new(capacity, entry.manifest.queue.when_full)
                .map_err(|source| BuildError::Queue { plugin: plugin.to_owned(), source })?;
            let lane = entry.lanes.push(Lane::new(queue, instance));
            lock(&self.keepers).push(tokio::spawn(keeper.run()));
            lock(&self.tasks).push(tokio::spawn(Worker::new(self.shared.clone(), entry.clone(), lane).run()));
        }
        if failed.is_none() {
            entry.activate(instances);
        }
        // Those that are too many, and, if one could not be loaded, those that could.
        let wanted = entry.active().count();
        join_all(entry.lanes.iter().skip(wanted).map(|lane| async move {
            while !lane.is_done() {
                sleep(ENDING).await;
            }
            if !matches!(lane.instance.state(), State::Stopped) {
                lane.instance.park(GRACE).await;
            }
        }))
        .await;
        failed.map_or(Ok(()), Err)
    }

    /// Begin to deliver to a plugin that was loaded.
    fn begin(&self, entry: &Arc<Entry>, keepers: Vec<Keeper>) -> Result<(), BuildError> {
        let shared = &self.shared;
        let mut tasks = lock(&self.tasks);
        if shared.leaves_backlog {
            entry.ledger.look(drop)?;
        } else {
            entry.ledger.look(|new| shared.found(entry, new))?;
            tasks.push(tokio::spawn(work_off(Arc::downgrade(shared), entry.clone())));
        }
        let workers = (0..entry.lanes.len()).map(|lane| Worker::new(shared.clone(), entry.clone(), lane));
        tasks.extend(workers.map(|worker| tokio::spawn(worker.run())));
        drop(tasks);
        lock(&self.keepers).extend(keepers.into_iter().map(|keeper| tokio::spawn(keeper.run())));
        if entry.manifest.delivery.warm > 0 {
            self.keep_full(entry.pool.clone());
        }
        Ok(())
    }

    fn keep_full(&self, pool: Arc<Pool>) {
        let keeping = pool.clone().keep(self.shared.spare_places.clone(), GRACE);
        lock(&self.pools).push((pool, tokio::spawn(keeping)));
    }
}

fn same_name(first: &Manifest, second: &Path) -> BuildError {
    BuildError::SameName { name: first.name.clone(), first: first.path.clone(), second: second.to_owned() }
}

/// Places in the queue of each instance.
fn capacity(manifest: &Manifest) -> usize {
    manifest.queue.capacity.div_ceil(manifest.delivery.instances as usize)
}

/// Start all kernels of a plugin.
async fn start(recipe: Recipe) -> Result<(Arc<Entry>, Vec<Keeper>), BuildError> {
    let manifest = recipe.manifest.clone();
    let count = manifest.delivery.instances;
    let started = join_all((1..=count).map(|number| {
        let mut recipe = recipe.clone();
        recipe.source.instance = (count > 1).then_some(number);
        Keeper::load(recipe)
    }));
    let (lanes, mut keepers, mut face) = (Lanes::default(), Vec::new(), None);
    for started in started.await {
        let (instance, keeper) = started?;
        face = face.or_else(|| keeper.first.as_ref().map(|loaded| loaded.face.clone()));
        let queue = Queue::new(capacity(&manifest), manifest.queue.when_full)
            .map_err(|source| BuildError::Queue { plugin: manifest.name.clone(), source })?;
        lanes.push(Lane::new(queue, instance));
        keepers.push(keeper);
    }
    // Whoever waits for this has the host's parts.
    let shared = recipe.shared.upgrade();
    let works_off = shared.as_ref().is_none_or(|shared| !shared.leaves_backlog);
    let store = shared.map_or_else(|| Store::open_in_memory().map(Arc::new), |shared| Ok(shared.store.clone()))?;
    let ledger = Arc::new(Ledger::new(store, &manifest.name, manifest.delivery.journal, works_off));
    // There is at least one instance, and it was loaded.
    let face = face.unwrap_or_default();
    Ok((Arc::new(Entry::new(recipe, lanes, ledger, face)), keepers))
}

impl Landscape {
    fn survey(environment: Environment, kernelspecs: &[PathBuf]) -> Self {
        let began = Instant::now();
        let (discovery, languages) = (discover(&environment), Languages::load(&environment, kernelspecs));
        Self { discovery, languages, environment, runtimes: HashMap::new(), elapsed: began.elapsed() }
    }

    fn recipe(&mut self, manifest: &Arc<Manifest>, file: &Path, shared: &Arc<Shared>) -> Result<Recipe, BuildError> {
        let runtime = self.runtime_of(manifest)?;
        check_sharing(manifest, &runtime)?;
        let source = read_source(manifest, file)?;
        let meter = Arc::<Meter>::default();
        let pool = Pool::new(&manifest.name, runtime.clone(), source.clone(), manifest.delivery.warm as usize);
        let shared_weakly = Arc::downgrade(shared);
        Ok(Recipe {
            door: Arc::new(Door { shared: shared_weakly.clone(), manifest: manifest.clone(), meter: meter.clone() }),
            manifest: manifest.clone(),
            runtime,
            source,
            graph: shared.graph.clone(),
            meter,
            pool: Arc::new(pool),
            shared: shared_weakly,
            discover: self.elapsed,
        })
    }

    fn runtime_of_language(&mut self, language: &str) -> Result<Runtime, BuildError> {
        let found = self.languages.kernelspec_for(&self.discovery, language);
        let found =
            found.map_err(|source| BuildError::NoKernelspec { plugin: String::new(), source: Box::new(source) })?;
        Ok(self
            .runtimes
            .entry(found.kernelspec.name.clone())
            .or_insert_with(|| runtime_for(found, &self.languages, &self.environment))
            .clone())
    }

    fn runtime_of(&mut self, manifest: &Manifest) -> Result<Runtime, BuildError> {
        let plugin = || manifest.name.clone();
        let found = match (manifest.kernelspec(), manifest.language()) {
            (Some(kernelspec), _) => self
                .discovery
                .find(kernelspec)
                .map_err(|source| BuildError::Discover { plugin: plugin(), source: Box::new(source) })?,
            (None, language) => self
                .languages
                .kernelspec_for(&self.discovery, language.unwrap_or_default())
                .map_err(|source| BuildError::NoKernelspec { plugin: plugin(), source: Box::new(source) })?,
        };
        if let Some(program) = found.missing_program.clone() {
            let (kernelspec, file) = (found.kernelspec.name.clone(), found.dir.join("kernel.json"));
            return Err(BuildError::NoProgram { plugin: plugin(), kernelspec, program, file });
        }
        let runtime = self.runtimes.entry(found.kernelspec.name.clone());
        Ok(runtime.or_insert_with(|| runtime_for(found, &self.languages, &self.environment)).clone())
    }
}

/// How kernels are started that are for no plugin yet.
fn blank() -> PluginSource {
    PluginSource {
        name: String::new(),
        version: String::new(),
        path: None,
        cells: Vec::new(),
        config: serde_json::Map::new(),
        env: Vec::new(),
        sandbox: Sandbox::default(),
        limits: Limits::default(),
        instance: None,
        shared: false,
        carrier: None,
        activation: None,
        template: None,
        live: None,
    }
}

/// Read a manifest, given itself, or a notebook that stands alone.
///
/// # Errors
///
/// - [`BuildError::Read`], [`BuildError::Notebook`], [`BuildError::Manifest`] by what is wrong with the file.
pub fn manifest_at(file: &Path) -> Result<Manifest, BuildError> {
    let mut text = read(file)?;
    if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ipynb")) {
        text = of_notebook(&Notebook::parse(&text, file)?, file);
    }
    Ok(Manifest::parse(&text, file)?)
}

/// Read a manifest, given its folder or itself, or a notebook that stands alone.
fn read_manifest(path: &Path) -> Result<(Manifest, PathBuf), BuildError> {
    let file = if path.is_dir() { path.join("plugin.toml") } else { path.to_owned() };
    let file = std::path::absolute(&file).unwrap_or(file);
    let manifest = manifest_at(&file)?;
    check_sandbox(&manifest)?;
    for problem in not_enforced(&manifest) {
        tracing::warn!(plugin = manifest.name, field = problem.field, "{}", problem.message);
    }
    Ok((manifest, file))
}

/// Can plugins of this language share a kernel, if this one wants to?
fn check_sharing(manifest: &Manifest, runtime: &Runtime) -> Result<(), ManifestError> {
    if manifest.isolation != Isolation::Shared {
        return Ok(());
    }
    let name = runtime.language.as_ref().map_or(&*runtime.kernelspec, |language| &*language.display_name);
    let why = match runtime.language.as_ref().and_then(|language| language.shim.as_ref()) {
        _ if manifest.template().is_some() => "a plugin with a [template] has no namespace of its own".to_owned(),
        None => format!("{name} has no shim that would keep plugins apart"),
        Some(Shim { shared: true, .. }) => return Ok(()),
        Some(Shim { alone, .. }) => {
            let alone = alone.as_deref().unwrap_or("its shim does not keep plugins apart");
            format!("{name} cannot: {alone}")
        }
    };
    let hint = Some("use `isolation = \"own\"`".to_owned());
    let problem = manifest.problem("plugin.isolation", format!("`isolation = \"shared\"`: {why}"), hint);
    Err(ManifestError { path: manifest.path.clone(), problems: vec![problem] })
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
        shared: manifest.isolation == Isolation::Shared,
        live: None,
    })
}

fn read(path: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
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
