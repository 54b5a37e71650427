//! The manifest: what a plugin's `plugin.toml` says.
//!
//! Pure: text in, value out. Every mistake is reported at once, each with its line and what to write instead.
//!
//! # Format
//!
//! ```toml
//! [plugin]
//! name = "quake-rate"            # required: [a-z0-9-]+, unique in the host
//! version = "0.1.0"
//! language = "r"                 # this or: kernel = "ir" (an exact kernelspec name); both: that kernel, that shim
//! entry = "plugin.R"             # required: a source file or an .ipynb in the plugin's folder
//! bridge = "1"                   # protocol version it was written for
//! isolation = "own"              # own | shared
//! carrier = "auto"               # auto | jupyter | pipe
//! activation = "auto"            # auto | execute | comm | loop | thread
//! turn = "shim"                  # shim | template (basic level, see `Template`)
//! sandbox = "none"               # none | read-only | no-network, or a list of the last two
//! env = ["MY_TOKEN"]             # variables of the host's that it gets too; default: none
//!
//! [permissions]
//! call = ["state.*", "log.*"]    # functions it may call; a list replaces this default
//! emit = ["alert.*"]             # topics it may emit; default: none
//!
//! [exports]
//! allow = ["*"]                  # plugins that may call its exports
//!
//! [limits]
//! timeout = "30s"                # a handler's deadline
//! startup = "60s"                # from launch to loaded
//! memory = "1GiB"                # of the kernel and all that it starts; default: none
//! cpu = "1h"                     # their time on processors, in all; default: none
//! open-files = 256               # of each of them; default: the host's own limit
//! output = "16MiB"               # prints and plots of one event or call
//! result = "256MiB"              # the largest message, and so result, of the plugin
//! depth = 64                     # of nested calls
//!
//! [queue]
//! capacity = 1024
//! when-full = "block"            # block | drop-oldest | drop-newest | coalesce | spill
//!
//! [delivery]
//! attempts = 3                   # then it is a dead letter
//! batch = 1000
//! linger = "5ms"
//! instances = 1                  # kernels that share the work
//! order-by = "properties.net"    # events with the same value there stay in order; default: the event's key
//! journal = false                # accepted events survive the host
//!
//! [restart]
//! deaths = 5                     # so many deaths of the kernel ...
//! within = "1m"                  # ... in this time put the plugin into quarantine
//!
//! [config]                       # free form, given to the plugin as `bridge.config`
//! ```

mod config;
mod error;
mod notebook;
mod reader;
mod sections;
mod template;
pub mod units;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{language::Activation, pattern::Pattern};

pub use self::{
    error::{ManifestError, Problem},
    notebook::of_notebook,
    template::{Template, string_literal},
};

/// The plugin protocol this release speaks, the only value `bridge` may have.
pub const BRIDGE_VERSION: &str = "1";

/// A parsed `plugin.toml`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Manifest {
    /// Where the text came from, for messages only.
    pub path: PathBuf,
    /// `[a-z0-9-]+`, unique in the host; functions are called `<name>.<function>`.
    pub name: String,
    /// The plugin's own version; `0.0.0` when it says none.
    pub version: String,
    /// What runs it.
    pub runtime: Runtime,
    /// Source file or notebook, relative to the plugin's folder and inside it.
    pub entry: PathBuf,
    /// Protocol version it was written for.
    pub bridge: String,
    /// A kernel of its own, or one shared with others.
    pub isolation: Isolation,
    /// How RPC messages are to travel.
    pub carrier: CarrierChoice,
    /// What is to make it serve its host; `None`: the quickest that works here.
    pub activation: Option<Activation>,
    /// What its kernel is kept from.
    pub sandbox: Sandbox,
    /// Names of the host's variables that it gets beside those that every kernel gets.
    pub env: Vec<String>,
    /// `[permissions]`
    pub permissions: Permissions,
    /// `[exports]`
    pub exports: Exports,
    /// `[limits]`
    pub limits: Limits,
    /// `[queue]`
    pub queue: QueueSettings,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[restart]`
    pub restart: Restart,
    /// `[config]`, with TOML's dates as strings.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Line of each field that was written, so that later complaints can name it.
    lines: BTreeMap<String, usize>,
}

/// What runs a plugin.
#[derive(Debug, Clone, PartialEq)]
pub enum Runtime {
    /// `language = "r"`: the best installed kernel for this language, with its shim.
    Language(String),
    /// `kernel = "ir"`: this kernelspec, with the shim of the language it says it has.
    Kernel {
        /// Exact name of the kernelspec.
        kernelspec: String,
        /// Given as well: the language whose shim to use.
        language: Option<String>,
    },
    /// `turn = "template"`: this kernelspec, without a shim.
    Template {
        /// Exact name of the kernelspec.
        kernelspec: String,
        /// The code to execute.
        template: Template,
    },
}

/// `isolation`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A kernel of its own.
    Own,
    /// One kernel for all shared plugins of a language.
    Shared,
}

/// `sandbox`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// From writing anywhere but in its own folders.
    pub read_only: bool,
    /// From reaching anybody.
    pub no_network: bool,
}

impl Sandbox {
    /// In manifests.
    pub const READ_ONLY: &str = "read-only";
    /// In manifests.
    pub const NO_NETWORK: &str = "no-network";
}

/// `carrier`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarrierChoice {
    /// The quickest that works here.
    Auto,
    /// `input_request` on stdin, or nothing.
    Jupyter,
    /// The FIFO pair, or nothing.
    Pipe,
}

/// `[permissions]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Functions the plugin may call.
    pub call: Vec<Pattern>,
    /// Topics the plugin may emit.
    pub emit: Vec<Pattern>,
}

