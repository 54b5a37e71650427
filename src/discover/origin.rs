//! How a directory of kernelspecs was found, and why it is searched where it is.

use std::{fmt, path::PathBuf};

use super::prefix::PrefixSource;

/// Why a directory is searched. The order of the variants is the order of the search, except that a Python environment
/// of the user's own comes before the user's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The caller named it.
    Extra,
    /// An entry of `JUPYTER_PATH`, counted from 1.
    JupyterPath {
        /// Its place in the variable.
        entry: usize,
    },
    /// The user's data folder.
    User {
        /// What says where it is.
        how: DataDir,
    },
    /// The folder of `pip install --user`.
    UserBase,
    /// A Python environment.
    Environment {
        /// Its folder.
        prefix: PathBuf,
        /// How it was found.
        how: PrefixSource,
    },
    /// Installed for all users.
    System,
    /// IPython's own folder, from before there was Jupyter.
    Ipython,
    /// No `kernel.json`: the package ipykernel, which jupyter_client starts as `python3` when nothing else is called so.
    Package {
        /// The environment it is in.
        prefix: PathBuf,
    },
}

/// What says where the user's data folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataDir {
    /// `JUPYTER_DATA_DIR`.
    Variable,
    /// `XDG_DATA_HOME`.
    Xdg,
    /// The platform's rule.
    Home,
}

impl Origin {
    /// One word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Extra => "extra",
            Self::JupyterPath { .. } => "jupyter-path",
            Self::User { .. } => "user",
            Self::UserBase => "user-base",
            Self::Environment { .. } => "environment",
            Self::System => "system",
            Self::Ipython => "ipython",
            Self::Package { .. } => "package",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extra => write!(f, "given by the caller"),
            Self::JupyterPath { entry } => write!(f, "JUPYTER_PATH, entry {entry}"),
            Self::User { how: DataDir::Variable } => write!(f, "user, JUPYTER_DATA_DIR"),
            Self::User { how: DataDir::Xdg } => write!(f, "user, XDG_DATA_HOME"),
            Self::User { how: DataDir::Home } => write!(f, "user"),
            Self::UserBase => write!(f, "user, pip install --user"),
            Self::Environment { how, .. } => write!(f, "Python environment, {how}"),
            Self::System => write!(f, "system"),
            Self::Ipython => write!(f, "user, IPython"),
            Self::Package { prefix } => write!(f, "package ipykernel of {}", prefix.display()),
        }
    }
}
