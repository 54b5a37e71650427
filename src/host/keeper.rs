//! The task that owns an instance's kernel: loads the source, waits for the kernel's death, and starts it anew as
//! [`crate::supervision`] says.

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};

use crate::{
    host::{
        BuildError, News,
        instance::{Instance, Loaded},
        lane::Face,
        lock,
        pool::Pool,
        shared::Shared,
        stats::Meter,
    },
    manifest::Manifest,
    plugin::{HostCalls, LoadError, Plugin, PluginSource, Runtime, SharedGraph, Spare},
    supervision::{History, State, Verdict},
};

/// All that is needed to load a plugin.
#[derive(Clone)]
pub(super) struct Recipe {
    pub manifest: Arc<Manifest>,
    pub runtime: Runtime,
    pub source: PluginSource,
    pub door: Arc<dyn HostCalls>,
    pub graph: SharedGraph,
    pub meter: Arc<Meter>,
    /// Kernels at hand for it.
    pub pool: Arc<Pool>,
    pub shared: Weak<Shared>,
    /// How long kernelspecs and languages were looked for.
    pub discover: Duration,
}

/// What an instance asks of its keeper.
pub(super) enum Command {
    Release,
    Reload {
        source: Box<PluginSource>,
        done: oneshot::Sender<Result<(), BuildError>>,
    },
    /// End the kernel. Unless it is for good, another source may be loaded later.
    Stop {
        grace: Duration,
        for_good: bool,
        done: oneshot::Sender<()>,
    },
}

/// Owns an instance's kernel.
pub(super) struct Keeper {
    instance: Arc<Instance>,
    recipe: Recipe,
    commands: mpsc::UnboundedReceiver<Command>,
    history: History,
    /// As it was loaded before the keeper ran.
    pub first: Option<Arc<Loaded>>,
    /// Plugins whose source was replaced, until they have done what they were at.
    retiring: JoinSet<()>,
}

/// What to do next.
enum Next {
    Start {
        after: Duration,
    },
    Run(Arc<Loaded>),
    Wait,
    /// What was asked, and what is loaded as before.
    Obey(Command, Option<Arc<Loaded>>),
    Stopped,
}

impl Next {
    /// A command came, or nobody is left who could give one.
    fn commanded(command: Option<Command>, loaded: Option<Arc<Loaded>>) -> Self {
        command.map_or(Self::Stopped, |command| Self::Obey(command, loaded))
    }
}

impl Recipe {
    async fn load(&self, source: &PluginSource) -> Result<Loaded, BuildError> {
        let error = |source| BuildError::Load { plugin: self.manifest.name.clone(), source: Box::new(source) };
        let plugin = if source.shared {
            self.load_shared(source).await.map_err(error)?
        } else {
            match self.load_warm(source).await {
                Some(loaded) => loaded.map_err(error)?,
                None => self.load_cold(source).await.map_err(error)?,
            }
        };
        let (about, instance) = (plugin.about(), source.instance);
        let (ms, startup) = (about.startup_ms, about.startup);
        tracing::info!(plugin = source.name, instance, ms, warm = startup.warm, phases = %startup, "loaded");
        let face = Arc::new(Face::of(&plugin, &self.manifest)?);
        Ok(Loaded { plugin, face })
    }

    /// Into a kernel that is there already; `None` when there is none of use.
    async fn load_warm(&self, source: &PluginSource) -> Option<Result<Plugin, LoadError>> {
        let spare = self.take_spare(source)?;
        let (door, graph) = (self.door.clone(), self.graph.clone());
        match Plugin::load_into(spare, &self.runtime, source, door, graph).await {
            // Whatever was wrong with the kernel, a new one may do. What the author's source raised, it will raise there.
            Err(error) if !error.is_authors() => {
                tracing::warn!(plugin = self.manifest.name, %error, "a spare kernel did not take the plugin");
                None
            }
            other => Some(other),
        }
    }

    pub(super) fn take_spare(&self, source: &PluginSource) -> Option<Spare> {
        self.pool.take(&self.runtime, source).or_else(|| {
            let shared = self.shared.upgrade()?;
            shared.pools.iter().find_map(|pool| pool.take(&self.runtime, source))
        })
    }

