//! hostscope's own commands: `cargo xtask <command>`, one file a command.

mod failure;
mod process;
mod workspace;

mod needs;
mod outcome;
mod workloads;

mod bench;
mod ci;
mod ebpf;
mod fuzz;
mod run;
mod test;
mod tidy;
mod vmtest;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// hostscope's own commands: build the eBPF object, run, test, check.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF programs into ebpf/prebuilt, or check what is there
    Ebpf(ebpf::Arguments),
    /// Build hostscope in release mode and run it as root
    Run(run::Arguments),
    /// Set up what the tests need and run them all
    Test(test::Arguments),
    /// Compare hostscope with its peers on the same load
    Bench(bench::Arguments),
    /// Check the rules that no compiler checks: layout, imports, dependencies, licences
    Tidy,
    /// Feed the parsers of outside bytes with made-up inputs
    Fuzz(fuzz::Arguments),
    /// Run the kernel tests under other kernels, in virtual machines
    Vmtest(vmtest::Arguments),
    /// Everything that has to hold before a commit lands
    Ci,
}

fn main() -> ExitCode {
    if let Some(status) = ebpf::rustc_wrapper() {
        return status;
    }
    let result = match Cli::parse().command {
        Command::Ebpf(arguments) => ebpf::main(&arguments),
        Command::Run(arguments) => run::main(&arguments),
        Command::Test(arguments) => test::main(&arguments),
        Command::Bench(arguments) => bench::main(&arguments),
        Command::Tidy => tidy::main(),
        Command::Fuzz(arguments) => fuzz::main(&arguments),
        Command::Vmtest(arguments) => vmtest::main(&arguments),
        Command::Ci => ci::main(),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::FAILURE
    })
}
