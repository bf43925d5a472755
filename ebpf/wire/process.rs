//! The record of a process's birth, change of program and end.

use crate::event::EventHeader;
use crate::limits::COMM_BYTES;

/// A process event. Ids are those of hostscope's own pid namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessRecord {
    /// When, and whether it is a fork, an exec or an exit.
    pub header: EventHeader,
    /// When the process started, in nanoseconds of `CLOCK_BOOTTIME`; with the pid it names the process for good.
    pub start_time_ns: u64,
    /// The process (thread group).
    pub tgid: u32,
    /// At a fork the process that forked, else 0.
    pub parent_tgid: u32,
    /// The name of the thread, ended by a zero byte.
    pub comm: [u8; COMM_BYTES],
    /// The id of its cgroup (version 2): the inode number of the cgroup's folder.
    pub cgroup_id: u64,
    /// At an exit: CPU time of all its threads, by the scheduler's account, in nanoseconds; else 0.
    pub cpu_ns: u64,
    /// At an exit: of that, what ticks found in user mode; with the next one it tells the shares only, else 0.
    pub user_ticks_ns: u64,
    /// At an exit: what ticks found in the kernel, else 0.
    pub system_ticks_ns: u64,
}

const _: () = assert!(size_of::<ProcessRecord>() == 80);
