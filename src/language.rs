//! `language.toml`: everything kernelbridge knows about one language.
//!
//! Pure: parsing and matching only. Adding a language is adding a folder with this file and a shim; no Rust changes.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::suggest;

/// One language folder's `language.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Language {
    /// The folder's name and the value of `language = "..."` in a manifest: `python`, `r`, `julia`.
    pub name: String,
    /// For people: `Python`, `JavaScript and TypeScript (Deno)`.
    pub display_name: String,
    /// Other spellings a manifest or the command line may use, in lower case.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Extension of a plugin's entry file without the dot: `py`, `R`.
    pub extension: String,
    /// How lines begin that only notebooks have.
    #[serde(default)]
    pub magics: Vec<String>,
    /// Which installed kernelspecs run this language's shim.
    pub kernelspec: KernelspecMatch,
    /// The shim; absent for a language that works at the basic level only.
    pub shim: Option<Shim>,
    /// How a turn is opened, by carrier.
    #[serde(default)]
    pub turn: Turn,
    /// How the kernel really behaves, where that differs from what `kernel.json` says.
    #[serde(default)]
    pub kernel: KernelBehaviour,
    /// What this language cannot do.
    #[serde(default)]
    pub limits: Limits,
    /// How `kernelbridge install` brings the kernel; absent when no registry carries it.
    pub install: Option<Install>,
}

/// Matches `kernel.json` files to a language folder.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KernelspecMatch {
    /// Values of `kernel.json`'s `language`, compared without case.
    pub languages: Vec<String>,
    /// Preferred kernelspec names, best first; others that match come after.
    #[serde(default)]
    pub names: Vec<String>,
    /// One of these must occur in some argument of `argv`, else the kernel gets basic support: the shim is written for
    /// one kernel's behaviour, and another kernel of the same language may differ.
    #[serde(default)]
    pub argv: Vec<String>,
}

/// The shim: our code in their kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Shim {
    /// File name inside the language folder.
    pub file: String,
    /// What it has in common with another language's shim: a file of this folder (`common.js`) or of one beside it
    /// (`../javascript/common.js`), whose text takes the place of the line of `file` that is a comment saying `#common`.
    pub common: Option<String>,
    /// A constant that loads the shim from `$KERNELBRIDGE_DIR/<file>`; absent: the text of the shim itself is executed.
    pub bootstrap: Option<String>,
    /// It changes into the `folder` of `initialize`, so that a kernel that was started elsewhere can take a plugin.
    #[serde(default)]
    pub moves: bool,
    /// Cells that somebody else has the kernel run can call the host, and register handlers.
    #[serde(default)]
    pub cells: bool,
    /// A constant that puts `{folder}`, a text, into the variable `KERNELBRIDGE_DIR` of an interpreter that somebody else
    /// has started.
    pub adopt: Option<String>,
    /// Constants that attach a notebook kernel of ours to `{host}`, and in the place of `{plugin}`.
    pub connect: Option<[String; 2]>,
    /// It keeps several plugins apart, each in a namespace of its own, so that they can share a kernel.
    #[serde(default)]
    pub shared: bool,
    /// Why it does not.
    pub alone: Option<String>,
}

