//! Recognizes the few DWARF expressions that compilers and assembly really use for frames.

use super::bytes::Bytes;
use hostscope_wire::unwind::register;

/// What an expression computes, as far as a rule can hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expression {
    /// register + offset
    Register { register: u8, offset: i64 },
    /// word at (register + at) + plus
    Dereference { register: u8, at: i64, plus: i64 },
    /// word at (rsp + 8 * index + at) + plus
    Indexed { index: u8, at: i64, plus: i64 },
    /// rsp + offset + 8 if (pc & 15) >= threshold
    Plt { offset: i64, threshold: u8 },
}

// DWARF 5, section 7.7.1.
const DEREF: u8 = 0x06;
const CONST1U: u8 = 0x08;
const CONST1S: u8 = 0x09;
const CONST2U: u8 = 0x0a;
const CONST2S: u8 = 0x0b;
const CONST4U: u8 = 0x0c;
const CONST4S: u8 = 0x0d;
const CONSTU: u8 = 0x10;
const CONSTS: u8 = 0x11;
const AND: u8 = 0x1a;
const MINUS: u8 = 0x1c;
const MUL: u8 = 0x1e;
const PLUS: u8 = 0x22;
const PLUS_UCONST: u8 = 0x23;
const SHL: u8 = 0x24;
const GE: u8 = 0x2a;
const LIT0: u8 = 0x30;
const LIT31: u8 = LIT0 + 31;
const BREG0: u8 = 0x70;
const BREG15: u8 = BREG0 + 15;
const BREG16: u8 = BREG0 + 16;

/// What `bytes` compute; `None` where it is none of the known forms.
pub(super) fn recognize(bytes: &[u8]) -> Option<Expression> {
    let mut reader = Bytes::new(bytes, 0);
    let (register, offset) = base(&mut reader)?;
    let offset = offset.checked_add(addends(&mut reader)?)?;
    if reader.is_empty() {
        return Some(Expression::Register { register, offset });
    }
    match reader.u8()? {
        DEREF => {
            let plus = addends(&mut reader)?;
            reader.is_empty().then_some(Expression::Dereference { register, at: offset, plus })
        }
        BREG16 if register == register::SP => plt(&mut reader, offset),
        code @ BREG0..=BREG15 if register == register::SP => indexed(&mut reader, code - BREG0, offset),
        _ => None,
    }
}

/// `bregN offset`
fn base(reader: &mut Bytes<'_>) -> Option<(u8, i64)> {
    let code = reader.u8()?;
    (BREG0..=BREG15).contains(&code).then_some(())?;
    Some((code - BREG0, reader.sleb()?))
}

/// The rest of what linkers write for the stubs of the procedure linkage table, of 16 bytes each: the stub pushes a
/// word, and the stack grows by it from the instruction behind on.
fn plt(reader: &mut Bytes<'_>, offset: i64) -> Option<Expression> {
    let [0, 0x3f, AND, literal @ LIT0..=0x3f, GE, 0x33, SHL, PLUS] = *reader.take(reader.remaining())? else {
        return None;
    };
    Some(Expression::Plt { offset, threshold: literal - LIT0 })
}

/// The rest of what OpenSSL's assembly writes where it keeps rsp's old value behind an array of a length in a register.
fn indexed(reader: &mut Bytes<'_>, index: u8, at: i64) -> Option<Expression> {
    const EIGHT: u8 = LIT0 + 8;
    let [0, EIGHT, MUL, PLUS, DEREF] = *reader.take(5)? else { return None };
    let plus = addends(reader)?;
    reader.is_empty().then_some(Expression::Indexed { index, at, plus })
}

/// The sum of constants that are added to the top of the stack.
fn addends(reader: &mut Bytes<'_>) -> Option<i64> {
    let mut sum = 0_i64;
    loop {
        let before = *reader;
        let Some((constant, negated)) = addend(reader) else {
            *reader = before;
            return Some(sum);
        };
        let constant = if negated { constant.checked_neg()? } else { constant };
        sum = sum.checked_add(constant)?;
    }
}

/// A constant, and whether it is subtracted.
fn addend(reader: &mut Bytes<'_>) -> Option<(i64, bool)> {
    let code = reader.u8()?;
    if code == PLUS_UCONST {
        return Some((i64::try_from(reader.uleb()?).ok()?, false));
    }
    let constant = match code {
        LIT0..=LIT31 => i64::from(code - LIT0),
        CONST1U => reader.u8()?.into(),
        CONST1S => i64::from(reader.u8()? as i8),
        CONST2U => reader.u16()?.into(),
        CONST2S => i64::from(reader.u16()? as i16),
        CONST4U => reader.u32()?.into(),
        CONST4S => i64::from(reader.u32()? as i32),
        CONSTU => i64::try_from(reader.uleb()?).ok()?,
        CONSTS => reader.sleb()?,
        _ => return None,
    };
    match reader.u8()? {
        PLUS => Some((constant, false)),
        MINUS => Some((constant, true)),
        _ => None,
    }
}
