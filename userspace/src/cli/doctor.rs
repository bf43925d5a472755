//! `hostscope doctor`: what works on this host, what does not, and the mend.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::load::preflight::{self, Finding, State};
use crate::load::{self, Filter, Kernel, LoadSettings};

/// Tell what works on this host, what does not, and the mend
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    checks: Vec<Finding>,
    probes: Vec<Finding>,
}

/// Runs it. The exit status is 0 where a CPU profile can be taken, else that of the error that keeps it from it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let checks = preflight::findings(load::cpu_probe().oldest_kernel);
    let settings = LoadSettings {
        filter: Filter::Host,
        include_idle: false,
        frequency_hertz: 99,
        drain_interval_ms: 1000,
    };
    let (probes, status) = match Kernel::load(&settings) {
        Ok(mut kernel) => {
            let status = match kernel.follow_cpus() {
                Ok(()) => 0,
                Err(error) => error.class.exit_status(),
            };
            let mut probes = load::probe_findings(&kernel.probes);
            if let Some(cpu) = probes.first_mut().filter(|cpu| cpu.state == State::On) {
                cpu.detail = format!(
                    "{}, sampled by {} on {} CPUs",
                    cpu.detail,
                    kernel.event.name(),
                    kernel.sampled_cpus()
                );
            }
            (probes, status)
        }
        Err(error) => {
            let finding = Finding { name: "probes", state: State::Off, detail: error.what, mend: error.mend };
            (vec![finding], error.class.exit_status())
        }
    };
    let report = Report { version: env!("CARGO_PKG_VERSION"), checks, probes };
    print(&report, arguments.json)?;
    Ok(ExitCode::from(status))
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = if json {
        serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        let all: Vec<&Finding> = report.checks.iter().chain(&report.probes).collect();
        let width = all.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        all.iter().try_for_each(|finding| {
            writeln!(out, "{:width$}  {:8}  {}", finding.name, finding.state.name(), finding.detail)?;
            if finding.mend.is_empty() {
                Ok(())
            } else {
                writeln!(out, "{:width$}            {}", "", finding.mend)
            }
        })
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to standard output: {error}"), "see where it leads to"))
        }
        _ => Ok(()),
    }
}
