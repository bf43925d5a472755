//! The scheduler: time off the CPU with its cause, and time on a run queue. One hook, no cost for system calls.
//!
//! A thread's entry (see `threads`) says since when it is off the CPU and why. The wait on a run queue is the kernel's own figure
//! (`sched_info.run_delay`, CONFIG_SCHED_INFO): the difference between two looks, each when the thread goes off the CPU, is the wait
//! before the stretch that ends now. So no wake-up has to be hooked, and what is measured is what the scheduler itself
//! believes. It is told when that stretch ends.
//!
//! A switch from the idle task to a thread is now and then told to nobody: seen with kernel 6.18 on a virtual machine, about one in
//! 500, and by the kernel's own tracing as well. The thread's next switch makes up for it.
//!
//! Cost a switch on a 2-core virtual machine (kernel 6.18): see `cargo xtask bench --only latency`.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::{Family, RowKey, Wait};

use crate::maps::{self, Thread};
use crate::typed_task::TypedTask;
use crate::{rows, syscall, threads};

/// `TASK_UNINTERRUPTIBLE`, `TASK_DEAD` and `TASK_NOLOAD` (include/linux/sched.h); kernel threads with nothing to do have the first and
/// the last.
const UNINTERRUPTIBLE: u32 = 0x2;
const DEAD: u32 = 0x80;
const NO_LOAD: u32 = 0x400;

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`, run by `prev`; the
/// last argument since 5.18 (commit 9c2136be0878).
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let previous = TypedTask::from_argument(&context, 1);
    let next = TypedTask::from_argument(&context, 2);
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // The idle task of each CPU is number 0.
    if previous.tid() != 0 {
        let preempted: u32 = context.arg(0);
        let state = if maps::has_previous_state() != 0 { context.arg(3) } else { previous.state() };
        leaves(previous, preempted != 0, state, now_ns);
    }
    if next.tid() != 0 {
        if let Some(ahead_ns) = maps::SCHEDULER_CLOCK.get_ptr_mut(0) {
            // SAFETY: this CPU's own element.
            unsafe { *ahead_ns = now_ns.wrapping_sub(next.exec_start_ns()) };
        }
        arrives(next, now_ns);
    }
    0
}

#[inline(always)]
fn leaves(task: TypedTask, preempted: bool, state: u32, now_ns: u64) {
    let tid = task.tid();
    let run_delay_ns = task.run_delay_ns();
    let runtime_ns = task.runtime_ns();
    let syscall_since_ns = syscall::take_running();
    let Some(thread) = threads::get(tid, task.address()) else {
        if state & DEAD == 0 {
            first_seen(task, cause(task, preempted, state), now_ns, run_delay_ns, syscall_since_ns);
        }
        return;
    };
    let key = RowKey {
        start_time_ns: thread.start_time_ns,
        subject: thread.tgid,
        family: Family::RunQueue as u8,
        label: 0,
        detail: 0,
    };
    if maps::has_run_delay() != 0 {
        rows::observe(&key, run_delay_ns.wrapping_sub(thread.run_delay_ns));
    }
    if thread.off_since_ns != 0 {
        // Nobody was told that it was given a CPU: its wait is all the time since it left that it did not run.
        arrived(thread, now_ns.wrapping_sub(runtime_ns.wrapping_sub(thread.runtime_ns)));
    }
    if state & DEAD != 0 {
        threads::remove(tid);
        return;
    }
    thread.run_delay_ns = run_delay_ns;
    thread.runtime_ns = runtime_ns;
    if syscall_since_ns != 0 {
        thread.syscall_since_ns = syscall_since_ns;
    }
    thread.cause = cause(task, preempted, state);
    thread.off_since_ns = now_ns;
}

/// What a thread does that nobody has met yet. Its first wait is known where it has been given a CPU just once.
#[inline(never)]
fn first_seen(task: TypedTask, cause: u32, now_ns: u64, run_delay_ns: u64, syscall_since_ns: u64) {
    let process = task.process();
    let thread = Thread {
        off_since_ns: now_ns,
        run_delay_ns,
        runtime_ns: task.runtime_ns(),
        start_time_ns: process.start_time_ns,
        syscall_since_ns,
        task: task.address(),
        tgid: process.tgid,
        cause,
        tid: task.tid(),
        reserved: 0,
    };
    threads::insert(thread);
    if maps::has_run_delay() != 0 && task.arrivals() == 1 {
        rows::observe(&RowKey { family: Family::RunQueue as u8, ..process.key() }, run_delay_ns);
    }
}

#[inline(always)]
fn arrives(task: TypedTask, now_ns: u64) {
    if let Some(thread) = threads::get(task.tid(), task.address())
        && thread.off_since_ns != 0
    {
        arrived(thread, now_ns);
    }
}

/// Counts the wait of a thread that was given a CPU at `at_ns`.
#[inline(always)]
fn arrived(thread: &mut Thread, at_ns: u64) {
    let since_ns = core::mem::take(&mut thread.off_since_ns);
    let key = RowKey {
        start_time_ns: thread.start_time_ns,
        subject: thread.tgid,
        family: Family::OffCpu as u8,
        label: (thread.cause >> 16) as u8,
        detail: thread.cause as u16,
    };
    rows::observe(&key, at_ns.saturating_sub(since_ns));
}

/// A [`Wait`] in the upper half, the system call's number plus 1 in the lower.
#[inline(always)]
fn cause(task: TypedTask, preempted: bool, state: u32) -> u32 {
    let wait = if preempted || state == 0 {
        Wait::Preempted
    } else if task.is_in_iowait() {
        Wait::IoWait
    } else if state & UNINTERRUPTIBLE != 0 && state & NO_LOAD == 0 {
        Wait::Uninterruptible
    } else {
        Wait::Interruptible
    };
    (wait as u32) << 16 | task.system_call()
}
