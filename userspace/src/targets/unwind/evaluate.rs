//! Evaluates call frame instructions: what holds where a function begins becomes a rule for each place of it.
//!
//! Three things are followed: the CFA, rbp and the return address. Nothing else is needed to find the caller's caller.

use hostscope_wire::unwind::{Rule, SAVED_ELSEWHERE, cfa, fp, register};

use super::bytes::Bytes;
use super::cfi::Cie;
use super::expression::{self, Expression};

/// How deep `DW_CFA_remember_state` may nest: compilers write one, before each early return.
const MAX_REMEMBERED: usize = 32;

/// Why a rule cannot be expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An instruction is unknown, cut short, or makes no sense where it stands.
    Instructions,
    /// The CFA's register or offset is beyond what a rule holds.
    CfaOffset,
    /// The CFA is an expression of an unknown form.
    CfaExpression,
    /// rbp is in a place that a rule does not name.
    FramePointer,
    /// The return address is in a place that a rule does not name.
    ReturnAddress,
    /// A signal frame of an unknown form.
    SignalFrame,
    /// The table has no room for more rules.
    TooManyRules,
}

impl Cause {
    /// All of them, by their numbers.
    pub const ALL: [Self; 7] = [
        Self::Instructions,
        Self::CfaOffset,
        Self::CfaExpression,
        Self::FramePointer,
        Self::ReturnAddress,
        Self::SignalFrame,
        Self::TooManyRules,
    ];
}

/// The CFA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cfa {
    Unknown,
    Register { register: u64, offset: i64 },
    Expression(Expression),
}

/// Where the caller's value of a register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Unspecified,
    Same,
    Undefined,
    /// At CFA + offset.
    AtCfa(i64),
    /// At an address that an expression computes.
    At(Expression),
    Register(u64),
    Elsewhere,
}

/// What holds at a place of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    cfa: Cfa,
    fp: Place,
    return_address: Place,
    /// Where the followed register is, where one is followed.
    followed: Place,
}

impl State {
    /// Before any instruction.
    pub(super) const UNKNOWN: Self = Self {
        cfa: Cfa::Unknown,
        fp: Place::Unspecified,
        return_address: Place::Unspecified,
        followed: Place::Unspecified,
    };

    /// What a common record's own instructions establish; `None` where they are damaged.
    pub(super) fn initial(cie: &Cie, instructions: Bytes<'_>, section: u64) -> Option<Self> {
        let mut machine =
            Machine { cie, section, state: Self::UNKNOWN, remembered: Vec::new(), instructions, follow: 0 };
        while !machine.instructions.is_empty() {
            let Step::Stays = machine.step()? else { return None };
        }
        Some(machine.state)
    }

    fn rule(&self, is_signal_frame: bool) -> Result<Rule, Cause> {
        if is_signal_frame {
            return self.signal_rule();
        }
        let mut rule = Rule::default();
        if self.return_address == Place::Undefined {
            return Ok(Rule::END);
        }
        self.set_cfa(&mut rule)?;
        match self.return_address {
            Place::AtCfa(-8) => {}
            Place::Register(register @ 0..=14) => rule.fp = (register as u8 + 1) << 4,
            _ => return Err(Cause::ReturnAddress),
        }
        self.set_fp(&mut rule)?;
        Ok(rule.with_saved(self.saved()))
    }

    /// As [`Rule::saved`].
    fn saved(&self) -> u8 {
        match self.followed {
            Place::Unspecified | Place::Same => 0,
            Place::AtCfa(offset @ -2032..=-8) if offset % 8 == 0 => (-offset / 8) as u8,
            _ => SAVED_ELSEWHERE,
        }
    }

    fn set_cfa(&self, rule: &mut Rule) -> Result<(), Cause> {
        let (kind, register) = match self.cfa {
            Cfa::Unknown => return Err(Cause::CfaExpression),
            Cfa::Register { register, offset } => {
                *rule = rule.with_offset(offset).ok_or(Cause::CfaOffset)?;
                let register = u8::try_from(register).map_err(|_| Cause::CfaOffset)?;
                (cfa::REGISTER, register)
            }
            Cfa::Expression(Expression::Register { register, offset }) => {
                *rule = rule.with_offset(offset).ok_or(Cause::CfaOffset)?;
                (cfa::REGISTER, register)
            }
            Cfa::Expression(Expression::Dereference { register, at, plus }) => {
                let at = i16::try_from(at).map_err(|_| Cause::CfaOffset)?;
                let plus = i8::try_from(plus).map_err(|_| Cause::CfaOffset)?;
                *rule = rule.with_dereference(at, plus);
                (cfa::DEREFERENCE, register)
            }
            Cfa::Expression(Expression::Plt { offset, threshold }) => {
                *rule = rule.with_offset(offset).ok_or(Cause::CfaOffset)?;
                rule.fp_offset = threshold.into();
                (cfa::PLT, register::SP)
            }
        };
        if usize::from(register) >= register::GENERAL {
            return Err(Cause::CfaOffset);
        }
        rule.cfa = kind << 4 | register;
        Ok(())
    }