    /// A place among the kernels that are started at the same time, and how long it took to get it.
    pub(super) async fn place(&self) -> (Option<OwnedSemaphorePermit>, Duration) {
        let began = Instant::now();
        let places = self.shared.upgrade().map(|shared| shared.places.clone());
        // They are closed with the host only, which nobody waits for then.
        let place = match places {
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        (place, began.elapsed())
    }

    async fn load_cold(&self, source: &PluginSource) -> Result<Plugin, LoadError> {
        let (_place, queued) = self.place().await;
        let mut plugin = Plugin::load(&self.runtime, source, self.door.clone(), self.graph.clone()).await?;
        plugin.waited(self.discover, queued);
        Ok(plugin)
    }
}

impl Keeper {
    /// Load a plugin for the first time. The keeper is to be run.
    pub async fn load(recipe: Recipe) -> Result<(Arc<Instance>, Self), BuildError> {
        let loaded = Arc::new(recipe.load(&recipe.source).await?);
        let (sender, commands) = mpsc::unbounded_channel();
        let instance = Arc::new(Instance::new(recipe.source.instance.unwrap_or(0), loaded.clone(), sender));
        let history = History::new(recipe.manifest.restart);
        let keeper = Self {
            instance: instance.clone(),
            first: Some(loaded),
            recipe,
            commands,
            history,
            retiring: JoinSet::new(),
        };
        Ok((instance, keeper))
    }

    pub async fn run(mut self) {
        let mut next = match self.first.take() {
            Some(loaded) => Next::Run(loaded),
            None => Next::Wait,
        };
        loop {
            next = match next {
                Next::Run(loaded) => self.keep(loaded).await,
                Next::Start { after } => self.start(after).await,
                Next::Wait => Next::commanded(self.commands.recv().await, None),
                Next::Obey(command, loaded) => self.obey(command, loaded).await,
                Next::Stopped => return,
            };
        }
    }

    /// Until it dies, or something else is wanted.
    async fn keep(&mut self, loaded: Arc<Loaded>) -> Next {
        let mut death = loaded.plugin.death();
        let died = async {
            match death.wait_for(Option::is_some).await {
                Ok(error) => error.as_ref().map_or_else(String::new, |error| error.message.clone()),
                Err(_) => "its task ended".to_owned(),
            }
        };
        let reason = match unless_commanded(&mut self.commands, died).await {
            Ok(reason) => reason,
            Err(command) => return Next::commanded(command, Some(loaded)),
        };
        // The state first: whoever finds nothing loaded waits for the state to change.
        let next = if loaded.plugin.is_innocent() { self.bereft(reason) } else { self.died(reason) };
        *lock(&self.instance.loaded) = None;
        loaded.plugin.shutdown(Duration::ZERO).await;
        next
    }

    fn died(&mut self, reason: String) -> Next {
        let verdict = self.history.died(Instant::now(), fastrand::f64());
        let deaths = self.history.count();
        match verdict {
            Verdict::Restart { after } => {
                // One death is an accident, and with a kernel at hand it is over at once.
                let after = if deaths == 1 && self.recipe.pool.has_one() { Duration::ZERO } else { after };
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                self.tell(State::Restarting { reason, deaths, after_ms });
                Next::Start { after }
            }
            Verdict::Quarantine => {
                tracing::error!(plugin = &*self.instance.plugin, deaths, reason, "quarantined");
                self.tell(State::Quarantined { reason, deaths });
                Next::Wait
            }
        }
    }

    /// The kernel died of another plugin in it: that is no mark against this one.
    fn bereft(&mut self, reason: String) -> Next {
        self.tell(State::Restarting { reason, deaths: self.history.count(), after_ms: 0 });
        Next::Start { after: Duration::ZERO }
    }

    async fn start(&mut self, after: Duration) -> Next {
        if let Err(command) = unless_commanded(&mut self.commands, sleep(after)).await {
            return Next::commanded(command, None);
        }
        self.tell(State::Starting);
        match unless_commanded(&mut self.commands, self.recipe.load(&self.recipe.source)).await {
            Ok(Ok(loaded)) => {
                self.count_restart();
                self.put(loaded)
            }
            Ok(Err(error)) => {
                let reason = match &error {
                    BuildError::Load { source, .. } => format!("it could not be loaded: {source}"),
                    error => error.to_string(),
                };
                self.died(reason)
            }
            Err(command) => Next::commanded(command, None),
        }
    }

