//! A plugin as the task that owns its kernel knows it, and all that are in one kernel.
//!
//! A kernel of a plugin's own has one member for as long as it lives; in a shared one they come and go. Each has a space
//! there, a number that is never used again: a plugin that is loaded anew gets another one, so that the old code goes on
//! until the new one is there.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::plugin::{HostCalls, PluginNews};

/// A plugin in a kernel.
pub(super) struct Member {
    pub name: Arc<str>,
    /// Its namespace in a shared kernel.
    pub space: Option<u64>,
    /// What it knows of the host: whatever it asks is judged there by its own permissions.
    pub host: Arc<dyn HostCalls>,
    /// What it may print for one event or call.
    pub output_bytes: u64,
}

impl Member {
    pub fn news(&self, news: PluginNews) {
        self.host.news(&self.name, news);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("name", &self.name).field("space", &self.space).finish_non_exhaustive()
    }
}

/// All plugins in one kernel.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    all: Vec<Arc<Member>>,
    next_space: u64,
    /// The last one left: nobody joins any more.
    is_closed: bool,
    /// In whose request the kernel died.
    blamed: Option<Arc<Member>>,
}

impl Members {
    /// Of a plugin that has the kernel for itself.
    pub fn alone(member: Arc<Member>) -> Self {
        Self(Mutex::new(State { all: vec![member], ..State::default() }))
    }

    /// One more, in a space of its own; `None` when the kernel is being ended.
    pub fn join(&self, name: Arc<str>, host: Arc<dyn HostCalls>, output_bytes: u64) -> Option<Arc<Member>> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        state.next_space += 1;
        let member = Arc::new(Member { name, space: Some(state.next_space), host, output_bytes });
        state.all.push(member.clone());
        Some(member)
    }

    /// It is no longer there. True for the one that was the last: the kernel is to be ended.
    pub fn leave(&self, member: &Arc<Member>) -> bool {
        let mut state = self.lock();
        state.all.retain(|other| !Arc::ptr_eq(other, member));
        let is_last = state.all.is_empty() && !state.is_closed;
        state.is_closed |= is_last;
        is_last
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub fn all(&self) -> Vec<Arc<Member>> {
        self.lock().all.clone()
    }

    /// The one in this space.
    pub fn find(&self, space: u64) -> Option<Arc<Member>> {
        self.lock().all.iter().find(|member| member.space == Some(space)).cloned()
    }

    /// The kernel died while it was served.
    pub fn blame(&self, member: Option<Arc<Member>>) {
        self.lock().blamed = member;
    }

    /// Whose fault the kernel's death was, as far as anybody knows: that of the plugin that was served.
    pub fn blamed(&self) -> Option<Arc<Member>> {
        self.lock().blamed.clone()
    }

    /// For people: `a`, `b` and `c`.
    pub fn names(&self) -> String {
        let mut names: Vec<String> = self.lock().all.iter().map(|member| format!("`{}`", member.name)).collect();
        names.sort();
        names.dedup();
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
