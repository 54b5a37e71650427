//! From TOML to a manifest, section by section, in the order of the format.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use crate::{
    language::Activation,
    manifest::{
        BRIDGE_VERSION, CarrierChoice, Delivery, Exports, Isolation, Limits, Manifest, ManifestError, Permissions,
        QueueSettings, Restart, Runtime, Sandbox, Template, WhenFull, config,
        reader::{Report, Section, quoted, type_of},
        template,
        units::{format_size, parse_duration, parse_size},
    },
    pattern::{self, Pattern},
    suggest,
};

/// Every section and its keys, for "it belongs in [limits]"; `config` is free form.
const SECTIONS: [(&str, &[&str]); 9] = [
    (
        "plugin",
        &[
            "name",
            "version",
            "language",
            "kernel",
            "entry",
            "bridge",
            "isolation",
            "carrier",
            "activation",
            "turn",
            "sandbox",
            "env",
        ],
    ),
    ("permissions", &["call", "emit"]),
    ("exports", &["allow"]),
    ("limits", &["timeout", "startup", "memory", "cpu", "open-files", "output", "result", "depth"]),
    ("queue", &["capacity", "when-full"]),
    ("delivery", &["attempts", "batch", "linger", "instances", "warm", "order-by", "journal"]),
    ("restart", &["deaths", "within"]),
    ("config", &[]),
    ("template", &["event", "topic", "exports"]),
];

/// A timeout long enough for a cold scipy import or a first plot, short enough to notice; Julia compiles for most of a
/// minute at its first start; more output than anybody reads, with room for a plot that brings its library.
pub(super) const DEFAULT_LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    startup: Duration::from_secs(60),
    memory_bytes: None,
    cpu: None,
    open_files: None,
    output_bytes: 16 << 20,
    result_bytes: MOST_RESULT_BYTES,
    depth: 64,
};
/// No interpreter starts with fewer.
const FEWEST_FILES: u32 = 16;
/// What is larger belongs into a file or the store.
const MOST_RESULT_BYTES: u64 = 256 << 20;

/// Longer than anybody waits for an event, and a sign that the unit is wrong.
const LONGEST_LINGER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Shim,
    Template,
}

/// What `[plugin]` says.
struct PluginSection {
    name: String,
    version: String,
    language: Option<String>,
    kernel: Option<String>,
    turn: Turn,
    entry: PathBuf,
    bridge: String,
    isolation: Isolation,
    carrier: CarrierChoice,
    activation: Option<Activation>,
    sandbox: Sandbox,
    env: Vec<String>,
}

pub(super) fn read(text: &str, path: &Path) -> Result<Manifest, ManifestError> {
    let mut report = Report::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        report.add(&span, String::new(), format!("not valid TOML: {}", error.message()), None);
    }
    if !errors.is_empty() {
        // What could be read of a broken text would only give follow-up complaints.
        return Err(failed(report, path));
    }
    let document = document.get_ref();
    unknown_sections(document, &mut report);
    let plugin = read_plugin(document, &mut report);
    let permissions = read_permissions(document, &mut report);
    let exports = read_exports(document, &mut report);
    let limits = read_limits(document, &mut report);
    let queue = read_queue(document, &mut report);
    let delivery = read_delivery(document, &mut report);
    let restart = read_restart(document, &mut report);
    let config = config::read(document, &mut report);
    let template = read_template(document, plugin.turn, &mut report);
    let runtime = match (plugin.language, plugin.kernel) {
        (_, Some(kernelspec)) if plugin.turn == Turn::Template => Runtime::Template { kernelspec, template },
        (language, Some(kernelspec)) => Runtime::Kernel { kernelspec, language },
        // Neither is a problem that was reported.
        (language, None) => Runtime::Language(language.unwrap_or_default()),
    };
    if !report.problems.is_empty() {
        return Err(failed(report, path));
    }
    Ok(Manifest {
        path: path.to_owned(),
        name: plugin.name,
        version: plugin.version,
        runtime,
        entry: plugin.entry,
        bridge: plugin.bridge,
        isolation: plugin.isolation,
        carrier: plugin.carrier,
        activation: plugin.activation,
        sandbox: plugin.sandbox,
        env: plugin.env,
        permissions,
        exports,
        limits,
        queue,
        delivery,
        restart,
        config,
        lines: report.lines,
    })
}

fn failed(mut report: Report<'_>, path: &Path) -> ManifestError {
    report.problems.sort_by_key(|problem| problem.line);
    ManifestError { path: path.to_owned(), problems: report.problems }
}

