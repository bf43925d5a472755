//! What the programs read from `task_struct`, at offsets that user space took from the running kernel's BTF.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf, bpf_get_ns_current_pid_tgid,
    bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_task_pt_regs,
};
use hostscope_wire::limits::COMM_BYTES;

use crate::maps;

/// A `task_struct` of the kernel.
#[derive(Clone, Copy)]
pub struct Task(u64);

/// A process and one of its threads, in hostscope's own pid namespace.
#[derive(Clone, Copy)]
pub struct Ids {
    pub tgid: u32,
    pub tid: u32,
}

/// CPU time of a process, in nanoseconds.
#[derive(Clone, Copy, Default)]
pub struct CpuTime {
    /// By the scheduler's account.
    pub total_ns: u64,
    /// What ticks found in user mode.
    pub user_ticks_ns: u64,
    /// What ticks found in the kernel.
    pub system_ticks_ns: u64,
}

impl Task {
    /// The task that runs on this CPU.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no precondition; every task outlives the program that it runs.
        Self(unsafe { bpf_get_current_task() })
    }

    /// The task that a raw tracepoint's argument points at.
    #[inline(always)]
    pub fn from_argument(pointer: u64) -> Self {
        Self(pointer)
    }

    /// The registers with which the current task entered the kernel.
    ///
    /// `bpf_task_pt_regs` is there since 5.15 (commit dd6e10fbd9fb). Before, they are read where x86-64 puts them: at the
    /// end of the task's stack (`task_pt_regs` in arch/x86/include/asm/processor.h), which has 16 KiB in kernels without
    /// KASAN.
    #[inline(always)]
    pub fn saved_registers(self) -> Option<pt_regs> {
        const STACK_BYTES: u64 = 16384;
        let address = if maps::has_task_pt_regs() != 0 {
            // SAFETY: the current task; the helper computes an address on its kernel stack.
            unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as u64 }
        } else {
            self.field::<u64>(maps::task_stack())? + STACK_BYTES - size_of::<pt_regs>() as u64
        };
        read(address)
    }

    #[inline(always)]
    fn field<T>(self, offset: u32) -> Option<T> {
        read(self.0 + u64::from(offset))
    }

    /// Whether it has user memory: kernel threads have none, and exiting tasks have given it back.
    #[inline(always)]
    pub fn has_memory(self) -> bool {
        self.field::<u64>(maps::task_mm()).unwrap_or(0) != 0
    }

    /// When its process started, in nanoseconds of `CLOCK_BOOTTIME`.
    #[inline(always)]
    pub fn process_start_time_ns(self) -> u64 {
        match self.field::<u64>(maps::task_group_leader()) {
            Some(leader) => Self(leader).field(maps::task_start_boottime()).unwrap_or(0),
            None => 0,
        }
    }

    /// A number that changes at every exec of the process.
    #[inline(always)]
    pub fn exec_id(self) -> u64 {
        self.field(maps::task_self_exec_id()).unwrap_or(0)
    }

    /// Its thread group in the host's pid namespace.
    #[inline(always)]
    pub fn host_tgid(self) -> u32 {
        self.field(maps::task_tgid()).unwrap_or(0)
    }

    /// Its name.
    #[inline(always)]
    pub fn comm(self) -> [u8; COMM_BYTES] {
        self.field(maps::task_comm()).unwrap_or([0; COMM_BYTES])
    }

    /// Threads of its process that have not begun to exit. `do_exit` counts down before the tracepoint
    /// `sched_process_exit` fires, so the last one sees 0 there.
    #[inline(always)]
    pub fn live_threads(self) -> u32 {
        match self.field::<u64>(maps::task_signal()) {
            Some(signal) => read(signal + u64::from(maps::signal_live())).unwrap_or(1),
            None => 1,
        }
    }

    /// CPU time of its process, if it is the last thread: those that ended before have left theirs with `signal_struct`
    /// (`__exit_signal`, kernel/exit.c).
    #[inline(always)]
    pub fn cpu_time(self) -> CpuTime {
        let signal = self.field::<u64>(maps::task_signal()).unwrap_or(0);
        let sum = |ended: u32, own: u32| {
            read::<u64>(signal + u64::from(ended)).unwrap_or(0) + self.field::<u64>(own).unwrap_or(0)
        };
        CpuTime {
            total_ns: sum(maps::signal_runtime(), maps::task_runtime()) + self.unaccounted_ns(),
            user_ticks_ns: sum(maps::signal_utime(), maps::task_utime()),
            system_ticks_ns: sum(maps::signal_stime(), maps::task_stime()),
        }
    }

    /// What the current task has used since the scheduler last looked, at a switch or a tick: all that a short program ever uses. 0
    /// where no switch was seen on this CPU.
    #[inline(always)]
    fn unaccounted_ns(self) -> u64 {
        let ahead_ns = maps::SCHEDULER_CLOCK.get(0).copied().unwrap_or(0);
        let Some(since_ns) = self.field::<u64>(maps::task_exec_start()) else { return 0 };
        // SAFETY: the helper has no precondition.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        let rest_ns = now_ns.wrapping_sub(ahead_ns).wrapping_sub(since_ns);
        // Longer than the slowest tick (a second, without ticks) it cannot be: the clocks do not fit.
        if ahead_ns == 0 || rest_ns > 1_000_000_000 { 0 } else { rest_ns }
    }

    /// The process of a task that is not the current one, in the namespace of the current one. `None` where it is
    /// not visible there.
    #[inline(always)]
    pub fn tgid_seen_by(self, watcher: Self) -> Option<u32> {
        if maps::pid_namespace_inode() == 0 {
            return Some(self.host_tgid());
        }
        let level = watcher.thread_pid()?.level()?;
        let leader = Self(self.field(maps::task_group_leader())?);
        leader.thread_pid()?.number(level)
    }

    #[inline(always)]
    fn thread_pid(self) -> Option<Pid> {
        self.field(maps::task_thread_pid()).map(Pid)
    }
}

/// A `struct pid`: one number a pid namespace, from the host's (level 0) down to the task's own.
#[derive(Clone, Copy)]
struct Pid(u64);

impl Pid {
    #[inline(always)]
    fn level(self) -> Option<u32> {
        read(self.0 + u64::from(maps::pid_level()))
    }

    #[inline(always)]
    fn number(self, level: u32) -> Option<u32> {
        if level > self.level()? {
            return None;
        }
        read(self.0 + u64::from(maps::pid_numbers()) + u64::from(level) * u64::from(maps::upid_bytes()))
    }
}

/// Whether the CPU runs its idle task, which is thread 0 of the host's pid namespace on every CPU.
#[inline(always)]
pub fn is_idle() -> bool {
    bpf_get_current_pid_tgid() as u32 == 0
}

/// The ids of the current task; `None` where it lives outside hostscope's pid namespace.
#[inline(always)]
pub fn current_ids() -> Option<Ids> {
    if maps::pid_namespace_inode() == 0 {
        let both = bpf_get_current_pid_tgid();
        return Some(Ids { tgid: (both >> 32) as u32, tid: both as u32 });
    }
    let mut seen = aya_ebpf::bindings::bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the buffer is as large as said. Since 5.7; refuses tasks of other namespaces, nested ones included.
    let result = unsafe {
        bpf_get_ns_current_pid_tgid(
            maps::pid_namespace_device(),
            maps::pid_namespace_inode(),
            &mut seen,
            size_of::<aya_ebpf::bindings::bpf_pidns_info>() as u32,
        )
    };
    if result == 0 { Some(Ids { tgid: seen.tgid, tid: seen.pid }) } else { None }
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