    fn set_fp(&self, rule: &mut Rule) -> Result<(), Cause> {
        let (kind, offset) = match self.fp {
            Place::Unspecified | Place::Same => return Ok(()),
            Place::Register(register) if register == u64::from(register::FP) => return Ok(()),
            Place::Undefined => (fp::UNDEFINED, 0),
            Place::AtCfa(offset) => (fp::AT_CFA, offset),
            Place::At(Expression::Register { register: register::FP, offset }) => (fp::AT_FP, offset),
            Place::At(Expression::Register { register, offset }) => {
                (fp::AT_CFA, self.seen_from_cfa(register, offset).ok_or(Cause::FramePointer)?)
            }
            _ => return Err(Cause::FramePointer),
        };
        // A stub's rule has its threshold there; none of them saves a register.
        if offset % 8 != 0 || rule.kind() == cfa::PLT {
            return Err(Cause::FramePointer);
        }
        rule.fp |= kind;
        rule.fp_offset = i16::try_from(offset / 8).map_err(|_| Cause::FramePointer)?;
        Ok(())
    }

    /// Where register + offset lies as seen from the CFA, if that is counted from the same register.
    fn seen_from_cfa(&self, wanted: u8, offset: i64) -> Option<i64> {
        match self.cfa {
            Cfa::Register { register, offset: of_cfa } if register == u64::from(wanted) => {
                offset.checked_sub(of_cfa)
            }
            _ => None,
        }
    }

    /// glibc's `__restore_rt`: the kernel's `struct rt_sigframe` without its first word, which the handler's return has
    /// popped, so that rsp points at the `ucontext_t`. Its rsp, 160 bytes in, is the interrupted code's.
    fn signal_rule(&self) -> Result<Rule, Cause> {
        let interrupted_sp = Expression::Dereference { register: register::SP, at: 160, plus: 0 };
        if self.cfa == Cfa::Expression(interrupted_sp) { Ok(Rule::SIGNAL) } else { Err(Cause::SignalFrame) }
    }
}

/// What an instruction does to the place that is spoken of.
enum Step {
    Stays,
    /// On by so many bytes.
    Advances(u64),
    /// To this virtual address.
    Goes(u64),
}

/// `follow` is the callee-saved register that rules say the place of, beside rbp; 0 for none.
///
/// Calls `emit` for each place from which on another rule may hold: bytes from the function's start, ascending, and the
/// rule. The first is 0; none is `code_bytes` or more.
pub(super) fn evaluate(
    cie: &Cie,
    instructions: Bytes<'_>,
    section: u64,
    start: u64,
    code_bytes: u64,
    follow: u8,
    mut emit: impl FnMut(u64, Result<Rule, Cause>),
) {
    let mut machine =
        Machine { cie, section, state: cie.initial, remembered: Vec::new(), instructions, follow };
    let mut place = 0_u64;
    while !machine.instructions.is_empty() {
        let next = match machine.step() {
            Some(Step::Stays) => continue,
            Some(Step::Advances(bytes)) => place.saturating_add(bytes),
            Some(Step::Goes(address)) if address.wrapping_sub(start) >= place => address.wrapping_sub(start),
            _ => return emit(place, Err(Cause::Instructions)),
        };
        if next > place {
            emit(place, machine.state.rule(cie.is_signal_frame));
        }
        place = next;
        if place >= code_bytes {
            return;
        }
    }
    emit(place, machine.state.rule(cie.is_signal_frame));
}

/// The state, and what changes it.
struct Machine<'a> {
    cie: &'a Cie,
    section: u64,
    state: State,
    remembered: Vec<State>,
    instructions: Bytes<'a>,
    /// The register that is followed beside rbp; 0 (rax, which no function saves) for none.
    follow: u8,
}

// DWARF 5, section 7.24, and the LSB's and GNU's additions.
const ADVANCE_LOC: u8 = 0x40;
const OFFSET: u8 = 0x80;
const RESTORE: u8 = 0xc0;

