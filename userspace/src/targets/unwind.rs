//! Unwind tables: the call frame information of a file as the rows that the kernel side walks stacks with.
//!
//! ```text
//! .eh_frame, .debug_frame ── sections ──► bytes
//! bytes                   ── cfi      ──► functions: where their code lies, and instructions
//! instructions            ── evaluate ──► where in the code which rule begins
//! these                   ── table    ──► blocks, as hostscope_wire::unwind fixes them
//! blocks                  ── cache    ──► a file a build id, checked when it is read again
//! ```
//!
//! Formats: DWARF 5, section 6.4, and the Linux Standard Base's chapter on `.eh_frame`
//! (<https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/ehframechpt.html>).
//! The files belong to whoever runs programs on this host, so nothing in them is believed: every read has its bound,
//! work and memory grow no faster than the section does, and what cannot be expressed is counted.

mod bytes;
mod sections;
mod expression;
mod cfi;
mod evaluate;
mod go;
mod table;
mod check;
mod compile;
mod cache;

#[cfg(test)]
mod tests;

use std::fmt;

use super::elf::ElfError;

pub use cache::{CacheCounts, Cached, DEFAULT_MAX_BYTES, TableCache};
pub use check::{TableError, check};
pub use compile::{Tally, compile, compile_tallied};
pub use evaluate::Cause;
pub use table::{Table, lookup};

/// Why a file has no table.
#[derive(Debug)]
pub enum UnwindError {
    /// It describes none of its code: Go's programs without debug information, stripped assembly.
    NoUnwindInformation,
    /// It describes more than fits the limits; which one.
    TooLarge(&'static str),
    /// It cannot be read.
    File(ElfError),
}

impl fmt::Display for UnwindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUnwindInformation => formatter.write_str("it has no unwind information"),
            Self::TooLarge(what) => write!(formatter, "its unwind information is too large: {what}"),
            Self::File(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for UnwindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::File(error) = self { Some(error) } else { None }
    }
}

impl From<ElfError> for UnwindError {
    fn from(error: ElfError) -> Self {
        Self::File(error)
    }
}
