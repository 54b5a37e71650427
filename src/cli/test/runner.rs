//! Runs a plugin's tests in a host of its own, with its state in memory.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::time::{sleep, timeout};

use crate::{
    blob,
    cli::test::{
        CaseReport,
        case::{Action, Case, Expected},
        compare::{differences, event_differences, short},
        files::Tests,
    },
    client::Output,
    host::{BuildError, Event, Host, News, Subscription},
    manifest::Manifest,
    pattern::Pattern,
    plugin::{LoadError, PluginNews},
    rpc::{Cell, HandlerKind, RpcError},
    store::Store,
};

/// Who sets state in a store, as it says itself.
const WRITER: &str = "kernelbridge test";
/// How long what a plugin printed may take to arrive after the case has ended; it comes on a channel of its own.
const OUTPUT: Duration = Duration::from_millis(30);
/// The same for a case that failed, where it is shown.
const SHOWN_OUTPUT: Duration = Duration::from_millis(300);
/// On top of a handler's own deadline.
const SPARE: Duration = Duration::from_secs(10);

/// Run all tests of a plugin. `show` gets each report as soon as there is one.
pub async fn run(
    manifest: &Manifest,
    path: &Path,
    with: &[PathBuf],
    kernelspecs: &[PathBuf],
    tests: Tests,
    show: &mut impl FnMut(&CaseReport) -> io::Result<()>,
) -> anyhow::Result<Vec<CaseReport>> {
    let mut reports = Vec::new();
    let mut builder = Host::builder().plugin(path);
    for other in with.iter().filter(|other| *other != path) {
        builder = builder.plugin(other);
    }
    for dir in kernelspecs {
        builder = builder.kernelspecs(dir);
    }
    let began = Instant::now();
    let host = match builder.build().await {
        Ok(host) => host,
        Err(BuildError::Load { plugin, source })
            if plugin == manifest.name && matches!(*source, LoadError::Raised(_)) =>
        {
            let (file, ms) = (path.to_owned(), millis(began));
            let problems = vec![source.to_string()];
            reports.push(CaseReport { file, name: "loads".into(), passed: false, ms, problems, output: Vec::new() });
            show(&reports[0])?;
            return Ok(reports);
        }
        Err(error) => return Err(error.into()),
    };
    let mut runner =
        Runner { name: &manifest.name, manifest, news: host.subscribe(), state: BTreeMap::new(), host: &host };
    runner.state = snapshot(host.store())?;
    for (file, case) in tests.cases {
        let report = runner.case(file, &case).await?;
        show(&report)?;
        reports.push(report);
    }
    for cell in tests.cells {
        let report = runner.cell(&tests.notebook, &tests.entry_cells, cell).await?;
        show(&report)?;
        reports.push(report);
    }
    host.shutdown().await;
    Ok(reports)
}

struct Runner<'a> {
    name: &'a str,
    manifest: &'a Manifest,
    host: &'a Host,
    news: Subscription,
    /// As it was after loading.
    state: BTreeMap<String, Box<RawValue>>,
}

/// What happened during a case.
#[derive(Default)]
struct Happened {
    emitted: Vec<Event>,
    /// What handlers returned: the event's id and the value.
    handled: Vec<(String, Value)>,
    /// Events that were given up.
    failed: Vec<(Event, RpcError)>,
    /// What was printed and logged.
    output: Vec<String>,
}

