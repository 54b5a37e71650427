//! `kernelbridge notebook`: kernels for Jupyter in which `bridge` is there, and notebooks that are plugins.

mod export;
pub mod kernels;

use std::path::PathBuf;

use crate::cli::{
    Ending,
    args::{NotebookArgs, NotebookCommand},
    new,
};

/// Do what was asked for.
pub fn notebook(args: NotebookArgs, kernelspecs: &[PathBuf]) -> anyhow::Result<Ending> {
    match args.command {
        NotebookCommand::Install { languages, kernel, connect, plugin } => {
            let setting = kernels::Setting { kernel, connect, plugins: plugin };
            kernels::install_all(&languages, setting, kernelspecs)
        }
        NotebookCommand::List { json } => kernels::list(json),
        NotebookCommand::Remove { languages } => kernels::remove(&languages, kernelspecs),
        NotebookCommand::New { name, language, dir, events } => {
            new::notebook(&language, &name, &dir, events.as_deref(), kernelspecs)
        }
        NotebookCommand::Export { notebook, dir } => export::export(&notebook, dir, kernelspecs),
    }
}
