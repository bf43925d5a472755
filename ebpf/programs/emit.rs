//! The only writer of the ring buffer and of counters: counts whatever it cannot hand over.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use hostscope_wire::limits::MAX_FRAMES;
use hostscope_wire::loss::Loss;
use hostscope_wire::process::ProcessRecord;
use hostscope_wire::stack::{StackHeader, StackRecord};

use crate::maps;

/// Counts one loss.
#[inline(always)]
pub fn lost(reason: Loss) {
    if let Some(count) = maps::LOSSES.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU array's element is this CPU's own; an interrupt in between may cost one count of a loss.
        unsafe { *count += 1 };
    }
}

/// Sends a stack, cut after its last frame. False where the ring buffer is full; the loss is then counted.
#[inline(always)]
pub fn stack(record: &StackRecord) -> bool {
    // In 64 bits, so that the value compared is the register that the size comes from: the verifier wants to see the
    // bound, though both parts are bounded where they are written.
    let frames = u64::from(record.header.kernel_frames) + u64::from(record.header.user_frames);
    if frames > MAX_FRAMES as u64 {
        return false;
    }
    let bytes = size_of::<StackHeader>() as u64 + frames * 8;
    let sent = send(core::ptr::from_ref(record).cast(), bytes);
    if !sent {
        lost(Loss::RingFullSample);
    }
    sent
}

/// Sends a process event, or counts its loss.
#[inline(always)]
pub fn process(record: &ProcessRecord) {
    if !send(core::ptr::from_ref(record).cast(), size_of::<ProcessRecord>() as u64) {
        lost(Loss::RingFullProcess);
    }
}

/// User space drains at an interval of its own, so a record wakes nobody until enough of them wait: a wake-up a record
/// would cost a context switch (microseconds) where the record itself costs about 50 ns.
#[inline(always)]
fn send(record: *const u8, bytes: u64) -> bool {
    let waiting = maps::EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let wake = if waiting >= maps::wake_bytes() { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    // SAFETY: the record is readable for `bytes`; the verifier checks the same.
    let result = unsafe {
        aya_ebpf::helpers::bpf_ringbuf_output(
            core::ptr::addr_of!(maps::EVENTS).cast_mut().cast(),
            record.cast_mut().cast(),
            bytes,
            u64::from(wake),
        )
    };
    result == 0
}
