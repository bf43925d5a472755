//! What one sample costs inside the kernel: the eBPF programs' run time, as the kernel itself counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::load::{Busy, FramePointers};
use super::measure;
use super::rounds::Contestant;
use super::setting::{Priority, Setting};
use super::tools::{self, Job, Purpose};
use crate::failure::{Failure, Result};
use crate::process;

/// Makes the kernel count the run time of every program.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Samples a second here: ten times the usual rate, so that a few seconds suffice.
const HERTZ: u32 = 999;

/// How long a tool samples, and when within that its programs' counters are read: well after it has started and well
/// before it ends.
const SECONDS: u32 = 5;
const FIRST_READING: Duration = Duration::from_millis(1500);
const SECOND_READING: Duration = Duration::from_secs(2);

/// How deep the busy process calls in the two runs whose difference is the cost of a frame.
pub(crate) const DEPTHS: [u32; 2] = [8, 72];

/// The busy process and the tool go before everybody else: nearly every sample is to be one of the busy stacks.
const PRIORITY: i32 = -15;

/// What one tool's program costs at the two depths.
pub(crate) struct RunTime {
    pub(crate) title: &'static str,
    pub(crate) ns_a_sample: [f64; 2],
}

impl RunTime {
    pub(crate) fn ns_a_frame(&self) -> f64 {
        (self.ns_a_sample[1] - self.ns_a_sample[0]) / f64::from(DEPTHS[1] - DEPTHS[0])
    }
}

/// Measures every contestant that samples by a program; those that fail are named with the reason.
pub(crate) fn measure(contestants: &[Contestant], folder: &Path) -> Result<Vec<Result<RunTime>>> {
    let _priority = Priority::set(PRIORITY);
    let _statistics = Setting::set(SWITCH, "1")?;
    let mut results: Vec<(&Contestant, [f64; 2], Option<Failure>)> = contestants
        .iter()
        .filter(|contestant| contestant.takes_part() && contestant.tool.programs)
        .map(|contestant| (contestant, [f64::NAN; 2], None))
        .collect();
    for (index, depth) in DEPTHS.into_iter().enumerate() {
        let busy = Busy::start(folder, FramePointers::Kept, depth)?;
        for (contestant, times, failure) in &mut results {
            match ns_a_sample(contestant, &busy, folder) {
                Ok(time) => times[index] = time,
                Err(why) => *failure = Some(why),
            }
        }
    }
    Ok(results
        .into_iter()
        .map(|(contestant, ns_a_sample, failure)| match failure {
            None => Ok(RunTime { title: contestant.tool.title(), ns_a_sample }),
            Some(why) => Err(Failure::new(format!("{}: {}", contestant.tool.title(), why.what), why.mend)),
        })
        .collect())
}

fn ns_a_sample(contestant: &Contestant, busy: &Busy, folder: &Path) -> Result<f64> {
    let folder = folder.join(contestant.tool.name);
    tools::fresh_folder(&folder)?;
    let job = Job {
        program: &contestant.program,
        folder: &folder,
        purpose: Purpose::Cost,
        seconds: SECONDS,
        hertz: HERTZ,
        pid: busy.pid(),
    };
    let mut command = contestant.tool.command(&job);
    let before: BTreeSet<u32> = programs()?.into_keys().collect();
    let reader = thread::spawn(move || {
        thread::sleep(FIRST_READING);
        let first = programs()?;
        thread::sleep(SECOND_READING);
        Ok((first, programs()?))
    });
    let (stdout, stderr) = (folder.join("stdout.txt"), folder.join("stderr.txt"));
    let ran = measure::run(&mut command, &stdout, &stderr, Duration::from_mins(1));
    let readings = reader.join().unwrap_or_else(|_| Err(Failure::new("the reading died", "run it again")));
    ran?;
    let (first, second) = readings?;
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
    Ok(time as f64 / runs as f64)
}

/// One loaded program, as bpftool tells it.
#[derive(Deserialize)]
struct Program {
    id: u32,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
    run_cnt: u64,
}

fn programs() -> Result<BTreeMap<u32, Program>> {
    let mend = "apt-get install bpftool";
    let text = process::capture(Command::new("bpftool").args(["--json", "prog", "show"]), mend)?;
    let list: Vec<Program> = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("bpftool's JSON cannot be read: {error}"), mend))?;
    Ok(list.into_iter().map(|program| (program.id, program)).collect())
}
