//! Frames that no table describes: code made at run time, Go, assembly without call frame information.
//!
//! First what the next instructions are: a few sequences say for certain where the return address is, since nothing
//! comes between them and the return. Then the frame pointer, believed only where it leads to code.

use hostscope_wire::stack::StackEnd;
use hostscope_wire::unwind::{Rule, cfa, fp, register};

use super::{Guess, Process, USER_ADDRESS_END, Walk};

/// `mov $15,%rax; syscall`: what a signal handler returns to (`rt_sigreturn`), where nothing describes it: in musl, in
/// Go. libgcc knows it the same way (libgcc/config/i386/linux-unwind.h).
/// The first 8 of its 9 bytes, which are followed by nothing else.
const SIGRETURN: u64 = 0x0f00_0000_0fc0_c748;
/// `mov $15,%eax; syscall`, the shorter form.
const SIGRETURN_SHORT: u64 = 0x0005_0f00_0000_0fb8;

/// Frames this far below the one that they called are on another stack.
const OTHER_STACK_BYTES: u64 = 64 * 1024;

/// A rule for such code, or that the walk ends. `for_want_of_table` says that a table was expected.
#[inline(always)]
pub fn rule<P: Process>(process: &P, walk: &mut Walk, for_want_of_table: bool) -> Result<Rule, StackEnd> {
    if let Some(code) = code_at(process, walk.pc)
        && let Some(rule) = by_code(code, walk.interrupted != 0)
    {
        return Ok(rule);
    }
    let (guess, fails) = if for_want_of_table {
        (Guess::ForWantOfTable, StackEnd::NoTable)
    } else {
        (Guess::Unknown, StackEnd::BadFramePointer)
    };
    walk.guessed = guess as u32;
    by_frame_pointer(walk).ok_or(if walk.fp == 0 { StackEnd::Complete } else { fails })
}

/// The 8 bytes at `pc`; zeros behind the end of the code's last page.
#[inline(always)]
fn code_at<P: Process>(process: &P, pc: u64) -> Option<u64> {
    let aligned = pc & !7;
    let [low, high] = match process.words(aligned) {
        Some(words) => words,
        None => [process.word(aligned)?, 0],
    };
    let shift = ((pc & 7) * 8) as u32;
    // In two steps: a shift by 64 is none.
    Some(low >> shift | high << 1 << (63 - shift))
}

/// What the next instructions say.
#[inline(always)]
fn by_code(word: u64, is_interrupted: bool) -> Option<Rule> {
    if word == SIGRETURN || word & 0x00ff_ffff_ffff_ffff == SIGRETURN_SHORT {
        return Some(Rule::SIGNAL);
    }
    // `mov %rsp,%rbp` after `push %rbp`, or `pop %rbp; ret` before the end.
    if is_interrupted && (word & 0xff_ffff == 0xe5_8948 || word & 0xffff == 0xc35d) {
        return Some(from_stack_pointer(16, fp::AT_CFA));
    }
    // A stub of a procedure linkage table that nobody describes, as in static programs: `jmp *(%rip)`, maybe behind `bnd`.
    let is_stub = word & 0xffff == 0x25ff || word & 0xff_ffff == 0x25_fff2;
    let offset = if is_interrupted && is_stub { Some(8) } else { to_return(word) };
    offset.map(|offset| from_stack_pointer(offset, fp::SAME))
}

/// Bytes from rsp to the CFA, where the instructions at the pc only give back stack and return, or have not yet taken
/// any. CPython's perf trampolines (Objects/perf_trampoline.c, Python/asm_trampoline.S: `sub $8,%rsp; call *%rcx;
/// add $8,%rsp; ret`) are covered at each of their instructions.
#[inline(always)]
fn to_return(word: u64) -> Option<i32> {
    // ret
    if word & 0xff == 0xc3 {
        return Some(8);
    }
    // add $imm8,%rsp; ret
    if word & 0xff_00ff_ffff == 0xc3_00c4_8348 {
        return Some(((word >> 24) as i8 as i32) + 8);
    }
    // call *%rcx; add $imm8,%rsp; ret
    if word & 0x00ff_00ff_ffff_ffff == 0x00c3_00c4_8348_d1ff {
        return Some(((word >> 40) as i8 as i32) + 8);
    }
    // add $imm32,%rsp; ret
    if word & 0xff_ffff == 0xc4_8148 && word >> 56 == 0xc3 {
        return Some(((word >> 24) as i32).wrapping_add(8));
    }
    // The first instruction of a function: endbr64; push %rbp; mov %rsp,%rbp; sub $8,%rsp; call *%rcx
    if word & 0xffff_ffff == 0xfa1e_0ff3
        || word & 0xffff_ffff == 0xe589_4855
        || word & 0xffff_ffff_ffff == 0xd1ff_08ec_8348
    {
        return Some(8);
    }
    None
}

#[inline(always)]
fn from_stack_pointer(cfa_offset: i32, fp: u8) -> Rule {
    Rule { cfa: cfa::REGISTER << 4 | register::SP, fp, fp_offset: -2, cfa_offset }
}

/// At rbp stand the caller's rbp and, above it, the return address (System V ABI for x86-64, 3.2.2); the outermost frame
/// has rbp = 0 (3.4.1), which `_start`, glibc's and musl's thread entries and Go's goroutines see to.
///
/// A caller's frame lies above the frame that it called: anything else is another use of the register, and would also
/// lead round in a circle. Unless the code has switched stacks, as Go does for its runtime; then it lies far away.
#[inline(always)]
fn by_frame_pointer(walk: &Walk) -> Option<Rule> {
    let Walk { sp, fp, .. } = *walk;
    let is_below = fp < sp && sp - fp < OTHER_STACK_BYTES;
    if fp == 0 || is_below || fp & 7 != 0 || fp >= USER_ADDRESS_END {
        return None;
    }
    let at_cfa = fp::AT_CFA;
    Some(Rule { cfa: cfa::REGISTER << 4 | register::FP, fp: at_cfa, fp_offset: -2, cfa_offset: 16 })
}
