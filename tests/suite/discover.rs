//! Discovery against jupyter_client: on random machines both must list the same kernelspecs, and expand the same
//! templates to the same arguments.
//!
//! The oracle is the Python that `KERNELBRIDGE_TEST_PYTHON` names; it needs jupyter_client 8.10 and ipykernel.

mod machine;
mod oracle;
mod rng;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use kernelbridge::{
    discover::{Discovery, Environment, Found, discover},
    kernelspec::{Expansion, Kernelspec, substitute},
};
use machine::Machine;
use oracle::Oracle;
use rng::Rng;
use serde_json::{Value, json};

/// How many random machines; each costs two starts of Python at most.
const MACHINES: u64 = 60;

/// This many of them are also shown to the command line of Jupyter.
const COMMAND_LINES: u64 = 8;

/// What both sides must agree on for one kernelspec.
#[derive(Debug, PartialEq)]
struct Listed {
    resource_dir: PathBuf,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    display_name: String,
    language: String,
    interrupt_mode: String,
    /// Not for the native kernel: ours knows neither.
    metadata: Option<(Value, String)>,
}

#[test]
fn random_machines_have_the_kernelspecs_jupyter_lists() {
    let Some(oracle) = Oracle::find() else { return };
    let seed = std::env::var("KERNELBRIDGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2);
    let root = tempfile::tempdir().expect("a folder");
    let machines: Vec<_> = (0..MACHINES)
        .map(|number| {
            let dir = root.path().join(number.to_string());
            Machine::random(&mut Rng::new(seed * 1_000_003 + number), &oracle, &dir, number < COMMAND_LINES)
        })
        .collect();
    let check_half = |half: usize| {
        let numbered = machines.iter().enumerate().skip(half).step_by(2);
        numbered.filter_map(|(number, machine)| Some((number, check(&oracle, machine)?))).collect::<Vec<_>>()
    };
    let mut differences = std::thread::scope(|scope| {
        let other = scope.spawn(|| check_half(1));
        let mut differences = check_half(0);
        differences.extend(other.join().expect("no panic"));
        differences
    });
    differences.sort();
    if let Some((number, difference)) = differences.first() {
        let kept = root.keep().join(number.to_string());
        let how_many = differences.len();
        panic!("seed {seed}: {how_many} of {MACHINES} machines differ, the first is {}:\n{difference}", kept.display());
    }
}

/// The difference between ours and theirs, if there is one.
fn check(oracle: &Oracle, machine: &Machine) -> Option<String> {
    let discovery = discover(&machine.environment());
    let ours: BTreeMap<_, _> =
        discovery.kernelspecs.iter().map(|found| (found.kernelspec.name.clone(), ours(found))).collect();
    let prefix = discovery.prefix.as_ref().map(|prefix| real(&prefix.dir));
    let mut problems = skipped_in_silence(&discovery);
    let (their_prefix, specs) = oracle.list(machine);
    if prefix.as_deref() != Some(their_prefix.as_path()) {
        problems.push(format!("prefix: ours {prefix:?}, theirs {their_prefix:?}"));
    }
    let mut compare =
        |specs: &Value, who: &str| {
            let theirs: BTreeMap<_, _> = specs
                .as_object()
                .expect("an object")
                .iter()
                .map(|(name, spec)| (name.clone(), theirs(spec, &machine.cwd)))
                .collect();
            let mut names: Vec<_> = ours.keys().chain(theirs.keys()).collect();
            names.sort();
            names.dedup();
            let different = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
            problems.extend(different.map(|name| {
                format!("{name:?}:\n  ours        {:?}\n  {who:11} {:?}", ours.get(name), theirs.get(name))
            }));
        };
    compare(&specs, "theirs");
    if machine.is_for_command_line {
        compare(&oracle.command_line(machine), "jupyter");
    }
    (!problems.is_empty()).then(|| format!("{}\n{}", machine.describe(), problems.join("\n")))
}

/// Every entry of every directory must be somewhere in the result, unless it is a file.
fn skipped_in_silence(discovery: &Discovery) -> Vec<String> {
    let is_accounted = |entry: &Path| {
        discovery.kernelspecs.iter().any(|found| found.dir == entry)
            || discovery.shadowed.iter().any(|shadowed| shadowed.found.dir == entry)
            || discovery.problems.iter().any(|problem| problem.path.starts_with(entry))
    };
    let dirs = discovery.searched.iter().filter(|searched| searched.exists);
    let entries = dirs.flat_map(|searched| std::fs::read_dir(&searched.dir)).flatten().flatten();
    let skipped = entries.map(|entry| entry.path()).filter(|entry| !entry.is_file() && !is_accounted(entry));
    skipped.map(|entry| format!("skipped in silence: {}", entry.display())).collect()
}

fn ours(found: &Found) -> Listed {
    let kernelspec = &found.kernelspec;
    let is_native = !found.dir.join("kernel.json").exists();
    Listed {
        resource_dir: real(&found.dir),
        argv: kernelspec.argv.clone(),
        env: kernelspec.env.clone(),
        display_name: kernelspec.display_name.clone(),
        language: kernelspec.language.clone(),
        interrupt_mode: json!(kernelspec.interrupt_mode).as_str().expect("a string").to_owned(),
        metadata: (!is_native)
            .then(|| (json!(kernelspec.metadata), kernelspec.kernel_protocol_version.clone().unwrap_or_default())),
    }
}

fn theirs(entry: &Value, cwd: &Path) -> Listed {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let dir = cwd.join(text(&entry["resource_dir"]));
    let spec = &entry["spec"];
    let is_native = !dir.join("kernel.json").exists();
    Listed {
        resource_dir: real(&dir),
        argv: spec["argv"].as_array().expect("a list").iter().map(text).collect(),
        env: spec["env"]
            .as_object()
            .expect("an object")
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        display_name: text(&spec["display_name"]),
        language: text(&spec["language"]),
        interrupt_mode: text(&spec["interrupt_mode"]),
        metadata: (!is_native).then(|| (spec["metadata"].clone(), text(&spec["kernel_protocol_version"]))),
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The environment of the oracle itself, as a shell that activated it would see it, and the real command.
#[test]
fn an_activated_environment_has_the_kernelspecs_jupyter_lists() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().expect("a folder");
    let machine = Machine::activated(&oracle, home.path());
    let discovery = discover(&machine.environment());
    let ours: BTreeMap<_, _> =
        discovery.kernelspecs.iter().map(|found| (found.kernelspec.name.clone(), ours(found))).collect();
    let theirs: BTreeMap<_, _> = oracle
        .jupyter(&machine)
        .as_object()
        .expect("an object")
        .iter()
        .map(|(name, spec)| (name.clone(), theirs(spec, home.path())))
        .collect();
    assert_eq!(ours, theirs);
    assert!(ours.contains_key("python3"), "{ours:?}");
}

#[test]
fn random_templates_expand_as_in_jupyter_client() {
    let Some(oracle) = Oracle::find() else { return };
    let mut rng = Rng::new(7);
    let pieces = [
        "{connection_file}",
        "{resource_dir}",
        "{prefix}",
        "{unknown}",
        "{",
        "}",
        "{}",
        "{{",
        "~",
        "~/",
        "/",
        "a",
        "é",
        " ",
        "$",
        "$$",
        "${",
        "$HOME",
        "${HOME}",
        "${_x1}",
        "$_x1",
        "$NONE",
        "${NONE}",
        "${}",
        "$1",
        "${1a}",
        "_",
        "1",
        "{prefix",
    ];
    let template = |rng: &mut Rng| -> String { (0..rng.below(6)).map(|_| *rng.choose(&pieces)).collect() };
    let programs = ["python", "python3", oracle.version.as_str(), "python2", "R", "~/bin/x", "{resource_dir}/run"];
    let cases: Vec<_> = (0..400)
        .map(|_| {
            let mut argv = vec![(*rng.choose(&programs)).to_owned()];
            argv.extend((0..rng.below(4)).map(|_| template(&mut rng)));
            json!({"argv": argv, "env": {"A": template(&mut rng), "B": template(&mut rng)}})
        })
        .collect();
    let vars = [("HOME", "/home/me"), ("_x1", "$HOME é"), ("PATH", "/usr/bin:/bin")];
    let environment = Environment::new(vars, "/");
    let lookup = |name: &str| environment.var(name).map(ToOwned::to_owned);
    let theirs = oracle.expand(&cases, &vars);
    for (case, theirs) in cases.iter().zip(theirs.as_array().expect("a list")) {
        let parsed = Kernelspec::parse("x", "/kernels/x", case.to_string().as_bytes()).expect("parses");
        let expansion = Expansion {
            connection_file: Path::new("/nowhere/c.json"),
            prefix: Some(&oracle.prefix),
            python: Some(&oracle.python),
            home: &environment.home(),
        };
        let text = |text: OsString| text.into_string().expect("UTF-8");
        let argv: Vec<_> = parsed.kernelspec.expand_argv(&expansion).into_iter().map(text).collect();
        assert_eq!(json!(argv), theirs["argv"], "{case}");
        let env: BTreeMap<_, _> =
            parsed.kernelspec.env.iter().map(|(name, value)| (name, text(substitute(value, lookup)))).collect();
        assert_eq!(json!(env), theirs["env"], "{case}");
    }
}
