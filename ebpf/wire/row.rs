//! Rows: what the kernel side measures, one row for each process and what else tells it apart.
//!
//! A row is either a histogram of nanoseconds or a counter. They lie in one array that user space maps, so that reading them
//! costs no system call; `ebpf/programs/rows.rs` finds them.

use crate::histogram::BUCKETS;

/// What a row measures. The number stands in [`RowKey::family`]; 0 is no family, but a row that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// Time off the CPU. Label: a [`Wait`]; detail: the system call's number plus 1, or 0 outside of any.
    OffCpu = 1,
    /// Time on a run queue before a CPU was given.
    RunQueue = 2,
    /// Time in a system call. Detail: its number.
    Syscall = 3,
    /// Counter of system calls that failed. Label: errno; detail: the call's number.
    SyscallErrors = 4,
    /// Time of a TCP connect. Label: errno, 0 where it was established.
    TcpConnect = 5,
    /// Time from when a connection was established (or data had come, if that was later) to the first send or receive of a
    /// process on it: its wait for accept, and what its server did from there. Detail: the local port.
    TcpAcceptQueue = 6,
    /// Time from the first byte of a request to the first byte of its response. Label: a [`Role`]; detail: the server's port.
    TcpFirstByte = 7,
    /// Smoothed round trip time of a connection, as sampled. Label: a [`Role`].
    TcpRtt = 8,
    /// How long a connection was established. Label: a [`Role`], which is never `Unknown` here.
    TcpLifetime = 9,
    /// Counter of segments sent again.
    TcpRetransmits = 10,
    /// Counter of resets. Label: a [`Direction`].
    TcpResets = 11,
    /// Counter of bytes through sockets. Label: a [`Direction`], plus 2 times a [`Transport`].
    NetworkBytes = 12,
    /// Time of a block request at the device. Subject: the device; label: an [`Operation`].
    BlockIo = 13,
    /// Time of a block request in the queue before that. Subject and label as above.
    BlockQueue = 14,
    /// Counter of block requests that failed. Subject and label as above.
    BlockErrors = 15,
    /// Counter of bytes read and written. Subject and label as above.
    BlockBytes = 16,
    /// Time of a file's sync. Label: a [`FileSystem`].
    FileSync = 17,
    /// Counter of pages of the page cache. Label: a [`CacheResult`].
    PageCache = 18,
    /// Counter of processes that the kernel killed for want of memory.
    OomKills = 19,
    /// Time in which an allocation had to free memory first.
    DirectReclaim = 20,
    /// Time of a soft interrupt's handler. Label: its vector.
    SoftIrq = 21,
}

impl Family {
    /// Every family, in the order of their numbers, which begin at 1.
    pub const ALL: [Self; 21] = [
        Self::OffCpu,
        Self::RunQueue,
        Self::Syscall,
        Self::SyscallErrors,
        Self::TcpConnect,
        Self::TcpAcceptQueue,
        Self::TcpFirstByte,
        Self::TcpRtt,
        Self::TcpLifetime,
        Self::TcpRetransmits,
        Self::TcpResets,
        Self::NetworkBytes,
        Self::BlockIo,
        Self::BlockQueue,
        Self::BlockErrors,
        Self::BlockBytes,
        Self::FileSync,
        Self::PageCache,
        Self::OomKills,
        Self::DirectReclaim,
        Self::SoftIrq,
    ];

    /// The family of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => None,
            number if number as usize <= Self::ALL.len() => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }

    /// Whether its rows only count: the count (of events or bytes) is [`Row::sum`], and no bucket is used.
    #[must_use]
    pub const fn is_counter(self) -> bool {
        matches!(
            self,
            Self::SyscallErrors
                | Self::TcpRetransmits
                | Self::TcpResets
                | Self::NetworkBytes
                | Self::BlockErrors
                | Self::BlockBytes
                | Self::PageCache
                | Self::OomKills
        )
    }

    /// Whether [`RowKey::subject`] is a block device and no process.
    #[must_use]
    pub const fn is_of_device(self) -> bool {
        matches!(self, Self::BlockIo | Self::BlockQueue | Self::BlockErrors | Self::BlockBytes)
    }
}

/// How a thread came to be off the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Wait {
    /// It could have gone on, but another took its place.
    Preempted = 0,
    /// It waits, and a signal would wake it.
    Interruptible = 1,
    /// It waits, and nothing but the event wakes it.
    Uninterruptible = 2,
    /// It waits for a block device, by the kernel's own account (`task_struct.in_iowait`).
    IoWait = 3,
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The one that called connect.
    Client = 0,
    /// The one that accepted.
    Server = 1,
    /// The connection is older than the probes.
    Unknown = 2,
}

/// Which way bytes or resets went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From this host.
    Sent = 0,
    /// To this host.
    Received = 1,
}

/// What carries the bytes of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// Unix sockets.
    Unix = 2,
    /// Others.
    Other = 3,
}

/// What a block request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Reads.
    Read = 0,
    /// Writes.
    Write = 1,
    /// Makes what was written durable.
    Flush = 2,
    /// Gives blocks back.
    Discard = 3,
    /// Others.
    Other = 4,
}

/// File systems that tell when a sync begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FileSystem {
    /// ext2, ext3, ext4.
    Ext4 = 0,
    /// f2fs.
    F2fs = 1,
}

/// What the page cache had. A page that is read in for who wants it counts as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CacheResult {
    /// A read or a fault was given the page.
    Hit = 0,
    /// The page was added: for a read or fault that did not find it, ahead of one, or for a write.
    Miss = 1,
}

/// Stands for a process where there is one, but nobody knows which: that of a connection older than the probes, say. Its start time
/// is 0.
pub const UNKNOWN_PROCESS: u32 = u32::MAX;

/// What tells rows apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RowKey {
    /// When the process started, in nanoseconds of `CLOCK_BOOTTIME`; 0 for kernel threads and devices.
    pub start_time_ns: u64,
    /// The process (thread group) in the host's pid namespace, 0 for the kernel's own threads and doings, [`UNKNOWN_PROCESS`] where
    /// nobody knows; or a device, as the kernel numbers it (12 bits major, 20 bits minor).
    pub subject: u32,
    /// A [`Family`].
    pub family: u8,
    /// What the family says.
    pub label: u8,
    /// What the family says.
    pub detail: u16,
}

const _: () = assert!(size_of::<RowKey>() == 16);

impl RowKey {
    /// Its four last members as one word, to compare them at once.
    #[inline(always)]
    #[must_use]
    pub const fn tail(&self) -> u64 {
        self.subject as u64
            | (self.family as u64) << 32
            | (self.label as u64) << 40
            | (self.detail as u64) << 48
    }
}

/// A histogram or a counter. Every member counts up, by atomic additions; `max` is written without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Row {
    /// Whose; all zeros in a row that is free.
    pub key: RowKey,
    /// The sum of what was observed, in nanoseconds; or what was counted.
    pub sum: u64,
    /// The longest that was observed, in nanoseconds.
    pub max: u64,
    /// Observations by [`crate::histogram::bucket`].
    pub buckets: [u64; BUCKETS],
}

const _: () = assert!(size_of::<Row>() == 240);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_numbered_in_order() {
        for (index, family) in Family::ALL.into_iter().enumerate() {
            assert_eq!(family as usize, index + 1);
            assert_eq!(Family::from_number(family as u8), Some(family));
        }
        assert_eq!((Family::from_number(0), Family::from_number(200)), (None, None));
    }
}
