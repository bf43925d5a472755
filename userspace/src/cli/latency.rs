//! `hostscope latency`: what programs wait for, as tables in the terminal.

mod figures;
mod table;
mod tables;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::progress::ProgressLine;
use super::target::TargetArguments;
use super::{signals, values};
use crate::capture::Stop;
use crate::config::Target;
use crate::error::{Error, Result};
use crate::measure::run::{self as measurement, Measured, RunSettings};
use tables::Layout;

/// How long where nobody says and no command does by its end.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Show what programs wait for: latency tables and histograms
///
/// Without a target the whole host is measured, by service; processes that are named, those of a cgroup or of a command by
/// their own names. Without -d for 10 s, a command until its end. Ctrl-C ends it early and shows what there is.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,

    /// How long: 10s, 500ms, 2m; a bare number is seconds
    #[arg(short, long, value_parser = values::duration)]
    duration: Option<Duration>,

    /// Print JSON, with everything that is known
    #[arg(long)]
    json: bool,

    /// Time every system call of the whole host, not only those that wait: costs each call about a quarter of a microsecond.
    /// With a target it is done anyway
    #[arg(long, overrides_with = "no_syscalls")]
    syscalls: bool,

    /// Time only the system calls that wait
    #[arg(long)]
    no_syscalls: bool,

    /// Show all rows of each table, not only the 15 with the most time
    #[arg(long)]
    all: bool,
}

/// Runs it.
pub fn run(arguments: &Arguments, quiet: bool) -> Result<ExitCode> {
    let target = arguments.target.chosen("latency")?;
    let is_host = target == Target::Host;
    let is_command = matches!(target, Target::Command(_));
    let settings = RunSettings {
        target,
        duration: arguments.duration.or((!is_command).then_some(DEFAULT_DURATION)),
        every_system_call: arguments.syscalls || (!is_host && !arguments.no_syscalls),
    };
    let stop = Stop::new()?;
    let terminated = signals::end(&stop)?;
    let mut line =
        ProgressLine::new(quiet, settings.duration, "measuring; Ctrl-C ends it and shows the tables");
    let outcome = measurement::run(&settings, &stop, &mut |elapsed| line.show(elapsed, ""));
    line.clear();
    let mut measured = outcome?;
    print(&measured, arguments, is_host)?;
    if !quiet {
        eprintln!("hostscope: {}", summary_line(&measured));
    }
    signals::status_of(measured.command.as_mut(), &terminated)
}

fn print(measured: &Measured, arguments: &Arguments, is_host: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        serde_json::to_writer_pretty(&mut out, measured).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        let layout = Layout {
            width: width(),
            rows: if arguments.all { usize::MAX } else { tables::ROWS },
            subject: if is_host { "service" } else { "process" },
        };
        out.write_all(tables::text(measured, &layout).as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to standard output: {error}"), "see where it leads to"))
        }
        _ => Ok(()),
    }
}

/// Columns of the terminal, at least [`tables::WIDTH`]; that many where there is none.
fn width() -> usize {
    let stdout = io::stdout();
    let columns = if stdout.is_terminal() {
        rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col.into())
    } else {
        0
    };
    columns.max(tables::WIDTH)
}

fn summary_line(measured: &Measured) -> String {
    let processes = measured.processes.processes.len();
    format!(
        "{processes} {} in {:.1} s, {}, {} lost",
        if processes == 1 { "process" } else { "processes" },
        measured.latency.total_seconds,
        if measured.every_system_call {
            "every system call timed"
        } else {
            "system calls timed where they wait"
        },
        measured.lost.values().sum::<u64>(),
    )
}
