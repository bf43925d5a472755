//! `hostscope doctor`: what works on this host, what does not, and the mend.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::capture::{self, Stop};
use crate::config::{CaptureSettings, Kind, Target, UnwindSettings};
use crate::error::{Error, Result};
use crate::load::latency::{Latency, LatencySettings, SystemCalls};
use crate::load::preflight::{self, Finding, State};
use crate::load::{self, Filter, Kernel, LoadSettings};
use crate::targets::tables::TableFigures;

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
    let (mut checks, mut probes) = (checks, probes);
    if status == 0 {
        let more = latency_probes(&probes);
        probes.extend(more);
        checks.extend(unwinding());
    }
    let report = Report { version: env!("CARGO_PKG_VERSION"), checks, probes };
    print(&report, arguments.json)?;
    Ok(ExitCode::from(status))
}

/// The probes that only latency has, tried as well.
fn latency_probes(known: &[Finding]) -> Vec<Finding> {
    match Latency::load(&LatencySettings::default()) {
        Ok(mut latency) => {
            // Tried for a moment; where they cannot be attached their state says why.
            let _ = latency.time_system_calls(&SystemCalls::All);
            let mut findings = load::probe_findings(&latency.probes);
            findings.retain(|finding| known.iter().all(|known| known.name != finding.name));
            findings
        }
        Err(error) => {
            vec![Finding { name: "latency", state: State::Off, detail: error.what, mend: error.mend }]
        }
    }
}

/// How well user stacks are walked, tried on everything that runs here for a second.
fn unwinding() -> Vec<Finding> {
    const TRIAL: Duration = Duration::from_secs(1);
    const TABLES_WAIT: Duration = Duration::from_secs(2);
    let settings = CaptureSettings {
        kind: Kind::Cpu,
        target: Target::Host,
        duration: Some(TRIAL),
        frequency_hertz: 99,
        include_idle: false,
        inlines: false,
        unwind: UnwindSettings { wait_of_host: TABLES_WAIT, ..UnwindSettings::default() },
    };
    let trial = Stop::new().and_then(|stop| capture::run(&settings, &stop, &mut |_| ()));
    let summary = match trial {
        Ok(captured) => captured.summary,
        Err(error) => {
            let finding =
                Finding { name: "unwinding", state: State::Off, detail: error.what, mend: error.mend };
            return vec![finding];
        }
    };
    let TableFigures { loaded, absent, given_up, memory_bytes, source_bytes, .. } = summary.tables;
    let ratio = memory_bytes as f64 / source_bytes.max(1) as f64;
    let tables = Finding {
        name: "unwind tables",
        state: if given_up == 0 { State::On } else { State::Degraded },
        detail: format!(
            "{loaded} files, {:.1} MB of kernel memory for {:.1} MB of unwind information ({ratio:.2} bytes a byte); \
             {absent} files without",
            memory_bytes as f64 / 1e6,
            source_bytes as f64 / 1e6,
        ),
        mend: if given_up == 0 {
            String::new()
        } else {
            format!("{given_up} tables found no room: give them more with record --unwind-memory")
        },
    };
    let complete = 100.0 * summary.complete_samples as f64 / summary.user_samples.max(1) as f64;
    let stacks = Finding {
        name: "unwinding",
        state: State::On,
        detail: format!(
            "{} user stacks in {} s, {complete:.1}% complete{}",
            summary.user_samples,
            TRIAL.as_secs(),
            summary.early_ends()
        ),
        mend: String::new(),
    };
    vec![tables, stacks]
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
