//! Loading the programs, attaching them, and typed handles to what they share with user space.
//!
//! It knows probes and maps, but not what a process, a stack or a profile is.

pub mod attach;
pub mod btf;
pub mod kernel_names;
pub mod latency;
mod mapped;
pub mod maps;
mod object;
pub mod preflight;
pub mod rows;
pub mod sys;
pub mod unwind;

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use aya::programs::perf_event::PerfEventLinkId;
use hostscope_wire::PROBES;
use hostscope_wire::limits::{
    EVENTS_WAKE_FRACTION, UNWIND_MAPPINGS_ENTRIES, UNWIND_PROCESSES_ENTRIES, filter,
};
use hostscope_wire::spec::{Attach, ProbeSpec, Purpose};

use crate::error::{Error, Result};
use attach::{SamplingEvent, explain};
use object::Constant;
use preflight::{Finding, State};
use sys::PerfRing;

/// Whose samples to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Everybody's.
    Host,
    /// Those of the processes in [`Kernel::targets`].
    Processes,
    /// Those of one cgroup and what is below it: the inode of its folder, and how far below the root it lies.
    Cgroup {
        /// The inode number of the cgroup's folder.
        id: u64,
        /// The root has level 0.
        level: u32,
    },
}

/// What to load.
#[derive(Debug, Clone, Copy)]
pub struct LoadSettings {
    /// Whose samples.
    pub filter: Filter,
    /// Whether the idle task is sampled.
    pub include_idle: bool,
    /// Samples a second and CPU.
    pub frequency_hertz: u32,
    /// How often user space drains, in milliseconds.
    pub drain_interval_ms: u32,
}

/// The state of one probe, and why.
#[derive(Debug, Clone)]
pub struct ProbeState {
    /// Which one.
    pub spec: &'static ProbeSpec,
    /// How well it works.
    pub state: State,
    /// Why it does not work fully; empty where it does.
    pub reason: String,
}

impl ProbeState {
    /// Those that serve one of these purposes, in the order of `PROBES`, as if all were well.
    fn all_of(purposes: &[Purpose]) -> Vec<Self> {
        let wanted = PROBES.iter().filter(|spec| purposes.contains(&spec.purpose));
        wanted.map(|spec| Self { spec, state: State::On, reason: String::new() }).collect()
    }

    fn turn_on(&mut self) {
        if self.state != State::On {
            tracing::info!(probe = self.spec.name, "probe is on");
            self.state = State::On;
            self.reason.clear();
        }
    }

    /// Whether it is off and no fault: nobody asked for it, or the file system that it is about is not in use.
    #[must_use]
    pub fn is_wanted_off(&self) -> bool {
        self.state == State::Off && is_no_fault(&self.reason)
    }

    /// Off because nobody wants it on at present.
    fn rest(&mut self, reason: &str) {
        tracing::debug!(probe = self.spec.name, %reason, "probe is off");
        self.state = State::Off;
        reason.clone_into(&mut self.reason);
    }

    fn turn_off(&mut self, reason: String) {
        // Some of latency's many are off on every host, and each costs only its own figures.
        if matches!(self.spec.purpose, Purpose::Latency | Purpose::SystemCalls) {
            tracing::info!(probe = self.spec.name, %reason, "probe is off");
        } else {
            tracing::warn!(probe = self.spec.name, %reason, "probe is off");
        }
        self.state = State::Off;
        self.reason = reason;
    }
}

/// Whether this reason for a probe to be off is none to worry about.
#[must_use]
pub fn is_no_fault(reason: &str) -> bool {
    reason == latency::NOT_ASKED_FOR || reason.starts_with(attach::ABSENT)
}

