//! `hostscope diff`: a differential flame graph of two profiles.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::Result;
use crate::outputs;

/// Show what changed between two profiles as a flame graph: red grew, blue shrank
#[derive(Debug, Args)]
pub struct Arguments {
    /// The profile from before: .json, .pb.gz or .folded
    before: PathBuf,

    /// The profile from after
    after: PathBuf,

    /// The flame graph to write (.svg)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs it.
pub fn run(arguments: &Arguments, quiet: bool) -> Result<ExitCode> {
    outputs::check_writable(&arguments.output)?;
    outputs::write_diff_file(&arguments.before, &arguments.after, &arguments.output)?;
    if !quiet {
        eprintln!("hostscope: wrote {}", arguments.output.display());
    }
    Ok(ExitCode::SUCCESS)
}
