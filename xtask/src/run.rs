//! `cargo xtask run -- ARGS`: builds hostscope in release mode and runs it, as root through sudo where we are not.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use crate::failure::Result;
use crate::{process, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What hostscope gets: `cargo xtask run -- record -d 10s`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let mut build = process::cargo();
    build.current_dir(workspace::root()).args(["build", "--release", "--package", "hostscope"]);
    process::run(&mut build, "mend what the compiler says above")?;
    let mut command = process::as_root(workspace::target().join("release/hostscope"))?;
    // hostscope takes this process's place: the terminal's Ctrl-C, the exit status and standard input are its own.
    let error = command.args(&arguments.arguments).exec();
    Err(process::cannot_start(&command, &error))
}
