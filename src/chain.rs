//! Chains of calls and the graph of who waits for whom.
//!
//! Pure. A chain begins with an event or with a call by the application, and grows by each call made on its way; it
//! runs on at most one plugin at a time. Plugins are single-threaded and serve requests last in, first out, so a
//! request that waits for a plugin waits for every chain on that plugin's stack. [`WaitGraph::would_wait_for_itself`]
//! tells when such waiting would never end.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Identifies a chain, whichever call of it is meant.
pub type ChainId = u64;

/// From a root event or call down to here.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Which chain.
    pub id: ChainId,
    /// Root first, for people and plugins: `["event 17", "quake-rate.fit"]`.
    pub path: Arc<[String]>,
    /// When the root's time is over.
    pub deadline: Instant,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Chain {
    /// A new chain.
    pub fn root(name: impl Into<String>, deadline: Instant) -> Self {
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), path: [name.into()].into(), deadline }
    }

    /// This chain with one more call, whose time may be shorter.
    pub fn then(&self, name: impl Into<String>, deadline: Instant) -> Self {
        let path = self.path.iter().cloned().chain([name.into()]).collect();
        Self { id: self.id, path, deadline: self.deadline.min(deadline) }
    }

    /// How many calls deep it is; 1 at the root.
    pub fn depth(&self) -> usize {
        self.path.len()
    }
}

/// Which chains occupy which plugins, and which chains wait for a plugin to become idle.
#[derive(Debug, Default)]
pub struct WaitGraph {
    stacks: HashMap<String, Vec<ChainId>>,
    waiting: HashMap<ChainId, Vec<String>>,
}

impl WaitGraph {
    /// A request of `chain` starts on `plugin`.
    pub fn push(&mut self, plugin: &str, chain: ChainId) {
        match self.stacks.get_mut(plugin) {
            Some(stack) => stack.push(chain),
            None => {
                self.stacks.insert(plugin.to_owned(), vec![chain]);
            }
        }
    }

    /// The youngest request on `plugin` ended.
    pub fn pop(&mut self, plugin: &str) {
        if let Some(stack) = self.stacks.get_mut(plugin) {
            stack.pop();
        }
    }

    /// `chain` begins to wait for `plugin` to become idle.
    pub fn wait(&mut self, chain: ChainId, plugin: &str) {
        self.waiting.entry(chain).or_default().push(plugin.to_owned());
    }

    /// `chain` no longer waits for `plugin`.
    pub fn stop_waiting(&mut self, chain: ChainId, plugin: &str) {
        if let Some(plugins) = self.waiting.get_mut(&chain) {
            if let Some(index) = plugins.iter().position(|waited| waited == plugin) {
                plugins.swap_remove(index);
            }
            if plugins.is_empty() {
                self.waiting.remove(&chain);
            }
        }
    }

