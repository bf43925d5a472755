//! The walk of user stacks, the very code that runs in the kernel, over memory that is made by hand or copied from a
//! process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../ebpf/programs/unwind/mod.rs"]
#[allow(clippy::pedantic, missing_docs, reason = "code of another crate")]
mod unwind;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use hostscope_tests::host::host;
use hostscope_tests::program::run;
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::limits::MAX_USER_FRAMES;
use hostscope_wire::stack::StackEnd;
use unwind::{Memory, Registers, walk};

/// Words by address; everything else cannot be read.
#[derive(Default)]
struct Words {
    words: BTreeMap<u64, u64>,
    reads: Cell<u32>,
}

impl Memory for Words {
    fn words(&self, address: u64) -> Option<[u64; 2]> {
        self.reads.set(self.reads.get() + 1);
        Some([*self.words.get(&address)?, *self.words.get(&(address + 8))?])
    }
}

const STACK: u64 = 0x7ffc_0000_0000;

/// Frames of 32 bytes on one another: the first at `STACK + 16`, each with the next one's address and a return address
/// (0x1001, 0x1002, …); the last one says `fp`.
fn frames(count: u64, last_fp: u64) -> Words {
    let mut memory = Words::default();
    for index in 0..count {
        let at = STACK + 16 + index * 32;
        memory.words.insert(at, if index + 1 == count { last_fp } else { at + 32 });
        memory.words.insert(at + 8, 0x1001 + index);
    }
    memory
}

fn walked(memory: &impl Memory, registers: Registers) -> (Vec<u64>, StackEnd) {
    let mut kept = Vec::new();
    let walked = walk(memory, registers, |frame, pc| {
        assert_eq!(frame as usize, kept.len(), "frames are told in order");
        kept.push(pc);
    });
    assert_eq!(walked.frames as usize, kept.len());
    (kept, walked.end)
}

const LEAF: Registers = Registers { pc: 0x1000, sp: STACK, fp: STACK + 16 };

#[test]
fn frames_are_followed_to_the_entry() {
    assert_eq!(walked(&frames(3, 0), LEAF), (vec![0x1000, 0x1001, 0x1002, 0x1003], StackEnd::Complete));
    // A thread whose entry has cleared rbp.
    assert_eq!(walked(&Words::default(), Registers { fp: 0, ..LEAF }), (vec![0x1000], StackEnd::Complete));
    // A return address of zero is an entry too (a coroutine's).
    let mut memory = frames(2, STACK + 4096);
    memory.words.insert(STACK + 16 + 32 + 8, 0);
    assert_eq!(walked(&memory, LEAF), (vec![0x1000, 0x1001], StackEnd::Complete));
}

#[test]
fn what_is_no_frame_pointer_ends_the_walk() {
    let bad = |memory: &Words, registers: Registers, frames: usize| {
        let (kept, end) = walked(memory, registers);
        assert_eq!((kept.len(), end), (frames, StackEnd::BadFramePointer), "{registers:x?}");
    };
    let memory = frames(3, 0);
    // Below the stack pointer, not aligned, the kernel's.
    for fp in [STACK - 16, 1, STACK + 17, 0xffff_8880_0000_0000, 1 << 47, u64::MAX] {
        bad(&memory, Registers { fp, ..LEAF }, 1);
    }
    // The same one frame up.
    for fp in [STACK, 1, STACK + 81, 0xffff_8880_0000_0000] {
        bad(&frames(1, fp), LEAF, 2);
    }
    // A return address that is none.
    let mut memory = frames(3, 0);
    memory.words.insert(STACK + 16 + 32 + 8, 0xffff_8880_0000_0000);
    bad(&memory, LEAF, 2);
}

