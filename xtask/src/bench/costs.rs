//! What the tools cost on the usual load, and how soon they sample: the table and the promised bars.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use super::figures::{Bar, Figures, table};
use super::load::{Busy, FramePointers, Idle};
use super::report::Section;
use super::rounds::{Contestant, Costs, Course};
use super::{DEPTH, HERTZ, IDLE, MANY_IDLE, Plan, tools};
use crate::failure::{Failure, Result};
use crate::workspace;

/// Below this share of its CPUs for the load, something else ran as well and times are to be taken with care.
const QUIET_SHARE: f64 = 0.95;

/// Everything measured.
struct Comparison<'a> {
    plan: &'a Plan,
    /// hostscope first.
    all: &'a [Contestant],
    /// hostscope on a host of many processes.
    crowded: Contestant,
    /// The share of its CPUs that the load got.
    share: f64,
}

/// Runs all tools in turn on a host of many sleeping processes and one that never sleeps.
pub(crate) fn measure(all: &mut [Contestant], folder: &Path, plan: &Plan) -> Result<Section> {
    // Filled by the first runs, which are short and not counted as costs.
    workspace::remove_folder(&folder.join(tools::WARM_CACHE))?;
    let mut idle = Idle::start(IDLE)?;
    let busy = Busy::start(folder, FramePointers::Omitted, DEPTH)?;
    let course = Course { busy: &busy, folder: folder.to_path_buf(), seconds: plan.seconds, hertz: HERTZ };
    eprintln!("first samples: {} rounds of 1 s", plan.rounds);
    for _ in 0..plan.rounds {
        for contestant in &mut *all {
            contestant.clock_run(&course);
        }
    }
    eprintln!("costs: {} rounds of {} s", plan.rounds, plan.seconds);
    let share = in_turn(all, plan.rounds, &course);
    eprintln!("first samples with {MANY_IDLE} idle processes");
    idle.grow_to(MANY_IDLE)?;
    let Some(ours) = all.first() else { return Err(Failure::new("there is no tool", "see TOOLS")) };
    let mut crowded = Contestant::new(ours.tool, Ok(ours.program.clone()));
    for _ in 0..plan.rounds {
        crowded.clock_run(&course);
    }
    Ok(Comparison { plan, all, crowded, share }.section())
}

/// hostscope, two peers, hostscope, the next two, …: what else the machine does meets all alike. Returns what share of
/// its CPUs the busy process got.
fn in_turn(all: &mut [Contestant], rounds: u32, course: &Course) -> f64 {
    let (began, before) = (Instant::now(), course.busy.cpu_seconds());
    let Some((ours, peers)) = all.split_first_mut() else { return 1.0 };
    let mut peers: Vec<_> = peers.iter_mut().filter(|peer| peer.takes_part()).collect();
    for round in 1..=rounds {
        if peers.is_empty() {
            ours.cost_run(course);
        }
        for pair in peers.chunks_mut(2) {
            ours.cost_run(course);
            for peer in pair {
                eprintln!("  round {round}: {}", peer.tool.title());
                peer.cost_run(course);
            }
        }
    }
    (course.busy.cpu_seconds() - before) / began.elapsed().as_secs_f64() / 2.0
}

impl Comparison<'_> {
    /// Writing to a String cannot fail.
    fn section(&self) -> Section {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} s at {HERTZ} Hz, the whole host: {IDLE} idle processes, 2 busy threads without frame pointers;",
            self.plan.seconds
        );
        let _ = writeln!(text, "median (smallest–largest) of {} rounds, tools in turn\n", self.plan.rounds);
        text.push_str(&self.comparison());
        for contestant in self.all.iter().chain([&self.crowded]) {
            if let Some(failure) = &contestant.failure {
                let _ = writeln!(text, "not measured: {}: {failure}", contestant.tool.title());
            }
        }
        let _ = writeln!(text, "\nthe busy threads had {:.0}% of 2 CPUs", self.share * 100.0);
        if self.share < QUIET_SHARE {
            text.push_str(
                "something else was running too: take times with care, and repeat in a quiet moment\n",
            );
        }
        let measured = self.all.first().is_some_and(Contestant::takes_part) && self.crowded.takes_part();
        Section { text, bars: self.bars(), measured }
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

    fn bars(&self) -> Vec<Bar> {
        let Some(ours) = self.all.first() else { return Vec::new() };
        let mut bars = self.cpu_bars(&ours.costs.cpu_seconds);
        bars.push(Bar::at_most("peak resident memory, MB", &ours.costs.peak_megabytes, 40.0, 1));
        bars.push(Bar::at_most("end of sampling to files written, ms", &ours.costs.finish_ms, 150.0, 0));
        let crowded = &self.crowded;
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

    fn cpu_bars(&self, own_cpu: &Figures) -> Vec<Bar> {
        let cpu =
            |name: &str| self.all.iter().find(|one| one.tool.name == name).map(|one| &one.costs.cpu_seconds);
        let peer = |name: &str| cpu(name).map_or(f64::NAN, Figures::median);
        let mut bars = vec![
            Bar::at_most("own CPU at most bpftrace's, s", own_cpu, peer("bpftrace"), 2),
            Bar::at_most("own CPU at most half of profile-bee's, s", own_cpu, peer("profile-bee") / 2.0, 2),
        ];
        let none = Figures::default();
        let cold = cpu(tools::HOSTSCOPE_COLD).unwrap_or(&none);
        for (own, when, factor) in [(own_cpu, "", 1.0), (cold, ", twice as the cache is cold", 2.0)] {
            bars.push(Bar::at_most(
                format!("own CPU at most half of profile-bee --dwarf's{when}, s"),
                own,
                peer("profile-bee-dwarf") / 2.0 * factor,
                2,
            ));
            bars.push(Bar::at_most(
                format!("own CPU at most perf record --call-graph dwarf's{when}, s"),
                own,
                peer("perf-dwarf") * factor,
                2,
            ));
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