    /// Would `chain`, waiting for `plugin` to become idle, wait for itself? Names the chains of the circle.
    ///
    /// A chain waits for all chains on the stack of each plugin it waits for, and, for each of its own requests, for
    /// those above it on that plugin's stack, since answers go out last in, first out.
    pub fn would_wait_for_itself(&self, chain: ChainId, plugin: &str) -> Option<Vec<ChainId>> {
        let mut open: Vec<ChainId> = self.stacks.get(plugin).into_iter().flatten().copied().collect();
        let mut seen: HashSet<ChainId> = HashSet::new();
        while let Some(other) = open.pop() {
            if other == chain {
                let mut circle: Vec<ChainId> = seen.into_iter().collect();
                circle.push(chain);
                circle.sort_unstable();
                circle.dedup();
                return Some(circle);
            }
            if !seen.insert(other) {
                continue;
            }
            for waited in self.waiting.get(&other).into_iter().flatten() {
                open.extend(self.stacks.get(waited).into_iter().flatten());
            }
            for stack in self.stacks.values() {
                if let Some(lowest) = stack.iter().position(|&on_stack| on_stack == other) {
                    open.extend(stack[lowest + 1..].iter().filter(|&&above| above != other));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waiting_for_a_busy_plugin_is_fine() {
        let mut graph = WaitGraph::default();
        graph.push("a", 1);
        assert_eq!(graph.would_wait_for_itself(2, "a"), None);
        assert_eq!(graph.would_wait_for_itself(2, "idle"), None);
    }

    #[test]
    fn a_chain_that_comes_back_waits_for_itself() {
        let mut graph = WaitGraph::default();
        graph.push("a", 1);
        graph.push("b", 1);
        assert_eq!(graph.would_wait_for_itself(1, "a"), Some(vec![1]));
    }

    #[test]
    fn two_chains_that_cross_are_found() {
        let mut graph = WaitGraph::default();
        graph.push("a", 1);
        graph.push("b", 2);
        assert_eq!(graph.would_wait_for_itself(1, "b"), None);
        graph.wait(1, "b");
        assert_eq!(graph.would_wait_for_itself(2, "a"), Some(vec![1, 2]));
        graph.stop_waiting(1, "b");
        assert_eq!(graph.would_wait_for_itself(2, "a"), None);
    }

    #[test]
    fn a_buried_request_waits_for_those_above_it() {
        // Chain 1 is on `a` below chain 2; chain 2 waits for `c`, where chain 3 is, and chain 3 wants `b`, where 1 is.
        let mut graph = WaitGraph::default();
        graph.push("b", 1);
        graph.push("a", 1);
        graph.push("a", 2);
        graph.push("c", 3);
        graph.wait(2, "c");
        assert_eq!(graph.would_wait_for_itself(3, "b"), Some(vec![1, 2, 3]));
        graph.pop("a");
        graph.stop_waiting(2, "c");
        assert_eq!(graph.would_wait_for_itself(3, "b"), None);
    }

    #[test]
    fn a_call_never_outlives_its_root() {
        let now = Instant::now();
        let second = std::time::Duration::from_secs(1);
        let root = Chain::root("event 1", now + second);
        let call = root.then("geo.distance", now + 5 * second);
        assert_eq!((call.id, call.depth(), call.deadline), (root.id, 2, now + second));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize, ChainId),
        Pop(usize),
        Wait(ChainId, usize),
        StopWaiting(ChainId, usize),
    }

    const PLUGINS: [&str; 4] = ["a", "b", "c", "d"];
    const CHAINS: usize = 5;

    fn step() -> impl Strategy<Value = Step> {
        let (plugin, chain) = (0..PLUGINS.len(), 0..CHAINS as ChainId);
        prop_oneof![
            3 => (plugin.clone(), chain.clone()).prop_map(|(plugin, chain)| Step::Push(plugin, chain)),
            1 => plugin.clone().prop_map(Step::Pop),
            3 => (chain.clone(), plugin.clone()).prop_map(|(chain, plugin)| Step::Wait(chain, plugin)),
            1 => (chain, plugin).prop_map(|(chain, plugin)| Step::StopWaiting(chain, plugin)),
        ]
    }

    /// Who waits for whom, written down pair by pair and closed by brute force.
    #[derive(Default)]
    struct Model {
        stacks: [Vec<ChainId>; PLUGINS.len()],
        waiting: Vec<(ChainId, usize)>,
    }

    impl Model {
        fn waits(&self) -> [[bool; CHAINS]; CHAINS] {
            let mut waits = [[false; CHAINS]; CHAINS];
            for &(chain, plugin) in &self.waiting {
                self.stacks[plugin].iter().for_each(|&other| waits[chain as usize][other as usize] = true);
            }
            for stack in &self.stacks {
                for (below, above) in (0..stack.len()).flat_map(|i| (i + 1..stack.len()).map(move |j| (i, j))) {
                    waits[stack[below] as usize][stack[above] as usize] |= stack[below] != stack[above];
                }
            }
            for via in 0..CHAINS {
                for from in 0..CHAINS {
                    for to in 0..CHAINS {
                        waits[from][to] |= waits[from][via] && waits[via][to];
                    }
                }
            }
            waits
        }
    }

    proptest! {
        /// A circle is reported exactly when there is one.
        #[test]
        fn circles_are_found_and_none_is_made_up(steps in prop::collection::vec(step(), 0..40)) {
            let (mut graph, mut model) = (WaitGraph::default(), Model::default());
            for step in steps {
                match step {
                    Step::Push(plugin, chain) => {
                        graph.push(PLUGINS[plugin], chain);
                        model.stacks[plugin].push(chain);
                    }
                    Step::Pop(plugin) => {
                        graph.pop(PLUGINS[plugin]);
                        model.stacks[plugin].pop();
                    }
                    Step::Wait(chain, plugin) => {
                        graph.wait(chain, PLUGINS[plugin]);
                        model.waiting.push((chain, plugin));
                    }
                    Step::StopWaiting(chain, plugin) => {
                        graph.stop_waiting(chain, PLUGINS[plugin]);
                        if let Some(index) = model.waiting.iter().position(|&waiting| waiting == (chain, plugin)) {
                            model.waiting.swap_remove(index);
                        }
                    }
                }
                let waits = model.waits();
                for (chain, plugin) in (0..CHAINS).flat_map(|chain| (0..PLUGINS.len()).map(move |p| (chain, p))) {
                    let on_stack = model.stacks[plugin].iter().map(|&other| other as usize);
                    let expected = on_stack.into_iter().any(|other| other == chain || waits[other][chain]);
                    let circle = graph.would_wait_for_itself(chain as ChainId, PLUGINS[plugin]);
                    prop_assert_eq!(circle.is_some(), expected);
                    prop_assert!(circle.is_none_or(|circle| circle.contains(&(chain as ChainId))));
                }
            }
        }
    }
}