/// The section that has a key of this name.
fn home_of(key: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|(_, keys)| keys.contains(&key)).map(|(section, _)| *section)
}

fn unknown_sections(document: &DeTable<'_>, report: &mut Report<'_>) {
    let names = SECTIONS.map(|(name, _)| name);
    for (key, value) in document {
        let (span, key) = (key.span(), key.get_ref().as_ref());
        if names.contains(&key) {
            continue;
        }
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        let message = match is_table {
            true => format!("unknown section [{key}]"),
            false => format!("`{key}` is in no section"),
        };
        let hint = match (is_table, suggest::nearest(key, names)) {
            (true, Some(name)) => format!("did you mean [{name}]?"),
            (true, None) => format!("there are {}", quoted(&names)),
            (false, _) => match home_of(key) {
                Some(section) => format!("it belongs in [{section}]"),
                None => "put settings of your own in [config]".to_owned(),
            },
        };
        report.add(&span, key.to_owned(), message, Some(hint));
    }
}

fn read_plugin<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> PluginSection {
    let mut section = Section::open(document, "plugin", report);
    let name =
        section.parsed("name", "\"my-plugin\"", |name| pattern::check_plugin_name(name).map(|()| name.to_owned()));
    let version = section.parsed("version", "\"0.1.0\"", not_empty);
    let language = section.parsed("language", "\"python\"", not_empty);
    let kernel = section.parsed("kernel", "\"python3\"", not_empty);
    let entry = section.parsed("entry", "\"plugin.py\"", inside_the_folder);
    let bridge = section.parsed("bridge", "\"1\"", |version| match version {
        BRIDGE_VERSION => Ok(version.to_owned()),
        _ => Err(format!("this kernelbridge does not speak protocol `{version}`, only `{BRIDGE_VERSION}`")),
    });
    let isolation = section.choice("isolation", &[("own", Isolation::Own), ("shared", Isolation::Shared)]);
    let carriers = [("auto", CarrierChoice::Auto), ("jupyter", CarrierChoice::Jupyter), ("pipe", CarrierChoice::Pipe)];
    let carrier = section.choice("carrier", &carriers);
    let named = Activation::ALL.map(|activation| (activation.name(), Some(activation)));
    let activations: Vec<_> = [("auto", None)].into_iter().chain(named).collect();
    let activation = section.choice("activation", &activations).flatten();
    let sandbox = read_sandbox(&mut section);
    let env = section.list("env", "a list of names", "[\"MY_TOKEN\"]", variable);
    let turn = section.choice("turn", &[("shim", Turn::Shim), ("template", Turn::Template)]).unwrap_or(Turn::Shim);

    if !section.is_there() {
        let hint = "it needs at least `name`, `language` and `entry`".to_owned();
        section.missing("name", "there is no section [plugin]".to_owned(), hint);
    } else {
        // Present but wrong was reported where it is.
        for (key, example) in [("name", "\"my-plugin\""), ("entry", "\"plugin.py\"")] {
            if section.value(key).is_none() {
                section.missing(key, format!("[plugin] has no `{key}`"), format!("add `{key} = {example}`"));
            }
        }
        check_runtime(&mut section, language.as_deref(), turn);
    }
    section.finish(home_of);
    PluginSection {
        name: name.unwrap_or_default(),
        version: version.unwrap_or_else(|| "0.0.0".to_owned()),
        language,
        kernel,
        turn,
        entry: entry.unwrap_or_default(),
        bridge: bridge.unwrap_or_else(|| BRIDGE_VERSION.to_owned()),
        isolation: isolation.unwrap_or(Isolation::Own),
        carrier: carrier.unwrap_or(CarrierChoice::Auto),
        activation,
        sandbox,
        env: env.unwrap_or_default(),
    }
}

/// One word or several, as each is a restriction of its own.
fn read_sandbox(section: &mut Section<'_, '_>) -> Sandbox {
    let words = [("none", None), (Sandbox::READ_ONLY, Some(true)), (Sandbox::NO_NETWORK, Some(false))];
    let chosen = section.choices("sandbox", &words).unwrap_or_default();
    if chosen.len() > 1
        && chosen.iter().any(|found| found.value.is_none())
        && let Some(last) = chosen.last()
    {
        let hint = "leave out `none`, or everything else".to_owned();
        section.problem(
            "sandbox",
            &last.span,
            "`none` in `sandbox` of [plugin] goes with nothing".to_owned(),
            Some(hint),
        );
    }
    let has = |wanted| chosen.iter().any(|found| found.value == Some(wanted));
    Sandbox { read_only: has(true), no_network: has(false) }
}

