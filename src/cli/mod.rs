//! What was typed, what it means, and what is shown for it. Only this floor prints.
//!
//! Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 a plugin failed, 2 the command line, a file or
//! kernelbridge itself is at fault.

mod args;
mod attach;
#[cfg(feature = "bench")]
mod bench;
mod call;
mod console;
mod dead_letters;
mod demo;
mod doctor;
mod hosts;
mod install;
mod kernel;
mod kernels;
pub mod languages;
mod new;
mod notebook;
mod plugins;
mod printer;
mod record;
mod run;
mod setup;
mod show;
mod state;
mod summary;
mod test;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{client::ClientError, host::BuildError, plugin::LoadError};
use args::{Args, Command};

/// How a command ended, when nothing was wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All was done.
    Done,
    /// A plugin failed.
    PluginFailed,
}

/// Run the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("KERNELBRIDGE_LOG").unwrap_or_else(|_| EnvFilter::new(args.log_level()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::anyhow!(error).context("cannot start the runtime")),
    };
    let ending = runtime.block_on(obey(args));
    // A thread that waits for a line on stdin would hold up the end.
    runtime.shutdown_background();
    match ending {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::PluginFailed) => ExitCode::from(1),
        Err(error) => failed(&error),
    }
}

async fn obey(args: Args) -> anyhow::Result<Ending> {
    let kernelspecs = args.kernelspecs;
    match args.command {
        Command::Run(options) => run::run(options, &kernelspecs).await,
        Command::Hosts(options) => hosts::hosts(&options),
        Command::Console(options) => console::console(options).await,
        Command::Record(options) => record::record(options).await,
        Command::Call(options) => call::call(options, &kernelspecs).await,
        Command::Demo(options) => demo::demo(options, &kernelspecs).await,
        Command::State(options) => state::state(&options),
        Command::DeadLetters(options) => dead_letters::dead_letters(options).await,
        Command::Release(options) => dead_letters::release(&options).await,
        Command::Languages { json } => show::languages(&kernelspecs, json),
        Command::Kernels(options) => kernels::kernels(&options),
        Command::Install(options) => setup::install(options, &kernelspecs).await,
        Command::Doctor(options) => doctor::doctor(options, &kernelspecs).await,
        Command::HoldKernel { kernelspec } => doctor::hold(&kernelspec, &kernelspecs).await,
        Command::Attach(options) => attach::attach(options, &kernelspecs).await,
        Command::Kernel(options) => kernel::kernel(options, &kernelspecs).await,
        Command::Notebook(options) => notebook::notebook(options, &kernelspecs),
        Command::New(options) => new::new(&options, &kernelspecs),
        Command::Test(options) => test::test(options, &kernelspecs).await,
        #[cfg(feature = "bench")]
        Command::Bench(options) => bench::bench(&options).await,
        #[cfg(not(feature = "bench"))]
        Command::Bench(_) => anyhow::bail!(
            "this kernelbridge was built without its benchmarks, whose peers would weigh on everybody's build\n\
             hint: run `scripts/bench` in the source tree, or `cargo run --release --features bench -- bench`"
        ),
        Command::Completions { shell } => Ok(show::completions(shell)),
        Command::Man { dir } => show::man(dir.as_deref()),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", whole(error));
    let Some(BuildError::Load { source, .. }) = error.chain().find_map(|cause| cause.downcast_ref::<BuildError>())
    else {
        return ExitCode::from(2);
    };
    match &**source {
        // The author's code failed; neither the command line nor we are at fault.
        LoadError::Raised(_) => return ExitCode::from(1),
        LoadError::Client(ClientError::DiedAtLaunch { name, .. } | ClientError::Deaf { name, .. }) => {
            eprintln!("hint: `kernelbridge doctor {name}` starts this kernel alone and says what may be missing");
        }
        _ => {}
    }
    ExitCode::from(2)
}

/// The error with its causes, without those that it already quotes.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn an_error_says_nothing_twice() {
        let quoted = anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(super::whole(&quoted), "cannot read x: no such file");
        assert_eq!(super::whole(&anyhow!("no such file").context("cannot read x")), "cannot read x: no such file");
    }
}
