//! Commands that only show something.

use std::{
    io::{stderr, stdout},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::CommandFactory;

use crate::{
    cli::{Ending, args::Args, languages},
    discover::{Environment, Languages, discover},
};

/// `kernelbridge languages`
pub fn languages(kernelspecs: &[PathBuf], json: bool) -> anyhow::Result<Ending> {
    let environment = Environment::capture();
    let report = languages::LanguagesReport::new(&discover(&environment), &Languages::load(&environment, kernelspecs));
    languages::print(&report, json, &mut stdout().lock(), &mut stderr().lock())?;
    Ok(Ending::Done)
}

/// `kernelbridge completions`
pub fn completions(shell: clap_complete::Shell) -> Ending {
    // Generators offer hidden commands too, so they get a program that has none.
    let all = Args::command();
    let mut visible = clap::Command::new("kernelbridge")
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
    clap_complete::generate(shell, &mut visible, "kernelbridge", &mut stdout());
    Ending::Done
}

/// `kernelbridge man`
pub fn man(dir: Option<&Path>) -> anyhow::Result<Ending> {
    let command = Args::command();
    match dir {
        Some(dir) => {
            clap_mangen::generate_to(command, dir).with_context(|| format!("cannot write to {}", dir.display()))?
        }
        None => clap_mangen::Man::new(command).render(&mut stdout())?,
    }
    Ok(Ending::Done)
}
