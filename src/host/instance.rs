//! One kernel of a plugin: kept alive, and asked.
//!
//! One task owns it: it loads the plugin's source, waits for the kernel's death, and starts it anew as
//! [`crate::supervision`] says. Whoever wants something of the plugin waits until it is ready.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout_at},
};

use crate::{
    chain::Chain,
    host::{BuildError, News, lane::Face, shared::Shared},
    manifest::Manifest,
    plugin::{HostCalls, Plugin, PluginSource, Runtime, SharedGraph},
    rpc::{ErrorKind, Params, RpcError},
    supervision::{History, Policy, State, Verdict},
};

/// One kernel of a plugin.
pub(crate) struct Instance {
    plugin: Arc<str>,
    seat: Arc<str>,
    /// Counted from 1; 0 when there is only one.
    number: u32,
    state: watch::Sender<State>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    commands: mpsc::UnboundedSender<Command>,
    requests: AtomicUsize,
    /// What the oldest request under way is about.
    working_on: Mutex<Option<(String, Instant)>>,
}

/// A plugin in a living kernel.
pub(crate) struct Loaded {
    pub plugin: Plugin,
    pub face: Arc<Face>,
}

/// All that is needed to load a plugin.
#[derive(Clone)]
pub(super) struct Recipe {
    pub manifest: Arc<Manifest>,
    pub runtime: Runtime,
    pub source: PluginSource,
    pub door: Arc<dyn HostCalls>,
    pub graph: SharedGraph,
}

enum Command {
    Release,
    Reload { source: Box<PluginSource>, done: oneshot::Sender<Result<(), BuildError>> },
    Stop { grace: Duration, done: oneshot::Sender<()> },
}

/// Owns an instance's kernel.
pub(super) struct Keeper {
    instance: Arc<Instance>,
    recipe: Recipe,
    commands: mpsc::UnboundedReceiver<Command>,
    shared: Weak<Shared>,
    history: History,
    /// As it was loaded before the keeper ran.
    pub first: Option<Arc<Loaded>>,
    /// Plugins whose source was replaced, until they have done what they were at.
    retiring: JoinSet<()>,
}

/// What to do next.
enum Next {
    Start { after: Duration },
    Run(Arc<Loaded>),
    Wait,
    Stopped,
}

impl Loaded {
    /// The largest batch that a handler of it takes; at least 1.
    pub fn largest_batch(&self) -> usize {
        self.face.subscribers.iter().map(|subscriber| subscriber.batch).max().unwrap_or(0).max(1)
    }
}

impl Recipe {
    async fn load(&self, source: &PluginSource) -> Result<Loaded, BuildError> {
        let plugin = Plugin::load(&self.runtime, source, self.door.clone(), self.graph.clone()).await;
        let plugin = plugin
            .map_err(|source| BuildError::Load { plugin: self.manifest.name.clone(), source: Box::new(source) })?;
        let face = Arc::new(Face::of(&plugin, &self.manifest)?);
        Ok(Loaded { plugin, face })
    }
}

impl Instance {
    /// Load a plugin for the first time. Its keeper is to be run.
    pub async fn start(recipe: Recipe, shared: Weak<Shared>) -> Result<(Arc<Self>, Keeper), BuildError> {
        let loaded = Arc::new(recipe.load(&recipe.source).await?);
        let (commands, receiver) = mpsc::unbounded_channel();
        let manifest = &recipe.manifest;
        let instance = Arc::new(Self {
            plugin: manifest.name.as_str().into(),
            seat: loaded.plugin.seat().into(),
            number: recipe.source.instance.unwrap_or(0),
            state: watch::Sender::new(State::Ready { process_id: loaded.plugin.about().process_id }),
            loaded: Mutex::new(Some(loaded.clone())),
            commands,
            requests: AtomicUsize::new(0),
            working_on: Mutex::default(),
        });
        let policy = Policy { deaths: manifest.restart.deaths, within: manifest.restart.within };
        let history = History::new(policy);
        let keeper = Keeper {
            instance: instance.clone(),
            first: Some(loaded),
            recipe,
            commands: receiver,
            shared,
            history,
            retiring: JoinSet::new(),
        };
        Ok((instance, keeper))
    }

