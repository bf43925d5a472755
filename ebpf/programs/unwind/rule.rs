//! A rule applied: from a frame's registers to its caller's.

use hostscope_wire::stack::StackEnd;
use hostscope_wire::unwind::{Rule, SAVED_ELSEWHERE, cfa, fp, register};

use super::{Process, USER_ADDRESS_END, Walk, context};

/// Bytes from the beginning of a `ucontext_t` to its registers: flags, link and stack come first
/// (arch/x86/include/uapi/asm/ucontext.h).
const UCONTEXT_REGISTERS: u64 = 40;

/// Where a register of DWARF's number stands in a `Context`, 4 bits each: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8…
const CONTEXT_PLACES: u64 = 0x7654_3210_fa89_becd;

/// A general register by its DWARF number, in a frame that was interrupted.
#[inline(always)]
fn interrupted_register(walk: &Walk, number: u8) -> u64 {
    let place = CONTEXT_PLACES >> (u32::from(number & 15) * 4) & 15;
    walk.context[place as usize]
}

/// Goes on to the caller by `rule`.
#[inline(always)]
pub fn apply<P: Process>(process: &P, walk: &mut Walk, rule: Rule) -> Result<(), StackEnd> {
    let kind = rule.kind();
    if kind == cfa::END {
        return Err(StackEnd::Complete);
    }
    if kind == cfa::SIGNAL {
        return to_interrupted(process, walk);
    }
    if kind > cfa::PLT && kind != cfa::INDEXED {
        return Err(StackEnd::BadRule);
    }
    let base = match rule.register() {
        register::SP => walk.sp,
        // The outermost frame of code with frame pointers (System V ABI for x86-64, 3.4.1).
        register::FP if walk.fp == 0 => return Err(StackEnd::Complete),
        register::FP => walk.fp,
        other if walk.interrupted != 0 => interrupted_register(walk, other),
        other if walk.followed == u32::from(other) && other != 0 => walk.followed_value,
        _ => return Err(StackEnd::BadRule),
    };
    let cfa = if kind == cfa::DEREFERENCE || kind == cfa::INDEXED {
        let base = if kind == cfa::INDEXED { walk.sp.wrapping_add(base << 3) } else { base };
        let address = base.wrapping_add(rule.inner() as i64 as u64);
        process.word(address).ok_or(StackEnd::UnreadableStack)?.wrapping_add(rule.outer() as i64 as u64)
    } else {
        let offset = i64::from(rule.offset());
        // A PLT stub has pushed one word more from the threshold on.
        let pushed =
            if kind == cfa::PLT && (walk.pc & 15) as i64 >= i64::from(rule.fp_offset) { 8 } else { 0 };
        base.wrapping_add((offset + pushed) as u64)
    };
    follow(process, walk, rule, cfa);
    if let Some(number) = rule.return_register() {
        if walk.interrupted == 0 {
            return Err(StackEnd::BadRule);
        }
        let return_address = interrupted_register(walk, number);
        return to(walk, return_address, cfa, walk.fp);
    }
    let Some((return_address, fp)) = read_caller(process, walk, rule, cfa) else {
        return Err(super::instead(walk, StackEnd::UnreadableStack));
    };
    to(walk, return_address, cfa, fp)
}

/// The followed register, as the caller has it.
#[inline(always)]
fn follow<P: Process>(process: &P, walk: &mut Walk, rule: Rule, cfa: u64) {
    if walk.follows == 0 {
        walk.followed = 0;
        return;
    }
    if walk.interrupted != 0 {
        walk.followed_value = interrupted_register(walk, walk.follows as u8);
        walk.followed = walk.follows;
    }
    let saved = rule.saved();
    if saved != 0 {
        let value = process.word(cfa.wrapping_sub(u64::from(saved) * 8));
        walk.followed_value = value.unwrap_or(0);
        walk.followed = if saved != SAVED_ELSEWHERE && value.is_some() { walk.follows } else { 0 };
    } else if walk.followed != walk.follows {
        walk.followed = 0;
    }
}

/// The return address and the caller's rbp: one read where they lie side by side, as after `push %rbp`.
#[inline(always)]
fn read_caller<P: Process>(process: &P, walk: &Walk, rule: Rule, cfa: u64) -> Option<(u64, u64)> {
    let offset = (i64::from(rule.fp_offset) * 8) as u64;
    let kind = rule.fp_kind();
    if kind == fp::AT_CFA && rule.fp_offset == -2 {
        let [fp, return_address] = process.words(cfa.wrapping_sub(16))?;
        return Some((return_address, fp));
    }
    let return_address = process.word(cfa.wrapping_sub(8))?;
    let fp = match kind {
        fp::AT_CFA => process.word(cfa.wrapping_add(offset))?,
        // Where rbp points out of the frame it is the caller's already: gcc describes the end of functions that realign
        // the stack as if it were not, from `pop %rbp` to `ret`.
        fp::AT_FP if walk.fp >= walk.sp && walk.fp < cfa => process.word(walk.fp.wrapping_add(offset))?,
        fp::UNDEFINED => 0,
        _ => walk.fp,
    };
    Some((return_address, fp))
}

#[inline(always)]
fn to(walk: &mut Walk, return_address: u64, sp: u64, fp: u64) -> Result<(), StackEnd> {
    // Below the first frame of a thread that says nothing of its end stands a zero.
    if return_address == 0 {
        return Err(StackEnd::Complete);
    }
    if return_address >= USER_ADDRESS_END {
        return Err(super::instead(walk, StackEnd::UnmappedPc));
    }
    walk.pc = return_address;
    walk.sp = sp;
    walk.fp = fp;
    walk.interrupted = 0;
    Ok(())
}

/// From the trampoline that a signal handler returns to, whose rsp points at the `ucontext_t`, to the code that the
/// signal interrupted.
#[inline(always)]
fn to_interrupted<P: Process>(process: &P, walk: &mut Walk) -> Result<(), StackEnd> {
    let registers = walk.sp.wrapping_add(UCONTEXT_REGISTERS);
    if !process.read_context(registers, &mut walk.context) {
        return Err(StackEnd::UnreadableStack);
    }
    walk.pc = walk.context[context::PC];
    walk.sp = walk.context[context::SP];
    walk.fp = walk.context[context::FP];
    walk.interrupted = 1;
    Ok(())
}
