//! CPU samples: the interrupted stack, counted by stack and thread.
//!
//! Two programs: `sample_cpu` takes what the kernel side of the stack needs, `walk_user` walks the user's, a few frames a
//! call, and calls itself (by a tail call) until the stack ends. So each is small for the verifier, on kernels without
//! `bpf_loop` (before 5.17) too.
//!
//! Cost of a sample on a 2-core virtual machine (kernel 6.18): see `cargo xtask bench`, line "in-kernel".

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_perf_event_data, pt_regs};
use aya_ebpf::helpers::{bpf_get_stack, bpf_ktime_get_ns};
use aya_ebpf::macros::perf_event;
use aya_ebpf::programs::PerfEventContext;
use hostscope_wire::event::{EventHeader, EventKind};
use hostscope_wire::limits::{MAX_FRAMES, MAX_KERNEL_FRAMES, MAX_USER_FRAMES, filter as mode};
use hostscope_wire::loss::Loss;
use hostscope_wire::stack::{CountKey, StackEnd, StackRecord};

use crate::maps::Scratch;
use crate::task::{Task, current_ids, is_idle};
use crate::unwind::{Context, step};
use crate::user::CurrentProcess;
use crate::{emit, filter, maps};

/// Frames that one call of `walk_user` walks: with [`MAX_USER_FRAMES`] this makes 32 tail calls, as many as every kernel allows
/// (`MAX_TAIL_CALL_CNT`), and a program that the verifier follows in milliseconds.
const FRAMES_PER_CALL: u32 = 4;

const _: () = assert!(MAX_USER_FRAMES as u32 <= FRAMES_PER_CALL * 32);

/// One sample: whose, its kernel stack, and where its user stack begins.
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
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: an element of this CPU, in use by this sample only (see `maps::SCRATCH`).
    let scratch = unsafe { &mut *scratch };
    let task = Task::current();
    let registers: *const pt_regs = context.as_ptr().cast::<bpf_perf_event_data>().cast();
    // SAFETY: the context of a perf event program begins with the interrupted registers.
    let in_user = unsafe { (*registers).cs } & 3 == 3;
    let start_time_ns = task.process_start_time_ns();
    // SAFETY: the helper has no precondition.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let header = &mut scratch.record.header;
    header.header = EventHeader { time_ns, kind: EventKind::Stack as u32, reserved: 0 };
    header.start_time_ns = start_time_ns;
    header.tgid = ids.tgid;
    header.user_frames = 0;
    scratch.tid = ids.tid;
    let mut id = mix(mix(start_time_ns, u64::from(ids.tgid)), task.exec_id());

    let kernel_frames = if in_user { 0 } else { kernel_stack(&context, &mut scratch.record) };
    let kernel_frames = through_memory(&mut scratch.record.header.kernel_frames, kernel_frames);
    for index in 0..MAX_KERNEL_FRAMES {
        if index as u32 >= kernel_frames {
            break;
        }
        id = mix(id, scratch.record.frames[index]);
    }
    scratch.record.header.stack_id = id;

    let has_user = if in_user {
        // SAFETY: as above.
        unsafe { copy_context(&mut scratch.walk.context, &*registers) };
        true
    } else {
        task.has_memory() && saved_user_registers(task, &mut scratch.walk.context)
    };
    if has_user {
        // A process that user space has not met yet has no mappings.
        let process = maps::UNWIND_PROCESSES.get_ptr(ids.tgid);
        // SAFETY: an element that user space replaces whole, and does not give to another process within an interval.
        let process = process.map_or_else(Default::default, |process| unsafe { *process });
        scratch.walk.begin(process);
        // SAFETY: the map holds programs of this type only.
        unsafe { maps::WALK_USER.tail_call(&context, 0) };
        // Not there: user space has not put the program in.
        scratch.walk.end = StackEnd::NoTable as u32;
    } else {
        scratch.walk.end = StackEnd::NoUserStack as u32;
    }
    finish(scratch);
    0
}

/// The next frames of the user's stack; after the last one the sample is counted.
#[perf_event]
pub fn walk_user(context: PerfEventContext) -> i32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `sample_cpu`, which has handed it over.
    let scratch = unsafe { &mut *scratch };
    let mut goes_on = true;
    for _ in 0..FRAMES_PER_CALL {
        let Scratch { record, walk, .. } = &mut *scratch;
        goes_on = step(&CurrentProcess, walk, |frame, pc| {
            // Read anew each time, and masked, so that the verifier sees that every frame has its room.
            let kernel_frames = reread(&record.header.kernel_frames) & MAX_KERNEL_FRAMES as u32;
            let index = u64::from(kernel_frames) + u64::from(frame);
            if index < MAX_FRAMES as u64 {
                record.frames[index as usize] = pc;
            }
            record.header.stack_id = mix(record.header.stack_id, pc);
        });
        if !goes_on {
            break;
        }
    }
    if goes_on {
        // SAFETY: the map holds programs of this type only.
        unsafe { maps::WALK_USER.tail_call(&context, 0) };
        scratch.walk.end = StackEnd::Truncated as u32;
    }
    let frames = scratch.walk.frames;
    through_memory(&mut scratch.record.header.user_frames, frames);
    finish(scratch);
    0
}

/// Sends the stack where user space does not have it yet, and counts the sample.
#[inline(always)]
fn finish(scratch: &mut Scratch) {
    let end = scratch.walk.end;
    let record = &mut scratch.record;
    record.header.end = end;
    let stack_id = mix(record.header.stack_id, u64::from(end));
    record.header.stack_id = stack_id;
    if maps::SENT.get_ptr(stack_id).is_none() {
        if !emit::stack(record) {
            return;
        }
        // A full table only means that this stack is sent again next time.
        let _ = maps::SENT.insert(stack_id, 1, 0);
    }
    count(stack_id, scratch.tid);
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

/// The user registers of a task that is inside the kernel, saved at its entry; false where there are none.
#[inline(always)]
fn saved_user_registers(task: Task, to: &mut Context) -> bool {
    let Some(saved) = task.saved_registers() else { return false };
    // A task that never was in user mode (a kernel thread that borrowed memory) has something else there.
    if saved.cs & 3 != 3 {
        return false;
    }
    copy_context(to, &saved);
    true
}

/// In the order of [`Context`].
#[inline(always)]
fn copy_context(to: &mut Context, from: &pt_regs) {
    to[0] = from.r8;
    to[1] = from.r9;
    to[2] = from.r10;
    to[3] = from.r11;
    to[4] = from.r12;
    to[5] = from.r13;
    to[6] = from.r14;
    to[7] = from.r15;
    to[8] = from.rdi;
    to[9] = from.rsi;
    to[10] = from.rbp;
    to[11] = from.rbx;
    to[12] = from.rdx;
    to[13] = from.rax;
    to[14] = from.rcx;
    to[15] = from.rsp;
    to[16] = from.rip;
}

const _: () = assert!((MAX_KERNEL_FRAMES + 1).is_power_of_two(), "it is used as a mask");

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
