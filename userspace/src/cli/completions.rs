//! `hostscope completions` and `hostscope man`: texts for shells and man, made from the same definitions.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory};

use crate::error::{Error, Result};

/// Print the completions of a shell: hostscope completions bash > /etc/bash_completion.d/hostscope
#[derive(Debug, Args)]
pub struct ShellArguments {
    /// The shell
    shell: clap_complete::Shell,
}

/// Print the manual page: hostscope man | man -l -
#[derive(Debug, Args)]
pub struct ManArguments {
    /// The page of this subcommand instead of the program's
    subcommand: Option<String>,
}

/// Prints completions.
pub fn completions(arguments: &ShellArguments) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "hostscope", &mut text);
    print(&text)
}

/// Prints a manual page.
pub fn man(arguments: &ManArguments) -> Result<ExitCode> {
    let mut program = super::Arguments::command();
    program.build();
    let command = match &arguments.subcommand {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| {
            Error::usage(
                format!("hostscope has no subcommand {name}"),
                "see hostscope --help for those it has",
            )
        })?,
    };
    let mut text = Vec::new();
    let failed =
        |error: io::Error| Error::failed(format!("cannot make the manual page: {error}"), "report this");
    clap_mangen::Man::new(command).render(&mut text).map_err(failed)?;
    print(&text)
}

fn print(text: &[u8]) -> Result<ExitCode> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to standard output: {error}"), "see where it leads to"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
