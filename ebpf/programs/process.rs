//! Process life: birth, exec and end, and the inheritance of the filter by process.
//!
//! Raw tracepoints: each event costs its own program only (well under a microsecond beside the hundreds of
//! microseconds of a fork or an exec), and nothing else on the host pays.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use hostscope_wire::event::{EventHeader, EventKind};
use hostscope_wire::limits::filter;
use hostscope_wire::loss::Loss;
use hostscope_wire::process::ProcessRecord;

use crate::task::{Task, current_ids};
use crate::{emit, maps};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, run by the parent.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(context: RawTracePointContext) -> i32 {
    let parent = Task::from_argument(argument(&context, 0));
    let child = Task::from_argument(argument(&context, 1));
    if child.host_tgid() == parent.host_tgid() {
        return 0; // a thread
    }
    let Some(parent_tgid) = current_ids().map(|ids| ids.tgid) else { return 0 };
    let Some(tgid) = child.tgid_seen_by(parent) else { return 0 };
    // Told here and not by user space, which hears of a child only when that has made its first calls.
    if maps::SYSCALL_PROCESSES.get_ptr(parent.host_tgid()).is_some()
        && maps::SYSCALL_PROCESSES.insert(child.host_tgid(), 1, 0).is_err()
    {
        emit::lost(Loss::TargetsFull);
    }
    if maps::filter_mode() == filter::PROCESSES {
        if !crate::filter::is_target(parent_tgid) {
            return 0;
        }
        if maps::TARGETS.insert(tgid, 1, 0).is_err() {
            emit::lost(Loss::TargetsFull);
        }
    } else if !crate::filter::watches_current(parent_tgid) {
        return 0;
    }
    // Until user space has heard of it, it has its parent's mappings, which is what fork gives it.
    if let Some(mappings) = maps::UNWIND_PROCESSES.get_ptr(parent_tgid) {
        // SAFETY: an element that user space replaces whole. A full map means a child without mappings for an interval.
        let _ = maps::UNWIND_PROCESSES.insert(tgid, unsafe { *mappings }, 0);
    }
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&context, "process {} forked {}", parent_tgid, tgid);
    send(EventKind::Fork, child, tgid, parent_tgid);
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, run by `p`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(context: RawTracePointContext) -> i32 {
    // A thread that is not the first takes the id of the first, and its old one is nobody's. The first keeps its own, and with it
    // since when it is in this very call.
    let old_tid = argument(&context, 1) as u32;
    if old_tid != bpf_get_current_pid_tgid() as u32 {
        crate::threads::remove(old_tid);
    }
    let Some(ids) = current_ids() else { return 0 };
    if crate::filter::watches_current(ids.tgid) {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(&context, "process {} runs a new program", ids.tgid);
        send(EventKind::Exec, Task::current(), ids.tgid, 0);
    }
    0
}

/// `sched_process_exit(struct task_struct *p)` (from 6.16 on also `bool group_dead`), run by `p`, once a thread.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
#[cfg_attr(not(feature = "log"), allow(unused_variables))]
pub fn process_exit(context: RawTracePointContext) -> i32 {
    let task = Task::current();
    if task.live_threads() != 0 {
        return 0;
    }
    // Its pid may soon be another's. Mostly it is not there.
    let _ = maps::SYSCALL_PROCESSES.remove(task.host_tgid());
    let Some(ids) = current_ids() else { return 0 };
    if !crate::filter::watches_current(ids.tgid) {
        return 0;
    }
    // It stays a target: the kernel has yet to give back its memory, which is sampled too. User space removes it an
    // interval later.
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&context, "process {} ended", ids.tgid);
    send(EventKind::Exit, task, ids.tgid, 0);
    0
}

#[inline(always)]
fn argument(context: &RawTracePointContext, index: usize) -> u64 {
    // SAFETY: the kernel passes an array of 64-bit arguments; both tracepoints have at least two.
    unsafe { *context.as_ptr().cast::<u64>().add(index) }
}

#[inline(always)]
fn send(kind: EventKind, task: Task, tgid: u32, parent_tgid: u32) {
    let cpu = if kind as u32 == EventKind::Exit as u32 { task.cpu_time() } else { Default::default() };
    let record = ProcessRecord {
        // SAFETY: the helper has no precondition.
        header: EventHeader { time_ns: unsafe { bpf_ktime_get_ns() }, kind: kind as u32, reserved: 0 },
        start_time_ns: task.process_start_time_ns(),
        tgid,
        parent_tgid,
        comm: task.comm(),
        // SAFETY: the helper has no precondition.
        cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        cpu_ns: cpu.total_ns,
        user_ticks_ns: cpu.user_ticks_ns,
        system_ticks_ns: cpu.system_ticks_ns,
    };
    emit::process(&record);
}