/// The kernel side of profiles, loaded.
pub struct Kernel {
    ebpf: Ebpf,
    /// The probes, in the order of `PROBES`.
    pub probes: Vec<ProbeState>,
    /// The event that samples are taken by.
    pub event: SamplingEvent,
    /// Sample counts.
    pub counts: maps::Counts,
    /// Stacks already sent.
    pub sent: maps::Sent,
    /// Processes watched.
    pub targets: maps::Targets,
    /// Losses.
    pub losses: maps::Losses,
    /// Executable mappings by process.
    pub unwind_mappings: unwind::UnwindMappings,
    /// Unwind tables, until somebody takes them to fill them.
    pub unwind_tables: Option<unwind::UnwindTables>,
    /// Stacks and process events.
    pub events: maps::Events,
    /// Records of new mappings, one ring a CPU.
    pub mapping_rings: Vec<PerfRing>,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    /// Held, or the kernel would empty it.
    _walk: Option<ProgramArray<MapData>>,
    frequency_hertz: u32,
    sampled: BTreeMap<u32, PerfEventLinkId>,
}

impl Kernel {
    /// Loads everything, opens the mapping records and attaches what watches process life; samples are taken only
    /// from [`Kernel::follow_cpus`] on.
    ///
    /// # Errors
    /// No capture is possible: see [`preflight`]. A single probe that fails is no error but a state.
    pub fn load(settings: &LoadSettings) -> Result<Self> {
        let cpu = cpu_probe();
        preflight::require(preflight::Capabilities::of_this_process()?, cpu.oldest_kernel)?;
        let cpus = online_cpus()?;
        let sizes = Sizes::new(settings, cpus.len(), tasks());
        let mut ebpf = object::load(&constants(settings, &sizes), &map_sizes(&sizes))?;
        let mut probes: Vec<ProbeState> = ProbeState::all_of(&[Purpose::Profile, Purpose::Processes]);
        let mut mapping_rings = Vec::with_capacity(cpus.len());
        let mut walk = None;
        for probe in &mut probes {
            let outcome = match probe.spec.attach {
                Attach::RawTracepoint(event) => attach::raw_tracepoint(&mut ebpf, probe.spec.program, event),
                Attach::BtfTracepoint(_) => Err("not for profiles".into()),
                Attach::CpuClock => unwind::load_walk(&mut ebpf)
                    .map(|programs| walk = Some(programs))
                    .and_then(|()| attach::cpu_clock_program(&mut ebpf, probe.spec.program))
                    .and_then(|program| program.load().map_err(|error| explain(&error))),
                Attach::MappingRecords => open_rings(&cpus, &mut mapping_rings),
            };
            if let Err(reason) = outcome {
                probe.turn_off(reason);
            }
        }
        // Only objects built with `cargo xtask ebpf --debug` have log lines.
        let log = aya_log::EbpfLogger::init(&mut ebpf).ok();
        let event = sampling_event(&mut ebpf, settings.frequency_hertz, &cpus);
        Ok(Self {
            counts: maps::Counts::new(&mut ebpf)?,
            sent: maps::Sent::new(&mut ebpf)?,
            targets: maps::Targets::new(&mut ebpf)?,
            losses: maps::Losses::new(&mut ebpf)?,
            unwind_mappings: unwind::UnwindMappings::new(&mut ebpf, sizes.unwind_mappings)?,
            unwind_tables: Some(unwind::UnwindTables::new(&mut ebpf)?),
            events: maps::Events::new(&mut ebpf)?,
            ebpf,
            probes,
            event,
            mapping_rings,
            log,
            _walk: walk,
            frequency_hertz: settings.frequency_hertz,
            sampled: BTreeMap::new(),
        })
    }