    fn put(&self, loaded: Loaded) -> Next {
        let loaded = Arc::new(loaded);
        *lock(&self.instance.loaded) = Some(loaded.clone());
        self.tell(State::Ready { process_id: loaded.plugin.about().process_id });
        Next::Run(loaded)
    }

    fn count_restart(&self) {
        self.recipe.meter.count(|stats| stats.restarts += 1);
    }

    async fn obey(&mut self, command: Command, loaded: Option<Arc<Loaded>>) -> Next {
        match (command, loaded) {
            (Command::Release, Some(loaded)) => Next::Run(loaded),
            (Command::Release, None) if matches!(*self.instance.state.borrow(), State::Stopped) => Next::Wait,
            (Command::Release, None) => {
                self.history.forget();
                Next::Start { after: Duration::ZERO }
            }
            (Command::Reload { source, done }, loaded) => self.reload(source, done, loaded).await,
            (Command::Stop { grace, for_good, done }, loaded) => {
                self.tell(State::Stopped);
                *lock(&self.instance.loaded) = None;
                if let Some(loaded) = loaded {
                    loaded.plugin.shutdown(grace).await;
                }
                while self.retiring.join_next().await.is_some() {}
                let _ = done.send(());
                if for_good { Next::Stopped } else { Next::Wait }
            }
        }
    }

    /// Load another source while the old one, if there is one, goes on. A stop or a newer reload comes first.
    async fn reload(
        &mut self,
        source: Box<PluginSource>,
        done: oneshot::Sender<Result<(), BuildError>>,
        mut old: Option<Arc<Loaded>>,
    ) -> Next {
        let loaded = {
            let mut loading = std::pin::pin!(self.recipe.load(&source));
            loop {
                let death = old.as_ref().map(|old| old.plugin.death());
                let died = async {
                    match death {
                        Some(mut death) => drop(death.wait_for(Option::is_some).await),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    loaded = &mut loading => break Ok(loaded),
                    command = self.commands.recv() => match command {
                        Some(Command::Release) => {}
                        command => break Err(command),
                    },
                    () = died => {
                        // From now on everybody waits for the new one.
                        self.tell(State::Starting);
                        *lock(&self.instance.loaded) = None;
                        if let Some(old) = old.take() {
                            old.plugin.shutdown(Duration::ZERO).await;
                        }
                    }
                }
            }
        };
        match loaded {
            Ok(Ok(new)) => {
                self.history.forget();
                self.recipe.source = *source;
                let next = self.put(new);
                if let Some(old) = old {
                    self.retire(old);
                }
                let _ = done.send(Ok(()));
                next
            }
            Ok(Err(error)) => {
                let _ = done.send(Err(error));
                match (old, &*self.instance.state.borrow()) {
                    (Some(old), _) => Next::Run(old),
                    (None, State::Quarantined { .. } | State::Stopped) => Next::Wait,
                    (None, _) => Next::Start { after: Duration::ZERO },
                }
            }
            Err(command) => Next::commanded(command, old),
        }
    }

    /// End it once it has done what it works on; it gets no more.
    fn retire(&mut self, loaded: Arc<Loaded>) {
        self.retiring.spawn(async move {
            while Arc::strong_count(&loaded) > 1 && loaded.plugin.death().borrow().is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            loaded.plugin.shutdown(Duration::from_secs(2)).await;
        });
    }

    fn tell(&self, state: State) {
        tracing::info!(plugin = &*self.instance.plugin, instance = self.instance.number, ?state, "state");
        self.instance.state.send_replace(state.clone());
        if let Some(shared) = self.recipe.shared.upgrade() {
            let (plugin, instance) = (self.instance.plugin.clone(), self.instance.number);
            shared.newsroom.publish(News::State { plugin, instance, state });
        }
    }
}

/// The work's result, unless a command comes first; `None` when nobody is left who could give one.
async fn unless_commanded<T>(
    commands: &mut mpsc::UnboundedReceiver<Command>,
    work: impl Future<Output = T>,
) -> Result<T, Option<Command>> {
    tokio::select! {
        done = work => Ok(done),
        command = commands.recv() => Err(command),
    }
}
