//! What can go wrong while a kernel is installed, and what to do about it.

use std::{io, path::PathBuf, time::Duration};

/// Why a language was not installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The language folder has no `[install]`, or no `kernel.json` to register.
    #[error("language `{language}` has no install recipe")]
    NoRecipe {
        /// The language's name.
        language: String,
    },
    /// No registry carries the kernel.
    #[error("`{language}` is installed by hand")]
    ByHand {
        /// The language's name.
        language: String,
        /// What to do.
        hint: String,
    },
    /// Something in the language folder is not what it should be.
    #[error("the recipe of `{language}` is wrong: {why}")]
    BadRecipe {
        /// The language's name.
        language: String,
        /// What is wrong, with the file's name.
        why: String,
    },
    /// No Python to make the virtual environment with.
    #[error("no program `{program}` that runs Python 3")]
    NoPython {
        /// What was tried.
        program: String,
    },
    /// The pinned packages do not run on this Python.
    #[error("`{program}` is Python {found}; `{language}` needs {needed} or newer")]
    PythonTooOld {
        /// The language's name.
        language: String,
        /// What was tried.
        program: String,
        /// Its version.
        found: String,
        /// The recipe's minimum.
        needed: String,
    },
    /// Python came without the module that brings pip into a virtual environment.
    #[error("`{program}` cannot make virtual environments: its module `ensurepip` is missing")]
    NoVenv {
        /// What was tried.
        program: String,
    },
    /// A program that no recipe installs.
    #[error("`{language}` needs the program `{program}`, which is not on PATH")]
    NoProgram {
        /// The language's name.
        language: String,
        /// The program.
        program: String,
    },
    /// Something of the system is missing, and this system has no `apt-get`.
    #[error("`{language}` needs {needs} from the system")]
    NotDebian {
        /// The language's name.
        language: String,
        /// Programs, or the packages' Debian names.
        needs: String,
        /// The recipe's own hint.
        hint: Option<String>,
    },
    /// System packages are installed only with `--yes`.
    #[error("Debian packages are installed only with `--yes`; this would run:\n  {}", .commands.join("\n  "))]
    NeedsYes {
        /// Exactly what would run.
        commands: Vec<String>,
    },
    /// System packages are installed only by root, and nothing here calls `sudo`.
    #[error("only root installs Debian packages; run this first:\n  {}", .commands.join("\n  "))]
    NeedsRoot {
        /// What to run, with `sudo`.
        commands: Vec<String>,
    },
    /// The packages are installed, and still the kernel would not find what it needs.
    #[error("{what} is missing, although the packages that should bring it are installed")]
    StillMissing {
        /// A program, or the recipe's probe.
        what: String,
    },
    /// A folder of ours holds something that we did not make.
    #[error("{} was not made by kernelbridge; it is left alone", .path.display())]
    Foreign {
        /// The folder or file.
        path: PathBuf,
    },
    /// A command failed.
    #[error("`{command}` ended with {status}; its last output:\n{tail}")]
    Failed {
        /// The command line.
        command: String,
        /// `exit status: 1`, or the signal.
        status: String,
        /// Its last lines of output.
        tail: String,
        /// What usually helps.
        hint: Option<String>,
    },
    /// A command did not end in time.
    #[error("`{command}` did not end within {} s; its last output:\n{tail}", .deadline.as_secs())]
    Timeout {
        /// The command line.
        command: String,
        /// How long it was given.
        deadline: Duration,
        /// Its last lines of output.
        tail: String,
    },
    /// Another process has been installing the same language for too long.
    #[error("another process has held {} for {} s", .path.display(), .waited.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// A file or folder could not be read or written, or a program not started.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// `write`, `remove`, `run`.
        verb: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl InstallError {
    pub(super) fn io(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { verb, path, source }
    }

    /// What usually helps, as one line.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ByHand { hint, .. } => hint.clone(),
            Self::NotDebian { hint, .. } | Self::Failed { hint, .. } => return hint.clone(),
            Self::NoPython { .. } => "install Python 3 (Debian: python3 and python3-venv), or name another with \
                                      KERNELBRIDGE_PYTHON"
                .into(),
            Self::PythonTooOld { .. } => "name a newer Python with KERNELBRIDGE_PYTHON".into(),
            Self::NoVenv { .. } => "on Debian this is the package python3-venv".into(),
            Self::NoProgram { program, .. } if program == "npm" || program == "node" => {
                "install Node.js 20 or newer with its npm".into()
            }
            Self::NeedsYes { .. } => "add `--yes`".into(),
            Self::Foreign { .. } => "move it away, or choose another folder with KERNELBRIDGE_DATA or \
                                     JUPYTER_DATA_DIR"
                .into(),
            Self::Timeout { .. } => "run it again: what is there already is kept or made anew".into(),
            _ => return None,
        };
        Some(hint)
    }

    /// Is this the way things are here (`install --all` leaves the language out), rather than a failure?
    pub fn is_left_out(&self) -> bool {
        matches!(
            self,
            Self::NoRecipe { .. }
                | Self::ByHand { .. }
                | Self::NoPython { .. }
                | Self::PythonTooOld { .. }
                | Self::NoVenv { .. }
                | Self::NoProgram { .. }
                | Self::NotDebian { .. }
                | Self::NeedsYes { .. }
                | Self::NeedsRoot { .. }
        )
    }
}
