//! What one sample costs inside the kernel: the eBPF programs' run time, as the kernel itself counts it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::bpf_objects::programs;
use super::figures::{Bar, table};
use super::load::{Busy, FramePointers};
use super::report::Section;
use super::rounds::Contestant;
use super::setting::{Priority, Setting};
use super::stacks;
use super::tools::{self, Job, Purpose};
use crate::failure::{Failure, Result};

/// Makes the kernel count the run time of every program.
pub(crate) const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Samples a second here: ten times the usual rate, so that a few seconds suffice.
const HERTZ: u32 = 999;

/// How long a tool samples, and when within that its programs' counters are read: well after it has started and well
/// before it ends.
const SECONDS: u32 = 5;
const FIRST_READING: Duration = Duration::from_millis(1500);
const SECOND_READING: Duration = Duration::from_secs(2);

/// The busy process and the tool go before everybody else: nearly every sample is to be one of the busy stacks.
const PRIORITY: i32 = -15;

/// Two runs whose difference is the cost of a frame.
struct Course {
    title: &'static str,
    frame_pointers: FramePointers,
    /// How deep the busy process calls. It has 5 or 6 frames more: one below these calls, the thread's beginning above.
    depths: [u32; 2],
}

const WITH_FRAME_POINTERS: Course =
    Course { title: "in-kernel, frame pointers", frame_pointers: FramePointers::Kept, depths: [8, 72] };

/// At the smaller depth a stack has 16 or 17 frames.
const WITHOUT: Course = Course {
    title: "in-kernel, -fomit-frame-pointer",
    frame_pointers: FramePointers::Omitted,
    depths: [11, 72],
};
const FRAMES: f64 = 16.0;

/// What one tool's program costs at the two depths.
struct RunTime<'a> {
    contestant: &'a Contestant,
    ns_a_sample: [f64; 2],
    /// User frames of a stack, as the tool found them.
    frames: [f64; 2],
}

impl RunTime<'_> {
    fn ns_a_frame(&self) -> f64 {
        let frames = self.frames[1] - self.frames[0];
        // A tool that does not get through these stacks finds one or two frames at any depth.
        if frames < 1.0 { f64::NAN } else { (self.ns_a_sample[1] - self.ns_a_sample[0]) / frames }
    }
}

/// Measures every contestant that samples by a program; those that fail are named with the reason.
pub(crate) fn measure(contestants: &[Contestant], folder: &Path) -> Result<Section> {
    let _priority = Priority::set(PRIORITY);
    let _statistics = Setting::set(SWITCH, "1")?;
    let mut section = Section { text: format!("at {HERTZ} Hz\n"), bars: Vec::new(), measured: true };
    let all: Vec<&Contestant> =
        contestants.iter().filter(|contestant| contestant.takes_part() && contestant.tool.programs).collect();
    eprintln!("inside the kernel, with frame pointers");
    write(&WITH_FRAME_POINTERS, &run(&WITH_FRAME_POINTERS, &all, folder)?, &mut section);
    section.text.push('\n');
    eprintln!("inside the kernel, without frame pointers");
    let unwinding: Vec<_> = all.into_iter().filter(|contestant| contestant.tool.unwinds).collect();
    let run_times = run(&WITHOUT, &unwinding, folder)?;
    write(&WITHOUT, &run_times, &mut section);
    section.bars = bars(&run_times);
    Ok(section)
}

fn run<'a>(
    course: &Course,
    contestants: &[&'a Contestant],
    folder: &Path,
) -> Result<Vec<(&'a Contestant, Result<RunTime<'a>>)>> {
    let new = |contestant| RunTime { contestant, ns_a_sample: [f64::NAN; 2], frames: [f64::NAN; 2] };
    let mut results: Vec<_> = contestants.iter().map(|&one| (one, Ok(new(one)))).collect();
    for (index, depth) in course.depths.into_iter().enumerate() {
        let busy = Busy::start(folder, course.frame_pointers, depth)?;
        for (contestant, result) in &mut results {
            let Ok(run_time) = result else { continue };
            match ns_a_sample(contestant, &busy, folder) {
                Ok((time, frames)) => {
                    run_time.ns_a_sample[index] = time;
                    // Where only one tool's stacks can be told, all walk the same.
                    run_time.frames[index] = frames.unwrap_or(f64::from(depth));
                }
                Err(why) => *result = Err(why),
            }
        }
    }
    Ok(results)
}