/// What makes a plugin serve its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// An `execute_request` opens a turn, which ends when there is nothing more to do.
    Execute,
    /// A `comm_msg` does, where that costs the kernel less.
    Comm,
    /// The interpreter's own event loop watches the pipes, or a thread where it has none; between two requests the kernel is
    /// idle.
    Loop,
    /// A thread of the interpreter's waits at the pipes, also while a cell runs.
    Thread,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Execute, Self::Comm, Self::Loop, Self::Thread];

    /// As in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Comm => "comm",
            Self::Loop => "loop",
            Self::Thread => "thread",
        }
    }

    /// The one that is wanted, or the quickest that there is; `None` when that wanted is not there.
    pub fn choose(turn: &Turn, wanted: Option<Self>, is_pipe: bool) -> Option<Self> {
        let has = |activation: &Self| match activation {
            Self::Execute => true,
            Self::Comm => is_pipe && turn.comm.is_some(),
            Self::Loop => is_pipe && turn.standing.is_some(),
            Self::Thread => is_pipe && turn.thread.is_some(),
        };
        match wanted {
            Some(wanted) => Some(wanted).filter(has),
            None => [Self::Loop, Self::Comm, Self::Execute].into_iter().find(has),
        }
    }

    /// Does one turn stand for as long as the kernel lives?
    pub fn is_standing(self) -> bool {
        matches!(self, Self::Loop | Self::Thread)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The constants that open a turn. Nothing is ever pasted into them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Turn {
    /// Opens a turn over the FIFO pair; absent: the language cannot use the `pipe` carrier.
    pub pipe: Option<String>,
    /// Opens a turn over `input_request`; absent: the language cannot use the `jupyter` carrier.
    pub jupyter: Option<String>,
    /// As `pipe`, for a plugin whose shim announced the feature `async`.
    pub pipe_async: Option<String>,
    /// As `jupyter`, for a plugin whose shim announced the feature `async`.
    pub jupyter_async: Option<String>,
    /// Id of the comm that the shim registers and whose handler is a turn over the FIFO pair; absent: an
    /// `execute_request` costs no more.
    pub comm: Option<String>,
    /// Hands the FIFO pair to the interpreter's own event loop, or to a thread where it has none, and returns; absent:
    /// the language has neither that could watch them.
    #[serde(rename = "loop")]
    pub standing: Option<String>,
    /// As `loop`, with a thread of its own that waits for messages.
    pub thread: Option<String>,
    /// Run after each interrupt of a standing turn, where an interrupt stops the event loop too (Deno).
    pub wake: Option<String>,
    /// `execute_request` with `silent`: R and Bash lose output and errors then, Prolog runs nothing.
    #[serde(default)]
    pub silent: bool,
    /// How long an idle turn stays open for the next event, in milliseconds.
    #[serde(default = "default_linger_ms")]
    pub linger_ms: u64,
    /// How long a busy turn stays open before the interpreter's own event loop gets a chance, in milliseconds.
    #[serde(default = "default_max_ms")]
    pub max_ms: u64,
}

fn default_linger_ms() -> u64 {
    5
}

fn default_max_ms() -> u64 {
    1000
}

impl Turn {
    /// How long an idle turn stays open.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms)
    }

    /// How long a busy turn stays open.
    pub fn max(&self) -> Duration {
        Duration::from_millis(self.max_ms)
    }
}

/// How the kernel really behaves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KernelBehaviour {
    /// What really interrupts running code; absent: what `kernel.json` says.
    pub interrupt: Option<Interrupt>,
    /// Connect over unix sockets instead of loopback tcp; only for kernels known to bind `<ip>-<port>`.
    #[serde(default)]
    pub ipc: bool,
    /// The kernel binds no control socket (IRuby).
    #[serde(default)]
    pub no_control: bool,
    /// The language runs in a child of the kernel, so that this child's death is the kernel's.
    #[serde(default)]
    pub child_interpreter: bool,
    /// The kernel runs its interpreter in a terminal of its own; a read-only sandbox leaves it the terminals then.
    #[serde(default)]
    pub terminal: bool,
    /// The kernel writes files into the folder that it is started in (Prolog); in a read-only sandbox it is started in
    /// its temporary folder instead.
    #[serde(default)]
    pub writes_where_started: bool,
    /// The kernel does not end on `shutdown_request` (ijavascript, Prolog): go on to SIGTERM at once.
    #[serde(default)]
    pub no_shutdown: bool,
    /// Version that `kernel_info_reply` gives of the language while the interpreter behind the kernel is not there yet.
    /// ilua says `n/a`, and dies of an `execute_request` that comes too early.
    pub unready_version: Option<String>,
    /// What occurs in lines that the kernel writes at every start and that tell nobody anything; they are left out of its
    /// last output.
    #[serde(default)]
    pub noise: Vec<String>,
    /// Stack limit of the kernel's processes in bytes (`ulimit -s`); R nests 50 calls deep on 8 MiB and 400 on 64 MiB.
    pub stack_bytes: Option<u64>,
    /// Added to the kernel's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// What really interrupts running code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interrupt {
    /// SIGINT to the kernel's process group.
    Signal,
    /// `interrupt_request` on control.
    Message,
    /// SIGINT to the kernel's child processes only; the wrapper would die of it.
    SignalChild,
    /// The host creates `$KERNELBRIDGE_DIR/cancel`; the shim polls for it, removes it and raises.
    CancelFile,
    /// Nothing works: the kernel is killed.
    None,
}

