//! The kernel side of latency, loaded: rows of histograms, process events, and the dear probes that come and go.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use hostscope_wire::PROBES;
use hostscope_wire::limits::{EVENTS_WAKE_FRACTION, ROWS_ENTRIES, THREADS_ENTRIES, filter};
use hostscope_wire::spec::{Attach, KernelVersion, ProbeSpec, Purpose};

use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::object::{self, Constant};
use super::preflight::{self, State};
use super::rows::Rows;
use super::{ProbeState, attach, maps, tasks};
use crate::error::{Error, Result};

/// Bytes of the ring buffer: 10,000 process events, which is an interval of a busy build.
const EVENTS_BYTES: u32 = 1 << 20;

/// Since when `sched_switch` tells the state of the thread that leaves as its fourth argument (commit 9c2136be0878).
const PREVIOUS_STATE_SINCE: KernelVersion = KernelVersion { major: 5, minor: 18 };

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct LatencySettings {
    /// Names of probes to leave out.
    pub disabled_probes: Vec<String>,
}

/// The kernel side of latency.
pub struct Latency {
    ebpf: Ebpf,
    /// The probes of process life and latency, in the order of `PROBES`.
    pub probes: Vec<ProbeState>,
    /// Histograms and counters.
    pub rows: Rows,
    /// Process events.
    pub events: maps::Events,
    /// Losses.
    pub losses: maps::Losses,
    syscall_scope: Array<MapData, u64>,
    syscall_processes: HashMap<MapData, u32, u32>,
    /// What is attached, by program.
    links: BTreeMap<&'static str, attach::Link>,
}

/// Whose system calls are timed, every one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemCalls {
    /// Nobody's; nothing is attached.
    Off,
    /// Those of these processes.
    Of(Vec<u32>),
    /// Everybody's.
    All,
}

impl Latency {
    /// Loads everything and attaches what is always on.
    ///
    /// # Errors
    /// Nothing at all can be measured: see [`preflight`]. A single probe that fails is no error but a state.
    pub fn load(settings: &LatencySettings) -> Result<Self> {
        preflight::require(preflight::Capabilities::of_this_process()?, super::cpu_probe().oldest_kernel)?;
        let tasks = tasks() as u32;
        // Ten rows a process, and twice as many threads as there are now.
        let rows = (tasks * 10).clamp(ROWS_ENTRIES, 1 << 18);
        let threads = (tasks * 2).clamp(THREADS_ENTRIES, 1 << 19);
        let mut ebpf = object::load(&constants()?, &sizes(rows, threads))?;
        let mut probes = ProbeState::all_of(&[Purpose::Processes, Purpose::Latency, Purpose::SystemCalls]);
        load_probes(&mut ebpf, &mut probes, &settings.disabled_probes)?;
        let take = |ebpf: &mut Ebpf, name| maps::take(ebpf, name);
        let syscall_scope = Array::try_from(take(&mut ebpf, "SYSCALL_SCOPE")?)
            .map_err(|error| maps::broken_object("SYSCALL_SCOPE", error))?;
        let syscall_processes = HashMap::try_from(take(&mut ebpf, "SYSCALL_PROCESSES")?)
            .map_err(|error| maps::broken_object("SYSCALL_PROCESSES", error))?;
        let mut latency = Self {
            rows: Rows::new(&mut ebpf, rows)?,
            events: maps::Events::new(&mut ebpf)?,
            losses: maps::Losses::new(&mut ebpf)?,
            syscall_scope,
            syscall_processes,
            links: BTreeMap::new(),
            ebpf,
            probes,
        };
        latency.attach_always_on();
        latency.time_system_calls(&SystemCalls::Off)?;
        Ok(latency)
    }

    /// Attaches a probe that is loaded and not attached.
    ///
    /// # Errors
    /// Why not, in words.
    fn attach(&mut self, spec: &'static ProbeSpec) -> std::result::Result<(), String> {
        if !self.links.contains_key(spec.program) {
            let link = attach::tracepoint(&mut self.ebpf, spec)?;
            self.links.insert(spec.program, link);
        }
        Ok(())
    }

    fn detach(&mut self, spec: &'static ProbeSpec) {
        if let Some(link) = self.links.remove(spec.program) {
            attach::detach(&mut self.ebpf, spec.program, link);
        }
    }

