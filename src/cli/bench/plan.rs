//! What is to be measured, and how often.

use std::time::Duration;

use anyhow::bail;

use super::{
    peers::{Lines, Raw, Redpanda, Road},
    system::Measure,
};
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
    only: [Vec<Name>; 3],
}

/// What was typed after `--only`.
#[derive(Debug, Clone)]
enum Name {
    /// One whole name: `unary` is not `unary + host call`.
    Whole(String),
    /// A part of some.
    Part(String),
}

impl Plan {
    pub fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        let mut only: [Vec<Name>; 3] = Default::default();
        for name in &args.only {
            let (kind, name) = meant(name)?;
            only[kind].push(name);
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
        matches(&self.only[0], section)
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

fn matches(only: &[Name], name: &str) -> bool {
    let name = name.to_lowercase();
    only.is_empty()
        || only.iter().any(|only| match only {
            Name::Whole(whole) => *whole == name,
            Name::Part(part) => name.contains(part.as_str()),
        })
}

/// Whether a section, a measure or a system is meant: a whole name before a part of one.
fn meant(typed: &str) -> anyhow::Result<(usize, Name)> {
    let sections = SECTIONS.iter().map(|(section, _)| (*section).to_owned()).collect();
    let measures = Measure::all().into_iter().map(Measure::name).collect();
    let kinds: [Vec<String>; 3] = [sections, measures, systems()];
    let name = typed.to_lowercase();
    if let Some(kind) = kinds.iter().position(|names| names.iter().any(|whole| whole.to_lowercase() == name)) {
        return Ok((kind, Name::Whole(name)));
    }
    match kinds.iter().position(|names| names.iter().any(|whole| whole.to_lowercase().contains(&name))) {
        Some(kind) => Ok((kind, Name::Part(name))),
        None => bail!(
            "nothing is called `{typed}`\nhint: sections are {}; measures are {}; systems are {}",
            kinds[0].join(", "),
            kinds[1].join(", "),
            kinds[2].join(", ")
        ),
    }
}

/// All systems, whether they are on this machine or not.
fn systems() -> Vec<String> {
    let raw = [Raw::RustEcho, Raw::PythonEcho, Raw::PythonWork].map(Raw::name);
    let peers = [Lines::NAME, Redpanda::NAME, "gRPC sync", "gRPC aio", "gRPC sync, stream", "gRPC aio, stream"];
    let jupyter = ["jupyter_client execute", "jupyter_client comm", "jupyter_client stdin"];
    let peers = raw.into_iter().chain(peers).chain(jupyter).map(str::to_owned);
    peers.chain(Road::all().into_iter().map(Road::name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_is_meant_before_a_part() {
        let names = |typed: &str| {
            let (kind, name) = meant(typed).expect("it is there");
            let all = [
                vec!["pinned".to_owned(), "unpinned".to_owned()],
                vec!["unary".into(), "unary + host call".into()],
                systems(),
            ];
            all[kind].iter().filter(|other| matches(std::slice::from_ref(&name), other)).count()
        };
        assert_eq!([names("pinned"), names("unary"), names("grpc sync"), names("gRPC")], [1, 1, 1, 4]);
        assert!(meant("nonsense").is_err());
    }
}
