//! What is known of threads between two switches: a slot by the lower bits of the id, a hash for those whose slot is another's.
//!
//! An entry is a thread's where its id and the address of its task are both its own: ids are given again (a thread that calls exec
//! even takes its leader's, `de_thread` in fs/exec.c), and two CPUs that fill one free slot at the same instant leave a mixture of
//! both behind. Whoever finds no entry of its own is met anew.

use hostscope_wire::limits::THREAD_SLOTS_ENTRIES;
use hostscope_wire::loss::Loss;

use crate::emit;
use crate::maps::{THREAD_SLOTS, THREADS, Thread};

/// The entry of the thread `tid`, whose task is at `task`, if it was met.
#[inline(always)]
pub fn get(tid: u32, task: u64) -> Option<&'static mut Thread> {
    find(tid).filter(|thread| thread.task == task)
}

/// The entry under this id, which may be of a thread that had the id before.
#[inline(always)]
pub fn find(tid: u32) -> Option<&'static mut Thread> {
    let slot = slot(tid)?;
    // SAFETY: an aligned word of a map.
    let thread = if unsafe { (*slot).tid } == tid { slot } else { THREADS.get_ptr_mut(tid)? };
    // SAFETY: elements stay where they are, and a thread's own is written by the CPU that it leaves or arrives at.
    Some(unsafe { &mut *thread })
}

/// Notes a thread that was not met before.
#[inline(always)]
pub fn insert(thread: Thread) {
    let Some(slot) = slot(thread.tid) else { return };
    // SAFETY: as in `get`.
    let of = unsafe { (*slot).tid };
    if of == 0 || of == thread.tid {
        // SAFETY: the slot is free, or what it has is of no other thread that lives.
        unsafe { *slot = thread };
    } else if THREADS.insert(thread.tid, thread, 0).is_err() {
        emit::lost(Loss::ThreadsFull);
    }
}

/// Forgets a thread.
#[inline(always)]
pub fn remove(tid: u32) {
    let Some(slot) = slot(tid) else { return };
    // SAFETY: as in `get`.
    unsafe {
        if (*slot).tid == tid {
            (*slot).tid = 0;
            return;
        }
    }
    // Not there is what is wanted.
    let _ = THREADS.remove(tid);
}

#[inline(always)]
fn slot(tid: u32) -> Option<*mut Thread> {
    THREAD_SLOTS.get_ptr_mut(tid & (THREAD_SLOTS_ENTRIES - 1))
}
