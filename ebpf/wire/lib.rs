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

use spec::{Attach, KernelVersion, ProbeSpec, Purpose};

/// Every probe there is; loading, `hostscope doctor` and the agent's metrics all read this list and no other.
pub static PROBES: &[ProbeSpec] = &[
    ProbeSpec {
        name: "cpu",
        program: "sample_cpu",
        purpose: Purpose::Profile,
        attach: Attach::CpuClock,
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "CPU stacks by thread",
        unit: "samples",
        fallback: "none: without it there is no CPU profile",
    },
    ProbeSpec {
        name: "process_exec",
        program: "process_exec",
        purpose: Purpose::Processes,
        attach: Attach::RawTracepoint("sched_process_exec"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "programs started",
        unit: "events",
        fallback: "names come from /proc at the end of the capture",
    },
    ProbeSpec {
        name: "process_fork",
        program: "process_fork",
        purpose: Purpose::Processes,
        attach: Attach::RawTracepoint("sched_process_fork"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "processes created",
        unit: "events",
        fallback: "children of the targets are not followed",
    },
    ProbeSpec {
        name: "process_exit",
        program: "process_exit",
        purpose: Purpose::Processes,
        attach: Attach::RawTracepoint("sched_process_exit"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "processes ended",
        unit: "events",
        fallback: "the end of a target is seen by polling",
    },
    ProbeSpec {
        name: "mapping",
        program: "",
        purpose: Purpose::Profile,
        attach: Attach::MappingRecords,
        oldest_kernel: KernelVersion { major: 3, minor: 16 },
        yields: "executable mappings as they appear (exec, dlopen, mprotect)",
        unit: "events",
        fallback: "mappings are read from /proc when a sample meets an unknown one",
    },
    ProbeSpec {
        name: "sched_switch",
        program: "sched_switch",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("sched_switch"),
        oldest_kernel: KernelVersion { major: 5, minor: 10 },
        yields: "time off the CPU by cause and system call, time on run queues",
        unit: "nanoseconds",
        fallback: "no off-CPU, run-queue and blocked-time figures",
    },
    ProbeSpec {
        name: "syscall_enter",
        program: "syscall_enter",
        purpose: Purpose::SystemCalls,
        attach: Attach::BtfTracepoint("sys_enter"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "system calls as they begin",
        unit: "events",
        fallback: "only the time that calls are blocked, from sched_switch",
    },
    ProbeSpec {
        name: "syscall_exit",
        program: "syscall_exit",
        purpose: Purpose::SystemCalls,
        attach: Attach::BtfTracepoint("sys_exit"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "duration and errors of every system call",
        unit: "nanoseconds",
        fallback: "only the time that calls are blocked, from sched_switch",
    },
    ProbeSpec {
        name: "tcp_state",
        program: "tcp_state",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("inet_sock_set_state"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "TCP connects and their errors, lifetimes, round trip times",
        unit: "nanoseconds",
        fallback: "no TCP figures by process, but for bytes",
    },
    ProbeSpec {
        name: "sock_send",
        program: "sock_send",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("sock_send_length"),
        oldest_kernel: KernelVersion { major: 6, minor: 3 },
        yields: "bytes sent; the ends of waits for a response",
        unit: "bytes",
        fallback: "no bytes by process, no wait for the first byte",
    },
    ProbeSpec {
        name: "sock_receive",
        program: "sock_receive",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("sock_recv_length"),
        oldest_kernel: KernelVersion { major: 6, minor: 3 },
        yields: "bytes received; waits for a response and for a server to take up a connection",
        unit: "bytes",
        fallback: "no bytes by process, no wait for the first byte",
    },
    ProbeSpec {
        name: "tcp_retransmit",
        program: "tcp_retransmit",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("tcp_retransmit_skb"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "TCP segments sent again",
        unit: "segments",
        fallback: "none by process; the host's in /proc/net/snmp",
    },
    ProbeSpec {
        name: "tcp_retransmit_synack",
        program: "tcp_retransmit_synack",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("tcp_retransmit_synack"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "answers of listeners sent again",
        unit: "segments",
        fallback: "none by process; the host's in /proc/net/snmp",
    },
    ProbeSpec {
        name: "tcp_send_reset",
        program: "tcp_send_reset",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("tcp_send_reset"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "TCP connections reset by this host",
        unit: "resets",
        fallback: "none by process; the host's in /proc/net/snmp",
    },
    ProbeSpec {
        name: "tcp_receive_reset",
        program: "tcp_receive_reset",
        purpose: Purpose::Latency,
        attach: Attach::BtfTracepoint("tcp_receive_reset"),
        oldest_kernel: KernelVersion { major: 5, minor: 11 },
        yields: "TCP connections reset by the other end",
        unit: "resets",
        fallback: "none by process; the host's in /proc/net/snmp",
    },
];
