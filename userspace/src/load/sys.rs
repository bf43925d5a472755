//! The system calls that aya does not wrap: batched map operations and perf events with a ring of their own.
//!
//! All of this crate's calls of `bpf(2)` and `perf_event_open(2)` by hand stand here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, bpf_attr, bpf_cmd, perf_event_attr, perf_event_sample_format, perf_sw_ids,
    perf_type_id,
};

/// Calls `bpf(2)`: what it returns, a descriptor for most commands.
///
/// # Errors
/// What the kernel answers.
pub(super) fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the attributes are valid for the call, and so is what they point at, which each caller keeps alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// The part of `union bpf_attr` that batched map commands use (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Types that may be read from any bytes the kernel writes.
///
/// # Safety
/// The type has no padding and every bit pattern is a value of it.
pub unsafe trait Plain: Copy + Default {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers and bytes, 32 bytes without padding (asserted where it is defined).
unsafe impl Plain for hostscope_wire::stack::CountKey {}

/// Takes every entry out of a hash map: each call of `bpf(2)` empties as many buckets as fit into the buffers.
///
/// `BPF_MAP_LOOKUP_AND_DELETE_BATCH`, since 5.6 (commit 057996380a42). The buffers keep their size between calls, so
/// that a drain allocates nothing.
pub struct BatchDrain<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Plain, V: Plain> BatchDrain<K, V> {
    /// Buffers for `entries` entries a call; at least as many as the fullest bucket holds.
    pub fn new(entries: usize) -> Self {
        Self { keys: vec![K::default(); entries], values: vec![V::default(); entries] }
    }

    /// Empties the map behind `map` into `each`.
    ///
    /// # Errors
    /// What the kernel answers, `EPERM` and `EINVAL` on kernels without batches among them.
    pub fn drain(&mut self, map: BorrowedFd<'_>, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut position: u64 = 0;
        let mut first = true;
        loop {
            let mut attributes = BatchAttributes {
                in_batch: if first { 0 } else { std::ptr::addr_of!(position) as u64 },
                out_batch: std::ptr::addr_of_mut!(position) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: self.keys.len() as u32,
                map_fd: map.as_raw_fd() as u32,
                ..BatchAttributes::default()
            };
            // SAFETY: the buffers hold `count` entries of the map's key and value size, which the typed handles in
            // `maps` guarantee; `position` outlives the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH as libc::c_long,
                    std::ptr::addr_of_mut!(attributes),
                    size_of::<BatchAttributes>(),
                )
            };
            let error = (result < 0).then(io::Error::last_os_error);
            let last = match &error {
                None => false,
                Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Some(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // One bucket holds more than the buffers: larger ones, from where the last call stopped.
                    let entries = self.keys.len() * 2;
                    self.keys.resize(entries, K::default());
                    self.values.resize(entries, V::default());
                    continue;
                }
                Some(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                Some(error) => return Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0))),
            };
            for (key, value) in self.keys.iter().zip(&self.values).take(attributes.count as usize) {
                each(key, value);
            }
            if last {
                return Ok(());
            }
            first = false;
        }
    }
}

/// Opens a dummy software event on one CPU that records every new executable mapping (`PERF_RECORD_MMAP2`) and every
/// exec (`PERF_RECORD_COMM` with its exec bit, which comes before the new program's mappings, where the tracepoint
/// `sched_process_exec` comes after them), with the time in `CLOCK_MONOTONIC` behind each record, and wakes its reader
/// at the first byte.
///
/// # Errors
/// What the kernel answers; `EACCES` without `CAP_PERFMON`.
pub fn open_mapping_records(cpu: u32) -> io::Result<OwnedFd> {
    // SAFETY: all zeros is a valid `perf_event_attr`.
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attributes.config = perf_sw_ids::PERF_COUNT_SW_DUMMY as u64;
    attributes.sample_type = perf_event_sample_format::PERF_SAMPLE_TIME as u64;
    attributes.set_mmap(1);
    attributes.set_mmap2(1);
    attributes.set_comm(1);
    attributes.set_comm_exec(1);
    attributes.set_sample_id_all(1);
    attributes.set_use_clockid(1);
    attributes.clockid = libc::CLOCK_MONOTONIC;
    attributes.set_watermark(1);
    attributes.__bindgen_anon_2.wakeup_watermark = 1;
    // SAFETY: the attributes are valid for the call; every process on one CPU.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::addr_of!(attributes),
            -1 as libc::pid_t,
            cpu as libc::c_int,
            -1 as libc::c_int,
            libc::c_ulong::from(PERF_FLAG_FD_CLOEXEC),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The ring that the kernel fills for a perf event (`struct perf_event_mmap_page` and the data behind it).
pub struct PerfRing {
    memory: std::ptr::NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
    event: OwnedFd,
}

/// Offsets of `data_head` and `data_tail` in `struct perf_event_mmap_page`: fixed by its reserved area.
const DATA_HEAD_OFFSET: usize = 1024;
const DATA_TAIL_OFFSET: usize = 1032;

// SAFETY: the memory belongs to this value alone; the kernel's side is reached through atomics only.
unsafe impl Send for PerfRing {}

impl PerfRing {
    /// Maps a ring of `data_pages` pages, a power of two.
    ///
    /// # Errors
    /// `EPERM` beyond the limit of locked memory, and what else mmap answers.
    pub fn map(event: OwnedFd, data_pages: usize) -> io::Result<Self> {
        let page_bytes = rustix::param::page_size();
        let data_bytes = data_pages * page_bytes;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                page_bytes + data_bytes,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                &event,
                0,
            )?
        };
        let memory = std::ptr::NonNull::new(memory.cast())
            .ok_or_else(|| io::Error::other("mmap gave the null address"))?;
        Ok(Self { memory, page_bytes, data_bytes, event })
    }

    /// Appends everything that waits to `to` and gives the room back to the kernel.
    pub fn drain(&mut self, to: &mut Vec<u8>) {
        use std::sync::atomic::{AtomicU64, Ordering};
        let position = |offset: usize| {
            // SAFETY: within the first page, aligned to 8 bytes; shared with the kernel, hence atomic.
            unsafe { AtomicU64::from_ptr(self.memory.as_ptr().add(offset).cast()) }
        };
        // Pairs with the kernel's barrier after it wrote the data (perf_event_mmap_page's documentation).
        let head = position(DATA_HEAD_OFFSET).load(Ordering::Acquire);
        let tail = position(DATA_TAIL_OFFSET).load(Ordering::Relaxed);
        let waiting = (head.wrapping_sub(tail) as usize).min(self.data_bytes);
        let start = (tail % self.data_bytes as u64) as usize;
        let before_end = waiting.min(self.data_bytes - start);
        // SAFETY: both ranges lie within the data area; the kernel does not write there before `data_tail` moves.
        unsafe {
            let data = self.memory.as_ptr().add(self.page_bytes);
            to.extend_from_slice(std::slice::from_raw_parts(data.add(start), before_end));
            to.extend_from_slice(std::slice::from_raw_parts(data, waiting - before_end));
        }
        position(DATA_TAIL_OFFSET).store(head, Ordering::Release);
    }
}

impl std::os::fd::AsFd for PerfRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for PerfRing {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nothing borrows any more.
        let _ = unsafe { rustix::mm::munmap(self.memory.as_ptr().cast(), self.page_bytes + self.data_bytes) };
    }
}
