//! Stretches of time that begin and end in one thread, which may sleep and change its CPU in between.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use hostscope_wire::loss::Loss;

use crate::{emit, maps, now_ns};

/// What a thread is in. Different ones nest: a sync may have to free memory.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Span {
    /// A file's sync.
    FileSync = 0,
    /// An allocation that frees memory first.
    Reclaim = 1,
    /// The same for the limit of a cgroup.
    CgroupReclaim = 2,
}

/// Notes that it begins now.
#[inline(always)]
pub fn begin(span: Span) {
    if maps::SPANS.insert(key(span), now_ns(), 0).is_err() {
        emit::lost(Loss::SpansFull);
    }
}

/// How long it lasted, in nanoseconds; `None` where its begin was not seen.
#[inline(always)]
pub fn end(span: Span) -> Option<u64> {
    let key = key(span);
    // SAFETY: an element of this thread alone.
    let since_ns = unsafe { *maps::SPANS.get_ptr(key)? };
    // Not there any more is what is wanted.
    let _ = maps::SPANS.remove(key);
    Some(now_ns().wrapping_sub(since_ns))
}

#[inline(always)]
fn key(span: Span) -> u64 {
    u64::from(bpf_get_current_pid_tgid() as u32) | (span as u64) << 32
}
