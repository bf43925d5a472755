//! Syncs of files: fsync, fdatasync, and writes that are to be durable at once. Raw tracepoints, since file systems may be modules, whose
//! types the kernel's own BTF does not have; where a module is not loaded there is no tracepoint either.
//!
//! Cost on a 2-core virtual machine (kernel 6.18): 720 ns a sync, both hooks, where the fastest takes 200 µs.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use hostscope_wire::row::{Family, FileSystem, RowKey};

use crate::rows;
use crate::spans::{self, Span};
use crate::typed_task::TypedTask;

/// `ext4_sync_file_enter(struct file *file, int datasync)`.
#[raw_tracepoint(tracepoint = "ext4_sync_file_enter")]
pub fn ext4_sync_enter(_context: RawTracePointContext) -> i32 {
    spans::begin(Span::FileSync);
    0
}

/// `ext4_sync_file_exit(struct inode *inode, int ret)`.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn ext4_sync_exit(_context: RawTracePointContext) -> i32 {
    ends(FileSystem::Ext4)
}

/// `f2fs_sync_file_enter(struct inode *inode)`.
#[raw_tracepoint(tracepoint = "f2fs_sync_file_enter")]
pub fn f2fs_sync_enter(_context: RawTracePointContext) -> i32 {
    spans::begin(Span::FileSync);
    0
}

/// `f2fs_sync_file_exit(struct inode *inode, int cp_reason, int datasync, int ret)`.
#[raw_tracepoint(tracepoint = "f2fs_sync_file_exit")]
pub fn f2fs_sync_exit(_context: RawTracePointContext) -> i32 {
    ends(FileSystem::F2fs)
}

#[inline(always)]
fn ends(file_system: FileSystem) -> i32 {
    if let Some(duration_ns) = spans::end(Span::FileSync) {
        let process = TypedTask::current().process();
        let key = RowKey { family: Family::FileSync as u8, label: file_system as u8, ..process.key() };
        rows::observe(&key, duration_ns);
    }
    0
}