/// What a language cannot do. Absent values mean the protocol's own limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Largest value in bytes over the `pipe` carrier.
    pub pipe_value_bytes: Option<u64>,
    /// Largest value in bytes over the `jupyter` carrier (Octave's terminal takes minutes for 10 MB).
    pub jupyter_value_bytes: Option<u64>,
    /// Deepest nesting of calls.
    pub depth: Option<u32>,
}

/// How `kernelbridge install` brings the kernel. Each source that is present is used; with none, `hint` says what to do.
///
/// Beside `language.toml`, `requirements.txt` pins everything that `pypi` pulls in, `package.json` and
/// `package-lock.json` everything that `npm` does, and `kernel.json` is the kernelspec that is registered, in which
/// `{env}` stands for the managed environment's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Install {
    /// The oldest Python that the pinned packages run on: `3.11`.
    pub python: Option<String>,
    /// PyPI requirements, pinned (`ipykernel==7.4.0`), installed into a virtual environment of the language's own.
    #[serde(default)]
    pub pypi: Vec<String>,
    /// npm packages, pinned (`ijavascript@5.2.1`), installed into a folder of the language's own.
    #[serde(default)]
    pub npm: Vec<String>,
    /// Debian packages, installed for the whole system and only with `--yes`.
    #[serde(default)]
    pub debian: Vec<String>,
    /// Programs that must be on PATH afterwards, whoever installed them (`bash`, `octave`); when all of them are there
    /// already and `probe` succeeds, `debian` is not needed.
    #[serde(default)]
    pub programs: Vec<String>,
    /// A command that succeeds when a library is there that no program shows (IRkernel, ZeroMQ's header).
    #[serde(default)]
    pub probe: Vec<String>,
    /// Commands run in the managed environment after the packages are there; `{env}` is its folder.
    #[serde(default)]
    pub commands: Vec<Vec<String>>,
    /// A command that succeeds while the managed environment is whole; `{env}` is its folder.
    #[serde(default)]
    pub check: Vec<String>,
    /// What a person does by hand where the recipe cannot help.
    pub hint: Option<String>,
}

/// Why a `language.toml` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageError {
    /// Not TOML, an unknown key, or a value of the wrong type; the source names line and column.
    #[error("not a valid language.toml: {0}")]
    Toml(#[from] toml::de::Error),
    /// A shim without any turn constant could never be reached.
    #[error("language `{name}` has a shim but neither `turn.pipe` nor `turn.jupyter`")]
    NoTurn {
        /// The language's name.
        name: String,
    },
}

impl Language {
    /// Parse the text of a `language.toml`.
    ///
    /// # Errors
    ///
    /// - [`LanguageError::Toml`] with line, column and the offending key.
    /// - [`LanguageError::NoTurn`] when there is a shim but no way to open a turn.
    pub fn parse(text: &str) -> Result<Self, LanguageError> {
        let language: Self = toml::from_str(text)?;
        if language.shim.is_some() && language.turn.pipe.is_none() && language.turn.jupyter.is_none() {
            return Err(LanguageError::NoTurn { name: language.name });
        }
        Ok(language)
    }

    /// Can `kernelbridge install` bring a kernel, or only say what a person does by hand?
    pub fn is_installable(&self) -> bool {
        let brings =
            |install: &Install| !(install.pypi.is_empty() && install.npm.is_empty() && install.debian.is_empty());
        self.install.as_ref().is_some_and(brings)
    }

    /// Does `word` name this language (its name or an alias, without case)?
    pub fn is_called(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        self.name == word || self.aliases.contains(&word)
    }

