//! The walk of user stacks, the very code that runs in the kernel, over memory that is made by hand or copied from a
//! process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../ebpf/programs/unwind/mod.rs"]
#[allow(clippy::pedantic, missing_docs, reason = "code of another crate")]
mod unwind;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use hostscope_tests::host::host;
use hostscope_tests::program::run;
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::limits::MAX_USER_FRAMES;
use hostscope_wire::stack::StackEnd;
use hostscope_wire::unwind::{Block, MappingEntry, NO_TABLE, ProcessEntry};
use unwind::{Context, Process, Walk, context, step};

/// A process made by hand: words by address, where everything else cannot be read, and mappings without tables.
#[derive(Default)]
struct Synthetic {
    words: BTreeMap<u64, u64>,
    mappings: Vec<MappingEntry>,
}

impl Process for Synthetic {
    type Table = u32;

    fn word(&self, address: u64) -> Option<u64> {
        self.words.get(&address).copied()
    }

    fn words(&self, address: u64) -> Option<[u64; 2]> {
        Some([self.word(address)?, self.word(address + 8)?])
    }

    fn read_context(&self, address: u64, context: &mut Context) -> bool {
        let words = (0..17).map(|index| self.word(address + index * 8));
        context.iter_mut().zip(words).all(|(to, word)| word.map(|word| *to = word).is_some())
    }

    fn mapping(&self, index: u32) -> Option<&MappingEntry> {
        self.mappings.get(index as usize)
    }

    fn table(&self, _number: u32) -> Option<u32> {
        None
    }

    fn used(&self, _number: u32) {}

    fn block(&self, _table: u32, _index: u32) -> Option<&Block> {
        None
    }
}

const STACK: u64 = 0x7ffc_0000_0000;

/// Code without a table.
const CODE: MappingEntry =
    MappingEntry { start: 0x1000, end: 0x10_0000, file_offset: 0, table: NO_TABLE, reserved: 0 };

/// Frames of 32 bytes on one another: the first at `STACK + 16`, each with the next one's address and a return address
/// (0x1001, 0x1002, …); the last one says `fp`.
fn frames(count: u64, last_fp: u64) -> Synthetic {
    let mut process = Synthetic { words: BTreeMap::new(), mappings: vec![CODE] };
    for index in 0..count {
        let at = STACK + 16 + index * 32;
        process.words.insert(at, if index + 1 == count { last_fp } else { at + 32 });
        process.words.insert(at + 8, 0x1001 + index);
    }
    process
}

/// The registers that a walk begins with.
#[derive(Debug, Clone, Copy)]
struct Registers {
    pc: u64,
    sp: u64,
    fp: u64,
}

fn walked<P: Process>(process: &P, mappings: usize, registers: Registers) -> (Vec<u64>, StackEnd) {
    let mut walk = Walk::default();
    walk.context[context::PC] = registers.pc;
    walk.context[context::SP] = registers.sp;
    walk.context[context::FP] = registers.fp;
    walk.begin(ProcessEntry { first: 0, count: mappings as u32 });
    let mut kept = Vec::new();
    let keep = |kept: &mut Vec<u64>, frame: u32, pc: u64| {
        assert_eq!(frame as usize, kept.len(), "frames are told in order");
        kept.push(pc);
    };
    while step(process, &mut walk, |frame, pc| keep(&mut kept, frame, pc)) {}
    assert_eq!(walk.frames as usize, kept.len());
    (kept, StackEnd::from_number(walk.end).unwrap())
}

fn walked_by_hand(process: &Synthetic, registers: Registers) -> (Vec<u64>, StackEnd) {
    walked(process, process.mappings.len(), registers)
}

const LEAF: Registers = Registers { pc: 0x1000, sp: STACK, fp: STACK + 16 };

#[test]
fn frames_are_followed_to_the_entry() {
    let whole = (vec![0x1000, 0x1001, 0x1002, 0x1003], StackEnd::Complete);
    assert_eq!(walked_by_hand(&frames(3, 0), LEAF), whole);
    // A thread whose entry has cleared rbp.
    let entry = (vec![0x1000], StackEnd::Complete);
    assert_eq!(walked_by_hand(&frames(0, 0), Registers { fp: 0, ..LEAF }), entry);
    // A return address of zero is an entry too (a coroutine's).
    let mut process = frames(2, STACK + 4096);
    process.words.insert(STACK + 16 + 32 + 8, 0);
    assert_eq!(walked_by_hand(&process, LEAF), (vec![0x1000, 0x1001], StackEnd::Complete));
}

#[test]
fn what_is_no_frame_pointer_ends_the_walk() {
    let bad = |process: &Synthetic, registers: Registers, frames: usize| {
        let (kept, end) = walked_by_hand(process, registers);
        assert_eq!((kept.len(), end), (frames, StackEnd::BadFramePointer), "{registers:x?}");
    };
    let process = frames(3, 0);
    // Below the stack pointer, not aligned, the kernel's, not to be read.
    for fp in
        [STACK - 16, 1, STACK + 17, 0xffff_8880_0000_0000, 1 << 47, u64::MAX, STACK + 4096, STACK - (1 << 20)]
    {
        bad(&process, Registers { fp, ..LEAF }, 1);
    }
    // The same one frame up, and a frame that names itself.
    for fp in [STACK, 1, STACK + 81, 0xffff_8880_0000_0000, STACK + 16] {
        bad(&frames(1, fp), LEAF, 2);
    }
    // Two that name each other.
    bad(&frames(2, STACK + 16), LEAF, 3);
    // Return addresses that are none: the kernel's, and where no code is.
    for address in [0xffff_8880_0000_0000, 0x20_0000, 0x1000] {
        let mut process = frames(3, 0);
        process.words.insert(STACK + 16 + 32 + 8, address);
        bad(&process, LEAF, 2);
    }
    // Half a frame, at the end of a page.
    let mut process = frames(1, 0);
    process.words.remove(&(STACK + 24));
    bad(&process, LEAF, 1);
}

