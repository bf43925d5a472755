//! The walk of a user stack: from registers to return addresses.
//!
//! It knows nothing of eBPF: memory is passed in, so the same code runs in the kernel and, in tests, over recorded
//! stacks on the host. One step is one rule applied to the registers of a frame; today there is one rule, the frame
//! pointer's. Rules from `.eh_frame` come in as further ways to make that step.

mod frame_pointer;

use hostscope_wire::limits::MAX_USER_FRAMES;
use hostscope_wire::stack::StackEnd;

/// The registers that the walk carries from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Where the CPU is: the interrupted instruction, later return addresses.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer (rbp).
    pub fp: u64,
}

/// The memory of the process that is walked.
pub trait Memory {
    /// The two words at `address` and after it; `None` where they cannot be read.
    fn words(&self, address: u64) -> Option<[u64; 2]>;
}

/// What one step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The caller's registers; `pc` is a return address.
    Caller(Registers),
    /// There is no caller, or none that can be found.
    End(StackEnd),
}

/// Where a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// Frames found, the first included.
    pub frames: u32,
    /// Why it ended.
    pub end: StackEnd,
}

/// Walks from `registers` and hands every pc to `keep`, leaf first, at most [`MAX_USER_FRAMES`].
///
/// Costs one read of user memory (about 30 ns) a frame. `#[inline(always)]`: each program has its own copy, with its
/// own reader, and the verifier follows it without a call.
#[inline(always)]
pub fn walk<M: Memory>(memory: &M, mut registers: Registers, mut keep: impl FnMut(u32, u64)) -> Walked {
    keep(0, registers.pc);
    for frame in 1..MAX_USER_FRAMES as u32 {
        match frame_pointer::step(memory, registers) {
            Step::Caller(caller) => registers = caller,
            Step::End(end) => return Walked { frames: frame, end },
        }
        keep(frame, registers.pc);
    }
    // What one more step would say decides whether the last frame kept was the last there is.
    let end = match frame_pointer::step(memory, registers) {
        Step::End(end) => end,
        Step::Caller(_) => StackEnd::Truncated,
    };
    Walked { frames: MAX_USER_FRAMES as u32, end }
}
