//! Every type that crosses the border between the kernel side and user space, and the list of probes.
//!
//! No dependency and no allocation: the same definitions compile for `bpfel-unknown-none` and for the host. Records
//! have fixed widths, explicit padding and asserted sizes, so that both sides agree without a parser generator.

#![no_std]
// A function that is not inlined is a call that the verifier follows on its own.
#![allow(clippy::inline_always, reason = "these run in eBPF programs")]

pub mod event;
pub mod histogram;
pub mod limits;
pub mod loss;
pub mod process;
pub mod row;
pub mod spec;
pub mod stack;
pub mod unwind;

use spec::{Attach, KernelVersion, ProbeSpec};

/// Every probe there is; loading, `hostscope doctor` and the agent's metrics all read this list and no other.
pub static PROBES: &[ProbeSpec] = &[
    ProbeSpec {
        name: "cpu",
        program: "sample_cpu",
        attach: Attach::CpuClock,
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "CPU stacks by thread",
        unit: "samples",
        fallback: "none: without it there is no CPU profile",
    },
    ProbeSpec {
        name: "process_exec",
        program: "process_exec",
        attach: Attach::RawTracepoint("sched_process_exec"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "programs started",
        unit: "events",
        fallback: "names come from /proc at the end of the capture",
    },
    ProbeSpec {
        name: "process_fork",
        program: "process_fork",
        attach: Attach::RawTracepoint("sched_process_fork"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "processes created",
        unit: "events",
        fallback: "children of the targets are not followed",
    },
    ProbeSpec {
        name: "process_exit",
        program: "process_exit",
        attach: Attach::RawTracepoint("sched_process_exit"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "processes ended",
        unit: "events",
        fallback: "the end of a target is seen by polling",
    },
    ProbeSpec {
        name: "mapping",
        program: "",
        attach: Attach::MappingRecords,
        oldest_kernel: KernelVersion { major: 3, minor: 16 },
        yields: "executable mappings as they appear (exec, dlopen, mprotect)",
        unit: "events",
        fallback: "mappings are read from /proc when a sample meets an unknown one",
    },
];
