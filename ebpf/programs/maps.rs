//! Every map, and every constant that user space sets before load.

use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray, Queue, RingBuf};
use hostscope_wire::limits::{
    COUNTS_ENTRIES, EVENTS_BYTES, ISSUED_REQUESTS_ENTRIES, PAGE_READS_ENTRIES, ROW_CACHE_SLOTS, ROWS_ENTRIES,
    SENT_ENTRIES, SPANS_ENTRIES, SYSCALL_PROCESSES_ENTRIES, TARGETS_ENTRIES, THREAD_SLOTS_ENTRIES,
    THREADS_ENTRIES, UNWIND_MAPPINGS_ENTRIES, UNWIND_PROCESSES_ENTRIES, UNWIND_TABLES_ENTRIES,
};
use hostscope_wire::loss::Loss;
use hostscope_wire::row::{Row, RowKey};
use hostscope_wire::stack::{CountKey, StackRecord};
use hostscope_wire::unwind::{Block, MappingEntry, ProcessEntry};

use crate::memory::PageRead;
use crate::unwind::Walk;

/// Stacks on their first appearance, and process events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Samples by stack and thread, in even intervals. Preallocated: samples are taken in interrupts, NMIs included, where
/// a hash map must not allocate.
#[map]
pub static COUNTS_EVEN: HashMap<CountKey, u64> = HashMap::with_max_entries(COUNTS_ENTRIES, 0);

/// The same in odd intervals. There are two so that user space empties the one that nobody writes to: an element
/// deleted between a program's look-up and its increment would take that count with it, or give it to another key.
#[map]
pub static COUNTS_ODD: HashMap<CountKey, u64> = HashMap::with_max_entries(COUNTS_ENTRIES, 0);

/// The number of the interval, which user space counts up.
#[map]
pub static INTERVAL: Array<u32> = Array::with_max_entries(1, 0);

/// The counts of the current interval.
#[inline(always)]
pub fn current_counts() -> &'static HashMap<CountKey, u64> {
    if interval() & 1 == 0 { &COUNTS_EVEN } else { &COUNTS_ODD }
}

/// The number of the current interval.
#[inline(always)]
pub fn interval() -> u32 {
    INTERVAL.get(0).copied().unwrap_or(0)
}

/// The ids of stacks that user space already has. It clears the table before it is full.
#[map]
pub static SENT: HashMap<u64, u64> = HashMap::with_max_entries(SENT_ENTRIES, 0);

/// The processes watched where [`filter_mode`] says so; the kernel side adds their children.
#[map]
pub static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(TARGETS_ENTRIES, 0);

/// What was lost, by [`Loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// What a sample is put together in, and what passes from one tail call to the next.
#[repr(C)]
pub struct Scratch {
    /// The stack so far.
    pub record: StackRecord,
    /// Where the walk of the user's stack is.
    pub walk: Walk,
    /// The thread.
    pub tid: u32,
}

/// Too large for the 512 bytes of an eBPF stack. Per-CPU is enough, since the kernel runs no perf event program inside
/// another on one CPU (`bpf_prog_active`, kernel/events/core.c).
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The program that walks user stacks, for the tail calls to it.
#[map]
pub static WALK_USER: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where each process's mappings are. Preallocated, as all that samples use; the kernel side adds children.
#[map]
pub static UNWIND_PROCESSES: HashMap<u32, ProcessEntry> =
    HashMap::with_max_entries(UNWIND_PROCESSES_ENTRIES, 0);

/// The mappings of all processes, written by user space through a mapping of its own.
#[map]
pub static UNWIND_MAPPINGS: Array<MappingEntry> =
    Array::with_max_entries(UNWIND_MAPPINGS_ENTRIES, BPF_F_MMAPABLE);

/// An unwind table. Each has as many blocks as it needs (`BPF_F_INNER_MAP`, since 5.10, commit 4a8f87e60f6d).
pub type UnwindTable = btf_maps::Array<Block, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;

/// The tables, by number.
#[btf_map]
pub static UNWIND_TABLES: btf_maps::ArrayOfMaps<UnwindTable, { UNWIND_TABLES_ENTRIES as usize }> =
    btf_maps::ArrayOfMaps::new();