    /// How it is doing.
    pub fn state(&self) -> State {
        match (&*self.state.borrow(), &*lock(&self.working_on)) {
            (State::Ready { process_id }, Some((on, since))) => State::Busy {
                process_id: *process_id,
                on: on.clone(),
                for_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            (state, _) => state.clone(),
        }
    }

    /// Its name in the graph of who waits for whom.
    pub fn seat(&self) -> &str {
        &self.seat
    }

    /// Requests under way.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The plugin, if it is loaded now.
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        lock(&self.loaded).clone()
    }

    /// The plugin; waits while it is being started again.
    ///
    /// # Errors
    ///
    /// `Gone` when nobody will start it.
    pub async fn ready(&self) -> Result<Arc<Loaded>, RpcError> {
        loop {
            if let Some(loaded) = self.loaded() {
                return Ok(loaded);
            }
            let mut state = self.state.subscribe();
            let settled = |state: &State| !matches!(state, State::Starting | State::Restarting { .. });
            let state = match state.wait_for(settled).await {
                Ok(state) => state.clone(),
                Err(_) => State::Stopped,
            };
            let why = match state {
                State::Quarantined { reason, deaths } => {
                    format!("in quarantine after {deaths} deaths of its kernel; the last: {reason}")
                }
                State::Stopped => "the plugin has been shut down".to_owned(),
                // Loaded meanwhile.
                _ => continue,
            };
            return Err(RpcError { not_begun: true, ..RpcError::new(ErrorKind::Gone, why).in_plugin(&self.plugin) });
        }
    }

    /// Send a request once the plugin is ready.
    ///
    /// # Errors
    ///
    /// As [`Plugin::request`].
    pub async fn request(
        &self,
        method: &'static str,
        params: &impl Params,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Box<RawValue>, RpcError> {
        let Ok(loaded) = timeout_at(deadline.into(), self.ready()).await else {
            let message = "its deadline passed while the plugin's kernel was being started again";
            return Err(RpcError::new(ErrorKind::Timeout, message).in_plugin(&self.plugin));
        };
        self.ask(&*loaded?, method, params, chain, deadline).await
    }

    /// Send a request to the plugin as it was found before.
    pub async fn ask(
        &self,
        loaded: &Loaded,
        method: &'static str,
        params: &impl Params,
        chain: &Chain,
        deadline: Instant,
    ) -> Result<Box<RawValue>, RpcError> {
        let _working = Working::new(self, chain);
        loaded.plugin.request(method, params, chain, deadline).await
    }

    /// Take it out of quarantine.
    pub fn release(&self) {
        // If the keeper is gone, so is the host.
        let _ = self.commands.send(Command::Release);
    }

    /// Load another source. The old one goes on if that fails.
    pub async fn reload(&self, source: PluginSource) -> Result<(), BuildError> {
        let (done, answer) = oneshot::channel();
        let source = PluginSource { instance: (self.number > 0).then_some(self.number), ..source };
        let _ = self.commands.send(Command::Reload { source: Box::new(source), done });
        answer.await.unwrap_or(Ok(()))
    }

    /// End it for good. `grace` as for [`Plugin::shutdown`].
    pub async fn stop(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop { grace, done }).is_ok() {
            let _ = stopped.await;
        }
    }
}

/// Counts a request for as long as it is under way.
struct Working<'a>(&'a Instance);

impl<'a> Working<'a> {
    fn new(instance: &'a Instance, chain: &Chain) -> Self {
        if instance.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            let on = chain.path.first().cloned().unwrap_or_default();
            *lock(&instance.working_on) = Some((on, Instant::now()));
        }
        Self(instance)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.0.working_on) = None;
        }
    }
}

