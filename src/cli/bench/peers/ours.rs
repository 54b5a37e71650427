//! kernelbridge itself: a host with one plugin of `benches/plugins`, by one way in one language.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use arrow_array::{
    Array as _, ArrayRef, Int64Array, RecordBatch, StringArray,
    cast::AsArray,
    types::{Float64Type, Int32Type, Int64Type},
};
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{Kit, python::sources};
use crate::{
    blob::Array,
    cli::bench::{
        record::{Record, check_all, check_sum, floats},
        system::{Doing, Measure, System, WINDOW, shared, timed},
    },
    host::{BuildError, Caller, Host, News, Subscription},
    plugin::LoadError,
    rpc::RpcError,
};

/// One way to run plugins: a language and how messages reach it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cli::bench) struct Road {
    /// The language folder's name.
    pub language: &'static str,
    /// `auto`, or what to force: one of [`WAYS`].
    pub way: &'static str,
}

/// How messages reach a plugin: the activations over carrier `pipe`, and carrier `jupyter`.
const WAYS: [&str; 5] = ["loop", "comm", "thread", "execute", "jupyter"];

/// How long a kernel may take until it is at hand.
const WARM: Duration = Duration::from_secs(60);

/// The plugins' entries.
const SOURCES: [(&str, &str); 6] = [
    ("python", "plugin.py"),
    ("r", "plugin.R"),
    ("javascript", "plugin.ts"),
    ("lua", "plugin.lua"),
    ("octave", "plugin.m"),
    ("bash", "plugin.sh"),
];

impl Road {
    /// All that are measured.
    pub fn all() -> Vec<Self> {
        let languages = SOURCES.map(|(language, _)| language);
        languages.into_iter().flat_map(|language| WAYS.map(|way| Self { language, way })).collect()
    }

    /// As in the table.
    pub fn name(self) -> String {
        match self.way {
            "auto" => format!("kernelbridge {}", self.language),
            way => format!("kernelbridge {} {way}", self.language),
        }
    }

    /// A plugin folder for it. `more` is added to the manifest.
    pub fn plugin(self, dir: &Path, name: &str, kit: &Kit, more: &str) -> anyhow::Result<()> {
        let (_, source) = SOURCES.into_iter().find(|(language, _)| *language == self.language).context("no plugin")?;
        // The peers' Python runs ours too, so that all have the same interpreter and packages.
        let has_own = self.language == "python" && kit.environment_has_kernel();
        let kernel = if has_own { format!("kernel = {:?}\n", Kit::KERNELSPEC) } else { String::new() };
        let language = self.language;
        let (carrier, activation) = match self.way {
            "auto" => ("auto", "auto"),
            "jupyter" => ("jupyter", "execute"),
            activation => ("pipe", activation),
        };
        let manifest = format!(
            "[plugin]\nname = {name:?}\nlanguage = {language:?}\n{kernel}entry = {source:?}\ncarrier = {carrier:?}\n\
             activation = {activation:?}\n\n\
             [permissions]\ncall = [\"*\"]\n\n[limits]\ndepth = 200\n\n[queue]\ncapacity = 8192\n{more}"
        );
        fs::create_dir_all(dir)?;
        fs::write(dir.join("plugin.toml"), manifest)?;
        fs::copy(sources().join("plugins").join(language).join(source), dir.join(source))?;
        Ok(())
    }
}

pub(in crate::cli::bench) struct Ours {
    road: Road,
    host: Host,
    _dir: tempfile::TempDir,
}