impl Runner<'_> {
    async fn case(&mut self, file: PathBuf, case: &Case) -> anyhow::Result<CaseReport> {
        self.reset(case)?;
        let limits = &self.manifest.limits;
        let usual = limits.timeout * self.manifest.delivery.attempts.max(1) + SPARE;
        let allowed = case.timeout.unwrap_or(usual);
        let began = Instant::now();
        let outcome = timeout(allowed, self.act(&case.action)).await;
        let ms = millis(began);
        sleep(OUTPUT).await;
        let mut happened = self.happened();
        let mut problems = match outcome {
            Ok(outcome) => self.check(&case.expected, outcome, &happened),
            Err(_) => vec![format!("it took longer than {allowed:?}")],
        };
        problems.extend(self.check_state(&case.expected)?);
        if !problems.is_empty() {
            sleep(SHOWN_OUTPUT).await;
            happened.output.extend(self.happened().output);
        }
        let name = case.name.clone();
        Ok(CaseReport { file, name, passed: problems.is_empty(), ms, problems, output: happened.output })
    }

    /// A test cell is run after the plugin's own cells in a fresh load of both.
    async fn cell(&mut self, notebook: &Path, entry: &[Cell], cell: Cell) -> anyhow::Result<CaseReport> {
        self.restore()?;
        let name = cell.name.clone();
        let cells: Vec<Cell> = entry.iter().cloned().chain([cell]).collect();
        let began = Instant::now();
        let loaded = self.host.load_cells(self.name, notebook, &cells, self.manifest.limits.startup).await;
        let ms = millis(began);
        let problems: Vec<_> = loaded.err().map(|error| error.report()).into_iter().collect();
        sleep(OUTPUT).await;
        let output = self.happened().output;
        Ok(CaseReport { file: notebook.to_owned(), name, passed: problems.is_empty(), ms, problems, output })
    }

    fn reset(&mut self, case: &Case) -> anyhow::Result<()> {
        self.restore()?;
        for (key, value) in &case.state {
            self.host.store().set(key, &to_raw_value(value)?, WRITER)?;
        }
        Ok(())
    }

    /// The state as it was after loading; what came of the case before is not this one's.
    fn restore(&mut self) -> anyhow::Result<()> {
        let store = self.host.store();
        for key in store.list("")? {
            store.delete(&key)?;
        }
        for (key, value) in &self.state {
            store.set(key, value, WRITER)?;
        }
        self.happened();
        Ok(())
    }

    /// What it returned, or how it failed. The error of a mistake in the case itself is a text.
    async fn act(&self, action: &Action) -> Result<Outcome, String> {
        match action {
            Action::Call { function, args } => {
                let own = format!("{}.", self.name);
                let name = if function.starts_with(&own) { function.clone() } else { own + function };
                let args = to_raw_value(args).map_err(|error| error.to_string())?;
                Ok(Outcome::Returned(self.host.call_raw(&name, &args).await.map(|value| parsed(&value))))
            }
            Action::Filter { topic, data } => {
                self.must_take(HandlerKind::Filter, topic)?;
                let filtered = self.host.filter(topic, data).await;
                Ok(Outcome::Returned(filtered.map(|event| event.map_or(Value::Null, |event| parsed(&event.data)))))
            }
            Action::Emit { topic, data, key } => {
                let data = to_raw_value(data).map_err(|error| error.to_string())?;
                let event = Event::from_raw(topic, data, key.clone()).map_err(|error| error.to_string())?;
                let id = event.id.to_string();
                match self.host.emit_event(event).await {
                    Ok(emitted) if emitted.accepted == 0 && !emitted.filtered_out => {
                        self.must_take(HandlerKind::On, topic)?;
                    }
                    Ok(_) => {}
                    Err(error) => return Ok(Outcome::Returned(Err(error))),
                }
                self.host.drain().await;
                Ok(Outcome::Emitted { id })
            }
        }
    }

    /// A case for a topic that nothing takes tests nothing.
    fn must_take(&self, kind: HandlerKind, topic: &str) -> Result<(), String> {
        let plugins = self.host.plugins();
        let handlers = plugins.iter().filter(|plugin| plugin.name == self.name).flat_map(|plugin| &plugin.handlers);
        let topics: Vec<_> =
            handlers.filter(|handler| handler.kind == kind).map(|handler| handler.topic.as_str()).collect();
        if topics.iter().any(|pattern| Pattern::parse(pattern).is_ok_and(|pattern| pattern.matches(topic))) {
            return Ok(());
        }
        let what = if kind == HandlerKind::Filter { "filter" } else { "handler" };
        let others =
            if topics.is_empty() { "none at all".into() } else { format!("those for `{}`", topics.join("`, `")) };
        Err(format!("no {what} of the plugin takes topic `{topic}`; it has {others}"))
    }

    /// News so far. The host publishes what an event did before it says that the event is done.
    fn happened(&mut self) -> Happened {
        let mut happened = Happened::default();
        while let Some(Some(news)) = self.news.next().now_or_never() {
            match news {
                News::Emitted { plugin, event } if &*plugin == self.name => happened.emitted.push(event),
                News::Handled { plugin, event, result, .. } if &*plugin == self.name => {
                    happened.handled.push((event.id.to_string(), parsed(&result)));
                }
                News::Failed { plugin, event, error, .. } if &*plugin == self.name => {
                    happened.failed.push((event, error))
                }
                News::Plugin { plugin, news } if &*plugin == self.name => match news {
                    PluginNews::Output(Output::Stream { text, .. }) => {
                        happened.output.extend(text.lines().map(str::to_owned));
                    }
                    PluginNews::Log { level, message, .. } => {
                        happened.output.push(format!("{level:?}: {message}").to_lowercase());
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        happened
    }

    fn check(&self, expected: &Expected, outcome: Result<Outcome, String>, happened: &Happened) -> Vec<String> {
        let mut problems = Vec::new();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(problem) => return vec![problem],
        };
        let (results, error) = match outcome {
            Outcome::Returned(Ok(value)) => (vec![value], None),
            Outcome::Returned(Err(error)) => (Vec::new(), Some(error)),
            Outcome::Emitted { id } => {
                let own = happened.handled.iter().filter(|(event, _)| *event == id).map(|(_, value)| value.clone());
                let failed = happened.failed.iter().find(|(event, _)| *event.id == *id);
                for (event, error) in happened.failed.iter().filter(|(event, _)| *event.id != *id) {
                    problems.push(format!("event `{}`, emitted on the way, failed: {}", event.topic, error.report()));
                }
                (own.collect(), failed.map(|(_, error)| error.clone()))
            }
        };
        match (&expected.error, error) {
            (None, Some(error)) => problems.push(error.report()),
            (Some(_), None) => {
                let got = results.iter().map(short).collect::<Vec<_>>().join(", ");
                problems.push(format!("error: expected one, got the result {got}"));
            }
            (Some(wanted), Some(error)) => {
                let kind = format!("{:?}", error.kind);
                if let Some(wanted) = wanted.kind.as_ref().filter(|wanted| **wanted != kind) {
                    problems.push(format!("error.kind: expected {wanted}, got {kind}: {error}"));
                }
                if let Some(part) = wanted.message_contains.as_ref().filter(|part| !error.message.contains(*part)) {
                    problems.push(format!("error: expected a message with `{part}`, got `{}`", error.message));
                }
            }
            (None, None) => {}
        }
        if let Some(wanted) = expected.result.as_ref().filter(|_| problems.is_empty()) {
            // With several handlers for a topic, one of them must have returned it.
            let all = results.iter().map(|found| differences("result", wanted, found)).min_by_key(Vec::len);
            problems.extend(all.unwrap_or_else(|| vec![format!("result: expected {}, got none", short(wanted))]));
        }
        if let Some(wanted) = &expected.emitted {
            problems.extend(event_differences(wanted, &happened.emitted));
        }
        problems
    }

    fn check_state(&self, expected: &Expected) -> anyhow::Result<Vec<String>> {
        let mut problems = Vec::new();
        for (key, wanted) in &expected.state {
            match self.host.store().get(key)? {
                Some(found) => problems.extend(differences(&format!("state[{key}]"), wanted, &parsed(&found))),
                None if wanted.is_null() => {}
                None => problems.push(format!("state[{key}]: expected {}, but there is no such key", short(wanted))),
            }
        }
        Ok(problems)
    }
}

/// What an action led to.
enum Outcome {
    Returned(Result<Value, RpcError>),
    /// News tell the rest.
    Emitted {
        id: String,
    },
}

fn parsed(value: &RawValue) -> Value {
    blob::read(value.get()).unwrap_or_default()
}

fn snapshot(store: &Store) -> anyhow::Result<BTreeMap<String, Box<RawValue>>> {
    let mut state = BTreeMap::new();
    for key in store.list("")? {
        if let Some(value) = store.get(&key)? {
            state.insert(key, value);
        }
    }
    Ok(state)
}

fn millis(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e4).round() / 10.0
}
