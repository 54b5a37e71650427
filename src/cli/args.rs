//! The command line, as clap reads it.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Parser, Subcommand, ValueHint};

use crate::{manifest::units::parse_duration, pattern::Pattern};

/// The database of the shared state, if none is named.
pub const DEFAULT_STATE: &str = "kernelbridge.db";

/// Run plugins in any language that has a Jupyter kernel.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 done; 1 a plugin failed; 2 the command line, a file or kernelbridge itself is at fault.\n\
                  Try `kernelbridge demo` first, then `kernelbridge new python my-plugin`."
)]
pub struct Args {
    /// Also look for language folders in this folder (may be given again).
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Global options")]
    pub kernelspecs: Vec<PathBuf>,
    /// Say more (-v: what happens; -vv: every message). `KERNELBRIDGE_LOG` takes a filter instead.
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// The filter for log lines.
    pub fn log_level(&self) -> &'static str {
        match self.verbose {
            0 => "error",
            1 => "info",
            _ => "kernelbridge=debug,info",
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run plugins in seven languages on one week of earthquakes
    Demo(DemoArgs),
    /// List languages: kernels found and why there, and what could be installed
    Languages {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List kernels that run: Jupyter's, and those of plugins
    Kernels(KernelsArgs),
    /// Install kernels for languages, and register them for you
    Install(InstallArgs),
    /// Start kernels and report what each can really do
    Doctor(DoctorArgs),
    /// Make a new plugin: manifest, source, a test and a README
    New(NewArgs),
    /// Notebooks with `bridge` in them: register kernels for Jupyter, turn notebooks into plugins
    Notebook(NotebookArgs),
    /// Attach a kernel that a notebook runs in to a running host
    Attach(AttachArgs),
    /// Run the tests of plugins: `*.test.json`, and notebook cells tagged `test`
    Test(TestArgs),
    /// Stream events through plugins: NDJSON in, results and emitted events out
    Run(RunArgs),
    /// Call one exported function and print its result
    Call(CallArgs),
    /// List hosts that run and let others attach (`run --listen`)
    Hosts(HostsArgs),
    /// Run code, complete and inspect in the interpreter of a plugin that runs
    Console(ConsoleArgs),
    /// Write events of a running host to a file, for `run --events` and for tests
    Record(RecordArgs),
    /// Look at or change the shared state in a database file
    State(StateArgs),
    /// Look at events that were given up, deliver them again, or drop them
    DeadLetters(DeadLettersArgs),
    /// Take a plugin out of quarantine in the host that runs it
    Release(ReleaseArgs),
    /// Measure kernelbridge and its peers on this machine, in one run
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command into a folder
    Man {
        /// The folder.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// For Jupyter: be a notebook's kernel
    #[command(hide = true)]
    Kernel(KernelArgs),
    /// For `doctor`: start a kernel, then wait to be killed
    #[command(hide = true)]
    HoldKernel {
        /// The kernelspec.
        kernelspec: String,
    },
}

/// `kernelbridge doctor`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each kernel is started several times, one kernel after the other, which takes ten to twenty seconds.\n\
                  Times are of the first answer, or of one turn. `?` was not tried; reasons are below the table.\n\
                  Exit status 1: a kernel does not start, opens no turn, or leaves processes behind."
)]
pub struct DoctorArgs {
    /// Languages, by name or alias, or kernelspecs; without any, every language that is installed.
    #[arg(value_name = "LANGUAGE")]
    pub languages: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kernelbridge bench`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`scripts/bench` sets up the peers (gRPC, the Redpanda Connect SDK, jupyter_client and others, in a Python \
                  environment of their own), builds this program with them, and runs it.\n\
                  Systems take turns within each round, so that noise hits all alike; compare within one run only."
)]
pub struct BenchArgs {
    /// Measure little, to see that everything works: half a minute instead of half an hour.
    #[arg(long)]
    pub quick: bool,
    /// Only what has this in its name: a section, a measure or a system (may be given again; names of one kind add up,
    /// kinds narrow down).
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub only: Vec<String>,
    /// How many rounds, of which the median is taken [default: 5].
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Write everything as JSON, `-` for stdout instead of the table.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Draw charts (SVG) into this folder.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub chart: Option<PathBuf>,
    /// Write tables and charts between the marks in this Markdown file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub write: Option<PathBuf>,
    /// Show a run that was written with --json before, instead of a new one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["quick", "only", "rounds"])]
    pub from: Option<PathBuf>,
    /// Where `scripts/bench` has set up the peers.
    #[arg(long, value_name = "DIR", env = "KERNELBRIDGE_BENCH", value_hint = ValueHint::DirPath)]
    pub peers: Option<PathBuf>,
    /// Measure one section and print its rows; `echo` sends back what comes through --socket.
    #[arg(long, hide = true)]
    pub worker: Option<String>,
    /// For `--worker echo`.
    #[arg(long, hide = true)]
    pub socket: Option<PathBuf>,
}

/// `kernelbridge new`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kernelbridge new python my-plugin && kernelbridge test my-plugin")]
pub struct NewArgs {
    /// The language it is written in, by name or alias; `kernelbridge languages` lists them.
    pub language: String,
    /// Its name: lower case letters, digits and `-`. Also the name of its folder.
    pub name: String,
    /// Make its folder in this one.
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Write a notebook instead of a source file.
    #[arg(long)]
    pub notebook: bool,
}

/// `kernelbridge kernel`
#[derive(Debug, clap::Args)]
pub struct KernelArgs {
    /// The language, by name or alias.
    #[arg(long)]
    pub language: String,
    /// The kernelspec behind it, if not the language's.
    #[arg(long, value_name = "KERNELSPEC")]
    pub kernel: Option<String>,
    /// Plugins for the host behind `bridge`.
    #[arg(long, value_name = "PLUGIN")]
    pub plugins: Vec<PathBuf>,
    /// Attach the notebook to this running host from its beginning, as soon as that listens.
    #[arg(long, value_name = "HOST")]
    pub connect: Option<String>,
    /// The connection file.
    #[arg(short = 'f', long = "connection-file", value_name = "FILE")]
    pub connection_file: PathBuf,
}

/// `kernelbridge attach`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The kernel, which JupyterLab or anybody else has started, gets `bridge`: handlers that its cells define from \
                        then on receive copies of the host's live events, or take a plugin's place, until Ctrl-C. \
                        The kernel goes on.\n\
                        In a notebook kernel of kernelbridge, `bridge.connect()` does the same from inside.\n\
                        Example:\n  kernelbridge attach ~/.local/share/jupyter/runtime/kernel-1234.json --replace quake-rate"
)]
pub struct AttachArgs {
    /// The kernel's connection file, a part of its name, or its process's id; `kernelbridge kernels` lists them.
    #[arg(value_name = "KERNEL", value_hint = ValueHint::FilePath)]
    pub kernel: String,
    /// The host, by name, process id or socket; the only one that listens, if there is one.
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Take this plugin's place, instead of getting copies.
    #[arg(long, value_name = "PLUGIN")]
    pub replace: Option<String>,
    /// The kernel's language, if its connection file does not say which kernelspec it is of.
    #[arg(long)]
    pub language: Option<String>,
}

/// `kernelbridge notebook`
#[derive(Debug, clap::Args)]
pub struct NotebookArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NotebookCommand,
}

/// What to do for notebooks.
#[derive(Debug, Subcommand)]
pub enum NotebookCommand {
    /// Register kernels for Jupyter in which `bridge` is there
    #[command(
        after_help = "Without LANGUAGE: every language that is installed and can. They are called `Python (kernelbridge)`, \
                            `R (kernelbridge)` and so on; the stock kernel runs behind them, unchanged.\n\
                            Example:\n  kernelbridge notebook install python r && jupyter lab"
    )]
    Install {
        /// Languages, by name or alias.
        #[arg(value_name = "LANGUAGE")]
        languages: Vec<String>,
        /// The kernelspec to run behind it, if not the language's: that of your own environment.
        #[arg(long, value_name = "KERNELSPEC")]
        kernel: Option<String>,
        /// Attach notebooks to this running host from their beginning, as `bridge.connect(HOST)` does in a cell.
        #[arg(long, value_name = "HOST")]
        connect: Option<String>,
        /// A plugin for the host behind `bridge`, so that notebooks can call it (may be given again).
        #[arg(long, value_name = "PLUGIN", value_hint = ValueHint::AnyPath)]
        plugin: Vec<PathBuf>,
    },
    /// List the kernels that are registered
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a new plugin that is a notebook, with sample events to try it on
    #[command(after_help = "Example:\n  kernelbridge notebook new quake-rate --language r && jupyter lab quake-rate")]
    New {
        /// Its name: lower case letters, digits and `-`. Also the name of its folder.
        name: String,
        /// The language, by name or alias.
        #[arg(long)]
        language: String,
        /// Make its folder in this one.
        #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Events to try it on: NDJSON, each line with `topic` and `data`, as `kernelbridge record` writes them.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        events: Option<PathBuf>,
    },
    /// Write a notebook's cells as a plugin with a source file
    Export {
        /// The notebook.
        #[arg(value_hint = ValueHint::FilePath)]
        notebook: PathBuf,
        /// The new folder, if not the plugin's name beside the notebook.
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// Remove kernels from Jupyter again
    Remove {
        /// Languages, by name or alias; without any, all of them.
        #[arg(value_name = "LANGUAGE")]
        languages: Vec<String>,
    },
}

/// The format of test files, in lines that fit everywhere.
const TEST_FORMAT: &str = r#"A file NAME.test.json beside the manifest holds a list of cases. Each does one thing:
  "call": {"function": F, "args": [...]}      call an export
  "emit": {"topic": T, "data": D, "key": K}   give an event to filters and handlers
  "filter": {"topic": T, "data": D}           give an event to the filters only
and says what is expected of it:
  "result": V                                 what function or handler return; of a filter
                                              the data it leaves, null if it drops the event
  "error": {"kind": K, "message contains": M}
  "emitted": [{"topic": T, "data": D}]        events in this order; [] means none
  "state": {KEY: V}                           values afterwards; null means no such key
It may also have a "name", "given": {"state": {KEY: V}} and a "timeout": "5s".

Expected objects may leave out keys. All else must be equal, numbers within a billionth.
Each case begins with the state as it was after loading; the interpreter goes on as it is.
In a notebook each cell tagged `test` runs after the plugin's own, and fails if it raises.

Exit status: 0 all passed; 1 some failed; 2 a file is wrong."#;

/// `kernelbridge test`
#[derive(Debug, clap::Args)]
#[command(after_help = TEST_FORMAT)]
pub struct TestArgs {
    /// Plugin folders, `plugin.toml` files, or folders of plugin folders.
    #[arg(required = true, value_name = "PLUGIN", value_hint = ValueHint::AnyPath)]
    pub plugins: Vec<PathBuf>,
    /// Load this plugin too, for one that calls it (may be given again).
    #[arg(long, value_name = "PLUGIN", value_hint = ValueHint::AnyPath)]
    pub with: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kernelbridge install`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "PyPI and npm packages go into a folder of the language's own under your data folder; Debian packages are \
                        for the whole system and are installed with --yes only, after showing what will run.\n\
                        Running it again is quick and changes nothing."
)]
pub struct InstallArgs {
    /// Languages, by name or alias.
    #[arg(required_unless_present = "all", value_name = "LANGUAGE")]
    pub languages: Vec<String>,
    /// Every language that can be installed here.
    #[arg(long, conflicts_with = "languages")]
    pub all: bool,
    /// Install Debian packages too, where they are needed (as root).
    #[arg(long)]
    pub yes: bool,
    /// Make the environments anew.
    #[arg(long)]
    pub reinstall: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kernelbridge demo`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The events are one week of the USGS feed. The folder gets them and the plugins, the shared state, a plot and all \
                        results; `kernelbridge run kernelbridge-demo/plugins --events kernelbridge-demo/earthquakes.ndjson \
                        --topic quake.new` does the same.\n\
                        Languages that are not installed are left out, and it says how to add them."
)]
pub struct DemoArgs {
    /// A language that is not installed is an error.
    #[arg(long)]
    pub all: bool,
    /// The run's folder.
    #[arg(long, value_name = "DIR", default_value = "kernelbridge-demo", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kernelbridge run`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kernelbridge run plugins/ --events quakes.ndjson --topic quake.new > results.ndjson\n  \
                        tail -f log.ndjson | kernelbridge run my-plugin --events -\n\n\
                        Each line of the input is an event's data; its topic is --topic. Without --topic, a line may be a whole \
                        event: {\"topic\": ..., \"key\": ..., \"data\": ...}.\n\
                        Each line of the output has a `type`: `event` (emitted by a plugin), `result` (a handler returned \
                        something other than null), `failure` (an event was given up: a dead letter); with --json also \
                        `state` (a plugin's kernel is restarted or in quarantine) and at last `summary`.\n\
                        Exit status 1: an event was given up, refused by a filter or dropped at the end, or a plugin \
                        ended in quarantine. Events that are in the database are delivered by the next run."
)]
pub struct RunArgs {
    /// Plugin folders, `plugin.toml` files, or folders of plugin folders.
    #[arg(required = true, value_name = "PLUGIN", value_hint = ValueHint::AnyPath)]
    pub plugins: Vec<PathBuf>,
    /// NDJSON file of events, `-` for stdin. Without it plugins run until Ctrl-C.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub events: Option<PathBuf>,
    /// Topic of the events. Without it each line may name its own.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Where results and emitted events go, `-` for stdout.
    #[arg(long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// Database of the shared state, `:memory:` to keep it for this run only.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_STATE, value_hint = ValueHint::FilePath)]
    pub state: PathBuf,
    /// Save plots and other images that plugins show into this folder.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub outputs: Option<PathBuf>,
    /// Stop at the first line that is no event.
    #[arg(long)]
    pub strict: bool,
    /// Load a plugin anew when a source file in its folder changes. No event is lost; if the new code cannot be loaded,
    /// the old code goes on.
    #[arg(long)]
    pub watch: bool,
    /// How long accepted events may take at the end of the input and after Ctrl-C, such as 30s. The rest is dropped and
    /// counted, or stays in the database. Without it: 30s after Ctrl-C, at the end of the input as long as it takes.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub drain_timeout: Option<Duration>,
    /// Write changes of plugins' states to the output, and at the end a line of type `summary` instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Let other processes of yours attach while it runs, such as `kernelbridge record` and notebooks: on a socket in your
    /// runtime folder, or at PATH.
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, value_hint = ValueHint::FilePath,
          help_heading = LISTENING)]
    pub listen: Option<Option<PathBuf>>,
    /// What this host is called in `kernelbridge hosts`; without it, by the number of its process.
    #[arg(long, value_name = "NAME", requires = "listen", help_heading = LISTENING)]
    pub name: Option<String>,
    /// Let those who only get copies of events call these functions too, such as 'quake-geo.*'. Without it they read the
    /// state and no more (may be given again).
    #[arg(long, value_name = "PATTERN", requires = "listen", help_heading = LISTENING)]
    pub listen_call: Vec<Pattern>,
    /// Let those who only get copies of events emit some of these topics (may be given again).
    #[arg(long, value_name = "PATTERN", requires = "listen", help_heading = LISTENING)]
    pub listen_emit: Vec<Pattern>,
    /// Let `kernelbridge console` run code in plugins' interpreters. Without it consoles only look.
    #[arg(long, requires = "listen", help_heading = LISTENING)]
    pub allow_console: bool,
}