impl Keeper {
    pub async fn run(mut self) {
        let mut next = match self.first.take() {
            Some(loaded) => Next::Run(loaded),
            None => Next::Wait,
        };
        loop {
            next = match next {
                Next::Run(loaded) => self.keep(loaded).await,
                Next::Start { after } => self.start(after).await,
                Next::Wait => match self.commands.recv().await {
                    Some(command) => self.obey(command).await,
                    None => Next::Stopped,
                },
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
        let happened = tokio::select! {
            reason = died => Ok(reason),
            command = self.commands.recv() => Err(command),
        };
        let reason = match happened {
            Ok(reason) => reason,
            Err(Some(command)) => return self.obey_while_running(command, loaded).await,
            Err(None) => return Next::Stopped,
        };
        // The state first: whoever finds nothing loaded waits for the state to change.
        let next = self.died(reason);
        *lock(&self.instance.loaded) = None;
        loaded.plugin.shutdown(Duration::ZERO).await;
        next
    }

    fn died(&mut self, reason: String) -> Next {
        let verdict = self.history.died(Instant::now(), fastrand::f64());
        let deaths = self.history.count();
        match verdict {
            Verdict::Restart { after } => {
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

    async fn start(&mut self, after: Duration) -> Next {
        if let Err(command) = self.unless_commanded(sleep(after)).await {
            return self.obey(command).await;
        }
        self.tell(State::Starting);
        let recipe = &self.recipe;
        let loading = async { recipe.load(&recipe.source).await };
        let loaded = tokio::select! {
            loaded = loading => Ok(loaded),
            command = self.commands.recv() => Err(command),
        };
        match loaded {
            Ok(Ok(loaded)) => self.put(loaded),
            Ok(Err(error)) => {
                let reason = match &error {
                    BuildError::Load { source, .. } => format!("it could not be loaded: {source}"),
                    error => error.to_string(),
                };
                self.died(reason)
            }
            Err(Some(command)) => self.obey(command).await,
            Err(None) => Next::Stopped,
        }
    }

    async fn unless_commanded<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Command> {
        tokio::select! {
            done = work => Ok(done),
            Some(command) = self.commands.recv() => Err(command),
        }
    }

    fn put(&self, loaded: Loaded) -> Next {
        let loaded = Arc::new(loaded);
        *lock(&self.instance.loaded) = Some(loaded.clone());
        self.tell(State::Ready { process_id: loaded.plugin.about().process_id });
        if let Some(meter) = self.shared.upgrade().as_ref().and_then(|shared| shared.meters.get(&*self.instance.plugin))
        {
            meter.count(|stats| stats.restarts += 1);
        }
        Next::Run(loaded)
    }

    /// While there is no kernel.
    async fn obey(&mut self, command: Command) -> Next {
        match command {
            Command::Release => {
                self.history.forget();
                Next::Start { after: Duration::ZERO }
            }
            Command::Reload { source, done } => match self.recipe.load(&source).await {
                Ok(loaded) => {
                    self.history.forget();
                    self.recipe.source = *source;
                    let next = self.put(loaded);
                    let _ = done.send(Ok(()));
                    next
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                    match *self.instance.state.borrow() {
                        State::Quarantined { .. } => Next::Wait,
                        _ => Next::Start { after: Duration::ZERO },
                    }
                }
            },
            Command::Stop { done, .. } => {
                self.tell(State::Stopped);
                let _ = done.send(());
                Next::Stopped
            }
        }
    }

    async fn obey_while_running(&mut self, command: Command, loaded: Arc<Loaded>) -> Next {
        match command {
            Command::Release => Next::Run(loaded),
            Command::Reload { source, done } => match self.recipe.load(&source).await {
                Ok(new) => {
                    self.recipe.source = *source;
                    let next = self.put(new);
                    // What it works on may take its time; it gets no more.
                    self.retiring.spawn(async move {
                        while Arc::strong_count(&loaded) > 1 && loaded.plugin.death().borrow().is_none() {
                            sleep(Duration::from_millis(20)).await;
                        }
                        loaded.plugin.shutdown(Duration::from_secs(2)).await;
                    });
                    let _ = done.send(Ok(()));
                    next
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                    Next::Run(loaded)
                }
            },
            Command::Stop { grace, done } => {
                self.tell(State::Stopped);
                *lock(&self.instance.loaded) = None;
                loaded.plugin.shutdown(grace).await;
                while self.retiring.join_next().await.is_some() {}
                let _ = done.send(());
                Next::Stopped
            }
        }
    }

    fn tell(&self, state: State) {
        tracing::info!(plugin = &*self.instance.plugin, instance = self.instance.number, ?state, "state");
        self.instance.state.send_replace(state.clone());
        if let Some(shared) = self.shared.upgrade() {
            let (plugin, instance) = (self.instance.plugin.clone(), self.instance.number);
            shared.newsroom.publish(&News::State { plugin, instance, state });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
