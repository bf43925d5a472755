//! The rule of the frame pointer: at rbp stand the caller's rbp and, above it, the return address.
//!
//! System V ABI for x86-64, 3.2.2; the outermost frame has rbp = 0 (3.4.1), which `_start`, glibc's and musl's thread
//! entries and Go's goroutines see to.

use hostscope_wire::stack::StackEnd;

use super::{Process, USER_ADDRESS_END};

/// Frames this far below the one that they called are on another stack.
const OTHER_STACK_BYTES: u64 = 64 * 1024;

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
/// A caller's frame lies above the frame that it called: anything else is another use of the register, and would also
/// lead round in a circle. Unless the code has switched stacks, as Go does for its runtime; then it lies far away.
#[inline(always)]
pub fn caller<P: Process>(process: &P, sp: u64, fp: u64, fails: StackEnd) -> Result<Caller, StackEnd> {
    if fp == 0 {
        return Err(StackEnd::Complete);
    }
    let is_below = fp < sp && sp - fp < OTHER_STACK_BYTES;
    if is_below || fp & 7 != 0 || fp >= USER_ADDRESS_END {
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
