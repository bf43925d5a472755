//! Want of memory: what the page cache had, allocations that had to free memory first, and processes killed for it.
//!
//! Page cache. A miss is a page that was added: by a read or a fault that did not find it, by readahead, or by a write to where the file
//! had none in memory. A hit is a page that a read was given, or a fault that the cache had a page for (since 6.13, commit
//! a78282e2c94f; older kernels count misses only). A page that was just read in for a reader is both, so that hits are all accesses and
//! misses what had to be brought in for them or ahead of them.
//!
//! Cost on a 2-core virtual machine (kernel 6.18): 75 to 110 ns a read, 110 to 150 ns a fault of a file's page, 170 ns a page or folio
//! added, by the kernel's statistics of programs, which add some 30 ns of their own.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use hostscope_wire::limits::PAGE_READS_ENTRIES;
use hostscope_wire::row::{CacheResult, Family, RowKey};

use crate::sock::UNKNOWN;
use crate::spans::{self, Span};
use crate::typed_task::{Process, TypedTask};
use crate::{maps, rows, threads};

/// A page cache entry has at most 2^9 pages on x86-64 (`MAX_PAGECACHE_ORDER`, include/linux/pagemap.h).
const MAX_ORDER: u8 = 9;

/// Bytes of a page by their logarithm (`PAGE_SHIFT` of x86-64).
const PAGE_SHIFT: u32 = 12;

/// A thread's last read, as far as it was told.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PageRead {
    mapping: u64,
    first: u64,
    end: u64,
    tid: u64,
}

/// `mark_victim(struct task_struct *task, uid_t uid)`, run by whoever wants memory; before 6.9 (commit 72ba14deb40a) `mark_victim(int pid)`
/// with the id of a thread.
#[btf_tracepoint(function = "mark_victim")]
pub fn oom_kill(context: BtfTracePointContext) -> i32 {
    let victim = if maps::victim_arguments() > 1 {
        TypedTask::from_argument(&context, 0).process()
    } else {
        threads::find(context.arg(0))
            .map_or(UNKNOWN, |thread| Process { start_time_ns: thread.start_time_ns, tgid: thread.tgid })
    };
    rows::count(&RowKey { family: Family::OomKills as u8, ..victim.key() }, 1);
    0
}

/// `mm_vmscan_direct_reclaim_begin(int order, gfp_t gfp_flags)`.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
pub fn reclaim_begin(_context: BtfTracePointContext) -> i32 {
    spans::begin(Span::Reclaim);
    0
}

/// `mm_vmscan_direct_reclaim_end(unsigned long nr_reclaimed)`.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
pub fn reclaim_end(_context: BtfTracePointContext) -> i32 {
    reclaimed(Span::Reclaim)
}

/// `mm_vmscan_memcg_reclaim_begin(int order, gfp_t gfp_flags)`: likewise at the limit of a cgroup.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
pub fn cgroup_reclaim_begin(_context: BtfTracePointContext) -> i32 {
    spans::begin(Span::CgroupReclaim);
    0
}

/// `mm_vmscan_memcg_reclaim_end(unsigned long nr_reclaimed)`.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
pub fn cgroup_reclaim_end(_context: BtfTracePointContext) -> i32 {
    reclaimed(Span::CgroupReclaim)
}

#[inline(always)]
fn reclaimed(span: Span) -> i32 {
    if let Some(duration_ns) = spans::end(span) {
        let key = RowKey { family: Family::DirectReclaim as u8, ..TypedTask::current().process().key() };
        rows::observe(&key, duration_ns);
    }
    0
}

/// `mm_filemap_add_to_page_cache(struct folio *folio)`; before 5.16 a page.
#[btf_tracepoint(function = "mm_filemap_add_to_page_cache")]
pub fn page_cache_add(context: BtfTracePointContext) -> i32 {
    let mut pages = 1;
    if maps::folio_head_mask() != 0 {
        let folio: *const u8 = context.arg(0);
        // SAFETY: a typed pointer of the kernel plus the offsets of members: the verifier checks both.
        let (flags, order) = unsafe {
            let flags: u64 = core::ptr::read_volatile(folio.add(maps::folio_flags() as usize).cast());
            let order: u8 = core::ptr::read_volatile(folio.add(maps::folio_order() as usize));
            (flags, order)
        };
        // The order stands in the second page, which a folio of one page does not have.
        if flags & u64::from(maps::folio_head_mask()) != 0 && order <= MAX_ORDER {
            pages = 1 << order;
        }
    }
    accessed(CacheResult::Miss, pages)
}

/// `mm_filemap_get_pages(struct address_space *mapping, pgoff_t index, pgoff_t last_index)`: a read was given pages, all or the
/// first of these. It is told again of the rest, for which it must not count; nor for what it asks for beyond the file's end.
#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub fn page_cache_read(context: BtfTracePointContext) -> i32 {
    let mapping: *const u8 = context.arg(0);
    let (first, last): (u64, u64) = (context.arg(1), context.arg(2));
    // SAFETY: typed pointers of the kernel plus the offsets of members: the verifier checks both.
    let bytes: u64 = unsafe {
        let inode: *const u8 = core::ptr::read_volatile(mapping.add(maps::mapping_host() as usize).cast());
        core::ptr::read_volatile(inode.add(maps::inode_bytes() as usize).cast())
    };
    let file_pages = (bytes + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT;
    let end = file_pages.min(last + 1);
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(before) = maps::PAGE_READS.get_ptr_mut(tid & (PAGE_READS_ENTRIES - 1)) else { return 0 };
    let read = PageRead { mapping: mapping as u64, first, end, tid: u64::from(tid) };
    // SAFETY: an element of this thread, or, where two share one, of none: what they make of each other's counts a rest again.
    let before = unsafe { core::ptr::replace(before, read) };
    let goes_on =
        before.mapping == read.mapping && before.end == end && before.first < first && before.tid == read.tid;
    if first >= end || goes_on {
        return 0;
    }
    accessed(CacheResult::Hit, end - first)
}

/// `mm_filemap_map_pages(struct address_space *mapping, pgoff_t start_pgoff, pgoff_t end_pgoff)`: a fault maps what the cache has around
/// it; it is counted for the one page that it wants.
#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub fn page_cache_map(_context: BtfTracePointContext) -> i32 {
    accessed(CacheResult::Hit, 1)
}

/// `mm_filemap_fault(struct address_space *mapping, pgoff_t index)`: a fault was given one page.
#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn page_cache_fault(_context: BtfTracePointContext) -> i32 {
    accessed(CacheResult::Hit, 1)
}

#[inline(always)]
fn accessed(result: CacheResult, pages: u64) -> i32 {
    let process = TypedTask::current().process();
    rows::count(&RowKey { family: Family::PageCache as u8, label: result as u8, ..process.key() }, pages);
    0
}
