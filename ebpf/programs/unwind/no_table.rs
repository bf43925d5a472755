//! Frames that no table describes: code made at run time, Go, assembly without call frame information.
//!
//! First what the next instructions are: a few sequences say for certain where the return address is, since nothing
//! comes between them and the return. Then the frame pointer, believed only where it leads to code.

use hostscope_wire::stack::StackEnd;
use hostscope_wire::unwind::{Rule, cfa, fp, register};

use super::{Process, Walk, frame_pointer, mapping, rule};

/// `mov $15,%rax; syscall`: what a signal handler returns to (`rt_sigreturn`), where nothing describes it: in musl, in
/// Go. libgcc knows it the same way (libgcc/config/i386/linux-unwind.h).
const SIGRETURN: [u64; 2] = [0x0f00_0000_0fc0_c748, 0x05];
/// `mov $15,%eax; syscall`, the shorter form.
const SIGRETURN_SHORT: u64 = 0x0005_0f00_0000_0fb8;

/// Goes on to the caller, or says that the walk ends; `fails` where nothing leads to a caller.
#[inline(always)]
pub fn apply<P: Process>(process: &P, walk: &mut Walk, fails: StackEnd) -> Result<(), StackEnd> {
    if let Some(code) = process.words(walk.pc) {
        if (code[0] == SIGRETURN[0] && code[1] & 0xff == SIGRETURN[1])
            || code[0] & 0x00ff_ffff_ffff_ffff == SIGRETURN_SHORT
        {
            return rule::to_interrupted(process, walk);
        }
        if let Some(offset) = to_return(code) {
            return rule::apply(process, walk, from_stack_pointer(offset, fp::SAME));
        }
        // `mov %rsp,%rbp` after `push %rbp`, or `pop %rbp; ret` before the end.
        if walk.interrupted != 0 && (code[0] & 0xff_ffff == 0xe5_8948 || code[0] & 0xffff == 0xc35d) {
            return rule::apply(process, walk, from_stack_pointer(16, fp::AT_CFA));
        }
    }
    by_frame_pointer(process, walk, fails)
}

/// Bytes from rsp to the CFA, where the instructions at the pc only give back stack and return, or have not yet taken
/// any. CPython's perf trampolines (Objects/perf_trampoline.c, Python/asm_trampoline.S: `sub $8,%rsp; call *%rcx;
/// add $8,%rsp; ret`) are covered at each of their instructions.
#[inline(always)]
fn to_return(code: [u64; 2]) -> Option<i32> {
    let word = code[0];
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

/// By the frame pointer, where the caller so found lies in an executable mapping.
#[inline(always)]
fn by_frame_pointer<P: Process>(process: &P, walk: &mut Walk, fails: StackEnd) -> Result<(), StackEnd> {
    let caller = frame_pointer::caller(process, walk.sp, walk.fp, fails)?;
    // The search makes it the walk's mapping, where the next step needs it.
    let call = caller.pc.wrapping_sub(1);
    if !mapping::holds(&walk.mapping, call) && !mapping::find(process, walk, call) {
        return Err(fails);
    }
    walk.pc = caller.pc;
    walk.sp = walk.fp.wrapping_add(16);
    walk.fp = caller.fp;
    walk.interrupted = 0;
    Ok(())
}
