//! `cargo xtask fuzz`: feeds the parsers of outside bytes with libFuzzer's inventions; wants no nightly compiler.
//!
//! `tests/fuzz` is a workspace of its own whose every binary is a target. Corpora grow under `target/fuzz`; inputs to
//! begin with may lie in `tests/fuzz/seeds/TARGET`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use crate::failure::{Failure, Result};
use crate::needs::{self, For, Install};
use crate::outcome::Outcome;
use crate::{process, workspace};

/// The compiler pass that libFuzzer's feedback comes from, and checks that a release build leaves out.
///
/// Comparisons of 4 or 8 bytes are unfolded first: within a call of memcmp libFuzzer would not see them, and never find a
/// magic number. Longer ones want a seed.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=function(expand-memcmp) sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// With a target named, build scripts and macros are spared the flags.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How many targets run at a time: CI's machines have two cores.
const PARALLEL: usize = 2;

/// A parser that takes this long for one input hangs.
const INPUT_SECONDS: u32 = 10;

/// A parser that takes this much memory believes a length from outside.
const MEMORY_MEGABYTES: u32 = 1024;

/// Beyond the time that libFuzzer was given: to load the corpus and to finish the last input.
const GRACE_SECONDS: u64 = 60;

/// How many of libFuzzer's last lines tell what happened.
const TAIL_LINES: usize = 25;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Name missing Debian packages instead of installing them
    #[arg(long)]
    no_install: bool,
    /// Run only this target
    target: Option<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let install = Install::unless(arguments.no_install);
    Ok(run(arguments.seconds, install, arguments.target.as_deref())?.report())
}

/// Runs every target, or the one of that name, for so long; each counts as a test.
pub(crate) fn run(seconds: u64, install: Install, only: Option<&str>) -> Result<Outcome> {
    needs::ensure(&[For::Fuzzing], install)?;
    let mut programs = build()?;
    programs.retain(|program| only.is_none_or(|only| name(program) == only));
    if programs.is_empty() {
        let which = only.map_or_else(String::new, |only| format!(" named {only}"));
        let what = format!("tests/fuzz has no target{which}");
        return Err(Failure::new(what, "see the [[bin]] entries of tests/fuzz/Cargo.toml"));
    }
    println!("fuzzing {} targets for {seconds} s each, {PARALLEL} at a time", programs.len());
    let mut outcome = Outcome::default();
    // All take the same time, so those that start together end together.
    for together in programs.chunks(PARALLEL) {
        for result in all_of(together, seconds) {
            match result {
                Ok(words) => {
                    outcome.passed += 1;
                    println!("{words}");
                }
                Err(failure) => {
                    println!("{failure}");
                    outcome.fail(failure.what.lines().next().unwrap_or_default());
                }
            }
        }
    }
    Ok(outcome)
}

/// Runs these targets at the same time.
fn all_of(programs: &[PathBuf], seconds: u64) -> Vec<Result<String>> {
    let died = || Failure::new("a thread of this command panicked", "see the panic's message above");
    thread::scope(|scope| {
        let threads: Vec<_> = programs.iter().map(|program| scope.spawn(|| fuzz(program, seconds))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(died()))).collect()
    })
}

/// Builds the targets and returns their programs.
fn build() -> Result<Vec<PathBuf>> {
    let mut command = process::cargo();
    command.current_dir(workspace::root().join("tests/fuzz"));
    command.args(["build", "--release", "--bins", "--target", TARGET]);
    command.arg("--target-dir").arg(workspace::target().join("fuzz/build"));
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    process::build(&mut command)
}

/// Runs one target; libFuzzer's words stay in a log unless something was found.
fn fuzz(program: &Path, seconds: u64) -> Result<String> {
    let target = name(program);
    let folder = workspace::target().join("fuzz");
    let (corpus, found) = (folder.join("corpus").join(&target), folder.join("found").join(&target));
    workspace::make_folder(&corpus)?;
    workspace::make_folder(&found)?;
    // `timeout` bounds the run even where this process is killed.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", &(seconds + GRACE_SECONDS).to_string()]).arg(program);
    command.arg(&corpus).args(seeds(&target));
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    command.arg(format!("-timeout={INPUT_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MEGABYTES}"));
    command.arg(format!("-artifact_prefix={}/", found.display()));
    // The panic's message is to be among the last lines; whoever runs the reproducer gets the backtrace.
    let output = process::output(command.env("RUST_BACKTRACE", "0"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    workspace::write(&folder.join(format!("{target}.log")), text.as_bytes())?;
    if output.status.success() {
        return Ok(format!("fuzz {target}: {} inputs, nothing found", runs(&text)));
    }
    let lines: Vec<&str> = text.lines().collect();
    let reproducer =
        lines.iter().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path);
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
    Err(Failure::new(
        format!("fuzz {target}: {}, {}\n  {tail}", output.status, reproducer.unwrap_or("no reproducer")),
        format!("{} {}", program.display(), reproducer.unwrap_or_default()),
    ))
}

/// Inputs to begin with, read and not written; libFuzzer takes several folders.
fn seeds(target: &str) -> Option<OsString> {
    let folder = workspace::root().join("tests/fuzz/seeds").join(target);
    fs::metadata(&folder).is_ok_and(|found| found.is_dir()).then(|| folder.into_os_string())
}

/// How many inputs libFuzzer says it has tried.
fn runs(text: &str) -> &str {
    let line = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line.map_or("?", str::trim)
}

fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
