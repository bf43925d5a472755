//! A `task_struct` whose type the verifier knows: its members are plain loads (about 1 ns), not helper calls (about 10 ns).
//!
//! Only tracepoints with BTF types give such pointers. A load of a page that has gone gives 0 and no fault.

use aya_ebpf::bindings::{pt_regs, task_struct};
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::RowKey;

use crate::maps;

/// A task.
#[derive(Clone, Copy)]
pub struct TypedTask(*const u8);

/// A process as rows name it.
#[derive(Clone, Copy)]
pub struct Process {
    /// When it started.
    pub start_time_ns: u64,
    /// Its thread group in the host's pid namespace.
    pub tgid: u32,
}

/// `PF_KTHREAD` (include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Numbers of system calls that rows have room for.
const MAX_CALL: u64 = 0xfffe;

/// A member of a struct of the kernel whose type the verifier knows, at this offset in bytes.
#[inline(always)]
pub fn load<T: Copy>(pointer: *const u8, offset: u32) -> T {
    // SAFETY: a typed pointer of the kernel plus the offset of a member: the verifier checks both, and what is gone reads as 0.
    unsafe { core::ptr::read_volatile(pointer.add(offset as usize).cast()) }
}

impl TypedTask {
    /// The argument of this index of a tracepoint; it must be a task.
    #[inline(always)]
    pub fn from_argument(context: &BtfTracePointContext, index: usize) -> Self {
        Self(context.arg(index))
    }

    /// The task that runs on this CPU.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no precondition.
        Self::from_pointer(unsafe { bpf_get_current_task_btf() } as u64)
    }

    /// What a helper gave.
    #[inline(always)]
    pub fn from_pointer(pointer: u64) -> Self {
        Self(pointer as *const u8)
    }

    /// Where it is: with its id it tells it from all others.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        load(self.0, offset)
    }

    /// The thread's id in the host's pid namespace.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.load(maps::task_pid())
    }

    /// Its process in the host's pid namespace.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.load(maps::task_tgid())
    }

    /// What it does: 0 where it could run.
    #[inline(always)]
    pub fn state(self) -> u32 {
        self.load(maps::task_state())
    }

    /// All its waits on run queues so far.
    #[inline(always)]
    pub fn run_delay_ns(self) -> u64 {
        if maps::has_run_delay() == 0 { 0 } else { self.load(maps::task_run_delay()) }
    }

    /// Its CPU time, as of its last switch or tick.
    #[inline(always)]
    pub fn runtime_ns(self) -> u64 {
        self.load(maps::task_runtime())
    }

    /// Until when its CPU time is accounted for, by the scheduler's clock: for one that is just given a CPU, now.
    #[inline(always)]
    pub fn exec_start_ns(self) -> u64 {
        self.load(maps::task_exec_start())
    }

    /// How often it was given a CPU.
    #[inline(always)]
    pub fn arrivals(self) -> u64 {
        self.load(maps::task_arrivals())
    }

    /// Whether it waits for a block device.
    #[inline(always)]
    pub fn is_in_iowait(self) -> bool {
        let word: u32 = self.load(maps::task_iowait_word());
        word & maps::task_iowait_mask() != 0
    }

    /// Its process; the kernel's own threads are one.
    #[inline(always)]
    pub fn process(self) -> Process {
        let flags: u32 = self.load(maps::task_flags());
        if flags & KERNEL_THREAD != 0 {
            return Process { start_time_ns: 0, tgid: 0 };
        }
        Process { start_time_ns: self.start_time_ns(), tgid: self.tgid() }
    }

    /// When its process started.
    #[inline(always)]
    pub fn start_time_ns(self) -> u64 {
        Self(self.load(maps::task_group_leader())).load(maps::task_start_boottime())
    }

    /// The number of the system call that it is in, plus 1; 0 outside of any.
    #[inline(always)]
    pub fn system_call(self) -> u32 {
        let flags: u32 = self.load(maps::task_flags());
        if flags & KERNEL_THREAD != 0 {
            return 0;
        }
        if maps::has_task_pt_regs() != 0 {
            // SAFETY: a typed task; the helper computes an address on its kernel stack.
            let registers = unsafe { bpf_task_pt_regs(self.0.cast_mut().cast::<task_struct>()) };
            return Self::registers_call(registers as u64);
        }
        let registers = crate::task::Task::from_argument(self.0 as u64).saved_registers();
        registers.map_or(0, |registers| call_plus_1(registers.orig_rax, registers.rip, registers.cs))
    }

    /// Likewise, from typed registers.
    #[inline(always)]
    pub fn registers_call(registers: u64) -> u32 {
        let registers = Self(registers as *const u8);
        call_plus_1(
            registers.load(core::mem::offset_of!(pt_regs, orig_rax) as u32),
            registers.load(core::mem::offset_of!(pt_regs, rip) as u32),
            registers.load(core::mem::offset_of!(pt_regs, cs) as u32),
        )
    }
}

/// Interrupts and exceptions leave −1 in `orig_ax` (arch/x86/entry/entry_64.S). The kernel's workers for a process (io_uring, vhost)
/// have a copy of their maker's registers, with 0 as `ip` (`copy_thread`, since 5.12). Calls of 32-bit code (`__USER32_CS`) have other
/// numbers; those of 64-bit code by `int 0x80` have, too, and are taken for others.
#[inline(always)]
fn call_plus_1(orig_ax: u64, ip: u64, cs: u64) -> u32 {
    const USER32_CS: u64 = 0x23;
    if orig_ax < MAX_CALL && ip != 0 && cs & 0xffff != USER32_CS { orig_ax as u32 + 1 } else { 0 }
}

impl Process {
    /// A key of this process, whose family the caller sets.
    #[inline(always)]
    pub fn key(self) -> RowKey {
        RowKey { start_time_ns: self.start_time_ns, subject: self.tgid, family: 0, label: 0, detail: 0 }
    }
}
