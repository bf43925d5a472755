//! The walk of a user stack: from registers to return addresses, frame by frame.
//!
//! It knows nothing of eBPF: the process's memory, mappings and tables are passed in, so the same code runs in the
//! kernel and, in tests, over recorded stacks on the host. One step finds the rule of a frame and applies it:
//!
//! 1. [`mapping`]: the mapping that holds the pc, by a binary search over the process's own.
//! 2. [`table`]: the rule for that place in the mapped file, by a binary search over the file's rows.
//! 3. [`no_table`]: where no table describes the code, a rule from what its bytes or the frame pointer say.
//! 4. [`rule`]: the caller's registers by that rule.
//!
//! The pc of a caller is a return address, which may already belong to the next function: it is looked up one byte
//! before. The interrupted pc is looked up as it is, and so is the one that a signal handler interrupted.

mod mapping;
mod no_table;
mod rule;
mod table;

use hostscope_wire::limits::MAX_USER_FRAMES;
use hostscope_wire::stack::{EXACT_PC, StackEnd};
use hostscope_wire::unwind::{Block, MappingEntry, NO_TABLE, ProcessEntry, Rule, cfa};

/// One past the highest user address with four-level page tables, which is also where five-level kernels put programs
/// that do not ask for more.
pub const USER_ADDRESS_END: u64 = 1 << 47;

/// General registers and the pc, in the order of the kernel's `struct sigcontext` for x86-64 (r8 to r15, rdi, rsi, rbp,
/// rbx, rdx, rax, rcx, rsp, rip; arch/x86/include/uapi/asm/sigcontext.h), so that a signal frame is copied in one read.
pub type Context = [u64; 17];

/// Places in a [`Context`].
pub mod context {
    /// rbp.
    pub const FP: usize = 10;
    /// rsp.
    pub const SP: usize = 15;
    /// rip.
    pub const PC: usize = 16;
}

/// What is walked: a process's memory, its executable mappings, and the tables of the files mapped.
pub trait Process {
    /// A table.
    type Table: Copy;

    /// The word at `address`; `None` where it cannot be read.
    fn word(&self, address: u64) -> Option<u64>;
    /// The two words at `address` and after it; `None` where they cannot be read.
    fn words(&self, address: u64) -> Option<[u64; 2]>;
    /// Reads a whole context from `address`; false where it cannot be read.
    fn read_context(&self, address: u64, context: &mut Context) -> bool;
    /// The mapping at `index` of the array that all processes share.
    fn mapping(&self, index: u32) -> Option<&MappingEntry>;
    /// The table with that number, where there is one at the moment.
    fn table(&self, number: u32) -> Option<Self::Table>;
    /// Notes that a table is in use, so that it is not the next to be given up.
    fn used(&self, number: u32);
    /// Block `index` of a table; `None` behind its end.
    fn block(&self, table: Self::Table, index: u32) -> Option<&Block>;
}

/// A walk under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// Where the CPU is in this frame: the interrupted instruction, later return addresses.
    pub pc: u64,
    /// The stack pointer in this frame.
    pub sp: u64,
    /// rbp in this frame.
    pub fp: u64,
    /// The registers of the interrupted code, good as long as [`Walk::interrupted`] is set.
    pub context: Context,
    /// Not 0 where the frame is one that was interrupted, by the sample or by a signal: its pc is no return address, and
    /// all of its registers are known.
    pub interrupted: u64,
    /// The value of the followed register in this frame, where [`Walk::followed`] names it.
    pub followed_value: u64,
    /// The callee-saved register that is followed through the frames of files that need it; 0 where none is known.
    pub followed: u32,
    /// The one that the table of this frame follows; 0 for none.
    pub follows: u32,
    /// The mapping that was found last.
    pub mapping: MappingEntry,
    /// The mappings of the process.
    pub process: ProcessEntry,
    /// Frames so far.
    pub frames: u32,
    /// Why the walk ended: a [`StackEnd`]; [`GOES_ON`] while it has not.
    pub end: u32,
    /// A [`Guess`].
    guessed: u32,
    /// For searches and rules.
    forgotten: Forgotten,
}

/// Two words in memory rather than in registers: where a binary search stands, or a rule.
///
/// The verifier follows each way through a loop on its own as long as a register holds another range of values for each;
/// from memory of a map it knows nothing of a value, the ways become one, and a search of 13 halvings is not followed in
/// 8,192 ways. Costs about 2 ns a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Forgotten {
    first: u32,
    second: u32,
}

impl Forgotten {
    /// Sets both and forgets what was known of them.
    #[inline(always)]
    fn set(&mut self, first: u32, second: u32) {
        // SAFETY: references are valid and aligned.
        unsafe {
            core::ptr::write_volatile(&mut self.first, first);
            core::ptr::write_volatile(&mut self.second, second);
        }
    }