/// Never used: user space asks it for the types that a table must be created with (6.1 takes no other).
#[btf_map]
pub static UNWIND_PROTOTYPE: UnwindTable = btf_maps::Array::new();

/// The interval in which each table was last used, by number.
#[map]
pub static UNWIND_USED: Array<u32> = Array::with_max_entries(UNWIND_TABLES_ENTRIES, BPF_F_MMAPABLE);

/// Histograms and counters, which user space reads through a mapping of its own. Row 0 stays free: it is what an empty slot of
/// the cache names.
#[map]
pub static ROWS: Array<Row> = Array::with_max_entries(ROWS_ENTRIES, BPF_F_MMAPABLE);

/// Which row a key has. Preallocated: rows are found under locks of the scheduler.
#[map]
pub static ROW_INDEXES: HashMap<RowKey, u32> = HashMap::with_max_entries(ROWS_ENTRIES, 0);

/// Which rows keys had lately (see `rows`).
#[map]
pub static ROW_CACHE: Array<u32> = Array::with_max_entries(ROW_CACHE_SLOTS, 0);

/// Rows that nobody has; user space fills it, and gives back those of processes that have ended.
#[map]
pub static FREE_ROWS: Queue<u32> = Queue::with_max_entries(ROWS_ENTRIES, 0);

/// What is known of a thread between two switches.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    /// Since when it is off the CPU, by `CLOCK_MONOTONIC`; 0 while it runs.
    pub off_since_ns: u64,
    /// Its waits on run queues at the last look.
    pub run_delay_ns: u64,
    /// Its CPU time when it left the CPU.
    pub runtime_ns: u64,
    /// When its process started; 0 for the kernel's threads.
    pub start_time_ns: u64,
    /// When it entered the system call in which it left the CPU; 0 where calls are not timed.
    pub syscall_since_ns: u64,
    /// The address of its `task_struct`.
    pub task: u64,
    /// Its process; 0 for the kernel's threads.
    pub tgid: u32,
    /// Why it is off the CPU (see `sched::cause`).
    pub cause: u32,
    /// Its own id in the host's pid namespace; 0 in a slot that is free.
    pub tid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Threads by the lower bits of their id: an array's element costs 2 ns, a hash's 35 (see `threads`).
#[map]
pub static THREAD_SLOTS: Array<Thread> = Array::with_max_entries(THREAD_SLOTS_ENTRIES, 0);

/// Threads whose slot belongs to another, by their id. Preallocated, not task storage: `sched_switch` runs under the lock of a
/// run queue, where an allocation may wake kswapd and so want that lock again; and 5.10 has no task storage for it.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(THREADS_ENTRIES, 0);

/// When each request that is at a device was given to it, by `CLOCK_MONOTONIC`. Preallocated: interrupts remove.
#[map]
pub static ISSUED_REQUESTS: HashMap<u64, u64> = HashMap::with_max_entries(ISSUED_REQUESTS_ENTRIES, 0);

/// When the stretches that threads are in began (see `spans`). Preallocated: some begin where memory is short.
#[map]
pub static SPANS: HashMap<u64, u64> = HashMap::with_max_entries(SPANS_ENTRIES, 0);

/// Since when each CPU handles a soft interrupt; 0 while it does not.
#[map]
pub static SOFTIRQ_SINCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The last read of a file by threads, by the lower bits of their id.
#[map]
pub static PAGE_READS: Array<PageRead> = Array::with_max_entries(PAGE_READS_ENTRIES, 0);

/// What the programs' clock is ahead of the scheduler's, which has an origin of its own, as of each CPU's last switch; 0 before.
#[map]
pub static SCHEDULER_CLOCK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// When each CPU entered the system call that it is in, by `CLOCK_MONOTONIC`; 0 outside of any.
#[map]
pub static RUNNING_SYSCALL: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// First 0 where every process's system calls are timed, 1 where those in [`SYSCALL_PROCESSES`] are; then since when they are, by
/// `CLOCK_MONOTONIC`.
#[map]
pub static SYSCALL_SCOPE: Array<u64> = Array::with_max_entries(2, 0);

/// Processes whose system calls are timed.
#[map]
pub static SYSCALL_PROCESSES: HashMap<u32, u32> = HashMap::with_max_entries(SYSCALL_PROCESSES_ENTRIES, 0);

