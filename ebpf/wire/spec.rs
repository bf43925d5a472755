//! What a probe is: its program, where it attaches, what it needs and what it yields.

/// A kernel release, compared by major and minor number only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The 6 of 6.12.
    pub major: u16,
    /// The 12 of 6.12.
    pub minor: u16,
}

/// Where a probe attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// A sampling perf event on every CPU: hardware cycles where there is a PMU, else the software CPU clock.
    CpuClock,
    /// A raw tracepoint of this name. Raw rather than classic: no tracefs needed, and only this one event pays.
    RawTracepoint(&'static str),
    /// A tracepoint of this name whose arguments have types: members of the kernel's structs are plain loads.
    BtfTracepoint(&'static str),
    /// The kernel's own `PERF_RECORD_MMAP2` records from a dummy software event on every CPU; no program of ours. There
    /// is no tracepoint for a new mapping, and hooking mmap's system call would tax every system call of the host.
    MappingRecords,
}

/// What a probe serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Profiles.
    Profile,
    /// Process life, for both.
    Processes,
    /// Latency, always on.
    Latency,
    /// Latency of every system call: dear, hence attached only for a while or for chosen processes.
    SystemCalls,
}

/// One probe.
#[derive(Debug, Clone, Copy)]
pub struct ProbeSpec {
    /// Its name in `hostscope doctor`, logs and metrics.
    pub name: &'static str,
    /// The function in the object file; empty where the kernel needs no program of ours.
    pub program: &'static str,
    /// What it serves.
    pub purpose: Purpose,
    /// Where it attaches.
    pub attach: Attach,
    /// The oldest kernel that has all it needs.
    pub oldest_kernel: KernelVersion,
    /// What it tells, in words.
    pub yields: &'static str,
    /// The unit of what it tells.
    pub unit: &'static str,
    /// What the user still has where it cannot be attached.
    pub fallback: &'static str,
}

impl ProbeSpec {
    /// What belongs together: the two ends of one measurement have the same name but for the last word.
    #[must_use]
    pub fn group(&self) -> &'static str {
        const ENDS: [&str; 7] = ["_enter", "_entry", "_exit", "_begin", "_end", "_issue", "_complete"];
        ENDS.iter().find_map(|end| self.name.strip_suffix(end)).unwrap_or(self.name)
    }
}
