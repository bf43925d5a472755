//! Starts other programs: with their output shown, captured, or both; as root where that is needed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

use serde::Deserialize;

use crate::failure::{Failure, Result};

/// The cargo that runs this very command, so that nested builds use the same toolchain.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What has to stand before a command so that it runs as root with our environment: nothing where we are root.
pub(crate) fn root_prefix() -> Result<&'static [&'static str]> {
    if is_root() {
        Ok(&[])
    } else if find("sudo").is_some() {
        Ok(&["sudo", "--preserve-env", "--"])
    } else {
        Err(Failure::new("this has to run as root, and there is no sudo", "run the same command as root"))
    }
}

/// `program` as root, through sudo where we are not.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let Some((first, rest)) = root_prefix()?.split_first() else { return Ok(Command::new(program)) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    Ok(command)
}

/// Whether this process has root's user id.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where `program` lies in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Runs to the end with the output shown; anything but success is a failure with this `mend`.
pub(crate) fn run(command: &mut Command, mend: &str) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().map_err(|error| cannot_start(command, &error))?;
    succeeded(command, status, "", mend)
}

/// Runs to the end and returns standard output as text; standard error is shown only within a failure.
pub(crate) fn capture(command: &mut Command, mend: &str) -> Result<String> {
    let output = output(command)?;
    succeeded(command, output.status, &String::from_utf8_lossy(&output.stderr), mend)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end and returns everything, success or not.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))
}

/// Runs to the end; each line of standard output is given to `on_line` as it comes, standard error is shown.
pub(crate) fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            // A broken pipe here means that the program has gone; its status below tells how.
            let Ok(line) = line else { break };
            on_line(&String::from_utf8_lossy(&line));
        }
    }
    child.wait().map_err(|error| cannot_start(command, &error))
}

/// Runs a `cargo build` or `cargo test --no-run` to the end and returns the programs that it has built.
pub(crate) fn build(command: &mut Command) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let mut programs = Vec::new();
    let status = stream(command.arg("--message-format=json-render-diagnostics"), |line| {
        if let Ok(Message { executable: Some(program) }) = serde_json::from_str(line) {
            programs.push(program);
        }
    })?;
    succeeded(command, status, "", "mend what the compiler says above")?;
    programs.sort();
    Ok(programs)
}

/// The failure of a program that could not be started at all.
pub(crate) fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    let program = command.get_program().display();
    Failure::new(format!("cannot run {program}: {error}"), format!("install {program}, or mend PATH"))
}

/// The command as one would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().display().to_string();
    for argument in command.get_args() {
        // Writing to a String cannot fail.
        let _ = write!(text, " {}", argument.display());
    }
    text
}

fn succeeded(command: &Command, status: ExitStatus, stderr: &str, mend: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let separator = if stderr.is_empty() { "" } else { ":\n" };
    Err(Failure::new(
        format!("`{}` ended with {status}{separator}{}", shown(command), stderr.trim_end()),
        mend,
    ))
}
