//! Parse, run, print the error, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    hostscope::cli::main()
}