    /// Samples on every CPU that is online now: attaches to those that came since the last call and lets go of those
    /// that went (the kernel does not bring an event back with its CPU).
    ///
    /// # Errors
    /// No CPU at all could be sampled.
    pub fn follow_cpus(&mut self) -> Result<()> {
        let cpus = online_cpus()?;
        if self.sampled.len() == cpus.len() && cpus.iter().all(|cpu| self.sampled.contains_key(cpu)) {
            return Ok(());
        }
        let spec = cpu_probe();
        let unusable =
            |reason: &str| Error::kernel(format!("cannot sample CPUs: {reason}"), "see hostscope doctor");
        if let Some(off) =
            self.probes.iter().find(|probe| probe.spec.name == spec.name && probe.state == State::Off)
        {
            return Err(unusable(&off.reason));
        }
        let first_time = self.sampled.is_empty();
        let program =
            attach::cpu_clock_program(&mut self.ebpf, spec.program).map_err(|reason| unusable(&reason))?;
        let gone: Vec<u32> = self.sampled.keys().copied().filter(|cpu| !cpus.contains(cpu)).collect();
        for cpu in gone {
            if let Some(link) = self.sampled.remove(&cpu) {
                let _ = program.detach(link);
            }
        }
        let mut failure = String::new();
        for cpu in cpus {
            if self.sampled.contains_key(&cpu) {
                continue;
            }
            match attach::cpu_clock(program, self.event, cpu, self.frequency_hertz) {
                Ok(link) => {
                    self.sampled.insert(cpu, link);
                }
                Err(error) => failure = format!("CPU {cpu}: {}", explain(&error)),
            }
            if !first_time && let Ok(ring) = attach::mapping_records(cpu) {
                self.mapping_rings.push(ring);
            }
        }
        if self.sampled.is_empty() {
            return Err(unusable(&failure));
        }
        if !failure.is_empty() {
            self.degrade(spec, &failure);
        }
        Ok(())
    }

    /// How many CPUs are sampled.
    #[must_use]
    pub fn sampled_cpus(&self) -> usize {
        self.sampled.len()
    }

    /// Takes no more samples; what was taken can still be read.
    pub fn stop_sampling(&mut self) {
        if let Ok(program) = attach::cpu_clock_program(&mut self.ebpf, cpu_probe().program) {
            for (_, link) in std::mem::take(&mut self.sampled) {
                let _ = program.detach(link);
            }
        }
    }

    /// Passes on the programs' own log lines, where the object has any.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    fn degrade(&mut self, spec: &ProbeSpec, reason: &str) {
        for probe in self.probes.iter_mut().filter(|probe| probe.spec.name == spec.name) {
            if probe.reason != reason {
                tracing::warn!(probe = spec.name, %reason, "probe is degraded");
            }
            probe.state = State::Degraded;
            reason.clone_into(&mut probe.reason);
        }
    }
}

/// The probes as `hostscope doctor` shows them.
#[must_use]
pub fn probe_findings(probes: &[ProbeState]) -> Vec<Finding> {
    probes
        .iter()
        .map(|probe| Finding {
            name: probe.spec.name,
            state: probe.state,
            detail: if probe.reason.is_empty() { probe.spec.yields.into() } else { probe.reason.clone() },
            mend: if probe.state == State::On {
                String::new()
            } else {
                format!("without it: {}", probe.spec.fallback)
            },
        })
        .collect()
}

/// The probe that samples CPUs.
#[must_use]
pub fn cpu_probe() -> &'static ProbeSpec {
    // `PROBES` begins with it; asserted below.
    &PROBES[0]
}

/// Every CPU that is online, by number.
///
/// # Errors
/// `/sys` is not mounted.
pub fn online_cpus() -> Result<Vec<u32>> {
    aya::util::online_cpus().map_err(|(path, error)| {
        Error::failed(format!("cannot read {path}: {error}"), "mount sysfs: mount -t sysfs sys /sys")
    })
}

fn constants(settings: &LoadSettings, sizes: &Sizes) -> Vec<(&'static str, Constant)> {
    let (mode, cgroup_id, cgroup_level) = match settings.filter {
        Filter::Host => (filter::HOST, 0, 0),
        Filter::Processes => (filter::PROCESSES, 0, 0),
        Filter::Cgroup { id, level } => (filter::CGROUP, id, level),
    };
    vec![
        ("FILTER_MODE", Constant::Word(mode)),
        ("FILTER_CGROUP_ID", Constant::Long(cgroup_id)),
        ("FILTER_CGROUP_LEVEL", Constant::Word(cgroup_level)),
        ("INCLUDE_IDLE", Constant::Word(u32::from(settings.include_idle))),
        ("WAKE_BYTES", Constant::Long(u64::from(sizes.events_bytes) / EVENTS_WAKE_FRACTION)),
    ]
}