/// Which of `language`, `kernel` and `turn` go together.
fn check_runtime(section: &mut Section<'_, '_>, language: Option<&str>, turn: Turn) {
    let (has_language, has_kernel) = (section.value("language").is_some(), section.value("kernel").is_some());
    let installed = "`kernelbridge languages` lists what is installed";
    if language == Some("other") && turn == Turn::Shim {
        let hint = "add `turn = \"template\"` and a section [template]".to_owned();
        section.missing("turn", "`language = \"other\"` in [plugin] has no shim".to_owned(), hint);
    }
    if has_kernel {
        return;
    }
    if language == Some("other") || turn == Turn::Template {
        let hint = format!("add `kernel = \"<kernelspec>\"`: {installed}");
        section.missing("kernel", "[plugin] does not say which kernel runs the template".to_owned(), hint);
    } else if !has_language {
        let hint = format!("add `language = \"python\"`: {installed}");
        section.missing("language", "[plugin] has neither `language` nor `kernel`".to_owned(), hint);
    }
}

fn read_permissions<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> Permissions {
    let mut section = Section::open(document, "permissions", report);
    let call = section.patterns("call", "[\"state.*\"]");
    let emit = section.patterns("emit", "[\"alert.*\"]").unwrap_or_default();
    section.finish(home_of);
    let call =
        call.unwrap_or_else(|| ["state.*", "log.*"].iter().filter_map(|text| Pattern::parse(text).ok()).collect());
    Permissions { call, emit }
}

fn read_exports<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> Exports {
    let mut section = Section::open(document, "exports", report);
    let allow = section.patterns("allow", "[\"quake-*\"]").unwrap_or_else(everything);
    section.finish(home_of);
    Exports { allow }
}

fn read_limits<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> Limits {
    let mut section = Section::open(document, "limits", report);
    let timeout = section.parsed("timeout", "\"5s\"", some_time);
    let startup = section.parsed("startup", "\"30s\"", some_time);
    let memory_bytes = section.parsed("memory", "\"1GiB\"", some_size);
    let cpu = section.parsed("cpu", "\"1h\"", some_time);
    let open_files = section.integer("open-files", FEWEST_FILES, 1_048_576);
    let output_bytes = section.parsed("output", "\"1MiB\"", |text| parse_size(text).map_err(|error| error.to_string()));
    let result_bytes = section.parsed("result", "\"16MiB\"", |text| match some_size(text) {
        Ok(size) if size > MOST_RESULT_BYTES => {
            Err(format!("`{text}` is too large; the most is {}", format_size(MOST_RESULT_BYTES)))
        }
        other => other,
    });
    let depth = section.integer("depth", 1, 1000);
    section.finish(home_of);
    Limits {
        timeout: timeout.unwrap_or(DEFAULT_LIMITS.timeout),
        startup: startup.unwrap_or(DEFAULT_LIMITS.startup),
        memory_bytes,
        cpu,
        open_files,
        output_bytes: output_bytes.unwrap_or(DEFAULT_LIMITS.output_bytes),
        result_bytes: result_bytes.unwrap_or(DEFAULT_LIMITS.result_bytes),
        depth: depth.unwrap_or(DEFAULT_LIMITS.depth),
    }
}

fn read_queue<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> QueueSettings {
    let mut section = Section::open(document, "queue", report);
    let capacity = section.integer("capacity", 1, 1_000_000);
    let policies = [
        ("block", WhenFull::Block),
        ("drop-oldest", WhenFull::DropOldest),
        ("drop-newest", WhenFull::DropNewest),
        ("coalesce", WhenFull::Coalesce),
        ("spill", WhenFull::Spill),
    ];
    let when_full = section.choice("when-full", &policies);
    section.finish(home_of);
    QueueSettings { capacity: capacity.unwrap_or(1024) as usize, when_full: when_full.unwrap_or(WhenFull::Block) }
}

fn read_delivery<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> Delivery {
    let mut section = Section::open(document, "delivery", report);
    let attempts = section.integer("attempts", 1, 1000);
    let batch = section.integer("batch", 1, 100_000);
    let linger = section.parsed("linger", "\"5ms\"", |text| match parse_duration(text) {
        Ok(linger) if linger > LONGEST_LINGER => {
            Err(format!("`{text}` is too long; the most is {} s", LONGEST_LINGER.as_secs()))
        }
        other => other.map_err(|error| error.to_string()),
    });
    let instances = section.integer("instances", 1, 1000);
    let warm = section.integer("warm", 0, 100);
    let order_by = section.parsed("order-by", "\"properties.net\"", not_empty);
    let journal = section.boolean("journal");
    section.finish(home_of);
    Delivery {
        attempts: attempts.unwrap_or(3),
        batch: batch.map(|batch| batch as usize),
        linger: linger.unwrap_or_default(),
        instances: instances.unwrap_or(1),
        warm: warm.unwrap_or(0),
        order_by,
        journal: journal.unwrap_or(false),
    }
}

