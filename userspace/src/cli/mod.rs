//! The command line: one file a subcommand; choices come from the lists (kinds, outputs, probes).

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, shown as they stand")]

mod agent;
mod completions;
mod diff;
mod doctor;
mod latency;
mod logging;
mod progress;
mod record;
mod signals;
mod target;
mod values;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use crate::error::Result;

/// A profiler of Linux hosts that sees everything from the kernel and needs nothing from the programs it watches.
#[derive(Debug, Parser)]
#[command(name = "hostscope", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    /// Say more: -v what was found out, -vv every step; RUST_LOG chooses by module
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    verbose: u8,

    /// Print results and errors only
    #[arg(short, long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Record(record::Arguments),
    Latency(latency::Arguments),
    Agent(agent::Arguments),
    Diff(diff::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::ShellArguments),
    Man(completions::ManArguments),
}

/// Runs the program; the exit status is the command line's contract: 0 done, 1 failed, 2 wrong usage, 3 missing
/// privilege, 4 the kernel lacks what is needed; of a command that was watched its own.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::init(arguments.verbose, arguments.quiet);
    match run(arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("hostscope: {error}");
            ExitCode::from(error.class.exit_status())
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Record(record) => record::run(&record, arguments.quiet, arguments.verbose),
        Command::Latency(latency) => latency::run(&latency, arguments.quiet),
        Command::Agent(agent) => agent::run(agent, arguments.quiet),
        Command::Diff(diff) => diff::run(&diff, arguments.quiet),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Completions(shell) => completions::completions(&shell),
        Command::Man(man) => completions::man(&man),
    }
}
