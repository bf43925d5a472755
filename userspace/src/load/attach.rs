//! Attaching: one function an attach kind.

use std::io;

use aya::programs::perf_event::{
    HardwareEvent, PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, PerfEvent, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf};

use super::sys::{PerfRing, open_mapping_records};

/// The event that takes samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplingEvent {
    /// Hardware cycles: by NMI, so code that runs with interrupts off is seen too.
    Cycles,
    /// The software CPU clock: where there is no PMU, as in most virtual machines.
    CpuClock,
}

impl SamplingEvent {
    /// The name in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::CpuClock => "cpu-clock",
        }
    }

    fn config(self) -> PerfEventConfig {
        match self {
            Self::Cycles => PerfEventConfig::Hardware(HardwareEvent::CpuCycles),
            Self::CpuClock => PerfEventConfig::Software(SoftwareEvent::CpuClock),
        }
    }
}

/// Loads a program and attaches it to the raw tracepoint `event`, in words of failure.
pub(super) fn raw_tracepoint(ebpf: &mut Ebpf, program: &str, event: &str) -> Result<(), String> {
    let program: &mut RawTracePoint = ebpf
        .program_mut(program)
        .ok_or("not in the eBPF object")?
        .try_into()
        .map_err(|error: ProgramError| explain(&error))?;
    program.load().map_err(|error| explain(&error))?;
    program.attach(event).map(drop).map_err(|error| match &error {
        ProgramError::SyscallError(call) if call.io_error.kind() == io::ErrorKind::NotFound => {
            format!("the kernel has no tracepoint {event}: it was built without, or the module is not loaded")
        }
        _ => explain(&error),
    })
}

/// Loads a program for the typed tracepoint `event`, without attaching it, in words of failure.
pub(super) fn load_btf_tracepoint(
    ebpf: &mut Ebpf,
    program: &str,
    event: &str,
    types: &Btf,
) -> Result<(), String> {
    btf_program(ebpf, program)?.load(event, types).map_err(|error| explain(&error))
}

/// Attaches a loaded program.
pub(super) fn btf_tracepoint(ebpf: &mut Ebpf, program: &str) -> Result<BtfTracePointLinkId, String> {
    btf_program(ebpf, program)?.attach().map_err(|error| explain(&error))
}

/// Detaches it again.
pub(super) fn detach_btf_tracepoint(ebpf: &mut Ebpf, program: &str, link: BtfTracePointLinkId) {
    if let Ok(program) = btf_program(ebpf, program) {
        // Not attached any more is what is wanted.
        let _ = program.detach(link);
    }
}

fn btf_program<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut BtfTracePoint, String> {
    ebpf.program_mut(program)
        .ok_or("not in the eBPF object")?
        .try_into()
        .map_err(|error: ProgramError| explain(&error))
}

/// The sampling program of one perf event a CPU.
pub(super) fn cpu_clock_program<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut PerfEvent, String> {
    ebpf.program_mut(program)
        .ok_or("not in the eBPF object")?
        .try_into()
        .map_err(|error: ProgramError| explain(&error))
}

/// Attaches the loaded sampling program on one CPU.
pub(super) fn cpu_clock(
    program: &mut PerfEvent,
    event: SamplingEvent,
    cpu: u32,
    frequency_hertz: u32,
) -> Result<PerfEventLinkId, ProgramError> {
    program.attach(
        event.config(),
        PerfEventScope::AllProcessesOneCpu { cpu },
        SamplePolicy::Frequency(u64::from(frequency_hertz)),
        false,
    )
}

/// Pages of data in the ring of mapping records a CPU: 64 KB hold the mappings of about 40 program starts.
const MAPPING_RING_PAGES: usize = 16;

/// Opens the mapping records of one CPU.
pub(super) fn mapping_records(cpu: u32) -> io::Result<PerfRing> {
    PerfRing::map(open_mapping_records(cpu)?, MAPPING_RING_PAGES)
}

/// An error of aya with its causes, on one line; of a verifier's log only the line that names the fault.
pub(super) fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(ProgramError::LoadError { io_error, verifier_log }) = error.downcast_ref() {
        let log = verifier_log.to_string();
        tracing::debug!("verifier log:\n{log}");
        // Behind the fault the verifier puts its statistics.
        let statistics = ["processed ", "verification time ", "stack depth "];
        let is_statistic =
            |line: &&str| line.is_empty() || statistics.iter().any(|word| line.starts_with(word));
        let fault = log.lines().rev().find(|line| !is_statistic(line));
        return format!("the kernel refuses the program ({io_error}): {}", fault.unwrap_or("no log"));
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