    fn attach_always_on(&mut self) {
        for index in 0..self.probes.len() {
            let ProbeState { spec, state, .. } = self.probes[index];
            if spec.purpose == Purpose::SystemCalls || state == State::Off {
                continue;
            }
            match self.attach(spec) {
                Err(reason) if reason.starts_with(attach::ABSENT) => self.probes[index].rest(&reason),
                Err(reason) => self.probes[index].turn_off(reason),
                Ok(()) => {}
            }
        }
    }

    /// Detaches a group of probes of latency (see [`ProbeSpec::group`]), or attaches it again. What they counted stays.
    pub fn pause(&mut self, group: &str, paused: bool) {
        for index in 0..self.probes.len() {
            let ProbeState { spec, state, ref reason } = self.probes[index];
            if spec.group() != group || spec.purpose != Purpose::Latency {
                continue;
            }
            if paused && state == State::On {
                self.detach(spec);
                self.probes[index].rest(PAUSED);
            } else if !paused && reason == PAUSED {
                match self.attach(spec) {
                    Ok(()) => self.probes[index].turn_on(),
                    Err(reason) => self.probes[index].turn_off(reason),
                }
            }
        }
    }

    /// How long each attached program ran since it was loaded, and how often, as far as the kernel measured it: only while
    /// somebody holds what [`measure_runs`] gives.
    pub fn runs(&mut self) -> Vec<ProbeRuns> {
        let programs = self.probes.iter().map(|probe| probe.spec);
        programs
            .filter_map(|spec| {
                let info = self.ebpf.program(spec.program)?.info().ok()?;
                let run_ns = u64::try_from(info.run_time().as_nanos()).ok()?;
                Some(ProbeRuns { name: spec.name, run_ns, runs: info.run_count() })
            })
            .collect()
    }

    /// Chooses whose system calls are timed in full: attaches the probes or, for nobody, detaches them, since even a probe that
    /// returns at once costs 140 ns a call.
    ///
    /// # Errors
    /// The probes cannot be attached, or there are too many processes.
    pub fn time_system_calls(&mut self, whose: &SystemCalls) -> Result<()> {
        if *whose == SystemCalls::Off {
            self.detach_system_calls();
            return Ok(());
        }
        let failed =
            |what: String| Error::kernel(format!("cannot time system calls: {what}"), "see hostscope doctor");
        // It notes when a call was entered in which a thread goes off the CPU.
        let is_needed = |probe: &&ProbeState| {
            probe.spec.purpose == Purpose::SystemCalls || probe.spec.program == "sched_switch"
        };
        let broken = self
            .probes
            .iter()
            .filter(is_needed)
            .find(|probe| probe.state == State::Off && !probe.is_wanted_off());
        if let Some(broken) = broken {
            return Err(failed(format!("{} is off: {}", broken.spec.name, broken.reason)));
        }
        self.choose_processes(whose).map_err(|error| failed(error.to_string()))?;
        if self.times_system_calls() {
            return Ok(());
        }
        // What was entered before, maybe in an earlier stretch of timing, is not timed.
        self.syscall_scope.set(1, now_ns(), 0).map_err(|error| failed(error.to_string()))?;
        for index in 0..self.probes.len() {
            let spec = self.probes[index].spec;
            if spec.purpose == Purpose::SystemCalls {
                if let Err(reason) = self.attach(spec) {
                    // Half of it would cost as much and tell nothing.
                    self.detach_system_calls();
                    return Err(failed(reason));
                }
                self.probes[index].turn_on();
            }
        }
        Ok(())
    }

    fn choose_processes(&mut self, whose: &SystemCalls) -> std::result::Result<(), MapError> {
        let wanted: &[u32] = match whose {
            SystemCalls::Of(pids) => pids,
            _ => &[],
        };
        let known: Vec<u32> = self.syscall_processes.keys().flatten().collect();
        for pid in wanted.iter().filter(|pid| !known.contains(pid)) {
            self.syscall_processes.insert(pid, 1, 0)?;
        }
        self.syscall_scope.set(0, u64::from(matches!(whose, SystemCalls::Of(_))), 0)?;
        for pid in known.iter().filter(|pid| !wanted.contains(pid)) {
            let _ = self.syscall_processes.remove(pid);
        }
        Ok(())
    }

    fn detach_system_calls(&mut self) {
        for index in 0..self.probes.len() {
            let spec = self.probes[index].spec;
            if spec.purpose == Purpose::SystemCalls {
                self.detach(spec);
                if self.probes[index].state == State::On {
                    self.probes[index].rest(NOT_ASKED_FOR);
                }
            }
        }
    }