/// `[exports]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exports {
    /// Plugins that may call this one's functions.
    pub allow: Vec<Pattern>,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A handler's deadline.
    pub timeout: Duration,
    /// From launch to loaded.
    pub startup: Duration,
    /// Memory of the kernel's processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Time on processors of the kernel's processes together.
    pub cpu: Option<Duration>,
    /// Open files of each of the kernel's processes.
    pub open_files: Option<u32>,
    /// How much one event or call may print and show, in bytes.
    pub output_bytes: u64,
    /// Largest message from the plugin, in bytes.
    pub result_bytes: u64,
    /// Deepest nesting of calls.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        sections::DEFAULT_LIMITS
    }
}

/// `[queue]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Events that may wait.
    pub capacity: usize,
    /// What happens to one more.
    pub when_full: WhenFull,
}

/// What happens to an event when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Whoever emits waits.
    Block,
    /// The event that waited longest is dropped.
    DropOldest,
    /// The new event is dropped.
    DropNewest,
    /// A new event replaces a waiting one of the same key, full or not; else as `DropOldest`.
    Coalesce,
    /// Events go to the store.
    Spill,
}

/// `[delivery]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// How often an event is tried.
    pub attempts: u32,
    /// Most events handed over at once to handlers of batches, if it says.
    pub batch: Option<usize>,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// Kernels that share the work.
    pub instances: u32,
    /// Kernels that are kept at hand, with nothing in them, to take the place of one that died or is loaded anew.
    pub warm: u32,
    /// Path of the field whose events stay in order between instances; without it the event's key.
    pub order_by: Option<String>,
    /// Accepted events are in the store until they are done.
    pub journal: bool,
}

/// `[restart]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// This many deaths of the kernel...
    pub deaths: u32,
    /// ... within this time put the plugin into quarantine.
    pub within: Duration,
}

impl Manifest {
    /// Parse the text of a `plugin.toml`; `path` is for messages only.
    ///
    /// # Errors
    ///
    /// - [`ManifestError`] with every problem found. When the text is not TOML, only that is reported.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        sections::read(text, path.as_ref())
    }

    /// The kernelspec the manifest asks for by name.
    pub fn kernelspec(&self) -> Option<&str> {
        match &self.runtime {
            Runtime::Language(_) => None,
            Runtime::Kernel { kernelspec, .. } | Runtime::Template { kernelspec, .. } => Some(kernelspec),
        }
    }

    /// The language the manifest asks for by name.
    pub fn language(&self) -> Option<&str> {
        match &self.runtime {
            Runtime::Language(language) => Some(language),
            Runtime::Kernel { language, .. } => language.as_deref(),
            Runtime::Template { .. } => None,
        }
    }

    /// The template of a plugin at the basic level.
    pub fn template(&self) -> Option<&Template> {
        match &self.runtime {
            Runtime::Template { template, .. } => Some(template),
            Runtime::Language(_) | Runtime::Kernel { .. } => None,
        }
    }

    /// Is the entry a notebook?
    pub fn is_notebook(&self) -> bool {
        self.entry.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ipynb"))
    }

    /// May the plugin call this function?
    pub fn may_call(&self, function: &str) -> bool {
        self.permissions.call.iter().any(|pattern| pattern.matches(function))
    }

    /// May the plugin emit events of this topic?
    pub fn may_emit(&self, topic: &str) -> bool {
        self.permissions.emit.iter().any(|pattern| pattern.matches(topic))
    }

    /// May this plugin's functions be called by the plugin `caller`?
    pub fn may_be_called_by(&self, caller: &str) -> bool {
        self.exports.allow.iter().any(|pattern| pattern.matches(caller))
    }

    /// The line on which a field such as `queue.when-full` is; if it was not written, that of its section, or 1.
    pub fn line_of(&self, field: &str) -> usize {
        let section = field.split('.').next().unwrap_or_default();
        self.lines.get(field).or_else(|| self.lines.get(section)).copied().unwrap_or(1)
    }

    /// A problem with one of the fields, for checks that only the host can make.
    pub fn problem(&self, field: &str, message: impl Into<String>, hint: Option<String>) -> Problem {
        Problem { line: self.line_of(field), field: field.to_owned(), message: message.into(), hint }
    }
}

#[cfg(test)]
mod tests;
