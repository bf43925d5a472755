//! `cargo xtask test`: sets up what the tests need, runs all of them and says what was left out and why.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::failure::{Failure, Result};
use crate::needs::{For, Install};
use crate::outcome::{Outcome, Reader};
use crate::workloads::Linking;
use crate::{ebpf, needs, process, workloads, workspace};

/// Where tests write `name: reason` when they leave themselves out.
const SKIPPED_FILE_VARIABLE: &str = "HOSTSCOPE_SKIPPED_FILE";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name missing Debian packages instead of installing them
    #[arg(long)]
    no_install: bool,
    /// Run only the tests whose name contains this
    filter: Option<String>,
}

/// What the tests find in their environment.
struct Surroundings {
    object: PathBuf,
    workloads: PathBuf,
    skipped: PathBuf,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let outcome = all(Install::unless(arguments.no_install), arguments.filter.as_deref())?;
    Ok(outcome.report())
}

/// Runs every test of the workspace, or those whose name contains `filter`.
pub(crate) fn all(install: Install, filter: Option<&str>) -> Result<Outcome> {
    needs::ensure(&[For::Tests], install)?;
    let target = workspace::target();
    let surroundings = Surroundings {
        object: ebpf::fresh_object(install)?,
        workloads: target.join("workloads"),
        skipped: target.join("skipped-tests"),
    };
    workloads::build(Linking::Dynamic, &surroundings.workloads)?;
    workspace::write(&surroundings.skipped, "")?;
    let mut build = cargo(&surroundings, "build");
    process::run(build.args(["--release", "--package", "hostscope"]), "mend what the compiler says above")?;

    let mut reader = Reader::default();
    let mut units = cargo(&surroundings, "test");
    units.args(["--workspace", "--exclude", "hostscope-tests", "--no-fail-fast"]);
    run(units.args(filter), &mut reader)?;
    // End-to-end tests profile the one host that there is: as root, and one after the other.
    let mut ends = cargo(&surroundings, "test");
    ends.args(["--package", "hostscope-tests", "--no-fail-fast"])
        .args(filter)
        .args(["--", "--test-threads=1"]);
    let prefix = process::root_prefix()?;
    if !prefix.is_empty() {
        ends.env(format!("CARGO_TARGET_{}_RUNNER", host_triple()?), prefix.join(" "));
    }
    run(&mut ends, &mut reader)?;
    reader.read_skipped(&workspace::read(&surroundings.skipped)?);
    Ok(reader.finish())
}

/// Runs one `cargo test` and takes what it came to into account.
fn run(command: &mut Command, reader: &mut Reader) -> Result<()> {
    let status = process::stream(command, |line| {
        println!("{line}");
        reader.read_line(line);
    })?;
    let what =
        format!("`{}` ended with {status}: a build failed or a test program died", process::shown(command));
    reader.program_ended(status.success(), &what);
    Ok(())
}

fn cargo(surroundings: &Surroundings, subcommand: &str) -> Command {
    let mut command = process::cargo();
    command.current_dir(workspace::root()).arg(subcommand);
    command.env("HOSTSCOPE_EBPF_OBJECT", &surroundings.object);
    command.env("HOSTSCOPE_BIN", workspace::target().join("release/hostscope"));
    command.env("HOSTSCOPE_WORKLOADS", &surroundings.workloads);
    command.env(SKIPPED_FILE_VARIABLE, &surroundings.skipped);
    command
}

/// The host's triple as cargo's environment variables spell it.
fn host_triple() -> Result<String> {
    let mend = "mend the Rust toolchain";
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| Path::new("rustc").into());
    let text = process::capture(Command::new(rustc).arg("-vV"), mend)?;
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    let triple = triple.ok_or_else(|| Failure::new("rustc -vV names no host", mend))?;
    Ok(triple.to_uppercase().replace('-', "_"))
}
