//! Writes what was measured: the table, what could not run, the promised bars.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use super::figures::{Bar, Figures, table};
use super::in_kernel::{DEPTHS, RunTime};
use super::rounds::{Contestant, Costs};
use super::{HERTZ, IDLE, MANY_IDLE};
use crate::failure::Result;

/// Below this share of its CPUs for the load, something else ran as well and times are to be taken with care.
const QUIET_SHARE: f64 = 0.95;

/// What the machine did before the benchmark.
pub(crate) struct Quiet {
    load_average: String,
}

impl Quiet {
    pub(crate) fn begin() -> Self {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { load_average: text.split(' ').next().unwrap_or_default().to_owned() }
    }
}

/// Everything measured.
pub(crate) struct Report {
    /// hostscope first.
    pub(crate) all: Vec<Contestant>,
    /// hostscope on a host of many processes.
    pub(crate) crowded: Contestant,
    pub(crate) in_kernel: Result<Vec<Result<RunTime>>>,
    pub(crate) seconds: u32,
    pub(crate) rounds: u32,
    /// The priority that everything ran at.
    pub(crate) nice: i32,
}

impl Report {
    /// Success where hostscope itself could be measured, whatever the figures: this is no timed test.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let ours = self.all.first().is_some_and(Contestant::takes_part);
        if ours && self.crowded.takes_part() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// All of it. Writing to a String cannot fail, here and below.
    pub(crate) fn text(&self, quiet: &Quiet, share: f64) -> String {
        let mut text = String::new();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let _ = writeln!(
            text,
            "\n{} s at {HERTZ} Hz, the whole host: {IDLE} idle processes, 2 busy threads without frame pointers, {cpus} CPUs",
            self.seconds
        );
        let _ = writeln!(
            text,
            "median (smallest–largest) of {} rounds, tools in turn, at priority {}; × is the multiple of hostscope's\n",
            self.rounds, self.nice
        );
        text.push_str(&self.comparison());
        for contestant in self.all.iter().chain([&self.crowded]) {
            if let Some(failure) = &contestant.failure {
                let _ = writeln!(text, "not measured: {}: {failure}", contestant.tool.title());
            }
        }
        let _ = writeln!(
            text,
            "\nthe busy threads had {:.0}% of 2 CPUs; the load average was {} at the beginning",
            share * 100.0,
            quiet.load_average
        );
        if share < QUIET_SHARE {
            text.push_str(
                "something else was running too: take times with care, and repeat in a quiet moment\n",
            );
        }
        text.push('\n');
        text.push_str(&self.inside());
        text.push('\n');
        for bar in self.bars() {
            let _ = writeln!(text, "{bar}");
        }
        text
    }

    fn comparison(&self) -> String {
        let heads = [
            "",
            "own CPU s",
            "×",
            "user",
            "system",
            "peak MB",
            "×",
            "end to files ms",
            "×",
            "first sample ms",
            "×",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let Some(ours) = self.all.first() else { return String::new() };
        for contestant in self.all.iter().filter(|contestant| contestant.takes_part()) {
            let title = format!("{} {}", contestant.tool.title(), contestant.version);
            let mut row = cost_cells(title, &contestant.costs, &ours.costs);
            row.push(contestant.first_sample_ms.shown(0));
            row.push(contestant.first_sample_ms.ratio_to(&ours.first_sample_ms));
            rows.push(row);
            if let Some(title) = contestant.tool.after_title() {
                rows.push(cost_cells(title.to_owned(), &contestant.after, &ours.costs));
            }
        }
        table(&rows)
    }

    fn inside(&self) -> String {
        let mut text = String::new();
        let run_times = match &self.in_kernel {
            Ok(run_times) => run_times,
            Err(failure) => return format!("in-kernel: not measured: {failure}\n"),
        };
        let mut rows = vec![vec![
            "in-kernel, at 999 Hz".to_owned(),
            format!("ns a sample, {} callers", DEPTHS[0]),
            format!("{} callers", DEPTHS[1]),
            "ns a frame".to_owned(),
        ]];
        for run_time in run_times {
            match run_time {
                Ok(run_time) => rows.push(vec![
                    run_time.title.to_owned(),
                    format!("{:.0}", run_time.ns_a_sample[0]),
                    format!("{:.0}", run_time.ns_a_sample[1]),
                    format!("{:.0}", run_time.ns_a_frame()),
                ]),
                Err(failure) => {
                    let _ = writeln!(text, "not measured: {failure}");
                }
            }
        }
        table(&rows) + &text
    }

    fn bars(&self) -> Vec<Bar> {
        let Some(ours) = self.all.first() else { return Vec::new() };
        let peer_cpu = |name: &str| {
            let peer = self.all.iter().find(|contestant| contestant.tool.name == name);
            peer.map_or(f64::NAN, |peer| peer.costs.cpu_seconds.median())
        };
        let own_cpu = &ours.costs.cpu_seconds;
        let crowded = &self.crowded;
        let mut bars = vec![
            Bar::at_most("own CPU at most bpftrace's, s", own_cpu, peer_cpu("bpftrace"), 2),
            Bar::at_most(
                "own CPU at most half of profile-bee's, s",
                own_cpu,
                peer_cpu("profile-bee") / 2.0,
                2,
            ),
            Bar::at_most("peak resident memory, MB", &ours.costs.peak_megabytes, 40.0, 1),
            Bar::at_most("end of sampling to files written, ms", &ours.costs.finish_ms, 150.0, 0),
        ];
        for (processes, contestant, limit) in [(IDLE, ours, 200.0), (MANY_IDLE, crowded, 1000.0)] {
            let start =
                |whose: &str| format!("start to first sample with {processes} processes, {whose}, ms");
            bars.push(Bar::at_most(start("from outside"), &contestant.first_sample_ms, limit, 0));
            bars.push(Bar::at_most(start("its own word"), &contestant.own_first_sample_ms, limit, 0));
            let nameless = contestant.nameless;
            bars.push(Bar {
                what: format!("samples without names in the first second with {processes} processes"),
                measured: format!(
                    "{} in no mapping and {} of unknown processes, of {}",
                    nameless.unmapped, nameless.unknown_process, nameless.samples
                ),
                met: (nameless.samples > 0).then_some(nameless.unmapped + nameless.unknown_process == 0),
            });
        }
        bars
    }
}

fn cost_cells(title: String, costs: &Costs, base: &Costs) -> Vec<String> {
    let median = |figures: &Figures| {
        if figures.is_empty() { "–".into() } else { format!("{:.2}", figures.median()) }
    };
    vec![
        title,
        costs.cpu_seconds.shown(2),
        costs.cpu_seconds.ratio_to(&base.cpu_seconds),
        median(&costs.user_seconds),
        median(&costs.system_seconds),
        costs.peak_megabytes.shown(0),
        costs.peak_megabytes.ratio_to(&base.peak_megabytes),
        costs.finish_ms.shown(0),
        costs.finish_ms.ratio_to(&base.finish_ms),
    ]
}