fn read_restart<'t>(document: &DeTable<'t>, report: &mut Report<'t>) -> Restart {
    let mut section = Section::open(document, "restart", report);
    let deaths = section.integer("deaths", 1, 1_000_000);
    let within = section.parsed("within", "\"1m\"", some_time);
    section.finish(home_of);
    Restart { deaths: deaths.unwrap_or(5), within: within.unwrap_or(Duration::from_secs(60)) }
}

fn read_template<'t>(document: &DeTable<'t>, turn: Turn, report: &mut Report<'t>) -> Template {
    let mut section = Section::open(document, "template", report);
    let event = section.text("event", "'(handle {event})'");
    let topic = section.patterns("topic", "[\"quake.*\"]").unwrap_or_else(everything);
    let functions = section.table("exports", "{ distance = '(distance {args})' }");
    if let Some(event) = &event {
        check_placeholders(&mut section, "event", event.value, &event.span, "event");
        if !event.value.contains("{event}") {
            let message = "`event` in [template] never uses the event".to_owned();
            let hint = "write `{event}` where its JSON text is to go, as a string literal".to_owned();
            section.problem("event", &event.span, message, Some(hint));
        }
    }
    let mut exports = BTreeMap::new();
    for (name, code) in functions.into_iter().flatten() {
        if let Err(error) = pattern::check_function_name(name.get_ref()) {
            section.problem("exports", &name.span(), format!("`exports` in [template]: {error}"), None);
        }
        let name = name.get_ref().as_ref();
        match code.get_ref() {
            DeValue::String(text) => {
                check_placeholders(&mut section, "exports", text, &code.span(), "args");
                exports.insert(name.to_owned(), text.clone().into_owned());
            }
            other => {
                let message = format!("`{name}` in [template.exports] must be a string, found {}", type_of(other));
                let hint = format!("write `{name} = '({name} {{args}})'`");
                section.problem("exports", &code.span(), message, Some(hint));
            }
        }
    }
    match (turn, section.is_there()) {
        (Turn::Shim, true) => {
            let hint = "add `turn = \"template\"` to [plugin], or remove it".to_owned();
            section.missing("event", "[template] is used at the basic level only".to_owned(), hint);
        }
        (Turn::Template, _) if event.is_none() && functions.is_none() => {
            let hint = "add `event = '(handle {event})'` to [template]".to_owned();
            section.missing("event", "`turn = \"template\"` without code for events or exports".to_owned(), hint);
        }
        _ => {}
    }
    section.finish(home_of);
    Template { event: event.map(|event| event.value.to_owned()), topic, exports }
}

/// Catch `{events}` and, where `{args}` belongs, `{event}`; other words in braces are the language's own.
fn check_placeholders(
    section: &mut Section<'_, '_>,
    key: &'static str,
    code: &str,
    span: &std::ops::Range<usize>,
    right: &str,
) {
    let wrong = ["event", "events", "arg", "args"].into_iter().filter(|word| *word != right);
    for word in wrong.filter(|wrong| template::placeholders(code).any(|word| word == *wrong)) {
        let message = format!("`{{{word}}}` means nothing in `{key}` of [template]");
        section.problem(key, span, message, Some(format!("did you mean `{{{right}}}`?")));
    }
}

fn everything() -> Vec<Pattern> {
    Pattern::parse("*").into_iter().collect()
}

fn variable(name: &str) -> Result<String, String> {
    match name {
        "" => Err("a name must not be empty".to_owned()),
        _ if name.starts_with("KERNELBRIDGE_") => Err(format!("`{name}` is ours")),
        _ if name.contains(['=', '\0']) => Err(format!("`{name}` is not the name of a variable")),
        _ => Ok(name.to_owned()),
    }
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("it must not be empty") } else { Ok(text.to_owned()) }
}

fn inside_the_folder(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match path.file_name() {
        Some(_) if is_inside => Ok(path),
        _ => Err(format!("`{text}` is not a file in the plugin's folder")),
    }
}

fn some_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(0) => Err("it must be more than nothing".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("nothing could ever be done in no time".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}