/// The time of a sample, and how many user frames the busy process's stacks have where that can be told.
fn ns_a_sample(contestant: &Contestant, busy: &Busy, folder: &Path) -> Result<(f64, Option<f64>)> {
    let folder = folder.join(contestant.tool.name);
    tools::fresh_folder(&folder)?;
    let job = Job {
        program: &contestant.program,
        folder: &folder,
        purpose: if contestant.tool.unwinds { Purpose::Stacks } else { Purpose::Cost },
        seconds: SECONDS,
        hertz: HERTZ,
        pid: busy.pid(),
        alone: false,
    };
    let before: BTreeSet<u32> = programs()?.into_keys().collect();
    let (first, second) = contestant.observed(&job, || {
        thread::sleep(FIRST_READING);
        let first = programs()?;
        thread::sleep(SECOND_READING);
        Ok((first, programs()?))
    })?;
    let (mut time, mut runs) = (0, 0);
    for (id, program) in &second {
        // What samples is attached to perf events; what else a tool loads (process life) runs rarely.
        if !before.contains(id) && program.kind == "perf_event" {
            let earlier = first.get(id);
            time += program.run_time_ns - earlier.map_or(0, |program| program.run_time_ns);
            runs += program.run_cnt - earlier.map_or(0, |program| program.run_cnt);
        }
    }
    if runs == 0 {
        return Err(Failure::new(
            "no run of a program on perf events was seen",
            "bpftool prog show, while it runs",
        ));
    }
    let frames = contestant.tool.unwinds.then(|| mean_frames(contestant, &folder, busy.pid())).transpose()?;
    Ok((time as f64 / runs as f64, frames))
}

fn mean_frames(contestant: &Contestant, folder: &Path, pid: u32) -> Result<f64> {
    let (mut frames, mut samples) = (0, 0);
    for stack in stacks::read(contestant.tool, folder)?.iter().filter(|stack| stack.pid == pid) {
        frames += stack.count * stack.names.len() as u64;
        samples += stack.count;
    }
    Ok(frames as f64 / samples as f64)
}

fn write(course: &Course, run_times: &[(&Contestant, Result<RunTime>)], section: &mut Section) {
    let mut rows = vec![vec![
        course.title.to_owned(),
        format!("ns a sample, {} callers", course.depths[0]),
        "×".to_owned(),
        format!("{} callers", course.depths[1]),
        "×".to_owned(),
        "user frames".to_owned(),
        "ns a frame".to_owned(),
        "×".to_owned(),
    ]];
    let ours =
        run_times.iter().find_map(|(one, result)| result.as_ref().ok().filter(|_| one.tool.is_hostscope()));
    let number = |value: f64| if value.is_finite() { format!("{value:.0}") } else { "–".to_owned() };
    let ratio = |value: f64, own: Option<f64>| {
        own.map(|own| value / own)
            .filter(|ratio| ratio.is_finite())
            .map_or(String::new(), |ratio| format!("{ratio:.1}×"))
    };
    let mut failures = String::new();
    for (contestant, result) in run_times {
        let title = contestant.tool.title();
        match result {
            Ok(time) => rows.push(vec![
                title.to_owned(),
                number(time.ns_a_sample[0]),
                ratio(time.ns_a_sample[0], ours.map(|own| own.ns_a_sample[0])),
                number(time.ns_a_sample[1]),
                ratio(time.ns_a_sample[1], ours.map(|own| own.ns_a_sample[1])),
                format!("{:.1}, {:.1}", time.frames[0], time.frames[1]),
                number(time.ns_a_frame()),
                ratio(time.ns_a_frame(), ours.map(RunTime::ns_a_frame)),
            ]),
            // Writing to a String cannot fail.
            Err(failure) => {
                let _ = writeln!(failures, "not measured: {title}: {failure}");
            }
        }
    }
    section.measured &= ours.is_some();
    section.text.push_str(&table(&rows));
    section.text.push_str(&failures);
}

/// Judged where the whole stack was walked: less is no achievement.
fn bars(run_times: &[(&Contestant, Result<RunTime>)]) -> Vec<Bar> {
    let ours = run_times
        .iter()
        .filter_map(|(_, result)| result.as_ref().ok())
        .find(|time| time.contestant.tool.is_hostscope());
    let Some(ours) = ours else { return Vec::new() };
    let walked = ours.frames[0] >= FRAMES;
    let bar = |what: &str, value: f64, limit: f64, decimals: usize| {
        let figures = [value].into_iter().filter(|value| value.is_finite()).collect();
        let mut bar = Bar::at_most(what, &figures, limit, decimals);
        if !walked {
            bar.met = None;
            let _ = write!(bar.measured, ", but it walked {:.1} frames only", ours.frames[0]);
        }
        bar
    };
    vec![
        bar("in the kernel without frame pointers, a frame, ns", ours.ns_a_frame(), 300.0, 0),
        bar(
            "in the kernel without frame pointers, a sample of 16 frames, µs",
            ours.ns_a_sample[0] / 1000.0,
            8.0,
            1,
        ),
    ]
}
