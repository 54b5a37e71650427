//! What is to be measured, and how often.

use std::time::Duration;

use anyhow::bail;

use super::{peers::Road, system::Measure};
use crate::cli::args::BenchArgs;

/// The parts of a run; each is a process of its own, so that none inherits another's memory or core.
pub(super) const SECTIONS: [(&str, &str); 5] = [
    ("pinned", "host and plugin on one core: the steadiest, so ratios come from here"),
    ("unpinned", "wherever the system puts them"),
    ("start", "from nothing to the first answer, and what runs then"),
    ("crowd", "many plugins, each in a kernel of its own, with nothing to do"),
    ("scale", "instances of one plugin whose handler computes"),
];

/// What is to be measured, and how often.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub rounds: usize,
    /// How long one system takes in one round of one measure.
    pub round: Duration,
    /// Never more calls than this in a round.
    pub most: usize,
    /// Never more events after idleness in a round, which takes a while each.
    pub idle: usize,
    /// How many plugins.
    pub crowds: Vec<usize>,
    /// How many instances.
    pub instances: Vec<u32>,
    pub quick: bool,
    /// Names of sections, measures and systems; an empty list is all of them.
    only: [Vec<String>; 3],
}

impl Plan {
    pub fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        let mut only: [Vec<String>; 3] = Default::default();
        for name in &args.only {
            only[kind_of(name)?].push(name.to_lowercase());
        }
        let plan = if args.quick {
            Self {
                rounds: 1,
                round: Duration::from_millis(20),
                most: 500,
                idle: 1,
                crowds: vec![1, 2],
                instances: vec![1, 2],
                quick: true,
                only,
            }
        } else {
            Self {
                rounds: 5,
                round: Duration::from_millis(250),
                most: 20_000,
                idle: 3,
                crowds: vec![1, 10, 50],
                instances: vec![1, 2, 4, 8],
                quick: false,
                only,
            }
        };
        Ok(Self { rounds: args.rounds.unwrap_or(plan.rounds).max(1), ..plan })
    }

    /// Is this part of the run?
    pub fn wants_section(&self, section: &str) -> bool {
        // Whole names: `pinned` is a part of `unpinned`.
        self.only[0].is_empty() || self.only[0].iter().any(|name| name == section)
    }

    /// Is this system to be started?
    pub fn wants_system(&self, system: &str) -> bool {
        matches(&self.only[2], system)
    }

    /// Is this to be measured?
    pub fn wants(&self, section: &str, measure: &str, system: &str) -> bool {
        self.wants_section(section) && matches(&self.only[1], measure) && self.wants_system(system)
    }
}

fn matches(only: &[String], name: &str) -> bool {
    let name = name.to_lowercase();
    only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
}

/// Whether a name is of a section, a measure or a system, by the first that it is part of.
fn kind_of(name: &str) -> anyhow::Result<usize> {
    let sections = SECTIONS.iter().map(|(section, _)| (*section).to_owned()).collect();
    let measures = Measure::all().into_iter().map(Measure::name).collect();
    let peers = ["JSON lines over pipes", "gRPC sync, stream", "gRPC aio, stream", "Redpanda SDK"];
    let more = ["jupyter_client execute comm stdin", "unix socket, Rust echo, Python echo, Python handler"];
    let systems = peers.into_iter().chain(more).map(str::to_owned).chain(Road::all().into_iter().map(Road::name));
    let kinds: [Vec<String>; 3] = [sections, measures, systems.collect()];
    let part = [name.to_lowercase()];
    // A whole name before a part of one.
    let whole = kinds.iter().position(|names| names.iter().any(|whole| whole.eq_ignore_ascii_case(name)));
    let is_part = |names: &Vec<String>| names.iter().any(|whole| matches(&part, whole));
    match whole.or_else(|| (1..kinds.len()).find(|kind| is_part(&kinds[*kind]))) {
        Some(kind) => Ok(kind),
        None => {
            bail!("nothing is called `{name}`; sections: {}; measures: {}", kinds[0].join(", "), kinds[1].join(", "))
        }
    }
}
