//! The command-line program; see [`kernelbridge::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kernelbridge::cli::main()
}