fn map_sizes(sizes: &Sizes) -> Vec<(&'static str, u32)> {
    let mut all = vec![
        ("EVENTS", sizes.events_bytes),
        ("COUNTS_EVEN", sizes.counts_entries),
        ("COUNTS_ODD", sizes.counts_entries),
        ("UNWIND_PROCESSES", sizes.unwind_processes),
        ("UNWIND_MAPPINGS", sizes.unwind_mappings),
    ];
    // What only latency is counted in.
    all.extend(rows::MAPS.iter().map(|name| (*name, 1)));
    all
}

/// Sizes of maps that follow from the host and the rate.
struct Sizes {
    events_bytes: u32,
    counts_entries: u32,
    unwind_processes: u32,
    unwind_mappings: u32,
}

impl Sizes {
    /// For a host of `cpus` on which `tasks` processes and threads live.
    fn new(settings: &LoadSettings, cpus: usize, tasks: usize) -> Self {
        let samples = settings.frequency_hertz as usize * cpus * settings.drain_interval_ms as usize / 1000;
        Self {
            // A quarter of all samples with a new stack of 64 frames each, between half a MB and 32 MB.
            events_bytes: (samples / 4 * 64 * 8).clamp(512 << 10, 32 << 20).next_power_of_two() as u32,
            // One sample makes at most one entry; twice that for a drain that comes late. About 100 bytes an entry.
            counts_entries: (samples * 2).clamp(2048, 1 << 20) as u32,
            // Room for twice as many processes as there are tasks, at about 70 bytes each, and for 16 mappings of each.
            unwind_processes: (tasks * 2)
                .clamp(UNWIND_PROCESSES_ENTRIES as usize, 1 << 17)
                .next_power_of_two() as u32,
            unwind_mappings: (tasks * 32).clamp(UNWIND_MAPPINGS_ENTRIES as usize, 1 << 20).next_power_of_two()
                as u32,
        }
    }
}

/// How many processes and threads live on this host.
fn tasks() -> usize {
    usize::from(rustix::system::sysinfo().procs)
}

fn open_rings(cpus: &[u32], rings: &mut Vec<PerfRing>) -> std::result::Result<(), String> {
    for &cpu in cpus {
        rings.push(attach::mapping_records(cpu).map_err(|error| format!("CPU {cpu}: {error}"))?);
    }
    Ok(())
}

/// Hardware cycles where there is a PMU that takes them, else the CPU clock.
fn sampling_event(ebpf: &mut Ebpf, frequency_hertz: u32, cpus: &[u32]) -> SamplingEvent {
    let (Ok(program), Some(&cpu)) = (attach::cpu_clock_program(ebpf, cpu_probe().program), cpus.first())
    else {
        return SamplingEvent::CpuClock;
    };
    match attach::cpu_clock(program, SamplingEvent::Cycles, cpu, frequency_hertz) {
        Ok(link) => {
            let _ = program.detach(link);
            SamplingEvent::Cycles
        }
        Err(error) => {
            tracing::debug!("no hardware cycles, sampling by the CPU clock: {}", explain(&error));
            SamplingEvent::CpuClock
        }
    }
}

const _: () = assert!(matches!(PROBES[0].attach, Attach::CpuClock));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_sizes_hold_every_sample_of_an_interval() {
        let settings = |frequency_hertz| LoadSettings {
            filter: Filter::Host,
            include_idle: false,
            frequency_hertz,
            drain_interval_ms: 1000,
        };
        for (hertz, cpus) in [(99, 2), (999, 2), (99, 256), (10_000, 16)] {
            let sizes = Sizes::new(&settings(hertz), cpus, 300);
            assert!(sizes.counts_entries as usize >= hertz as usize * cpus);
            assert!(sizes.events_bytes.is_power_of_two() && sizes.events_bytes <= 32 << 20);
        }
    }
}