    /// Whether system calls are timed.
    #[must_use]
    pub fn times_system_calls(&self) -> bool {
        PROBES
            .iter()
            .any(|spec| spec.purpose == Purpose::SystemCalls && self.links.contains_key(spec.program))
    }
}

/// Now in nanoseconds of `CLOCK_MONOTONIC`, the clock of the programs.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Why the probes of every system call are off at first.
pub(super) const NOT_ASKED_FOR: &str = "attached only while every system call is timed";

/// Why a probe is off that [`Latency::pause`] has detached.
const PAUSED: &str = "detached, for the budget or by the configuration";

/// What the kernel measured of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRuns {
    /// The probe.
    pub name: &'static str,
    /// How long it ran, in nanoseconds.
    pub run_ns: u64,
    /// How often.
    pub runs: u64,
}

/// Lets the kernel measure how long programs run, until this is dropped: about 60 ns a run of every eBPF program of the host, so for
/// moments only. `BPF_ENABLE_STATS`, since 5.8 (commit d46edd671a14).
///
/// # Errors
/// `CAP_SYS_ADMIN` is missing.
pub fn measure_runs() -> std::io::Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| error.io_error)
}

fn load_probes(ebpf: &mut Ebpf, probes: &mut [ProbeState], disabled: &[String]) -> Result<()> {
    // 24 ms and 15 MB while it is used: aya's own reader, which its loading of typed tracepoints asks for.
    let types = aya::Btf::from_sys_fs().map_err(|error| {
        Error::kernel(
            format!("cannot read the kernel's types: {error}"),
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
        )
    })?;
    let kernel = preflight::kernel_version();
    // Half of a measurement is none: its other end goes, too.
    let named = PROBES.iter().filter(|spec| disabled.iter().any(|name| name == spec.name));
    let disabled: Vec<&str> = named.map(ProbeSpec::group).collect();
    for probe in probes {
        let spec = probe.spec;
        let outcome = if disabled.contains(&spec.group()) {
            Err("the configuration leaves it out".into())
        } else if kernel < spec.oldest_kernel {
            let (major, minor) = (spec.oldest_kernel.major, spec.oldest_kernel.minor);
            Err(format!("it needs Linux {major}.{minor} or newer"))
        } else {
            match spec.attach {
                Attach::RawTracepoint(_) => attach::load_raw_tracepoint(ebpf, spec.program),
                Attach::BtfTracepoint(event) => {
                    attach::load_btf_tracepoint(ebpf, spec.program, event, &types)
                }
                Attach::CpuClock | Attach::MappingRecords => Err("not for latency".into()),
            }
        };
        if let Err(reason) = outcome {
            probe.turn_off(reason);
        }
    }
    Ok(())
}

fn constants() -> Result<Vec<(&'static str, Constant)>> {
    let offsets = preflight::offsets()?;
    let has = |name| u32::from(offsets.iter().any(|(constant, _)| *constant == name));
    let has_state = u32::from(preflight::kernel_version() >= PREVIOUS_STATE_SINCE);
    Ok(vec![
        ("FILTER_MODE", Constant::Word(filter::HOST)),
        ("WAKE_BYTES", Constant::Long(u64::from(EVENTS_BYTES) / EVENTS_WAKE_FRACTION)),
        ("HAS_RUN_DELAY", Constant::Word(has("TASK_RUN_DELAY"))),
        // The coarse clocks go in the kernel's ticks (`TICK_NSEC`; hrtimer_resolution and ktime_get_coarse in kernel/time).
        ("TICK_NS", Constant::Word(clock_getres(ClockId::MonotonicCoarse).tv_nsec as u32)),
        ("HAS_QUEUE_DISK", Constant::Word(has("QUEUE_DISK"))),
        ("HAS_PREVIOUS_STATE", Constant::Word(has_state)),
    ])
}

fn sizes(rows: u32, threads: u32) -> Vec<(&'static str, u32)> {
    let mut sizes = vec![
        ("EVENTS", EVENTS_BYTES),
        ("ROWS", rows),
        ("ROW_INDEXES", rows),
        ("FREE_ROWS", rows),
        ("THREADS", threads),
    ];
    // What only profiles are taken in.
    sizes.extend(
        ["COUNTS_EVEN", "COUNTS_ODD", "SENT", "TARGETS", "UNWIND_PROCESSES", "UNWIND_MAPPINGS"]
            .map(|map| (map, 1)),
    );
    sizes
}
