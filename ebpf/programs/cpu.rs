//! CPU samples: the interrupted stack, counted by stack and thread.
//!
//! Cost of a sample on a 2-core virtual machine (kernel 6.18): see `cargo xtask bench`, line "in-kernel".

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_perf_event_data, pt_regs};
use aya_ebpf::helpers::{
    bpf_get_stack, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user, bpf_task_pt_regs,
};
use aya_ebpf::macros::perf_event;
use aya_ebpf::programs::PerfEventContext;
use hostscope_wire::event::{EventHeader, EventKind};
use hostscope_wire::limits::{MAX_FRAMES, MAX_KERNEL_FRAMES, filter as mode};
use hostscope_wire::loss::Loss;
use hostscope_wire::stack::{CountKey, StackEnd, StackRecord};

use crate::task::{Ids, Task, current_ids, is_idle};
use crate::unwind::{Memory, Registers, Walked, walk};
use crate::{emit, filter, maps};

/// One sample.
#[perf_event]
pub fn sample_cpu(context: PerfEventContext) -> i32 {
    if maps::include_idle() == 0 && is_idle() {
        return 0;
    }
    let Some(ids) = current_ids() else {
        // Targets were named by ids of this namespace, so nobody outside is one.
        if maps::filter_mode() != mode::PROCESSES {
            emit::lost(Loss::OutsidePidNamespace);
        }
        return 0;
    };
    if !filter::watches_current(ids.tgid) {
        return 0;
    }
    let Some(record) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: an element of this CPU, in use by this program only (see `maps::SCRATCH`).
    let record = unsafe { &mut *record };
    let stack_id = take_stack(&context, ids, record);
    if maps::SENT.get_ptr(stack_id).is_none() {
        if !emit::stack(record) {
            #[cfg(feature = "log")]
            aya_log_ebpf::warn!(&context, "no room for a stack of process {}", ids.tgid);
            return 0;
        }
        // A full table only means that this stack is sent again next time.
        let _ = maps::SENT.insert(stack_id, 1, 0);
    }
    count(stack_id, ids.tid);
    0
}

/// Fills the record with the current stack and returns its id.
#[inline(always)]
fn take_stack(context: &PerfEventContext, ids: Ids, record: &mut StackRecord) -> u64 {
    let task = Task::current();
    let registers: *const pt_regs = context.as_ptr().cast::<bpf_perf_event_data>().cast();
    // SAFETY: the context of a perf event program begins with the interrupted registers.
    let in_user = unsafe { (*registers).cs } & 3 == 3;
    let start_time_ns = task.process_start_time_ns();
    let mut id = mix(mix(start_time_ns, u64::from(ids.tgid)), task.exec_id());

    let kernel_frames = if in_user { 0 } else { kernel_stack(context, record) };
    let kernel_frames = through_memory(&mut record.header.kernel_frames, kernel_frames);
    for index in 0..MAX_KERNEL_FRAMES {
        if index as u32 >= kernel_frames {
            break;
        }
        id = mix(id, record.frames[index]);
    }
    // Read anew: the loop above has left the verifier with one range of values for each of its exits.
    // Masked, so that it also sees that the user's frames, too, have their room.
    let kernel_frames = reread(&record.header.kernel_frames) & MAX_KERNEL_FRAMES as u32;

    let user = if in_user {
        // SAFETY: as above.
        Some(unsafe { Registers { pc: (*registers).rip, sp: (*registers).rsp, fp: (*registers).rbp } })
    } else if task.has_memory() {
        saved_user_registers()
    } else {
        None
    };
    let walked = match user {
        None => Walked { frames: 0, end: StackEnd::NoUserStack },
        Some(user) => walk(&UserMemory, user, |frame, pc| {
            let index = u64::from(kernel_frames) + u64::from(frame);
            if index < MAX_FRAMES as u64 {
                record.frames[index as usize] = pc;
            }
            id = mix(id, pc);
        }),
    };
    through_memory(&mut record.header.user_frames, walked.frames);
    let end = through_memory(&mut record.header.end, walked.end as u32);
    id = mix(id, u64::from(end));
    // SAFETY: the helper has no precondition.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    record.header.header = EventHeader { time_ns, kind: EventKind::Stack as u32, reserved: 0 };
    record.header.stack_id = id;
    record.header.start_time_ns = start_time_ns;
    record.header.tgid = ids.tgid;
    id
}

/// Stores `value` and reads it back. The verifier follows each exit of a loop on its own as long as a register holds
/// another constant for each; from memory it knows nothing of the value, the states become one, and 128 ways through
/// one loop are not multiplied with those through the next (a million instructions, where 20 thousand do).
#[inline(always)]
fn through_memory(place: &mut u32, value: u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::write_volatile(place, value) };
    reread(place)
}

/// Reads what memory holds now.
#[inline(always)]
fn reread(place: &u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(place) }
}

/// The kernel's frames, written to the front of the record; how many.
#[inline(always)]
fn kernel_stack(context: &PerfEventContext, record: &mut StackRecord) -> u32 {
    // SAFETY: the buffer has room for what is asked; the helper writes no more.
    let bytes = unsafe {
        bpf_get_stack(context.as_ptr(), record.frames.as_mut_ptr().cast(), (MAX_KERNEL_FRAMES * 8) as u32, 0)
    };
    if bytes < 0 || bytes as usize > MAX_KERNEL_FRAMES * 8 {
        emit::lost(Loss::KernelStackUnreadable);
        return 0;
    }
    bytes as u32 / 8
}

/// The user registers of a task that is inside the kernel, saved at its entry.
///
/// `bpf_task_pt_regs` is there since 5.15 (commit dd6e10fbd9fb).
#[inline(always)]
fn saved_user_registers() -> Option<Registers> {
    // SAFETY: the current task; the helper computes an address on its kernel stack.
    let saved = unsafe { bpf_task_pt_regs(Task::current_pointer()) } as *const pt_regs;
    // SAFETY: the helper checks the address and fails instead of faulting.
    let saved: pt_regs = unsafe { bpf_probe_read_kernel(saved) }.ok()?;
    // A task that never was in user mode (a kernel thread that borrowed memory) has something else there.
    if saved.cs & 3 != 3 {
        return None;
    }
    Some(Registers { pc: saved.rip, sp: saved.rsp, fp: saved.rbp })
}

const _: () = assert!((MAX_KERNEL_FRAMES + 1).is_power_of_two(), "it is used as a mask");

struct UserMemory;

impl Memory for UserMemory {
    #[inline(always)]
    fn words(&self, address: u64) -> Option<[u64; 2]> {
        // SAFETY: the helper checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_user(address as *const [u64; 2]) }.ok()
    }
}

/// One sample more for this stack and thread.
#[inline(always)]
fn count(stack_id: u64, tid: u32) {
    let comm = aya_ebpf::helpers::bpf_get_current_comm().unwrap_or_default();
    let key = CountKey { stack_id, tid, reserved: 0, comm };
    let counts = maps::current_counts();
    if let Some(count) = counts.get_ptr_mut(key) {
        // SAFETY: user space empties this map only when no program writes to it any more. Not atomic: the key names a
        // thread, which runs on one CPU at a time (the idle tasks, all of tid 0, have a name each).
        unsafe { *count += 1 };
    } else if counts.insert(key, 1, 0).is_err() {
        emit::lost(Loss::CountsFull);
    }
}

/// One step of the hash over a stack: multiply and fold, as in Fibonacci hashing and splitmix64; about 1 ns.
#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}