impl Machine<'_> {
    /// One instruction; `None` where it is unknown or cut short.
    #[inline]
    fn step(&mut self) -> Option<Step> {
        let code = self.instructions.u8()?;
        let low = code & 0x3f;
        match code & 0xc0 {
            ADVANCE_LOC => Some(self.advance(low.into())),
            OFFSET => {
                let offset = self.factored()?;
                self.set(low.into(), Place::AtCfa(offset));
                Some(Step::Stays)
            }
            RESTORE => {
                self.restore(low.into());
                Some(Step::Stays)
            }
            _ => self.extended(code),
        }
    }

    fn extended(&mut self, code: u8) -> Option<Step> {
        match code {
            0x00 | 0x2d => {} // nop, GNU_window_save
            0x01 => return Some(Step::Goes(self.cie.pointers.read(&mut self.instructions, self.section)?)),
            0x02 => return self.instructions.u8().map(|bytes| self.advance(bytes.into())),
            0x03 => return self.instructions.u16().map(|bytes| self.advance(bytes.into())),
            0x04 => return self.instructions.u32().map(|bytes| self.advance(bytes.into())),
            0x1d => return self.instructions.u64().map(|bytes| self.advance(bytes)), // MIPS_advance_loc8
            0x0a => {
                if self.remembered.len() >= MAX_REMEMBERED {
                    return None;
                }
                self.remembered.push(self.state);
            }
            0x0b => self.state = self.remembered.pop()?,
            0x0c..=0x0f | 0x12 | 0x13 => self.define_cfa(code)?,
            // GNU_args_size
            0x2e => {
                self.instructions.uleb()?;
            }
            0x05..=0x09 | 0x10 | 0x11 | 0x14..=0x16 | 0x2f => self.define_register(code)?,
            _ => return None,
        }
        Some(Step::Stays)
    }

    #[inline]
    fn advance(&self, units: u64) -> Step {
        Step::Advances(units.saturating_mul(self.cie.code_alignment))
    }

    /// The instructions that say where the CFA is.
    fn define_cfa(&mut self, code: u8) -> Option<()> {
        self.state.cfa = match (code, self.state.cfa) {
            (0x0c, _) => {
                let register = self.instructions.uleb()?;
                Cfa::Register { register, offset: self.unsigned()? }
            }
            (0x12, _) => {
                let register = self.instructions.uleb()?;
                Cfa::Register { register, offset: self.factored_signed()? }
            }
            (0x0d, Cfa::Register { offset, .. }) => {
                Cfa::Register { register: self.instructions.uleb()?, offset }
            }
            (0x0e, Cfa::Register { register, .. }) => Cfa::Register { register, offset: self.unsigned()? },
            (0x13, Cfa::Register { register, .. }) => {
                Cfa::Register { register, offset: self.factored_signed()? }
            }
            (0x0f, _) => expression::recognize(self.block()?).map_or(Cfa::Unknown, Cfa::Expression),
            // A part of register + offset where there is none.
            _ => return None,
        };
        Some(())
    }

    /// The instructions that say where a register is.
    fn define_register(&mut self, code: u8) -> Option<()> {
        let register = self.instructions.uleb()?;
        let place = match code {
            0x05 => Place::AtCfa(self.factored()?),
            0x06 => {
                self.restore(register);
                return Some(());
            }
            0x07 => Place::Undefined,
            0x08 => Place::Same,
            0x09 => Place::Register(self.instructions.uleb()?),
            0x10 => expression::recognize(self.block()?).map_or(Place::Elsewhere, Place::At),
            0x11 => Place::AtCfa(self.factored_signed()?),
            // GNU_negative_offset_extended
            0x2f => Place::AtCfa(self.factored()?.checked_neg()?),
            // The value itself is computed: val_offset, val_offset_sf, val_expression.
            0x14 => {
                self.instructions.uleb()?;
                Place::Elsewhere
            }
            0x15 => {
                self.instructions.sleb()?;
                Place::Elsewhere
            }
            _ => {
                self.block()?;
                Place::Elsewhere
            }
        };
        self.set(register, place);
        Some(())
    }

    #[inline]
    fn set(&mut self, register: u64, place: Place) {
        if register == u64::from(register::FP) {
            self.state.fp = place;
        } else if register == u64::from(register::RETURN_ADDRESS) {
            self.state.return_address = place;
        } else if register == u64::from(self.follow) && self.follow != 0 {
            self.state.followed = place;
        }
    }

    #[inline]
    fn restore(&mut self, register: u64) {
        if register == u64::from(register::FP) {
            self.state.fp = self.cie.initial.fp;
        } else if register == u64::from(register::RETURN_ADDRESS) {
            self.state.return_address = self.cie.initial.return_address;
        } else if register == u64::from(self.follow) && self.follow != 0 {
            self.state.followed = self.cie.initial.followed;
        }
    }

    #[inline]
    fn unsigned(&mut self) -> Option<i64> {
        i64::try_from(self.instructions.uleb()?).ok()
    }

    #[inline]
    fn factored(&mut self) -> Option<i64> {
        self.unsigned()?.checked_mul(self.cie.data_alignment)
    }

    fn factored_signed(&mut self) -> Option<i64> {
        self.instructions.sleb()?.checked_mul(self.cie.data_alignment)
    }

    fn block(&mut self) -> Option<&[u8]> {
        let length = usize::try_from(self.instructions.uleb()?).ok()?;
        self.instructions.take(length)
    }
}
