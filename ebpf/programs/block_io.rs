//! Block devices: how long requests wait in the queue and at the device, what they move, and what fails.
//!
//! The request itself says when it was made (`start_time_ns`). When it was given to the device it says only where something asks for
//! that (`io_start_time_ns` is set under QUEUE_FLAG_STATS: writeback throttling, kyber), so that is noted here, by the request's
//! address: requests are made once for all with their queue, and one that is issued again has its entry replaced.
//!
//! What has no requests is not seen, but what lies below it is: device mapper, md, zram.
//!
//! Cost on a 2-core virtual machine (kernel 6.18): 860 ns a request, both hooks, by the kernel's statistics of programs; caches are
//! cold there.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::loss::Loss;
use hostscope_wire::row::{Family, Operation, RowKey};

use crate::typed_task::load;
use crate::{emit, maps, now_ns, rows};

/// `block_rq_issue(struct request *rq)`; before 5.11 a queue stood before it (commit a54895fa057c).
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_issue(context: BtfTracePointContext) -> i32 {
    let request: u64 = context.arg(0);
    if maps::ISSUED_REQUESTS.insert(request, now_ns(), 0).is_err() {
        emit::lost(Loss::RequestsFull);
    }
    0
}

/// `block_rq_complete(struct request *rq, blk_status_t error, unsigned int nr_bytes)`. The kernel also tells so of requests that
/// never reached the device (the frame around a flush): they were not issued.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_complete(context: BtfTracePointContext) -> i32 {
    let request = Request(context.arg(0));
    let (error, bytes): (u32, u32) = (context.arg(1), context.arg(2));
    let Some(issued_ns) = maps::ISSUED_REQUESTS.get_ptr(request.0 as u64) else { return 0 };
    // SAFETY: an element that only this request's next issue changes.
    let issued_ns = unsafe { *issued_ns };
    let key = request.key();
    if bytes != 0 {
        rows::count(&RowKey { family: Family::BlockBytes as u8, ..key }, u64::from(bytes));
    }
    if error != 0 {
        rows::count(&RowKey { family: Family::BlockErrors as u8, ..key }, 1);
    }
    if bytes < request.rest_bytes() {
        return 0; // completed in part
    }
    // Not there any more is what is wanted.
    let _ = maps::ISSUED_REQUESTS.remove(request.0 as u64);
    rows::observe(&RowKey { family: Family::BlockIo as u8, ..key }, now_ns().wrapping_sub(issued_ns));
    let made_ns = request.made_ns();
    if made_ns != 0 {
        rows::observe(&RowKey { family: Family::BlockQueue as u8, ..key }, issued_ns.saturating_sub(made_ns));
    }
    0
}

/// A `struct request` whose type the verifier knows.
#[derive(Clone, Copy)]
struct Request(*const u8);

impl Request {
    /// Bytes that are not completed yet; the tracepoint stands before they are taken off.
    #[inline(always)]
    fn rest_bytes(self) -> u32 {
        load(self.0, maps::request_bytes())
    }

    /// When it was made, by `CLOCK_MONOTONIC`; 0 where the device keeps no statistics (`/sys/block/*/queue/iostats`).
    #[inline(always)]
    fn made_ns(self) -> u64 {
        load(self.0, maps::request_start_time())
    }

    /// The disk, as the kernel numbers it.
    #[inline(always)]
    fn device(self) -> u32 {
        let disk: *const u8 = if maps::has_queue_disk() != 0 {
            load(load(self.0, maps::request_queue()), maps::queue_disk())
        } else {
            load(self.0, maps::request_disk())
        };
        load::<u32>(disk, maps::disk_major()) << 20 | load::<u32>(disk, maps::disk_first_minor())
    }

    /// `enum req_op` (include/linux/blk_types.h).
    #[inline(always)]
    fn operation(self) -> Operation {
        match load::<u32>(self.0, maps::request_flags()) & 0xff {
            0 => Operation::Read,
            1 => Operation::Write,
            2 => Operation::Flush,
            3 => Operation::Discard,
            _ => Operation::Other,
        }
    }

    /// A key of its device and operation, whose family the caller sets.
    #[inline(always)]
    fn key(self) -> RowKey {
        RowKey {
            start_time_ns: 0,
            subject: self.device(),
            family: 0,
            label: self.operation() as u8,
            detail: 0,
        }
    }
}
