//! Soft interrupts: how long their handlers run. They do not interrupt each other, so that each CPU has one start; interrupts that come
//! meanwhile count as theirs.
//!
//! Cost on a 2-core virtual machine (kernel 6.18): 260 ns a soft interrupt, both hooks, by the kernel's statistics of programs, which add
//! some 60 ns of their own. 100,000 a second, as loopback traffic of 50,000 round trips makes them, are 1.3% of two CPUs; 5,000, as
//! a host at ordinary work has, 0.07%. What cannot afford it leaves the two probes out (`disabled_probes`).

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::row::{Family, RowKey};

use crate::{maps, now_ns, rows};

/// `softirq_entry(unsigned int vec_nr)`.
#[btf_tracepoint(function = "softirq_entry")]
pub fn softirq_entry(_context: BtfTracePointContext) -> i32 {
    if let Some(since_ns) = maps::SOFTIRQ_SINCE.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe { *since_ns = now_ns() };
    }
    0
}

/// `softirq_exit(unsigned int vec_nr)`.
#[btf_tracepoint(function = "softirq_exit")]
pub fn softirq_exit(context: BtfTracePointContext) -> i32 {
    let Some(since_ns) = maps::SOFTIRQ_SINCE.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element.
    let since_ns = core::mem::take(unsafe { &mut *since_ns });
    if since_ns != 0 {
        let label: u8 = context.arg::<u32>(0) as u8;
        let key = RowKey { family: Family::SoftIrq as u8, label, ..RowKey::default() };
        rows::observe(&key, now_ns().wrapping_sub(since_ns));
    }
    0
}
