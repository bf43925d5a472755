//! `cargo xtask ci`: everything that has to hold before a commit lands, on a clean checkout and a fresh machine.

use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::needs::Install;
use crate::outcome::Outcome;
use crate::{ebpf, fuzz, process, test, tidy, vmtest, workspace};

/// How long each fuzz target runs: enough to find what is easily broken.
const FUZZ_SECONDS: u64 = 15;

/// Runs every step to its end, whatever the others came to. A step that is no test counts where it fails.
pub(crate) fn main() -> Result<ExitCode> {
    let before = changes()?;
    let mut outcome = Outcome::default();
    let mut times = Vec::new();
    for (name, step) in STEPS {
        println!("\n== {name}");
        let started = Instant::now();
        match step() {
            Ok(result) => outcome.add(result, &format!("{name}: ")),
            Err(failure) => {
                println!("error: {failure}");
                outcome.fail(format!("{name}: {}", failure.what.lines().next().unwrap_or_default()));
            }
        }
        times.push(format!("{name} {} s", started.elapsed().as_secs()));
    }
    let after = changes()?;
    if after != before {
        outcome.fail(format!("the run has changed the checkout:\n{after}"));
    }
    println!("\ntook: {}", times.join(", "));
    Ok(outcome.report())
}

/// A step's name and what it does.
type Step = (&'static str, fn() -> Result<Outcome>);

/// Cheap ones first; `prepare` so that the check of the object finds the toolchain that it compares with.
const STEPS: &[Step] = &[
    ("format", || checked(format())),
    ("clippy", || checked(cargo("clippy", CLIPPY, "mend what clippy says above"))),
    ("tidy", || checked(tidy::check())),
    ("ebpf", || checked(ebpf::prepare(Install::Allowed).and_then(|()| ebpf::check()))),
    ("test", || test::all(Install::Allowed, None)),
    ("fuzz", || fuzz::run(FUZZ_SECONDS, Install::Allowed, None)),
    ("vmtest", || vmtest::all(Install::Allowed)),
];

const CLIPPY: &[&str] = &["--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];

/// What a step without tests comes to.
fn checked(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::default())
}

/// The workspaces of their own are formatted like the rest.
fn format() -> Result<()> {
    for manifest in ["Cargo.toml", "ebpf/programs/Cargo.toml", "tests/fuzz/Cargo.toml"] {
        let mend = format!("cargo fmt --all --manifest-path {manifest}");
        cargo("fmt", &["--all", "--check", "--manifest-path", manifest], &mend)?;
    }
    Ok(())
}

fn cargo(subcommand: &str, arguments: &[&str], mend: &str) -> Result<()> {
    process::run(process::cargo().current_dir(workspace::root()).arg(subcommand).args(arguments), mend)
}

/// What git sees as changed or new; nothing where the sources are no git checkout.
fn changes() -> Result<String> {
    let mut status = Command::new("git");
    status.current_dir(workspace::root()).args(["status", "--porcelain"]);
    if !workspace::root().join(".git").exists() {
        return Ok(String::new());
    }
    process::capture(&mut status, "mend the git checkout")
        .map_err(|failure| Failure::new(failure.what, "mend the git checkout, or run as its owner"))
}
