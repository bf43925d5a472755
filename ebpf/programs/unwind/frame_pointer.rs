//! The rule of the frame pointer: at rbp stand the caller's rbp and, above it, the return address.
//!
//! System V ABI for x86-64, 3.2.2; the outermost frame has rbp = 0 (3.4.1), which `_start` and glibc's and musl's thread
//! entries see to.

use hostscope_wire::stack::StackEnd;

use super::{Memory, Registers, Step};

/// One past the highest user address with four-level page tables, which is also where five-level kernels put programs
/// that do not ask for more.
const USER_ADDRESS_END: u64 = 1 << 47;

/// From a frame to its caller.
#[inline(always)]
pub fn step<M: Memory>(memory: &M, registers: Registers) -> Step {
    let Registers { sp, fp, .. } = registers;
    if fp == 0 {
        return Step::End(StackEnd::Complete);
    }
    // A frame lies above the one it called: anything else is another use of the register, and would also loop.
    if fp < sp || fp & 7 != 0 || fp >= USER_ADDRESS_END {
        return Step::End(StackEnd::BadFramePointer);
    }
    let Some([caller_fp, return_address]) = memory.words(fp) else {
        return Step::End(StackEnd::UnreadableStack);
    };
    if return_address == 0 {
        return Step::End(StackEnd::Complete);
    }
    if return_address >= USER_ADDRESS_END {
        return Step::End(StackEnd::BadFramePointer);
    }
    Step::Caller(Registers { pc: return_address, sp: fp + 16, fp: caller_fp })
}
