//! Stacks and how often they were met.

use crate::event::EventHeader;
use crate::limits::{COMM_BYTES, MAX_FRAMES};

/// Why the walk of a user stack ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum StackEnd {
    /// The entry of the thread or process was reached.
    Complete = 0,
    /// There is no user stack: a kernel thread, or a process on its way out.
    NoUserStack = 1,
    /// The frame pointer did not lead to another frame: code compiled without them.
    BadFramePointer = 2,
    /// The stack's memory could not be read.
    UnreadableStack = 3,
    /// There were more frames than [`crate::limits::MAX_USER_FRAMES`].
    Truncated = 4,
    /// The pc lies in no executable mapping that is known of the process: a mapping that has just come, or a caller that
    /// was none.
    UnmappedPc = 5,
    /// The file that the pc lies in has no unwind table yet, or no more: it is being made, or memory is short.
    NoTable = 6,
    /// The table has no rule that can be followed here: a form that it cannot hold, or a register that is not known.
    BadRule = 7,
}

impl StackEnd {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Complete,
        Self::NoUserStack,
        Self::BadFramePointer,
        Self::UnreadableStack,
        Self::Truncated,
        Self::UnmappedPc,
        Self::NoTable,
        Self::BadRule,
    ];

    /// The reason that `number` stands for in a record, if any.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        if (number as usize) < Self::ALL.len() { Some(Self::ALL[number as usize]) } else { None }
    }

    /// The word for it in profiles, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NoUserStack => "no_user_stack",
            Self::BadFramePointer => "bad_frame_pointer",
            Self::UnreadableStack => "unreadable_stack",
            Self::Truncated => "truncated",
            Self::UnmappedPc => "unmapped_pc",
            Self::NoTable => "no_table",
            Self::BadRule => "bad_rule",
        }
    }
}

/// Set in a user frame's pc, but the first's, that is no return address: the code that a signal interrupted, and the
/// trampoline that its handler returns to, which nobody called. No user address has this bit.
pub const EXACT_PC: u64 = 1 << 63;

/// A stack with the process it belongs to; sent once, counted by its id from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct StackHeader {
    /// When it was first met.
    pub header: EventHeader,
    /// A 64-bit hash of the process, its program and all frames: equal ids are equal stacks. Among a million distinct
    /// stacks two share an id with a probability of 3e-8.
    pub stack_id: u64,
    /// When the process started, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_time_ns: u64,
    /// The process (thread group), in hostscope's own pid namespace; 0 is the idle task.
    pub tgid: u32,
    /// A [`StackEnd`].
    pub end: u32,
    /// How many of the frames, from the first on, are the kernel's.
    pub kernel_frames: u32,
    /// How many follow that are the process's.
    pub user_frames: u32,
}

/// A [`StackHeader`] and its frames, leaf first: the interrupted pc, then return addresses, for each of both parts; see
/// [`EXACT_PC`].
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StackRecord {
    /// What it is, and how many frames follow.
    pub header: StackHeader,
    /// Only the first `kernel_frames + user_frames` are sent.
    pub frames: [u64; MAX_FRAMES],
}

/// Whom a count belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct CountKey {
    /// The stack.
    pub stack_id: u64,
    /// The thread, in hostscope's own pid namespace.
    pub tid: u32,
    /// Zero.
    pub reserved: u32,
    /// The thread's name at that moment, ended by a zero byte; part of the key so that a thread that has ended, or
    /// that renamed itself, keeps its names.
    pub comm: [u8; COMM_BYTES],
}

const _: () = assert!(size_of::<StackHeader>() == 48);
const _: () = assert!(size_of::<StackRecord>() == 48 + 8 * MAX_FRAMES);
const _: () = assert!(size_of::<CountKey>() == 32);