    /// Both as they stand in memory.
    #[inline(always)]
    fn get(&self) -> (u32, u32) {
        // SAFETY: references are valid and aligned.
        unsafe { (core::ptr::read_volatile(&self.first), core::ptr::read_volatile(&self.second)) }
    }
}

/// Whether the caller that the walk stands at was found by a frame pointer that nothing vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Guess {
    /// By a rule, or by what the code says.
    No = 0,
    /// There is no table for such code.
    Unknown = 1,
    /// There ought to be a table, but it is not there.
    ForWantOfTable = 2,
}

/// [`Walk::end`] of a walk that has not ended.
pub const GOES_ON: u32 = u32::MAX;

impl Walk {
    /// Begins a walk of `process` from the interrupted registers in [`Walk::context`].
    #[inline(always)]
    pub fn begin(&mut self, process: ProcessEntry) {
        self.pc = self.context[context::PC];
        self.sp = self.context[context::SP];
        self.fp = self.context[context::FP];
        self.interrupted = 1;
        self.mapping = MappingEntry { start: 0, end: 0, file_offset: 0, table: NO_TABLE, reserved: 0 };
        self.process = process;
        self.frames = 0;
        self.end = GOES_ON;
        self.guessed = Guess::No as u32;
        self.followed = 0;
    }
}

/// Keeps the frame that the walk stands at, and goes on to its caller. False where the walk has ended.
///
/// Costs about 80 ns in a mapping that was already found and with a warm cache, of which 30 to 60 ns are reads of user
/// memory (`cargo xtask bench`, line "in-kernel").
#[inline(always)]
pub fn step<P: Process>(process: &P, walk: &mut Walk, keep: impl FnOnce(u32, u64)) -> bool {
    // What the last step knew is forgotten here, as in `Forgotten`.
    let walk = core::hint::black_box(walk);
    match to_caller(process, walk, keep) {
        Ok(()) => true,
        Err(end) => {
            walk.end = end as u32;
            false
        }
    }
}

/// Why the walk ends: `otherwise`, unless the caller was only guessed; then the guess is to blame, and what led to it.
#[inline(always)]
fn instead(walk: &Walk, otherwise: StackEnd) -> StackEnd {
    if walk.guessed == Guess::No as u32 {
        otherwise
    } else if walk.guessed == Guess::Unknown as u32 {
        StackEnd::BadFramePointer
    } else {
        StackEnd::NoTable
    }
}

#[inline(always)]
fn to_caller<P: Process>(process: &P, walk: &mut Walk, keep: impl FnOnce(u32, u64)) -> Result<(), StackEnd> {
    if walk.frames >= MAX_USER_FRAMES as u32 {
        return Err(StackEnd::Truncated);
    }
    let looked_up = if walk.interrupted == 0 { walk.pc.wrapping_sub(1) } else { walk.pc };
    let is_code = mapping::holds(&walk.mapping, looked_up) || mapping::find(process, walk, looked_up);
    if !is_code && walk.guessed != Guess::No as u32 {
        return Err(instead(walk, StackEnd::UnmappedPc));
    }
    if !is_code {
        keep_frame(walk, false, keep);
        return Err(StackEnd::UnmappedPc);
    }
    let offset = (looked_up - walk.mapping.start).wrapping_add(walk.mapping.file_offset);
    let number = walk.mapping.table;
    let table = if number == NO_TABLE { None } else { process.table(number) };
    walk.follows = 0;
    let found = match table {
        Some(table) => table::rule_at(process, table, offset, walk),
        None => None,
    };
    walk.guessed = Guess::No as u32;
    if found.is_none() {
        // Nothing says where such code has saved the followed register.
        walk.follows = 0;
    }
    let rule = match found {
        Some(rule) => rule,
        None => match no_table::rule(process, walk, table.is_none() && number != NO_TABLE) {
            Ok(rule) => rule,
            Err(end) => {
                keep_frame(walk, false, keep);
                return Err(end);
            }
        },
    };
    let [first, second] = rule.to_words();
    walk.forgotten.set(first, second);
    let (first, second) = walk.forgotten.get();
    let rule = Rule::from_words([first, second]);
    keep_frame(walk, rule.kind() == cfa::SIGNAL, keep);
    rule::apply(process, walk, rule)
}

/// Hands out the frame that the walk stands at, marked where its pc is no return address.
#[inline(always)]
fn keep_frame(walk: &mut Walk, is_trampoline: bool, keep: impl FnOnce(u32, u64)) {
    let is_exact = walk.frames > 0 && (is_trampoline || walk.interrupted != 0);
    keep(walk.frames, if is_exact { walk.pc | EXACT_PC } else { walk.pc });
    walk.frames += 1;
}