/// Whose system calls are timed.
#[inline(always)]
pub fn syscall_scope() -> u64 {
    SYSCALL_SCOPE.get(0).copied().unwrap_or(0)
}

/// Since when system calls are timed.
#[inline(always)]
pub fn syscalls_timed_since_ns() -> u64 {
    SYSCALL_SCOPE.get(1).copied().unwrap_or(0)
}

/// Declares constants in `.rodata`, which user space sets before load and the kernel then freezes: the verifier takes
/// them as known and drops what they switch off. The read is volatile, or the compiler would fold in the default.
macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident, $reader:ident: $type:ty;)*) => {$(
        #[unsafe(no_mangle)]
        static $name: $type = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $reader() -> $type {
            // SAFETY: a reference to a static is valid, aligned and initialised.
            unsafe { core::ptr::read_volatile(&$name) }
        }
    )*};
}

constants! {
    /// Whose samples are taken: one of `hostscope_wire::limits::filter`.
    FILTER_MODE, filter_mode: u32;
    /// The id of the cgroup watched: its inode number in cgroup2's file system.
    FILTER_CGROUP_ID, filter_cgroup_id: u64;
    /// How far below the root that cgroup lies; the root is 0.
    FILTER_CGROUP_LEVEL, filter_cgroup_level: u32;
    /// 1 where the idle task is sampled too.
    INCLUDE_IDLE, include_idle: u32;
    /// Bytes waiting in the ring buffer from which on user space is woken.
    WAKE_BYTES, wake_bytes: u64;
    /// The device of `/proc/self/ns/pid`; 0 in the host's own pid namespace, where ids need no translation.
    PID_NAMESPACE_DEVICE, pid_namespace_device: u64;
    /// The inode of `/proc/self/ns/pid`.
    PID_NAMESPACE_INODE, pid_namespace_inode: u64;
    /// Offset of `task_struct.tgid`, in bytes, from the running kernel's BTF; likewise below.
    TASK_TGID, task_tgid: u32;
    /// Offset of `task_struct.mm`.
    TASK_MM, task_mm: u32;
    /// Offset of `task_struct.group_leader`.
    TASK_GROUP_LEADER, task_group_leader: u32;
    /// Offset of `task_struct.start_boottime`.
    TASK_START_BOOTTIME, task_start_boottime: u32;
    /// Offset of `task_struct.self_exec_id`.
    TASK_SELF_EXEC_ID, task_self_exec_id: u32;
    /// Offset of `task_struct.comm`.
    TASK_COMM, task_comm: u32;
    /// Offset of `task_struct.signal`.
    TASK_SIGNAL, task_signal: u32;
    /// Offset of `signal_struct.live`.
    SIGNAL_LIVE, signal_live: u32;
    /// Offset of `task_struct.thread_pid`.
    TASK_THREAD_PID, task_thread_pid: u32;
    /// Offset of `pid.level`.
    PID_LEVEL, pid_level: u32;
    /// Offset of `pid.numbers`.
    PID_NUMBERS, pid_numbers: u32;
    /// 1 where the kernel has `bpf_task_pt_regs` (5.15 and newer).
    HAS_TASK_PT_REGS, has_task_pt_regs: u32;
    /// Offset of `task_struct.stack`.
    TASK_STACK, task_stack: u32;
    /// Size of `struct upid`.
    UPID_BYTES, upid_bytes: u32;
    /// Offset of `signal_struct.sum_sched_runtime`.
    SIGNAL_RUNTIME, signal_runtime: u32;
    /// Offset of `signal_struct.utime`.
    SIGNAL_UTIME, signal_utime: u32;
    /// Offset of `signal_struct.stime`.
    SIGNAL_STIME, signal_stime: u32;
    /// Offset of `task_struct.se.sum_exec_runtime`.
    TASK_RUNTIME, task_runtime: u32;
    /// Offset of `task_struct.se.exec_start`.
    TASK_EXEC_START, task_exec_start: u32;
    /// Offset of `task_struct.utime`.
    TASK_UTIME, task_utime: u32;
    /// Offset of `task_struct.stime`.
    TASK_STIME, task_stime: u32;
    /// Offset of `task_struct.pid`.
    TASK_PID, task_pid: u32;
    /// Offset of `task_struct.flags`.
    TASK_FLAGS, task_flags: u32;
    /// Offset of `task_struct.__state`, `state` before 5.14.
    TASK_STATE, task_state: u32;
    /// Offset of the 32-bit word of `task_struct` that has the bit `in_iowait`.
    TASK_IOWAIT_WORD, task_iowait_word: u32;
    /// That bit.
    TASK_IOWAIT_MASK, task_iowait_mask: u32;
    /// Offset of `task_struct.sched_info.run_delay`.
    TASK_RUN_DELAY, task_run_delay: u32;
    /// Offset of `task_struct.sched_info.pcount`.
    TASK_ARRIVALS, task_arrivals: u32;
    /// 1 where the kernel has the two above (CONFIG_SCHED_INFO).
    HAS_RUN_DELAY, has_run_delay: u32;
    /// 1 where sched_switch tells the state of the thread that leaves.
    HAS_PREVIOUS_STATE, has_previous_state: u32;
    /// Offset of `sock.sk_protocol`.
    SOCK_PROTOCOL, sock_protocol: u32;
    /// Offset of `sock_common.skc_family`.
    SOCK_FAMILY, sock_family: u32;
    /// Offset of `sock_common.skc_num`.
    SOCK_LOCAL_PORT, sock_local_port: u32;
    /// Offset of `sock_common.skc_dport`.
    SOCK_REMOTE_PORT, sock_remote_port: u32;
    /// Offset of `sock.sk_err`.
    SOCK_ERROR, sock_error: u32;
    /// Offset of `sock.sk_err_soft`.
    SOCK_SOFT_ERROR, sock_soft_error: u32;
    /// Offset of `tcp_sock.srtt_us`.
    TCP_SMOOTHED_RTT, tcp_smoothed_rtt: u32;
    /// Offset of `inet_connection_sock.icsk_ack.lrcvtime`.
    TCP_LAST_DATA, tcp_last_data: u32;
    /// The length of a tick, in nanoseconds: the unit of jiffies.
    TICK_NS, tick_ns: u32;
    /// Offset of `inet_connection_sock.icsk_bind_hash`.
    TCP_BIND_BUCKET, tcp_bind_bucket: u32;
    /// Offset of `inet_bind_bucket.fastreuse`.
    BUCKET_REUSE, bucket_reuse: u32;
    /// How many arguments the tracepoint `tcp_retransmit_skb` has.
    RETRANSMIT_ARGUMENTS, retransmit_arguments: u32;
    /// Offset of `request.__data_len`.
    REQUEST_BYTES, request_bytes: u32;
    /// Offset of `request.start_time_ns`.
    REQUEST_START_TIME, request_start_time: u32;
    /// Offset of `request.cmd_flags`.
    REQUEST_FLAGS, request_flags: u32;
    /// Offset of `request.q`.
    REQUEST_QUEUE, request_queue: u32;
    /// Offset of `request_queue.disk`, which kernels have since 5.15.
    QUEUE_DISK, queue_disk: u32;
    /// 1 where the kernel has it.
    HAS_QUEUE_DISK, has_queue_disk: u32;
    /// Offset of `request.rq_disk`, which kernels have up to 5.16.
    REQUEST_DISK, request_disk: u32;
    /// Offset of `gendisk.major`.
    DISK_MAJOR, disk_major: u32;
    /// Offset of `gendisk.first_minor`.
    DISK_FIRST_MINOR, disk_first_minor: u32;
    /// How many arguments the tracepoint `mark_victim` has.
    VICTIM_ARGUMENTS, victim_arguments: u32;
    /// Offset of `folio.flags`.
    FOLIO_FLAGS, folio_flags: u32;
    /// Offset of the byte of `folio` that has its order.
    FOLIO_ORDER, folio_order: u32;
    /// The flag of a folio that has an order; 0 where the kernel has no folios.
    FOLIO_HEAD_MASK, folio_head_mask: u32;
    /// Offset of `address_space.host`.
    MAPPING_HOST, mapping_host: u32;
    /// Offset of `inode.i_size`.
    INODE_BYTES, inode_bytes: u32;
    /// Offset of `sock_common.skc_state`.
    SOCK_STATE, sock_state: u32;
    /// Offset of `sock.sk_socket`.
    SOCK_SOCKET, sock_socket: u32;
}