#[test]
fn a_pc_outside_of_code_ends_the_walk() {
    let outside = (vec![0x20_0000], StackEnd::UnmappedPc);
    assert_eq!(walked_by_hand(&frames(3, 0), Registers { pc: 0x20_0000, ..LEAF }), outside);
    let unknown = Synthetic { mappings: Vec::new(), ..frames(3, 0) };
    assert_eq!(walked_by_hand(&unknown, LEAF), (vec![0x1000], StackEnd::UnmappedPc));
}

#[test]
fn every_mapping_of_a_process_is_found() {
    for count in [1, 2, 3, 7, 8, 100, 5000] {
        let mut process = frames(1, 0);
        process.mappings = (0..count)
            .map(|index| MappingEntry { start: index << 16, end: (index << 16) + 0x8000, ..CODE })
            .collect();
        for index in
            [0, 1, count / 2, count.saturating_sub(2), count - 1].into_iter().filter(|index| *index < count)
        {
            let at = |offset: u64| {
                walked_by_hand(&process, Registers { pc: (index << 16) + offset, fp: 0, ..LEAF }).1
            };
            assert_eq!(
                [at(0), at(0x7fff), at(0x8000)],
                [StackEnd::Complete, StackEnd::Complete, StackEnd::UnmappedPc]
            );
        }
    }
}

#[test]
fn code_without_a_table_is_read_where_it_says_for_certain() {
    // The instructions at the pc, with rbp of no use: two words at 0x1000, and the return address at STACK + `above`.
    let instructions: [(&[u8], u64); 12] = [
        (&[0xff, 0x25, 0x10, 0, 0, 0], 0),
        (&[0xf2, 0xff, 0x25, 0x10, 0, 0, 0], 0),
        (&[0xc3], 0),
        (&[0x48, 0x83, 0xc4, 0x18, 0xc3], 0x18),
        (&[0x48, 0x81, 0xc4, 0, 1, 0, 0, 0xc3], 0x100),
        (&[0xf3, 0x0f, 0x1e, 0xfa], 0),
        (&[0x55, 0x48, 0x89, 0xe5], 0),
        (&[0x48, 0x89, 0xe5], 8),
        (&[0x5d, 0xc3], 8),
        // CPython's trampoline at its beginning, before and after its call.
        (&[0x48, 0x83, 0xec, 0x08, 0xff, 0xd1, 0x48, 0x83, 0xc4, 0x08, 0xc3], 0),
        (&[0xff, 0xd1, 0x48, 0x83, 0xc4, 0x08, 0xc3], 8),
        (&[0x48, 0x83, 0xc4, 0x08, 0xc3], 8),
    ];
    for (bytes, above) in instructions {
        let mut padded = [0x90; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        let mut process = frames(0, 0);
        for (word, at) in padded.chunks(8).zip([0x1000, 0x1008]) {
            process.words.insert(at, u64::from_le_bytes(word.try_into().unwrap()));
        }
        process.words.insert(STACK + above, 0x2000);
        if above == 8 {
            process.words.insert(STACK, 7);
        }
        let (kept, _) = walked_by_hand(&process, Registers { fp: 7, ..LEAF });
        assert_eq!(kept, [0x1000, 0x2000], "{bytes:x?}");
    }
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
        let (kept, ended) = walked_by_hand(&frames(frames_there, 0), LEAF);
        assert_eq!((kept.len() as u64, ended), (limit.min(frames_there + 1), end), "{frames_there} frames");
    }
}

/// A stopped process of which every mapping of code counts as code without a table.
struct Stopped {
    memory: fs::File,
    mappings: Vec<MappingEntry>,
}

impl Process for Stopped {
    type Table = u32;

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    fn words(&self, address: u64) -> Option<[u64; 2]> {
        Some([self.word(address)?, self.word(address + 8)?])
    }

    fn read_context(&self, _address: u64, _context: &mut Context) -> bool {
        false
    }

    fn mapping(&self, index: u32) -> Option<&MappingEntry> {
        self.mappings.get(index as usize)
    }

    fn table(&self, _number: u32) -> Option<u32> {
        None
    }

    fn used(&self, _number: u32) {}

    fn block(&self, _table: u32, _index: u32) -> Option<&Block> {
        None
    }
}

fn code_of(maps: &str) -> Vec<MappingEntry> {
    let lines = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|flags| flags.contains('x')));
    lines
        .map(|line| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
            MappingEntry { start: number(start), end: number(end), ..CODE }
        })
        .collect()
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
        let memory = fs::File::open(format!("/proc/{}/mem", workload.pid())).unwrap();
        let process = Stopped { memory, mappings: code_of(&maps) };
        let (kept, _) = walked(&process, process.mappings.len(), registers);
        let frames: Vec<u64> = kept.iter().map(|pc| pc.wrapping_sub(base)).collect();
        if burn.contains(&frames[0]) {
            whole += 1;
            assert!(working.iter().any(|range| range.contains(&frames[1])), "{frames:x?}");
            assert!(run_loop.contains(&frames[2]) && main.contains(&frames[3]), "{frames:x?}");
        }
    }
    // The rest may have been caught at its start, or on its way into the loop.
    assert!(whole >= 10, "{whole} of 20 were caught at work");
}
