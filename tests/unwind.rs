//! The stack walk of the eBPF programs, run on the host over recorded memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(missing_docs, clippy::inline_always, reason = "the included module is the programs' own")]

use std::collections::BTreeMap;

use hostscope_wire::limits::MAX_USER_FRAMES;
use hostscope_wire::stack::StackEnd;

#[path = "../ebpf/programs/unwind/mod.rs"]
mod unwind;

use unwind::{Memory, Registers, Walked, walk};

/// Words of a stack by address; what is not here cannot be read.
#[derive(Default)]
struct Recorded(BTreeMap<u64, u64>);

impl Recorded {
    /// A frame at `fp`: the caller's frame pointer and the return address.
    fn frame(mut self, fp: u64, caller_fp: u64, return_address: u64) -> Self {
        self.0.extend([(fp, caller_fp), (fp + 8, return_address)]);
        self
    }
}

impl Memory for Recorded {
    fn words(&self, address: u64) -> Option<[u64; 2]> {
        Some([*self.0.get(&address)?, *self.0.get(&(address + 8))?])
    }
}

const SP: u64 = 0x7fff_0000_0000;
const PC: u64 = 0x40_1000;

fn walked(memory: &Recorded, fp: u64) -> (Vec<u64>, Walked) {
    let mut frames = Vec::new();
    let walked = walk(memory, Registers { pc: PC, sp: SP, fp }, |index, pc| {
        assert_eq!(index as usize, frames.len());
        frames.push(pc);
    });
    assert_eq!(walked.frames as usize, frames.len());
    (frames, walked)
}

#[test]
fn frames_up_to_the_entry_are_complete() {
    let memory = Recorded::default()
        .frame(SP + 0x10, SP + 0x40, 0x40_2000)
        .frame(SP + 0x40, SP + 0x80, 0x40_3000)
        .frame(SP + 0x80, 0, 0x40_4000);
    let (frames, walked) = walked(&memory, SP + 0x10);
    assert_eq!(frames, [PC, 0x40_2000, 0x40_3000, 0x40_4000]);
    assert_eq!(walked.end, StackEnd::Complete);
}

#[test]
fn a_return_address_of_zero_is_the_entry_too() {
    let memory = Recorded::default().frame(SP + 0x10, SP + 0x40, 0x40_2000).frame(SP + 0x40, 0x1234, 0);
    let (frames, walked) = walked(&memory, SP + 0x10);
    assert_eq!((frames.len(), walked.end), (2, StackEnd::Complete));
}

#[test]
fn without_a_frame_pointer_there_is_the_leaf_alone() {
    assert_eq!(walked(&Recorded::default(), 0), (vec![PC], Walked { frames: 1, end: StackEnd::Complete }));
    for fp in [1, SP - 8, SP + 0x11, 1 << 47, u64::MAX, u64::MAX - 7] {
        let (frames, walked) = walked(&Recorded::default(), fp);
        assert_eq!((frames.len(), walked.end), (1, StackEnd::BadFramePointer), "{fp:#x}");
    }
}

#[test]
fn memory_that_cannot_be_read_ends_the_walk() {
    let memory = Recorded::default().frame(SP + 0x10, SP + 0x40, 0x40_2000);
    let (frames, walked) = walked(&memory, SP + 0x10);
    assert_eq!((frames.len(), walked.end), (2, StackEnd::UnreadableStack));
}

#[test]
fn frames_that_point_back_or_at_themselves_do_not_loop() {
    for caller_fp in [SP + 0x10, SP + 0x18, SP, SP - 0x100] {
        let memory = Recorded::default().frame(SP + 0x10, caller_fp, 0x40_2000);
        let (frames, walked) = walked(&memory, SP + 0x10);
        assert_eq!((frames.len(), walked.end), (2, StackEnd::BadFramePointer), "{caller_fp:#x}");
    }
}

#[test]
fn a_kernel_address_is_no_return_address() {
    let memory = Recorded::default().frame(SP + 0x10, SP + 0x40, 0xffff_ffff_8100_0000);
    assert_eq!(walked(&memory, SP + 0x10).1.end, StackEnd::BadFramePointer);
}

#[test]
fn depth_is_bounded_and_only_deeper_stacks_are_truncated() {
    let deep = |frames: u64| {
        (0..frames).fold(Recorded::default(), |memory, index| {
            let last = index + 1 == frames;
            memory.frame(
                SP + 16 * (index + 1),
                if last { 0 } else { SP + 16 * (index + 2) },
                0x40_2000 + index,
            )
        })
    };
    let most = MAX_USER_FRAMES as u64;
    for (callers, frames, end) in [
        (most - 1, MAX_USER_FRAMES, StackEnd::Complete),
        (most, MAX_USER_FRAMES, StackEnd::Truncated),
        (most * 2, MAX_USER_FRAMES, StackEnd::Truncated),
    ] {
        let (found, walked) = walked(&deep(callers), SP + 16);
        assert_eq!((found.len(), walked.end), (frames, end), "{callers} callers");
    }
}
