//! Shows a host's news: data to the output, what plugins print to stderr, images to files.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::FutureExt;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    blob,
    cli::summary::counted,
    client::Output,
    host::{Event, LinkInfo, News, Subscription},
    manifest::units::format_size,
    plugin::PluginNews,
    rpc::{Mode, RpcError},
    supervision::State,
};

/// How much of a line that does not end is kept before it is shown.
const LONGEST_LINE: usize = 64 * 1024;

/// Saves images.
pub struct Images {
    dir: PathBuf,
    counts: HashMap<Arc<str>, u32>,
    /// Does a file that is there already stay?
    pub is_careful: bool,
    /// What was saved.
    pub saved: Vec<PathBuf>,
}

/// An image that was saved.
pub struct Image {
    /// Where it is.
    pub path: PathBuf,
    /// What it was said to be.
    pub mime: &'static str,
    /// What is in the file.
    pub bytes: Vec<u8>,
}

impl Images {
    /// Into this folder, which is made if it is not there.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), counts: HashMap::new(), is_careful: false, saved: Vec::new() })
    }

    /// Save an image, if the output is one.
    pub fn save(
        &mut self,
        plugin: &Arc<str>,
        data: &serde_json::Map<String, serde_json::Value>,
    ) -> anyhow::Result<Option<Image>> {
        let kinds = [("image/png", "png"), ("image/jpeg", "jpg"), ("image/svg+xml", "svg")];
        for (mime, extension) in kinds {
            let Some(text) = data.get(mime).and_then(|value| value.as_str()) else { continue };
            let bytes = if extension == "svg" {
                text.as_bytes().to_vec()
            } else {
                // Kernels break the lines of base64.
                let packed: String = text.split_ascii_whitespace().collect();
                BASE64_STANDARD.decode(packed).with_context(|| format!("plugin `{plugin}` showed a broken {mime}"))?
            };
            let count = self.counts.entry(plugin.clone()).or_default();
            let path = loop {
                *count += 1;
                let path = self.dir.join(format!("{plugin}-{count}.{extension}"));
                if !(self.is_careful && path.exists()) {
                    break path;
                }
            };
            std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
            self.saved.push(path.clone());
            return Ok(Some(Image { path, mime, bytes }));
        }
        Ok(None)
    }
}

/// Shows news as it comes: data to the output, what plugins print to stderr, images to files.
pub struct Printer {
    news: Subscription,
    images: Option<Images>,
    /// Where results and events go.
    pub out: Option<Box<dyn Write + Send>>,
    /// Lines are shown above it.
    pub bar: ProgressBar,
    /// Are changes of plugins' states part of the output?
    pub states: bool,
    /// The command that takes a plugin out of quarantine, without its name, if there is one.
    pub release: Option<String>,
    /// Plugins and instances whose kernel is not there.
    down: HashSet<(Arc<str>, u32)>,
    /// The last unfinished line that each plugin printed.
    unfinished: HashMap<Arc<str>, String>,
    /// Why each plugin's kernel was last gone, with its last output, which was shown.
    gone: HashMap<Arc<str>, String>,
}

/// What was printed.
#[derive(Default)]
pub struct Printed {
    /// The output, to go on with.
    pub out: Option<Box<dyn Write + Send>>,
    /// Images that were saved.
    pub images: Vec<PathBuf>,
}

/// Large values themselves: their names mean nothing to whoever reads this later.
fn plain(json: &Arc<RawValue>) -> anyhow::Result<Arc<RawValue>> {
    Ok(match blob::by_value(json.get(), u64::MAX)? {
        Cow::Borrowed(_) => json.clone(),
        Cow::Owned(text) => RawValue::from_string(text)?.into(),
    })
}

/// A line of the output.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Event {
        from: &'a str,
        #[serde(flatten)]
        event: &'a Event,
    },
    Result {
        plugin: &'a str,
        topic: &'a str,
        id: &'a str,
        result: &'a RawValue,
    },
    Failure {
        plugin: &'a str,
        topic: &'a str,
        id: &'a str,
        attempts: u32,
        error: serde_json::Value,
    },
    State {
        plugin: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        instance: Option<u32>,
        #[serde(flatten)]
        state: &'a State,
    },
}

