//! Every reason for which the kernel side drops something or cuts it short.

/// Why something was lost. The number is the index into the per-CPU array of losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// A sample whose new stack found no room in the ring buffer.
    RingFullSample = 0,
    /// A process event that found no room in the ring buffer.
    RingFullProcess = 1,
    /// A sample that found no room among the counts of this interval.
    CountsFull = 2,
    /// A child of a target that found no room among the targets.
    TargetsFull = 3,
    /// A sample of a process outside hostscope's own pid namespace, which cannot be named from inside.
    OutsidePidNamespace = 4,
    /// A sample whose kernel stack could not be read; it is kept without kernel frames.
    KernelStackUnreadable = 5,
    /// An observation whose key found no free row.
    RowsFull = 6,
    /// A thread that found no room among the threads that are off the CPU.
    ThreadsFull = 7,
    /// A block request that found no room among those at devices.
    RequestsFull = 8,
    /// A file's sync or a wait for memory that found no room among those that last.
    SpansFull = 9,
}

impl Loss {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::RingFullSample,
        Self::RingFullProcess,
        Self::CountsFull,
        Self::TargetsFull,
        Self::OutsidePidNamespace,
        Self::KernelStackUnreadable,
        Self::RowsFull,
        Self::ThreadsFull,
        Self::RequestsFull,
        Self::SpansFull,
    ];

    /// The word for it in profiles, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFullSample => "ring_full_sample",
            Self::RingFullProcess => "ring_full_process",
            Self::CountsFull => "counts_full",
            Self::TargetsFull => "targets_full",
            Self::OutsidePidNamespace => "outside_pid_namespace",
            Self::KernelStackUnreadable => "kernel_stack_unreadable",
            Self::RowsFull => "rows_full",
            Self::ThreadsFull => "threads_full",
            Self::RequestsFull => "requests_full",
            Self::SpansFull => "spans_full",
        }
    }

    /// Whether a sample is missing from the profile because of it.
    #[must_use]
    pub const fn loses_sample(self) -> bool {
        matches!(self, Self::RingFullSample | Self::CountsFull | Self::OutsidePidNamespace)
    }
}
