//! One kernel of a plugin: kept alive, and asked.
//!
//! One task owns it: it loads the plugin's source, waits for the kernel's death, and starts it anew as
//! [`crate::supervision`] says. Whoever wants something of the plugin waits until it is ready.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout_at,
};

use crate::{
    blob::Parcel,
    chain::Chain,
    host::{BuildError, keeper::Command, lane::Face, lock},
    plugin::{Plugin, PluginSource},
    rpc::{ErrorKind, Params, RpcError},
    supervision::State,
};

/// One kernel of a plugin.
pub(crate) struct Instance {
    pub(super) plugin: Arc<str>,
    seat: Arc<str>,
    /// Counted from 1; 0 when there is only one.
    pub(super) number: u32,
    pub(super) state: watch::Sender<State>,
    pub(super) loaded: Mutex<Option<Arc<Loaded>>>,
    commands: mpsc::UnboundedSender<Command>,
    requests: AtomicUsize,
    /// What the oldest request under way is about.
    working_on: Mutex<Option<(Arc<[String]>, Instant)>>,
}

/// A plugin in a living kernel.
pub(crate) struct Loaded {
    pub plugin: Plugin,
    pub face: Arc<Face>,
}

impl Instance {
    /// For a plugin that was loaded; `number` counts from 1, 0 when there is only one.
    pub fn new(number: u32, loaded: Arc<Loaded>, commands: mpsc::UnboundedSender<Command>) -> Self {
        let plugin = &loaded.plugin;
        Self {
            plugin: plugin.name().into(),
            seat: plugin.seat().into(),
            number,
            state: watch::Sender::new(State::Ready { process_id: plugin.about().process_id }),
            loaded: Mutex::new(Some(loaded)),
            commands,
            requests: AtomicUsize::new(0),
            working_on: Mutex::default(),
        }
    }

    /// How it is doing.
    pub fn state(&self) -> State {
        match (&*self.state.borrow(), &*lock(&self.working_on)) {
            (State::Ready { process_id }, Some((on, since))) => State::Busy {
                process_id: *process_id,
                on: on.first().cloned().unwrap_or_default(),
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
    ) -> Result<Parcel, RpcError> {
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
    ) -> Result<Parcel, RpcError> {
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
        self.end(grace, true).await;
    }

    /// End it until a source is loaded into it again.
    pub async fn park(&self, grace: Duration) {
        self.end(grace, false).await;
    }

    async fn end(&self, grace: Duration, for_good: bool) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop { grace, for_good, done }).is_ok() {
            let _ = stopped.await;
        }
    }
}

/// Counts a request for as long as it is under way.
struct Working<'a>(&'a Instance);

impl<'a> Working<'a> {
    fn new(instance: &'a Instance, chain: &Chain) -> Self {
        if instance.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            *lock(&instance.working_on) = Some((chain.path.clone(), Instant::now()));
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
