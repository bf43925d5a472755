//! Time in every system call, and its errors: attached only for chosen processes or while the budget allows.
//!
//! A call that does not leave the CPU needs no table: its start stands in a slot of the CPU. Where the thread goes off the CPU
//! within the call, `sched_switch` moves the start into the thread's entry.
//!
//! Cost a call, both hooks, on a 2-core virtual machine (kernel 6.18): see `cargo xtask bench --only latency`.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task_btf};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::{Family, RowKey};

use crate::typed_task::TypedTask;
use crate::{maps, now_ns, rows, threads};

/// Errors that a call returns are -4095 to -1 (include/linux/err.h); those from 512 on never reach a program.
const LAST_ERRNO: i64 = 133;

/// `sys_enter(struct pt_regs *regs, long id)`.
#[btf_tracepoint(function = "sys_enter")]
pub fn syscall_enter(_context: BtfTracePointContext) -> i32 {
    if maps::syscall_scope() != 0 {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        if maps::SYSCALL_PROCESSES.get_ptr(tgid).is_none() {
            return 0;
        }
    }
    if let Some(since_ns) = maps::RUNNING_SYSCALL.get_ptr_mut(0) {
        // SAFETY: this CPU's own element; an interrupt does not enter a system call.
        unsafe { *since_ns = now_ns() };
    }
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[btf_tracepoint(function = "sys_exit")]
pub fn syscall_exit(context: BtfTracePointContext) -> i32 {
    // SAFETY: the helper has no precondition.
    let task = TypedTask::from_pointer(unsafe { bpf_get_current_task_btf() } as u64);
    let mut since_ns = take_running();
    if since_ns == 0 {
        let Some(thread) = threads::get(task.tid(), task.address()) else { return 0 };
        since_ns = core::mem::take(&mut thread.syscall_since_ns);
    }
    if since_ns == 0 || since_ns < maps::syscalls_timed_since_ns() {
        return 0; // not watched, or entered before the probes were attached, maybe in an earlier stretch of timing
    }
    let number = TypedTask::registers_call(context.arg::<u64>(0));
    if number == 0 {
        return 0;
    }
    let duration_ns = now_ns().wrapping_sub(since_ns);
    let key = RowKey {
        start_time_ns: task.start_time_ns(),
        subject: task.tgid(),
        family: Family::Syscall as u8,
        label: 0,
        detail: (number - 1) as u16,
    };
    rows::observe(&key, duration_ns);
    let result: i64 = context.arg(1);
    if result < 0 && result >= -LAST_ERRNO {
        rows::count(&RowKey { family: Family::SyscallErrors as u8, label: -result as u8, ..key }, 1);
    }
    0
}

/// When the call was entered that this CPU is in, taken from its slot; 0 where that has none. A thread that goes off the CPU takes
/// its start along (`sched::leaves`), so what stands there is always the current thread's.
#[inline(always)]
pub fn take_running() -> u64 {
    let Some(since_ns) = maps::RUNNING_SYSCALL.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    core::mem::take(unsafe { &mut *since_ns })
}
