//! `hostscope record`: a profile to files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser};

use super::progress::ProgressLine;
use super::target::TargetArguments;
use super::{signals, values};
use crate::capture::{self, Captured, Progress, Stop, Summary};
use crate::config::{CaptureSettings, DEFAULT_UNWIND_MEMORY_BYTES, Kind, UnwindSettings};
use crate::error::{Error, Result};
use crate::outputs;

/// Take a profile and write it to files
///
/// Without a target the whole host is profiled; without -d until Ctrl-C, or until the targets end. Without -o a flame
/// graph (.svg) and a pprof file (.pb.gz) are written to the current folder.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,

    /// What to count
    #[arg(short, long, default_value = Kind::Cpu.name(), value_parser = kind_parser())]
    kind: Kind,

    /// How long: 10s, 500ms, 2m; a bare number is seconds
    #[arg(short, long, value_parser = values::duration)]
    duration: Option<Duration>,

    /// Samples a second and CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value = "99", value_parser = values::frequency)]
    frequency: u32,

    /// A file to write; its end chooses the format (.svg, .pb.gz, .folded, .speedscope.json, .json); - for folded
    /// stacks to standard output. May be repeated
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,

    /// Read debug information for inlined functions and lines: slower, and more memory
    #[arg(long)]
    inlines: bool,

    /// Kernel memory that unwind tables may take, in MB; beyond it the least recently used go
    #[arg(long, value_name = "MB", default_value_t = DEFAULT_UNWIND_MEMORY_BYTES >> 20,
        value_parser = clap::value_parser!(u64).range(1..=65_536))]
    unwind_memory: u64,

    /// Sample idle CPUs too
    #[arg(long)]
    idle: bool,
}

fn kind_parser() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.iter().map(|kind| kind.name()))
        .map(|name| Kind::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or(Kind::Cpu))
}

/// Runs it.
pub fn run(arguments: &Arguments, quiet: bool, verbose: u8) -> Result<ExitCode> {
    let target = arguments.target.chosen("record")?;
    let paths = output_paths(arguments)?;
    let settings = CaptureSettings {
        kind: arguments.kind,
        target,
        duration: arguments.duration,
        frequency_hertz: arguments.frequency,
        include_idle: arguments.idle,
        inlines: arguments.inlines,
        unwind: UnwindSettings { memory_bytes: arguments.unwind_memory << 20, ..UnwindSettings::default() },
    };
    let stop = Stop::new()?;
    let terminated = signals::end(&stop)?;
    let mut line =
        ProgressLine::new(quiet, settings.duration, "recording; Ctrl-C ends it and writes the files");
    let mut show = |Progress { elapsed, samples }| line.show(elapsed, &format!(", {samples} samples"));
    let outcome = capture::run(&settings, &stop, &mut show);
    line.clear();
    let Captured { profile, summary, mut command } = outcome?;
    for path in &paths {
        outputs::write_file(&profile, path)?;
    }
    if !quiet {
        if arguments.output.is_empty() {
            for path in &paths {
                println!("{}", path.display());
            }
        }
        report(&summary, verbose);
    }
    signals::status_of(command.as_mut(), &terminated)
}

/// The files to write, checked: a capture of ten minutes must not fail at its end for a missing folder.
fn output_paths(arguments: &Arguments) -> Result<Vec<PathBuf>> {
    let paths = if arguments.output.is_empty() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        outputs::default_paths(arguments.kind, now.map_or(0, |now| now.as_nanos() as u64))
    } else {
        arguments.output.clone()
    };
    let is_stdout = |path: &&PathBuf| path.as_path() == Path::new(outputs::STDOUT);
    if paths.iter().filter(is_stdout).count() > 1 {
        return Err(Error::usage("-o - is there twice", "name standard output once"));
    }
    paths.iter().try_for_each(|path| outputs::check_writable(path))?;
    Ok(paths)
}

fn report(summary: &Summary, verbose: u8) {
    eprintln!("hostscope: {}", summary_line(summary));
    if summary.samples == 0 {
        eprintln!(
            "note: no sample met the target: it slept, or ran too briefly for this rate (try a higher -F)"
        );
    }
    let shown = if verbose > 0 { usize::MAX } else { 3 };
    for finding in summary.findings.iter().take(shown) {
        eprintln!("note: {finding}");
    }
    if summary.findings.len() > shown {
        eprintln!("note: {} more of these with -v", summary.findings.len() - shown);
    }
    tracing::info!(
        startup_ms = milliseconds(summary.startup),
        first_sample_ms = summary.first_sample.map(milliseconds),
        finish_ms = milliseconds(summary.finish),
        "timing"
    );
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn summary_line(summary: &Summary) -> String {
    let plural =
        |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let complete = if summary.user_samples == 0 {
        String::new()
    } else {
        format!(
            ", {:.0}% of user stacks complete{}",
            // Never rounded up to all of them.
            (100.0 * summary.complete_samples as f64 / summary.user_samples as f64).floor(),
            summary.early_ends()
        )
    };
    format!(
        "{} of {} in {:.1} s{complete}, {} lost",
        plural(summary.samples, "sample", "samples"),
        plural(summary.processes as u64, "process", "processes"),
        summary.duration.as_secs_f64(),
        summary.lost_samples,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let summary = Summary {
            samples: 1980,
            processes: 1,
            user_samples: 1000,
            complete_samples: 639,
            incomplete: vec![("no_table", 300), ("truncated", 61)],
            duration: Duration::from_millis(10_040),
            ..Summary::default()
        };
        let line = summary_line(&summary);
        assert_eq!(
            line,
            "1980 samples of 1 process in 10.0 s, 63% of user stacks complete (300 no_table, 61 truncated), 0 lost"
        );
    }
}
