//! What the hosts of a chaos run told, and what is made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kernelbridge::store::DeadLetter;
use serde_json::Value;

use super::orders::Told;

/// One plugin's events. What a plugin did is in its own logs, of which each host's kernels write one.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events that hosts said were accepted.
    pub accepted: u64,
    /// Of those, and of those of which nobody knew: handled to the end, and no longer in the store.
    pub handled: u64,
    /// And these are dead letters.
    pub dead: u64,
    /// Accepted, and neither handled nor a dead letter; must be 0.
    pub lost: u64,
    /// Handled twice by one host, or by one host handled and a dead letter; must be 0.
    pub twice: u64,
    /// Done for the first time after a later event of the same key; must be 0.
    pub disordered: u64,
    /// Deliveries to the plugin's code beyond the first by one host: kernels died, handlers failed.
    pub repeated: u64,
    /// Events that more than one host delivered, because the first was killed before they were acknowledged.
    pub redelivered: u64,
    /// Of those, events that two hosts said were handled.
    pub handled_again: u64,
    /// Kernels that were started while a host ran.
    pub restarts: u64,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    life: u32,
    pub is_ready: bool,
    pub is_drained: bool,
    /// By plugin and instance.
    pub kernels: BTreeMap<(String, u32), u32>,
    /// The event after the last that was accepted, or that nobody will emit again.
    pub next: u64,
    pub unsure: Vec<u64>,
    /// By plugin: which host handled which events.
    handled: BTreeMap<String, Vec<(u32, u64)>>,
    restarts: BTreeMap<String, u64>,
    hurt: BTreeMap<String, Instant>,
    hurt_with_host: BTreeMap<String, Instant>,
    worst_recovery: Duration,
    worst_host_recovery: Duration,
}

impl Books {
    /// A new host was started.
    pub fn begin(&mut self, life: u32) {
        (self.life, self.is_ready, self.is_drained) = (life, false, false);
        self.kernels.clear();
    }

    pub fn hear(&mut self, told: Told) {
        match told {
            Told::Ready => self.is_ready = true,
            Told::Drained => self.is_drained = true,
            Told::Kernel { plugin, instance, process } => {
                if self.is_ready {
                    *self.restarts.entry(plugin.clone()).or_default() += 1;
                }
                self.kernels.insert((plugin, instance), process);
            }
            Told::Accepted { n } => {
                assert_eq!(n, self.next, "each event is emitted once");
                self.next += 1;
            }
            Told::Handled { plugin, n } => {
                if let Some(since) = self.hurt.remove(&plugin) {
                    self.worst_recovery = self.worst_recovery.max(since.elapsed());
                }
                if let Some(since) = self.hurt_with_host.remove(&plugin) {
                    self.worst_host_recovery = self.worst_host_recovery.max(since.elapsed());
                }
                self.handled.entry(plugin).or_default().push((self.life, n));
            }
        }
    }

    /// A plugin was hurt.
    pub fn hurt(&mut self, plugin: &str) {
        self.hurt.entry(plugin.to_owned()).or_insert_with(Instant::now);
    }

    /// The host was killed, and so were all.
    pub fn hurt_all(&mut self, plugins: &[String], killed: Instant) {
        self.hurt.clear();
        for plugin in plugins {
            self.hurt_with_host.entry(plugin.clone()).or_insert(killed);
        }
    }

    /// The longest recovery after a fault and after the death of the host.
    pub fn worst(&self) -> (Duration, Duration) {
        (self.worst_recovery, self.worst_host_recovery)
    }

    /// What became of a plugin's events; `logs` by host.
    pub fn tally(&self, name: &str, logs: &[String], dead: &[&DeadLetter]) -> Tally {
        let unsure: BTreeSet<u64> = self.unsure.iter().copied().collect();
        let dead: BTreeSet<u64> = dead.iter().map(|letter| number(letter)).collect();
        let mut tally =
            Tally { accepted: self.next - unsure.len() as u64, dead: dead.len() as u64, ..Tally::default() };
        tally.restarts = self.restarts.get(name).copied().unwrap_or_default();
        let mut done = BTreeSet::new();
        let mut last = [None; 7];
        // By which hosts.
        let mut begun = BTreeMap::<u64, BTreeMap<usize, u64>>::new();
        for (life, log) in logs.iter().enumerate() {
            for line in log.lines() {
                let n: u64 = line.trim_end_matches(" done").parse().expect("a number");
                if !line.ends_with(" done") {
                    *begun.entry(n).or_default().entry(life).or_default() += 1;
                } else if done.insert(n) {
                    let last = &mut last[(n % 7) as usize];
                    tally.disordered += u64::from(last.is_some_and(|last| last > n));
                    *last = Some(n);
                }
            }
        }
        tally.handled = done.difference(&dead).count() as u64;
        tally.lost =
            (0..self.next).filter(|n| !unsure.contains(n) && !done.contains(n) && !dead.contains(n)).count() as u64;
        tally.repeated = begun.values().flat_map(BTreeMap::values).map(|times| times - 1).sum();
        tally.redelivered = begun.values().filter(|lives| lives.len() > 1).count() as u64;
        let mut handled = BTreeMap::<u64, Vec<u32>>::new();
        for (life, n) in self.handled.get(name).into_iter().flatten() {
            handled.entry(*n).or_default().push(*life);
        }
        for (n, lives) in &handled {
            let once: BTreeSet<u32> = lives.iter().copied().collect();
            tally.twice += (lives.len() - once.len()) as u64;
            tally.handled_again += once.len() as u64 - 1;
            let by_last = once.contains(&self.life);
            tally.twice += u64::from(by_last && dead.contains(n));
        }
        tally
    }
}

fn number(letter: &DeadLetter) -> u64 {
    let data: Value = serde_json::from_str(&letter.event.data).expect("JSON");
    data["n"].as_u64().expect("a number")
}
