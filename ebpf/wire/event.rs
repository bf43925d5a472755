//! The header that every ring buffer record starts with.

/// What a record of the ring buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A [`crate::stack::StackRecord`], cut after its last frame.
    Stack = 1,
    /// A [`crate::process::ProcessRecord`]: a new process.
    Fork = 2,
    /// A [`crate::process::ProcessRecord`]: a process runs a new program.
    Exec = 3,
    /// A [`crate::process::ProcessRecord`]: the last thread of a process has ended.
    Exit = 4,
}

impl EventKind {
    /// The kind that `number` stands for in a record, if any.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Stack),
            2 => Some(Self::Fork),
            3 => Some(Self::Exec),
            4 => Some(Self::Exit),
            _ => None,
        }
    }
}

/// The first 16 bytes of every record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventHeader {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// An [`EventKind`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<EventHeader>() == 16);
