//! What is known of threads between two switches: a slot by the lower bits of the id, a hash for those whose slot is another's.
//!
//! Two threads that take one free slot at the same instant on two CPUs: the later one has it, the other is met anew.

use hostscope_wire::limits::THREAD_SLOTS_ENTRIES;
use hostscope_wire::loss::Loss;

use crate::emit;
use crate::maps::{THREAD_SLOTS, THREADS, Thread};

/// The entry of the thread `tid`, if it was met.
#[inline(always)]
pub fn get(tid: u32) -> Option<&'static mut Thread> {
    let slot = slot(tid)?;
    // SAFETY: an aligned word of a map.
    let thread = if unsafe { (*slot).tid } == tid { slot } else { THREADS.get_ptr_mut(tid)? };
    // SAFETY: elements stay where they are, and a thread's own is written by the CPU that it leaves or arrives at.
    Some(unsafe { &mut *thread })
}

/// Notes a thread that was not met before.
#[inline(always)]
pub fn insert(thread: Thread) {
    if let Some(slot) = slot(thread.tid)
        // SAFETY: as in `get`.
        && unsafe { (*slot).tid } == 0
    {
        // SAFETY: the slot is free.
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
