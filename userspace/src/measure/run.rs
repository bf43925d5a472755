//! One measurement of a target from start to end: what `hostscope latency` shows.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use hostscope_wire::spec::Purpose;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::{MeasureSettings, Measurement};
use crate::aggregate::exports::Budget;
use crate::aggregate::latency::Settings;
use crate::aggregate::report::{LatencyReport, ProcessReport};
use crate::capture::{self, Stop, StoppedCommand};
use crate::config::Target;
use crate::error::{Error, Result};
use crate::load::preflight::State;

/// How often rows are read. What a process that lives shorter has counted is there as well, so this is about room: rows of those that
/// have ended are free again two or three intervals later, and a script that starts 1,000 programs a second, with 25 rows each, takes
/// 25,000 a second where there are 16,384. A reading takes about 0.2 ms.
const INTERVAL: Duration = Duration::from_millis(100);

/// After the end, for threads on their last way out of the CPU: their waits are told there.
const SETTLE: Duration = Duration::from_millis(5);

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// Whom.
    pub target: Target,
    /// How long; `None` is until told to stop or until the targets end.
    pub duration: Option<Duration>,
    /// Whether every system call of the target is timed, and not only those that wait.
    pub every_system_call: bool,
}

/// A probe, and how well it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Its name, as `hostscope doctor` has it.
    pub name: &'static str,
    /// on, degraded or off.
    pub state: State,
    /// Why it is not on; else empty.
    pub reason: String,
}

/// What was measured. As JSON it is what `hostscope latency --json` prints; members may be added, none goes.
#[derive(Serialize)]
pub struct Measured {
    /// By label set and service: with a target the service of a process is its own name. `total` is the whole measurement, `window` at
    /// most the last hour of it.
    #[serde(flatten)]
    pub latency: LatencyReport,
    /// By process: the targets, or all of the host.
    pub processes: ProcessReport,
    /// Whether every system call was timed, and not only those that waited.
    pub every_system_call: bool,
    /// The probes that were asked for.
    pub probes: Vec<ProbeReport>,
    /// What is missing, by reason; empty where nothing is.
    pub lost: BTreeMap<&'static str, u64>,
    /// The command, where the target was one: ended, or running on where the measurement ended before it.
    #[serde(skip)]
    pub command: Option<StoppedCommand>,
}

/// Measures a target until the duration is over, all of it has ended or `stop` says so. `progress` is told now and then how long it
/// has been.
///
/// # Errors
/// The privilege or the kernel does not suffice, the target does not exist, or the command cannot be executed.
pub fn run(settings: &RunSettings, stop: &Stop, progress: &mut dyn FnMut(Duration)) -> Result<Measured> {
    // Before the probes: its wait to be let go is none of its own.
    let (pids, mut command) = choose(&settings.target)?;
    let mut measurement = Measurement::begin(MeasureSettings {
        series: series(),
        disabled_probes: Vec::new(),
        only: pids,
        every_system_call: settings.every_system_call,
    })?;
    // What processes have used before.
    measurement.turn(|_| {});
    tracing::info!("measuring");
    let began = Instant::now();
    if let Some(command) = &mut command {
        command.go();
    }
    let end = settings.duration.map(|duration| began + duration);
    let mut next_turn = began + INTERVAL;
    loop {
        let woken = wait(stop, command.as_ref(), end.map_or(next_turn, |end| end.min(next_turn)));
        if woken.command_ended
            && let Some(command) = &mut command
        {
            command.wait()?;
        }
        if woken.stopped || woken.command_ended || end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        if Instant::now() >= next_turn {
            next_turn = (next_turn + INTERVAL).max(Instant::now());
            measurement.turn(|_| {});
            progress(began.elapsed());
        }
        // Of a command its own end counts, which is waited for.
        if command.is_none() && measurement.targets_have_ended() {
            break;
        }
    }
    std::thread::sleep(SETTLE);
    measurement.finish();
    Ok(measured(&measurement, settings.every_system_call, command))
}

fn measured(measurement: &Measurement, every_system_call: bool, command: Option<StoppedCommand>) -> Measured {
    let probes = measurement.kernel.probes.iter();
    let asked = probes.filter(|probe| every_system_call || probe.spec.purpose != Purpose::SystemCalls);
    let probe = |probe: &crate::load::ProbeState| ProbeReport {
        name: probe.spec.name,
        state: probe.state,
        reason: probe.reason.clone(),
    };
    let view = measurement.view();
    let mut lost = measurement.lost();
    // Details of processes: their services have what was counted.
    lost.push(("details_full", view.overflow()));
    Measured {
        latency: view.latency(),
        processes: view.processes(),
        every_system_call: measurement.kernel.times_system_calls(),
        probes: asked.map(probe).collect(),
        lost: lost.into_iter().filter(|&(_, count)| count > 0).collect(),
        command,
    }
}

/// The processes to begin with, `None` for everybody; and the command, not let go.
fn choose(target: &Target) -> Result<(Option<Vec<u32>>, Option<StoppedCommand>)> {
    match target {
        Target::Host => Ok((None, None)),
        Target::Pids(pids) => {
            pids.iter().try_for_each(|&pid| capture::check_exists(pid))?;
            Ok((Some(pids.clone()), None))
        }
        Target::Cgroup(path) => {
            let pids = capture::members_of_cgroup(path)?;
            if pids.is_empty() {
                let what = format!("there is no process in the cgroup {}", path.display());
                return Err(Error::failed(what, "name it when something runs in it"));
            }
            Ok((Some(pids), None))
        }
        Target::Command(words) => {
            let command = StoppedCommand::start(words)?;
            Ok((Some(vec![command.pid]), Some(command)))
        }
    }
}

/// Nothing is exported, so series need no budget; and no service is forgotten before the end. Processes are an hour after theirs,
/// for the sake of memory: their services still have what they counted.
fn series() -> Settings {
    const HOUR_NS: u64 = 3_600_000_000_000;
    Settings {
        budget: Budget { max_series: usize::MAX, max_series_per_family: usize::MAX },
        window_ns: HOUR_NS,
        service_grace_ns: u64::MAX,
        by_service: HashSet::new(),
    }
}

/// What ended a wait.
struct Woken {
    stopped: bool,
    command_ended: bool,
}

fn wait(stop: &Stop, command: Option<&StoppedCommand>, until: Instant) -> Woken {
    let mut fds = vec![PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN)];
    fds.extend(command.map(|command| PollFd::from_borrowed_fd(command.ended(), PollFlags::IN)));
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    // Interrupted by a signal: its handler has written to `stop`, which the next round sees.
    let _ = poll(&mut fds, Some(&timeout));
    let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
    Woken { stopped: ready(0), command_ended: ready(1) }
}
