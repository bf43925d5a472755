//! Depths and map sizes, each with its reason. User space sets the sizes that depend on the host.

/// Kernel frames kept of one stack: the kernel's own default limit (`kernel.perf_event_max_stack`).
pub const MAX_KERNEL_FRAMES: usize = 127;

/// User frames kept of one stack. Real programs outside of deep recursion stay below 100; every frame more is 8 bytes
/// of scratch space a CPU and verifier work at load.
pub const MAX_USER_FRAMES: usize = 128;

/// Room for both parts of a stack.
pub const MAX_FRAMES: usize = MAX_KERNEL_FRAMES + MAX_USER_FRAMES;

/// Bytes of the ring buffer where user space asks for nothing else; a power of two of pages.
pub const EVENTS_BYTES: u32 = 512 * 1024;

/// Bytes that may wait in the ring buffer before user space is woken ahead of its interval: a fraction (one in this
/// many) of the ring, so that there is time to drain the rest while more arrives.
pub const EVENTS_WAKE_FRACTION: u64 = 4;

/// Distinct (stack, thread) pairs between two drains where user space asks for nothing else. User space sizes it by
/// rate and CPUs: each sample makes at most one entry.
pub const COUNTS_ENTRIES: u32 = 8192;

/// Stacks that the kernel side remembers as already sent. A full table costs only repeated sending, no sample.
pub const SENT_ENTRIES: u32 = 32_768;

/// Processes that a filter by process can hold, children included.
pub const TARGETS_ENTRIES: u32 = 16_384;

/// Unwind tables: one for each distinct file that is mapped as code. Files beyond it go without, and are counted.
pub const UNWIND_TABLES_ENTRIES: u32 = 4096;

/// Executable mappings of all processes where user space asks for nothing else: 32 bytes each.
pub const UNWIND_MAPPINGS_ENTRIES: u32 = 32_768;

/// Processes whose mappings the kernel side knows, where user space asks for nothing else.
pub const UNWIND_PROCESSES_ENTRIES: u32 = 8192;

/// Rows of histograms and counters where user space asks for nothing else: 240 bytes each. A process that does much has about ten.
pub const ROWS_ENTRIES: u32 = 16_384;

/// Slots of the cache in front of the rows' index, 4 bytes each; a power of two. Two busy keys in one slot cost each other a look-up.
pub const ROW_CACHE_SLOTS: u32 = 16_384;

/// Slots for threads by the lower bits of their id; a power of two. With the kernel's default of 32,768 ids each thread has its own.
pub const THREAD_SLOTS_ENTRIES: u32 = 65_536;

/// Threads beyond them, where user space asks for nothing else.
pub const THREADS_ENTRIES: u32 = 16_384;

/// Processes whose system calls are timed, where not all are.
pub const SYSCALL_PROCESSES_ENTRIES: u32 = 4096;

/// Block requests at devices at once: 32 devices with 256 tags each. About 80 bytes an entry.
pub const ISSUED_REQUESTS_ENTRIES: u32 = 8192;

/// Threads that at once sync a file or free memory for an allocation: many wait for one commit of a journal. About 80 bytes an
/// entry.
pub const SPANS_ENTRIES: u32 = 4096;

/// Threads whose reads of files are told from each other; a power of two. Two that read long pieces in one slot at once cost each
/// other some accuracy only.
pub const PAGE_READS_ENTRIES: u32 = 1024;

const _: () = assert!(PAGE_READS_ENTRIES.is_power_of_two(), "it is used as a mask");
const _: () = assert!(ROW_CACHE_SLOTS.is_power_of_two(), "it is used as a mask");
const _: () = assert!(THREAD_SLOTS_ENTRIES.is_power_of_two(), "it is used as a mask");

/// The length of a thread's name with its closing zero (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

/// Whose samples are taken.
pub mod filter {
    /// Everybody's.
    pub const HOST: u32 = 0;
    /// Those of the processes in the map of targets.
    pub const PROCESSES: u32 = 1;
    /// Those of the processes in one cgroup (version 2) or below it.
    pub const CGROUP: u32 = 2;
}