#[test]
fn loops_end() {
    // A frame that names itself, and two that name each other.
    assert_eq!(walked(&frames(1, STACK + 16), LEAF), (vec![0x1000, 0x1001], StackEnd::BadFramePointer));
    let memory = frames(2, STACK + 16);
    assert_eq!(walked(&memory, LEAF), (vec![0x1000, 0x1001, 0x1002], StackEnd::BadFramePointer));
    assert!(memory.reads.get() <= 3);
}

#[test]
fn a_stack_that_cannot_be_read_ends_the_walk() {
    let (kept, end) = walked(&frames(2, STACK + 4096), LEAF);
    assert_eq!((kept.len(), end), (3, StackEnd::UnreadableStack));
    let (kept, end) = walked(&Words::default(), LEAF);
    assert_eq!((kept, end), (vec![0x1000], StackEnd::UnreadableStack));
    // Half a frame, at the end of a page.
    let mut memory = frames(1, 0);
    memory.words.remove(&(STACK + 24));
    assert_eq!(walked(&memory, LEAF), (vec![0x1000], StackEnd::UnreadableStack));
}

#[test]
fn deep_stacks_are_cut_and_only_those() {
    let limit = MAX_USER_FRAMES as u64;
    for (frames_there, end) in [
        (limit - 2, StackEnd::Complete),
        (limit - 1, StackEnd::Complete),
        (limit, StackEnd::Truncated),
        (10 * limit, StackEnd::Truncated),
    ] {
        // As many return addresses, and the leaf.
        let (kept, ended) = walked(&frames(frames_there, 0), LEAF);
        assert_eq!((kept.len() as u64, ended), (limit.min(frames_there + 1), end), "{frames_there} frames");
    }
}

/// A process's memory.
struct ProcessMemory(fs::File);

impl Memory for ProcessMemory {
    fn words(&self, address: u64) -> Option<[u64; 2]> {
        let mut bytes = [0; 16];
        self.0.read_exact_at(&mut bytes, address).ok()?;
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        Some([word(0), word(8)])
    }
}

/// The registers of a process, which is stopped from then on.
fn stopped_at(pid: i32) -> Registers {
    // SAFETY: all zeros is a valid `user_regs_struct`.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: a child of ours; the structure is as large as the kernel writes.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0), 0);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers), 0);
    }
    Registers { pc: registers.rip, sp: registers.rsp, fp: registers.rbp }
}

#[test]
fn a_real_stack_is_walked_to_main() {
    let _host = host();
    let path = workload::path("shares");
    let symbols = run(Command::new("nm").arg("-S").arg(&path)).success().stdout;
    let range = |function: &str| {
        let line = symbols.lines().find(|line| line.ends_with(&format!(" {function}"))).unwrap();
        let numbers: Vec<u64> =
            line.split(' ').take(2).map(|hex| u64::from_str_radix(hex, 16).unwrap()).collect();
        numbers[0]..numbers[0] + numbers[1]
    };
    let working = ["seventy", "twenty", "ten"].map(range);
    let (burn, run_loop, main) = (range("burn"), range("run"), range("main"));
    let mut whole = 0;
    for _ in 0..20 {
        let workload = Workload::start("shares", [""; 0]);
        std::thread::sleep(std::time::Duration::from_millis(30));
        let registers = stopped_at(workload.pid() as i32);
        let maps = fs::read_to_string(format!("/proc/{}/maps", workload.pid())).unwrap();
        let base = u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
        let memory = ProcessMemory(fs::File::open(format!("/proc/{}/mem", workload.pid())).unwrap());
        let frames: Vec<u64> = walked(&memory, registers).0.iter().map(|pc| pc.wrapping_sub(base)).collect();
        if burn.contains(&frames[0]) {
            whole += 1;
            assert!(working.iter().any(|range| range.contains(&frames[1])), "{frames:x?}");
            assert!(run_loop.contains(&frames[2]) && main.contains(&frames[3]), "{frames:x?}");
        }
    }
    // The rest may have been caught at its start, or on its way into the loop.
    assert!(whole >= 10, "{whole} of 20 were caught at work");
}