impl Ours {
    /// `None`: there is no kernel of that language, or it does not know that carrier.
    pub async fn start(kit: &Kit, road: Road) -> anyhow::Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        road.plugin(dir.path(), "bench", kit, "")?;
        match host(kit, &[dir.path().to_owned()]).await {
            Ok(host) => {
                let ours = Self { road, host, _dir: dir };
                ours.unary(&Record::new(1)).await?;
                Ok(Some(ours))
            }
            Err(BuildError::NoKernelspec { .. }) => Ok(None),
            Err(BuildError::Load { source, .. }) if is_another_languages(&source) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Ours::start`], into a kernel that is at hand already; `began` is told when it is.
    pub async fn start_warm(kit: &Kit) -> anyhow::Result<(Self, Instant)> {
        let road = Road { language: "python", way: "auto" };
        let dir = tempfile::tempdir()?;
        road.plugin(dir.path(), "bench", kit, "")?;
        // Kernels at hand are of the language's own kernelspec.
        let file = dir.path().join("plugin.toml");
        let manifest = fs::read_to_string(&file)?.replace(&format!("kernel = {:?}\n", Kit::KERNELSPEC), "");
        fs::write(&file, manifest)?;
        let host = Host::builder().warm("python", 1).build().await?;
        let deadline = Instant::now() + WARM;
        while host.spare_processes("python").is_empty() {
            ensure!(Instant::now() < deadline, "no kernel is at hand after {WARM:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let began = Instant::now();
        host.load(dir.path()).await?;
        let ours = Self { road, host, _dir: dir };
        ours.unary(&Record::new(1)).await?;
        Ok((ours, began))
    }

    pub fn process_id(&self) -> Option<u32> {
        self.host.plugins().first().map(|plugin| plugin.about.process_id)
    }

    async fn event(&self, news: &mut Subscription, record: &Record) -> anyhow::Result<()> {
        self.host.emit("bench.one", record).await?;
        record.check(&handled(news).await?)
    }

    async fn unary(&self, record: &Record) -> anyhow::Result<()> {
        record.check(&self.host.call("bench.unary", (record,)).await?)
    }

    /// Events to a handler of batches, emitted together.
    async fn events(&self, topic: &str, records: &[Record]) -> anyhow::Result<()> {
        let mut news = self.host.subscribe();
        for record in records {
            self.host.emit(topic, record).await?;
        }
        for record in records {
            record.check(&handled(&mut news).await?)?;
        }
        Ok(())
    }

    async fn burst(&self, count: usize) -> anyhow::Result<Vec<f64>> {
        let records = Record::many(count);
        let began = Instant::now();
        let mut news = self.host.subscribe();
        let emit = async {
            for record in &records {
                self.host.emit("bench.one", record).await?;
            }
            anyhow::Ok(())
        };
        let check = async {
            for record in &records {
                record.check(&handled(&mut news).await?)?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(emit, check)?;
        Ok(shared(began, count))
    }

    async fn window(&self, count: usize) -> anyhow::Result<Vec<f64>> {
        let records = Record::many(count);
        let began = Instant::now();
        let mut left = records.iter();
        let mut flying: FuturesUnordered<_> = left.by_ref().take(WINDOW).map(|record| self.unary(record)).collect();
        while let Some(result) = flying.next().await {
            result?;
            flying.extend(left.next().map(|record| self.unary(record)));
        }
        Ok(shared(began, count))
    }
}

/// Is it a way that this language does not have?
fn is_another_languages(error: &LoadError) -> bool {
    match error {
        LoadError::NoActivation { .. } => true,
        LoadError::NoCarrier { tried, .. } => tried.is_empty(),
        _ => false,
    }
}

/// So many records as a table, and the right answer.
fn tables(size: usize) -> anyhow::Result<(RecordBatch, RecordBatch)> {
    let records = Record::many(size);
    let table = |text: fn(&str) -> String, more: i64| {
        let ids = Int64Array::from_iter_values(records.iter().map(|record| record.id as i64));
        let texts = StringArray::from_iter_values(records.iter().map(|record| text(&record.text)));
        let values = Int64Array::from_iter_values(records.iter().map(|record| record.value + more));
        let columns: [(&str, ArrayRef); 3] =
            [("id", Arc::new(ids)), ("text", Arc::new(texts)), ("value", Arc::new(values))];
        RecordBatch::try_from_iter(columns)
    };
    Ok((table(str::to_owned, 0)?, table(str::to_uppercase, 1)?))
}

/// Are these the same values? R has other types of numbers.
fn equal(answer: &RecordBatch, expected: &RecordBatch) -> bool {
    let equal = |(answer, expected): (&ArrayRef, &ArrayRef)| {
        if answer.data_type() == expected.data_type() {
            return answer == expected;
        }
        let Some(expected) = expected.as_primitive_opt::<Int64Type>() else { return false };
        let answers: Option<Int64Array> =
            match (answer.as_primitive_opt::<Int32Type>(), answer.as_primitive_opt::<Float64Type>()) {
                (Some(whole), _) => Some(whole.unary::<_, Int64Type>(|whole: i32| whole.into())),
                (None, Some(float)) => Some(float.unary::<_, Int64Type>(|float: f64| float as i64)),
                (None, None) => None,
            };
        answers.is_some_and(|answers| answers == *expected)
    };
    answer.num_columns() == expected.num_columns() && answer.columns().iter().zip(expected.columns()).all(equal)
}

/// The next handler's result.
async fn handled(news: &mut Subscription) -> anyhow::Result<Record> {
    loop {
        match news.next().await.context("the host has ended")? {
            News::Handled { result, .. } => return Ok(serde_json::from_str(result.get())?),
            News::Failed { error, .. } => bail!("{}", error.report()),
            News::Missed(count) => bail!("{count} news were missed"),
            _ => {}
        }
    }
}

/// A host with these plugins, and the functions that they call.
pub(in crate::cli::bench) async fn host(kit: &Kit, plugins: &[PathBuf]) -> Result<Host, BuildError> {
    let nest = |caller: Caller, (depth,): (f64,)| async move {
        let name = format!("{}.nest", caller.plugin);
        let reached: f64 = caller.call(&name, (depth as i64,)).await?;
        Ok::<_, RpcError>(reached as i64)
    };
    let builder = Host::builder()
        .environment(kit.environment())
        .function("host.plus_one", |(value,): (f64,)| async move { Ok::<_, String>(value as i64 + 1) })
        .function_with_caller("host.nest", nest);
    plugins.iter().fold(builder, |builder, plugin| builder.plugin(plugin)).build().await
}

impl System for Ours {
    fn name(&self) -> String {
        self.road.name()
    }

    fn measures(&self) -> Vec<Measure> {
        let mut measures = vec![Measure::Unary, Measure::Event, Measure::IdleEvent, Measure::Window, Measure::Burst];
        measures.extend([1, 10, 100, 1000].map(Measure::Batch));
        measures.extend([1, 10, 100, 1000].map(Measure::Messages));
        measures.extend([Measure::Nested, Measure::HostCall]);
        measures.extend([1, 10, 50].map(Measure::Nest));
        if self.road.language != "bash" {
            measures.push(Measure::Columns(1000));
        }
        if self.road.language == "python" && self.road.way != "jupyter" {
            measures.extend([10, 100].map(Measure::Floats));
        }
        if matches!(self.road.language, "python" | "r") && self.road.way != "jupyter" {
            measures.push(Measure::Arrow(1000));
        }
        measures
    }

    fn run(&mut self, measure: Measure, count: usize) -> Doing<'_, Vec<f64>> {
        Box::pin(async move {
            match measure {
                Measure::Unary => {
                    let record = Record::new(7);
                    timed!(count, self.unary(&record).await?)
                }
                Measure::Event => {
                    let (record, mut news) = (Record::new(7), self.host.subscribe());
                    timed!(count, self.event(&mut news, &record).await?)
                }
                Measure::IdleEvent => {
                    let (record, mut times) = (Record::new(7), Vec::new());
                    for _ in 0..count {
                        // Longer than any turn lingers.
                        tokio::time::sleep(Duration::from_millis(250)).await;
                        let mut news = self.host.subscribe();
                        times.extend(timed!(1, self.event(&mut news, &record).await?)?);
                    }
                    Ok(times)
                }
                Measure::Batch(size) => {
                    let records = Record::many(size);
                    timed!(count, {
                        check_all(&records, &self.host.call::<Vec<_>>("bench.batch", (&records,)).await?)?
                    })
                }
                Measure::Messages(size) => {
                    let records = Record::many(size);
                    timed!(count, self.events("bench.many", &records).await?)
                }
                Measure::Columns(size) => {
                    let records = Record::many(size);
                    timed!(count, self.events("bench.columns", &records).await?)
                }
                Measure::Arrow(size) => {
                    let (table, expected) = tables(size)?;
                    timed!(count, {
                        let answer = self.host.call_table("bench.table", &table).await?;
                        ensure!(equal(&answer, &expected), "a wrong table");
                    })
                }
                Measure::Window => self.window(count).await,
                Measure::Burst => self.burst(count).await,
                Measure::Nested => {
                    let record = Record::new(7);
                    timed!(count, record.check(&self.host.call("bench.nested", (&record,)).await?)?)
                }
                Measure::HostCall => {
                    let began = Instant::now();
                    let value: f64 = self.host.call("bench.calls", (count,)).await?;
                    ensure!(value == count as f64, "{value} calls instead of {count}");
                    Ok(shared(began, count))
                }
                Measure::Nest(depth) => {
                    timed!(count, {
                        let reached: f64 = self.host.call("bench.nest", (depth,)).await?;
                        ensure!(reached == depth as f64, "nested {reached} deep");
                    })
                }
                Measure::Floats(megabytes) => {
                    let (bytes, sum) = floats(megabytes);
                    let numbers: Vec<f64> =
                        bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
                    timed!(count, {
                        // From the application's own memory each time, as for all others.
                        let array = Array::from(&numbers[..]);
                        check_sum(sum, self.host.call("bench.total", (&array,)).await?)?
                    })
                }
            }
        })
    }

    fn stop(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move {
            self.host.shutdown().await;
            Ok(())
        })
    }
}
