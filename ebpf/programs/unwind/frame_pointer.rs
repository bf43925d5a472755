//! The rule of the frame pointer: at rbp stand the caller's rbp and, above it, the return address.
//!
//! System V ABI for x86-64, 3.2.2; the outermost frame has rbp = 0 (3.4.1), which `_start`, glibc's and musl's thread
//! entries and Go's goroutines see to.

use hostscope_wire::stack::StackEnd;

use super::{Process, USER_ADDRESS_END};

/// The caller's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The return address.
    pub pc: u64,
    /// Its rbp.
    pub fp: u64,
}

/// From a frame to its caller; `fails` where rbp is used for something else.
///
/// A caller's frame lies above the frame that it called, but for stacks that are switched, as Go does; what leads round
/// in a circle ends at the most frames there may be.
#[inline(always)]
pub fn caller<P: Process>(process: &P, fp: u64, fails: StackEnd) -> Result<Caller, StackEnd> {
    if fp == 0 {
        return Err(StackEnd::Complete);
    }
    if fp & 7 != 0 || fp >= USER_ADDRESS_END {
        return Err(fails);
    }
    let Some([caller_fp, return_address]) = process.words(fp) else { return Err(fails) };
    if return_address == 0 {
        return Err(StackEnd::Complete);
    }
    if return_address >= USER_ADDRESS_END {
        return Err(fails);
    }
    Ok(Caller { pc: return_address, fp: caller_fp })
}
