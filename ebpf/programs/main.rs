//! hostscope's eBPF programs: one module a probe family, and what they share.

#![no_std]
#![no_main]
// `rows::add`; the build of core for this target needs RUSTC_BOOTSTRAP anyway.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod block_io;
mod cpu;
mod emit;
mod file_sync;
mod filter;
mod maps;
mod memory;
mod messages;
mod process;
mod rows;
mod sched;
mod sock;
mod softirq;
mod spans;
mod syscall;
mod task;
mod tcp;
mod threads;
mod typed_task;
mod unwind;
mod user;

/// The helpers that read kernel and user memory are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `CLOCK_MONOTONIC`.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() }
}

/// The verifier refuses what could panic, so this is never reached.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
