//! The kernel side of latency, loaded: rows of histograms, process events, and the dear probes that come and go.

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::tp_btf::BtfTracePointLinkId;
use hostscope_wire::PROBES;
use hostscope_wire::limits::{EVENTS_WAKE_FRACTION, ROWS_ENTRIES, THREADS_ENTRIES, filter};
use hostscope_wire::spec::{Attach, KernelVersion, Purpose};

use rustix::time::{ClockId, clock_getres};

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
    syscall_scope: Array<MapData, u32>,
    syscall_processes: HashMap<MapData, u32, u32>,
    syscalls: Vec<(&'static str, BtfTracePointLinkId)>,
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
            syscalls: Vec::new(),
            ebpf,
            probes,
        };
        latency.attach_always_on();
        Ok(latency)
    }

    fn attach_always_on(&mut self) {
        for probe in &mut self.probes {
            let spec = probe.spec;
            if spec.purpose != Purpose::Latency || probe.state == State::Off {
                continue;
            }
            if let Attach::BtfTracepoint(_) = spec.attach
                && let Err(reason) = attach::btf_tracepoint(&mut self.ebpf, spec.program)
            {
                probe.turn_off(reason);
            }
        }
    }

    /// Chooses whose system calls are timed in full: attaches the probes or, for nobody, detaches them, since even a probe that
    /// returns at once costs 140 ns a call.
    ///
    /// # Errors
    /// The probes cannot be attached, or there are too many processes.
    pub fn time_system_calls(&mut self, whose: &SystemCalls) -> Result<()> {
        let failed =
            |what: String| Error::kernel(format!("cannot time system calls: {what}"), "see hostscope doctor");
        let wanted: &[u32] = match whose {
            SystemCalls::Of(pids) => pids,
            _ => &[],
        };
        let scope = u32::from(matches!(whose, SystemCalls::Of(_)));
        let known: Vec<u32> = self.syscall_processes.keys().flatten().collect();
        for pid in known.iter().filter(|pid| !wanted.contains(pid)) {
            let _ = self.syscall_processes.remove(pid);
        }
        for pid in wanted.iter().filter(|pid| !known.contains(pid)) {
            self.syscall_processes.insert(pid, 1, 0).map_err(|error| failed(error.to_string()))?;
        }
        self.syscall_scope.set(0, scope, 0).map_err(|error| failed(error.to_string()))?;
        if *whose == SystemCalls::Off {
            for (program, link) in self.syscalls.drain(..) {
                attach::detach_btf_tracepoint(&mut self.ebpf, program, link);
            }
        } else if self.syscalls.is_empty() {
            for spec in PROBES.iter().filter(|spec| spec.purpose == Purpose::SystemCalls) {
                let link = attach::btf_tracepoint(&mut self.ebpf, spec.program).map_err(failed)?;
                self.syscalls.push((spec.program, link));
            }
        }
        Ok(())
    }

    /// Whether system calls are timed.
    #[must_use]
    pub fn times_system_calls(&self) -> bool {
        !self.syscalls.is_empty()
    }
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
    for probe in probes {
        let spec = probe.spec;
        let outcome = if disabled.iter().any(|name| name == spec.name) {
            Err("the configuration leaves it out".into())
        } else if kernel < spec.oldest_kernel {
            let (major, minor) = (spec.oldest_kernel.major, spec.oldest_kernel.minor);
            Err(format!("it needs Linux {major}.{minor} or newer"))
        } else {
            match spec.attach {
                Attach::RawTracepoint(event) => attach::raw_tracepoint(ebpf, spec.program, event),
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