/// Options of a host that listens.
const LISTENING: &str = "Attaching while it runs";

/// `kernelbridge kernels`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "They are looked for where `jupyter --runtime-dir` says (kernel-*.json), and in the private folders of \
                        kernelbridge. A kernel is stale when nobody listens on its port and no process was started with its \
                        file: then the file is all that is left, and may be deleted.\n\
                        OURS is `plugin` for a kernel that kernelbridge started, `notebook` for its notebook kernel."
)]
pub struct KernelsArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kernelbridge hosts`
#[derive(Debug, clap::Args)]
#[command(after_help = "A host listens if it was started with `kernelbridge run --listen`, or by a program with \
                        `HostBuilder::listen`.\nWhat hosts that were killed have left behind is removed.")]
pub struct HostsArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `kernelbridge console`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kernelbridge console quake-rate\n  kernelbridge console quake-rate -c 'len(seen)'\n  \
                        kernelbridge console quake-rate < fix.py\n\n\
                        It is the interpreter that serves the host's events: what you change is changed. Events and calls \
                        wait while your code runs, and it says how long they did; Ctrl-C interrupts the code. Handlers \
                        that are running end first.\n\
                        Tab completes, `name?` inspects, `:state` tells how the plugin is doing, Ctrl-D ends.\n\
                        A host that was started without --allow-console lets you complete, inspect and see the state, but \
                        run nothing.\n\
                        Images are saved, and PNGs are shown as well if stdout is a terminal that can: by kitty's graphics \
                        protocol (kitty, Ghostty), iTerm2's (also WezTerm) or sixel (foot, Konsole, xterm -ti vt340, \
                        tmux and others). The terminal is known by its environment, else it is asked once, at the \
                        beginning; --images says it if both fail.\n\
                        Exit status 1: the code failed."
)]
pub struct ConsoleArgs {
    /// The plugin.
    pub plugin: String,
    /// The host: its name or process in `kernelbridge hosts`, or the path of its socket. Not needed if only one runs.
    #[arg(long, value_name = "NAME|PATH")]
    pub host: Option<String>,
    /// Run this and end. Without it, and if stdin is no terminal, what comes from there is run.
    #[arg(short, long, value_name = "CODE", allow_hyphen_values = true)]
    pub code: Option<String>,
    /// Save plots and other images into this folder.
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub outputs: PathBuf,
    /// How the terminal shows images.
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub images: ShowImages,
}

/// How a terminal shows images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ShowImages {
    /// As its environment or, if that says nothing, the terminal itself says.
    Auto,
    /// By kitty's graphics protocol.
    Kitty,
    /// As iTerm2 does.
    Iterm,
    /// By sixels.
    Sixel,
    /// Not at all: they are saved only.
    Off,
}

/// `kernelbridge record`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kernelbridge record --topic 'quake.*' -n 100 -o quakes.ndjson\n  \
                        kernelbridge run my-plugin --events quakes.ndjson\n\n\
                        Each line is an event as `kernelbridge run --events` reads it without --topic, and as `emit` in a \
                        test case: {\"topic\": ..., \"key\": ..., \"data\": ...}. They are events as they are \
                        after the filters.\n\
                        The host does not wait for this program: if it is slower than the events, the oldest are left \
                        out, and it says how many.\n\
                        Exit status 2 also if the host ended before there were N events; those there are stay.")]
pub struct RecordArgs {
    /// Topics of the events, with `*` for anything (may be given again).
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub topic: Vec<Pattern>,
    /// Stop after so many events. Without it, at Ctrl-C or when the host ends.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The host: its name or process in `kernelbridge hosts`, or the path of its socket. Not needed if only one runs.
    #[arg(long, value_name = "NAME|PATH")]
    pub host: Option<String>,
    /// Where they go, `-` for stdout.
    #[arg(short, long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
}

/// `kernelbridge call`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  kernelbridge call --plugins examples/quakes/plugins quake-geo.distance '[48.2,16.4]' '[47.8,13]'"
)]
pub struct CallArgs {
    /// Folders with plugins (may be given again).
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub plugins: Vec<PathBuf>,
    /// Database of the shared state, `:memory:` to keep it for this run only.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_STATE, value_hint = ValueHint::FilePath)]
    pub state: PathBuf,
    /// Load all plugins found, for a function that calls others; otherwise only the one that is named.
    #[arg(long)]
    pub all: bool,
    /// The function.
    #[arg(value_name = "PLUGIN.FUNCTION")]
    pub function: String,
    /// Its arguments, each a JSON value.
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub args: Vec<String>,
}

/// `kernelbridge state`
#[derive(Debug, clap::Args)]
pub struct StateArgs {
    /// Database of the shared state.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_STATE, value_hint = ValueHint::FilePath)]
    pub state: PathBuf,
    /// What to do with it.
    #[command(subcommand)]
    pub command: StateCommand,
}

/// What to do with the shared state.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Print the value of a key; exit status 2 if there is none
    Get {
        /// The key.
        key: String,
    },
    /// Set a key; prints its new version
    Set {
        /// The key.
        key: String,
        /// The value, JSON.
        #[arg(value_name = "JSON", allow_hyphen_values = true)]
        value: String,
    },
    /// List keys
    List {
        /// Only those that begin with this.
        #[arg(default_value = "")]
        prefix: String,
        /// Print values, versions and writers too, as NDJSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete a key; exit status 2 if there is none
    Delete {
        /// The key.
        key: String,
    },
}

/// `kernelbridge dead-letters`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An event becomes a dead letter when its handler has failed as often as `attempts` in [delivery] of \
                        plugin.toml says, or when its plugin is in quarantine.\n\
                        Exit status: 0 done; 2 there is no such dead letter or no such file, and nothing was changed."
)]
pub struct DeadLettersArgs {
    /// Database of the shared state.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_STATE, value_hint = ValueHint::FilePath)]
    pub state: PathBuf,
    /// What to do with them.
    #[command(subcommand)]
    pub command: DeadLettersCommand,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters, oldest first
    List {
        /// Only those of this plugin.
        #[arg(long, value_name = "PLUGIN")]
        plugin: Option<String>,
        /// Print all of each as NDJSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a dead letter with its data and its error's traceback
    Show {
        /// Its number in the list.
        id: i64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Deliver dead letters again, as if for the first time
    #[command(
        override_usage = "kernelbridge dead-letters retry [OPTIONS] <ID>...\n       \
                          kernelbridge dead-letters retry [OPTIONS] --all",
        after_help = "A host that runs with this database delivers them within about a second; if there is none, the next \
                      `kernelbridge run` with their plugin does. It says which."
    )]
    Retry(Which),
    /// Remove dead letters for good
    #[command(override_usage = "kernelbridge dead-letters drop [OPTIONS] <ID>...\n       \
                                kernelbridge dead-letters drop [OPTIONS] --all")]
    Drop(Which),
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Their numbers in the list.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<i64>,
    /// All of them.
    #[arg(long)]
    pub all: bool,
    /// With --all: only those of this plugin.
    #[arg(long, requires = "all", conflicts_with = "ids", value_name = "PLUGIN")]
    pub plugin: Option<String>,
}

/// `kernelbridge release`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A plugin whose kernel dies too often ([restart] in plugin.toml) is put into quarantine: its kernel is \
                        not started again, and its events become dead letters. Released, it is started again and its \
                        deaths are forgotten; `kernelbridge dead-letters retry` brings the events back.\n\
                        Needs a running host. Without one there is nothing to release: each run begins anew."
)]
pub struct ReleaseArgs {
    /// The plugin.
    pub plugin: String,
    /// Database that the host runs with.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_STATE, value_hint = ValueHint::FilePath)]
    pub state: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }
}