impl Printer {
    /// Show this news.
    pub fn new(news: Subscription, images: Option<Images>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            news,
            images,
            out: None,
            bar,
            states: false,
            release: None,
            down: HashSet::new(),
            unfinished: HashMap::new(),
            gone: HashMap::new(),
        }
    }

    /// Until the host is shut down.
    pub async fn run(mut self) -> anyhow::Result<Printed> {
        while let Some(news) = self.next().await? {
            match news {
                News::Plugin { plugin, news } => self.plugin(&plugin, news)?,
                News::Emitted { plugin, event } if !plugin.is_empty() => {
                    let event = Event { data: plain(&event.data)?, ..event };
                    self.write(&Line::Event { from: &plugin, event: &event })?;
                }
                News::Handled { plugin, event, result, held: _held, .. } if result.get() != "null" => {
                    let result = plain(&result)?;
                    self.write(&Line::Result { plugin: &plugin, topic: &event.topic, id: &event.id, result: &result })?;
                }
                News::Failed { plugin, event, error, attempts } => {
                    self.failure(&event, &error);
                    let (topic, id, error) = (&*event.topic, &*event.id, error.to_json());
                    self.write(&Line::Failure { plugin: &plugin, topic, id, attempts, error })?;
                }
                News::State { plugin, instance, state } => self.state(plugin, instance, &state)?,
                News::Link { info, is_attached, reason } => self.link(&info, is_attached, &reason),
                News::Missed(count) => self.say(&format!("warning: {count} messages of plugins were not shown")),
                _ => {}
            }
        }
        for (plugin, text) in std::mem::take(&mut self.unfinished) {
            self.say(&format!("[{plugin}] {text}"));
        }
        if let Some(out) = &mut self.out {
            out.flush().context("cannot write the output")?;
        }
        Ok(Printed { out: self.out, images: self.images.map(|images| images.saved).unwrap_or_default() })
    }

    /// The next news. What was written is there for its reader before anything is waited for.
    async fn next(&mut self) -> anyhow::Result<Option<News>> {
        if let Some(news) = self.news.next().now_or_never() {
            return Ok(news);
        }
        if let Some(out) = &mut self.out {
            out.flush().context("cannot write the output")?;
        }
        Ok(self.news.next().await)
    }

    fn write(&mut self, line: &Line<'_>) -> anyhow::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        serde_json::to_writer(&mut *out, line).context("cannot write the output")?;
        out.write_all(b"\n").context("cannot write the output")
    }

    /// A line for whoever watches, and one for programs if they want it.
    fn state(&mut self, plugin: Arc<str>, instance: u32, state: &State) -> anyhow::Result<()> {
        let number = (instance > 0).then_some(instance);
        if self.states {
            self.write(&Line::State { plugin: &plugin, instance: number, state })?;
        }
        let who = match number {
            Some(number) => format!("instance {number} of plugin `{plugin}`"),
            None => format!("plugin `{plugin}`"),
        };
        match state {
            State::Restarting { reason, deaths, after_ms } => {
                let seconds = Duration::from_millis(*after_ms).as_secs_f64();
                self.say(&format!("{who}: {}; restarting in {seconds:.1} s (death {deaths})", first_line(reason)));
                self.down.insert((plugin, instance));
            }
            State::Quarantined { reason, deaths } => {
                let hint = match &self.release {
                    Some(command) => format!("; `{command} {plugin}` takes it out"),
                    None => String::new(),
                };
                let reason = first_line(reason);
                self.say(&format!(
                    "{who} is in quarantine after {}: {reason}{hint}",
                    counted((*deaths).into(), "death")
                ));
                self.down.insert((plugin, instance));
            }
            State::Ready { .. } if self.down.remove(&(plugin, instance)) => self.say(&format!("{who} is back")),
            _ => {}
        }
        Ok(())
    }

    fn failure(&self, event: &Event, error: &RpcError) {
        let mut report = error.report();
        for reason in self.gone.values() {
            report = report.replace(reason.as_str(), first_line(reason));
        }
        self.say(&format!("event {} ({}) failed: {report}", event.id, event.topic));
    }

    fn plugin(&mut self, plugin: &Arc<str>, news: PluginNews) -> anyhow::Result<()> {
        match news {
            PluginNews::Output(Output::Stream { text, .. }) => {
                let mut text = self.unfinished.remove(plugin).unwrap_or_default() + &text;
                let rest = text.split_off(text.rfind('\n').map_or(0, |end| end + 1));
                for line in text.lines() {
                    self.say(&format!("[{plugin}] {line}"));
                }
                // A line without end is shown in pieces.
                if rest.len() > LONGEST_LINE {
                    self.say(&format!("[{plugin}] {rest}"));
                } else if !rest.is_empty() {
                    self.unfinished.insert(plugin.clone(), rest);
                }
            }
            PluginNews::Output(Output::Display { data, .. }) => {
                let saved = match self.images.as_mut().map(|images| images.save(plugin, &data)) {
                    Some(Ok(saved)) => saved.is_some(),
                    // What a plugin shows ends nobody's run.
                    Some(Err(error)) => {
                        self.say(&format!("error: {error:#}"));
                        true
                    }
                    None => false,
                };
                match data.get("text/plain").and_then(|text| text.as_str()) {
                    Some(text) if !saved => self.say(&format!("[{plugin}] {text}")),
                    None if !saved => self.say(&format!("[{plugin}] showed an image; --outputs DIR saves such")),
                    _ => {}
                }
            }
            PluginNews::Output(Output::Error { ename, evalue, .. }) => {
                self.say(&format!("[{plugin}] {ename}: {evalue}"))
            }
            PluginNews::OutputDropped { outputs, bytes, limit_bytes } => {
                let (bytes, limit) = (format_size(bytes), format_size(limit_bytes));
                self.say(&format!(
                    "warning: plugin `{plugin}`: {bytes} of {outputs} outputs dropped, beyond the limit of {limit} for \
                     one event or call ([limits] output)"
                ));
            }
            PluginNews::Log { level, message, fields } => {
                let fields = if fields.as_object().is_some_and(|fields| !fields.is_empty()) {
                    format!(" {fields}")
                } else {
                    String::new()
                };
                self.say(&format!("[{plugin}] {}: {message}{fields}", format!("{level:?}").to_lowercase()));
            }
            PluginNews::Progress { done, total, message } => {
                let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
                self.say(&format!("[{plugin}] {done}{total} {message}"));
            }
            // Why is told with what becomes of the plugin; here is the last that its kernel wrote.
            // Seen in what it is given from now on.
            PluginNews::Handlers(_) => {}
            PluginNews::Gone { reason } => {
                for line in reason.lines().skip(1) {
                    self.say(&format!("[{plugin}] {line}"));
                }
                self.gone.insert(plugin.clone(), reason);
            }
            PluginNews::Odd { reason } => self.say(&format!("warning: plugin `{plugin}`: {reason}")),
        }
        Ok(())
    }

    /// Who serves a plugin's events is worth a line.
    fn link(&self, info: &LinkInfo, is_attached: bool, reason: &str) {
        match (&info.plugin, info.mode) {
            (Some(plugin), Mode::Replace) if is_attached => {
                self.say(&format!("`{}` takes the place of plugin `{plugin}`", info.name));
            }
            (Some(plugin), Mode::Replace) => {
                self.say(&format!("plugin `{plugin}` has its place back from `{}`: {reason}", info.name));
            }
            _ => {}
        }
    }

    fn say(&self, text: &str) {
        say(&self.bar, text);
    }
}

/// The first line of a reason or an error, without the announcement of those that follow.
pub fn first_line(reason: &str) -> &str {
    let line = reason.lines().next().unwrap_or_default();
    line.strip_suffix("; its last output:").unwrap_or(line)
}

/// A line on stderr, above the bar if one is shown; a hidden bar would swallow it.
pub fn say(bar: &ProgressBar, text: &str) {
    if bar.is_hidden() {
        eprintln!("{text}");
    } else {
        bar.println(text);
    }
}