    /// Is a kernelspec with this `language` and `argv` one that the shim was written for?
    pub fn runs_on(&self, language: &str, argv: &[String]) -> bool {
        self.speaks(language)
            && (self.kernelspec.argv.is_empty()
                || self.kernelspec.argv.iter().any(|needle| argv.iter().any(|arg| arg.contains(needle.as_str()))))
    }

    /// Is a kernelspec with this `language` of this language, whichever kernel it is?
    pub fn speaks(&self, language: &str) -> bool {
        self.kernelspec.languages.iter().any(|known| known.eq_ignore_ascii_case(language))
    }
}

/// The language that `word` was most likely meant to name, by its name or an alias; for messages, which give its name.
pub(crate) fn nearest<'a>(word: &str, languages: impl Iterator<Item = &'a Language> + Clone) -> Option<&'a Language> {
    let spellings = languages.clone().flat_map(|language| std::iter::once(&language.name).chain(&language.aliases));
    let spelling = suggest::nearest(word, spellings.map(String::as_str))?;
    let by_name = languages.clone().find(|language| language.name == spelling);
    by_name.or_else(|| languages.clone().find(|language| language.is_called(spelling)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        name = "lua"
        display-name = "Lua"
        extension = "lua"
        [kernelspec]
        languages = ["lua"]
        argv = ["ilua"]
        [shim]
        file = "shim.lua"
        [turn]
        pipe = "bridge._turn()"
    "#;

    #[test]
    fn a_minimal_language_parses() {
        let lua = Language::parse(MINIMAL).expect("parses");
        assert!(lua.runs_on("Lua", &["python".into(), "-m".into(), "ilua.app".into()]));
        assert!(!lua.runs_on("Lua", &["xlua".into()]));
        assert!(lua.speaks("LUA"));
        assert_eq!(lua.turn.linger(), Duration::from_millis(5));
    }

    #[test]
    fn the_quickest_activation_is_chosen_unless_another_is_wanted() {
        let turn = |more: &str| Language::parse(&format!("{MINIMAL}{more}")).expect("parses").turn;
        let (plain, comm) = (turn(""), turn("comm = \"c\""));
        let all = turn("comm = \"c\"\nloop = \"l\"\nthread = \"t\"");
        let chosen = [&plain, &comm, &all].map(|turn| Activation::choose(turn, None, true));
        assert_eq!(chosen, [Activation::Execute, Activation::Comm, Activation::Loop].map(Some));
        assert_eq!(Activation::choose(&all, None, false), Some(Activation::Execute));
        for activation in Activation::ALL {
            assert_eq!(Activation::choose(&all, Some(activation), true), Some(activation));
            let is_execute = activation == Activation::Execute;
            assert_eq!(Activation::choose(&all, Some(activation), false).is_some(), is_execute);
            assert_eq!(Activation::choose(&plain, Some(activation), true).is_some(), is_execute);
        }
    }

    #[test]
    fn a_mistyped_alias_is_answered_with_the_name() {
        let parse = |name: &str, aliases: &str| {
            let text = MINIMAL.replacen("\"lua\"", &format!("'{name}'\naliases = {aliases}"), 1);
            Language::parse(&text).expect("parses")
        };
        let languages = [parse("javascript", "['deno', 'node']"), parse("node", "['ijavascript']")];
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(nearest(word, languages.iter()).map(|language| language.name.as_str()), expected, "{word}");
        };
        check("Denno", Some("javascript"));
        check("nodee", Some("node"));
        check("ijavascrpt", Some("node"));
        check("cobol", None);
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_key() {
        let error = Language::parse(&MINIMAL.replace("extension", "extention")).expect_err("refused").to_string();
        assert!(error.contains("extention"), "{error}");
    }

    #[test]
    fn a_shim_that_cannot_be_reached_is_refused() {
        let error = Language::parse(&MINIMAL.replace("pipe =", "#")).expect_err("refused");
        assert!(matches!(error, LanguageError::NoTurn { .. }), "{error}");
    }
}
