//! Every instruction and expression that matters, evaluated.

use hostscope_wire::unwind::{Rule, cfa, fp};

use super::files::{ABSOLUTE, AT_ENTRY, CODE, Records, plain, rules, saved, table};
use crate::targets::unwind::Cause;

/// The rules at these places of a function of 256 bytes with these instructions.
fn evaluate<const N: usize>(instructions: &[u8], places: [u64; N]) -> [Rule; N] {
    rules(&table(&Records::usual().function(CODE[0], 256, instructions)).0, places)
}

/// The rule that these instructions end with, and the causes counted.
fn last(instructions: &[u8]) -> (Rule, Vec<Cause>) {
    let (table, tally) = table(&Records::usual().function(CODE[0], 256, instructions));
    let causes = Cause::ALL.into_iter().filter(|&cause| tally.unsupported[cause as usize] > 0).collect();
    (rules(&table, [255])[0], causes)
}

fn unsupported(cause: Cause) -> (Rule, Vec<Cause>) {
    (Rule::UNSUPPORTED, vec![cause])
}

#[test]
fn a_prologue_and_its_end() {
    // push rbp; mov rbp, rsp; ...; leave (remembered before); ret; the rest
    let instructions =
        [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x50, 0x0a, 0x0c, 7, 8, 0x41, 0x0b, 0x50, 0xc6, 0x0c, 7, 8];
    assert_eq!(
        evaluate(&instructions, [0, 1, 3, 4, 19, 20, 21, 36, 37, 255]),
        [
            plain(7, 8),
            saved(7, 16, 2),
            saved(7, 16, 2),
            saved(6, 16, 2),
            saved(6, 16, 2),
            saved(7, 8, 2),
            saved(6, 16, 2),
            saved(6, 16, 2),
            plain(7, 8),
            plain(7, 8),
        ]
    );
}

#[test]
fn places_advance_by_every_width() {
    let mut instructions = vec![0x02, 200, 0x0e, 16, 0x03, 1, 0, 0x0e, 24, 0x04, 2, 0, 0, 0, 0x0e, 32];
    instructions.extend([0x01]);
    instructions.extend((CODE[0] + 210).to_le_bytes());
    instructions.extend([0x0e, 40, 0x1d, 10, 0, 0, 0, 0, 0, 0, 0, 0x0e, 48]);
    assert_eq!(
        evaluate(&instructions, [199, 200, 201, 202, 203, 209, 210, 219, 220]).map(|rule| rule.cfa_offset),
        [8, 16, 24, 24, 32, 32, 40, 40, 48]
    );
}

#[test]
fn a_place_never_goes_back() {
    let mut instructions = vec![0x48, 0x0e, 16, 0x01];
    instructions.extend((CODE[0] + 7).to_le_bytes());
    instructions.extend([0x0e, 24]);
    assert_eq!(last(&instructions), unsupported(Cause::Instructions));
    assert_eq!(evaluate(&instructions, [7, 8]), [plain(7, 8), Rule::UNSUPPORTED]);
}

#[test]
fn signed_and_factored_offsets() {
    // def_cfa_sf rsp, -2 (* -8); def_cfa_offset_sf -3; def_cfa_register rbx
    assert_eq!(last(&[0x12, 7, 0x7e]).0, plain(7, 16));
    assert_eq!(last(&[0x13, 0x7d, 0x0d, 3]).0, plain(3, 24));
    // offset_extended, offset_extended_sf, GNU_negative_offset_extended
    assert_eq!(last(&[0x05, 6, 3]).0, saved(7, 8, 3));
    assert_eq!(last(&[0x11, 6, 4]).0, saved(7, 8, 4));
    assert_eq!(last(&[0x2f, 6, 5]).0, saved(7, 8, -5));
}

#[test]
fn rbp_wherever_it_may_be() {
    let at_fp = Rule { fp: fp::AT_FP, fp_offset: -2, ..plain(7, 8) };
    assert_eq!(last(&[0x86, 2, 0x08, 6]).0, plain(7, 8));
    assert_eq!(last(&[0x86, 2, 0x06, 6]).0, plain(7, 8));
    assert_eq!(last(&[0x09, 6, 6]).0, plain(7, 8));
    assert_eq!(last(&[0x07, 6]).0, Rule { fp: fp::UNDEFINED, ..plain(7, 8) });
    assert_eq!(last(&[0x10, 6, 2, 0x76, 0x70]).0, at_fp);
    // rsp - 16 is CFA - 24
    assert_eq!(last(&[0x10, 6, 2, 0x77, 0x70]).0, saved(7, 8, 3));
    for instructions in
        [&[0x09, 6, 9][..], &[0x14, 6, 1], &[0x15, 6, 1], &[0x16, 6, 2, 0x76, 0], &[0x10, 6, 2, 0x73, 0]]
    {
        assert_eq!(last(instructions), unsupported(Cause::FramePointer), "{instructions:x?}");
    }
    // Not a multiple of 8, and too far.
    assert_eq!(last(&[0x10, 6, 2, 0x76, 1]), unsupported(Cause::FramePointer));
    assert_eq!(last(&[0x05, 6, 0x81, 0x80, 2]), unsupported(Cause::FramePointer));
    assert_eq!(last(&[0x05, 6, 0x80, 0x80, 2]).0.fp_offset, i16::MIN);
}

#[test]
fn the_return_address_wherever_it_may_be() {
    // vfork of glibc pops it into rdi.
    assert_eq!(last(&[0x0e, 0, 0x09, 16, 5]).0, Rule { fp: 6 << 4, ..plain(7, 0) });
    assert_eq!(last(&[0x0e, 0, 0x09, 16, 5]).0.return_register(), Some(5));
    assert_eq!(last(&[0x09, 16, 14]).0.return_register(), Some(14));
    assert_eq!(last(&[0x07, 16]).0, Rule::END);
    assert_eq!(last(&[0x07, 16, 0xd0]).0, plain(7, 8));
    for instructions in [&[0x09, 16, 15][..], &[0x90, 2], &[0x08, 16], &[0x16, 16, 1, 0x50]] {
        assert_eq!(last(instructions), unsupported(Cause::ReturnAddress), "{instructions:x?}");
    }
}

#[test]
fn what_other_registers_do_is_no_matter() {
    let other = [
        0x83, 2, 0x8c, 3, 0xc3, 0x05, 40, 1, 0x06, 40, 0x07, 3, 0x08, 3, 0x09, 3, 4, 0x10, 3, 1, 0x50, 0x11,
        3, 1, 0x14, 3, 1, 0x15, 3, 1, 0x16, 3, 1, 0x50, 0x2d, 0x2e, 0x10, 0x2f, 3, 1, 0,
    ];
    assert_eq!(last(&other), (plain(7, 8), vec![]));
}

#[test]
fn a_cfa_that_is_a_word_in_memory() {
    let rule = |register, at: i16, plus: i8| {
        Rule { cfa: cfa::DEREFERENCE << 4 | register, ..Rule::default() }.with_dereference(at, plus)
    };
    // gcc's realigned stacks: breg6 -8; deref. OpenSSL's: breg7 56; deref; plus_uconst 8.
    assert_eq!(last(&[0x0f, 3, 0x76, 0x78, 0x06]).0, rule(6, -8, 0));
    assert_eq!(last(&[0x0f, 6, 0x77, 0x80, 1, 0x06, 0x23, 8]).0, rule(7, 128, 8));
    assert_eq!(last(&[0x0f, 5, 0x77, 56, 0x06, 0x38, 0x22]).0, rule(7, 56, 8));
    assert_eq!(last(&[0x0f, 5, 0x77, 56, 0x06, 0x38, 0x1c]).0, rule(7, 56, -8));
    assert_eq!(last(&[0x0f, 6, 0x77, 0, 0x06, 0x0a, 0xff, 0x7f]).1, [Cause::CfaExpression]);
    assert_eq!(last(&[0x0f, 7, 0x77, 0, 0x06, 0x0a, 0x7f, 0, 0x22]).0, rule(7, 0, i8::MAX));
    assert_eq!(last(&[0x0f, 7, 0x77, 0, 0x06, 0x0a, 0x80, 0, 0x22]), unsupported(Cause::CfaOffset));
    // With rbp saved below it, as gcc does both.
    let drap = Rule { fp: fp::AT_FP, ..rule(6, -8, 0) };
    assert_eq!(last(&[0x0f, 3, 0x76, 0x78, 0x06, 0x10, 6, 2, 0x76, 0]).0, drap);
}

#[test]
fn a_cfa_that_is_an_expression_without_need() {
    assert_eq!(last(&[0x0f, 2, 0x73, 16]).0, plain(3, 16));
    assert_eq!(last(&[0x0f, 4, 0x77, 16, 0x23, 8]).0, plain(7, 24));
    // bn_mul_mont of OpenSSL indexes the stack by r9; not by anything but words, nor from another register.
    let indexed = [0x0f, 10, 0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8];
    let rule = Rule { cfa: cfa::INDEXED << 4 | 9, cfa_offset: 8 << 16 | 8, ..Rule::default() };
    assert_eq!(last(&indexed), (rule, vec![]));
    for (at, other) in [(2, 0x76), (6, 0x34), (9, 0x22)] {
        let mut other_form = indexed;
        other_form[at] = other;
        assert_eq!(last(&other_form), unsupported(Cause::CfaExpression));
    }
    assert_eq!(last(&[0x0f, 0]), unsupported(Cause::CfaExpression));
}

#[test]
fn both_stubs_of_the_linkage_table() {
    for (literal, threshold) in [(0x3b, 11), (0x3a, 10), (0x39, 9)] {
        let stub = [0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, literal, 0x2a, 0x33, 0x24, 0x22];
        let expected =
            Rule { cfa: cfa::PLT << 4 | 7, fp_offset: threshold, cfa_offset: 8, ..Rule::default() };
        assert_eq!(last(&stub), (expected, vec![]));
    }
    assert_eq!(
        last(&[0x0f, 11, 0x73, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]),
        unsupported(Cause::CfaExpression)
    );
}

#[test]
fn offsets_beyond_a_rule() {
    assert_eq!(last(&[0x0e, 0xff, 0xff, 0xff, 3]).0, plain(7, (1 << 23) - 1));
    assert_eq!(last(&[0x0e, 0x80, 0x80, 0x80, 4]), unsupported(Cause::CfaOffset));
    assert_eq!(last(&[0x0d, 16]), unsupported(Cause::CfaOffset));
    assert_eq!(last(&[0x0d, 0x87, 2]), unsupported(Cause::CfaOffset));
}

#[test]
fn what_is_damaged_is_unsupported_from_there_on() {
    for instructions in [
        &[0x0b][..],
        &[0x3f],
        &[0x0e],
        &[0x0f, 40],
        &[0x0f, 1, 0x50, 0x0e, 8],
        &[0x86],
        &[0x04, 1],
        &[0x0e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[0x0a; 40],
    ] {
        let instructions = [&[0x44], instructions].concat();
        // The padding of a record would complete what is cut short.
        let mut records = Records::usual().function(CODE[0], 256, &instructions);
        while records.bytes.last() == Some(&0) {
            records.bytes.pop();
        }
        let length_at = Records::usual().bytes.len();
        let length = (records.bytes.len() - length_at - 4) as u32;
        records.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        let (table, tally) = table(&records);
        assert_eq!(
            rules(&table, [3, 4, 255]),
            [plain(7, 8), Rule::UNSUPPORTED, Rule::UNSUPPORTED],
            "{instructions:x?}"
        );
        assert_eq!(tally.unsupported[Cause::Instructions as usize], 1);
        assert_eq!(table.header().unsupported, 1);
    }
}

#[test]
fn remembered_states_nest() {
    let nested = [0x0e, 16, 0x0a, 0x0e, 24, 0x0a, 0x0e, 32, 0x41, 0x0b, 0x41, 0x0b, 0x41, 0x0e, 8];
    assert_eq!(evaluate(&nested, [0, 1, 2, 3]).map(|rule| rule.cfa_offset), [32, 24, 16, 8]);
}

#[test]
fn a_signal_frame_begins_a_byte_before_its_code() {
    let signal = Records::eh().cie((b"zRS\0", &[0]), &[]).function(
        CODE[0] + 31,
        10,
        &[0x0f, 4, 0x77, 0xa0, 1, 0x06, 0x10, 16, 3, 0x77, 0xa8, 1, 0x10, 6, 3, 0x77, 0xf8, 0],
    );
    assert_eq!(
        rules(&table(&signal).0, [30, 31, 32, 40, 41]),
        [Rule::NONE, Rule::SIGNAL, Rule::SIGNAL, Rule::SIGNAL, Rule::NONE]
    );
    let (other, tally) = table(&Records::eh().cie((b"zRS\0", &[0]), AT_ENTRY).function(CODE[0], 10, &[]));
    assert_eq!(rules(&other, [0]), [Rule::UNSUPPORTED]);
    assert_eq!(tally.unsupported[Cause::SignalFrame as usize], 1);
}

#[test]
fn common_records_of_every_sort() {
    // With a personality (4 bytes), the place of a language's data, and pointers relative to where they stand.
    let all = Records::eh().cie((b"zPLR\0", &[0x1b, 1, 2, 3, 4, 0x1b, 0x0b]), AT_ENTRY);
    let all = all.function_with(&[(CODE[0] as u32).to_le_bytes(), 16_u32.to_le_bytes()].concat(), &[]);
    assert_eq!(rules(&table(&all).0, [0]), [plain(7, 8)]);
    // Without an augmentation functions have none either; `function_with` writes its length, here a nop.
    let bare = Records::eh().cie((b"\0", &[]), AT_ENTRY).function(CODE[0], 16, &[]);
    assert_eq!(rules(&table(&bare).0, [0]), [plain(7, 8)]);
    // A code alignment of 4 and the return address in another column: the one works, the other does not.
    let mut aligned = Records::eh().cie(ABSOLUTE, AT_ENTRY);
    aligned.bytes[12] = 4;
    let aligned = aligned.function(CODE[0], 64, &[0x42, 0x0e, 16]);
    assert_eq!(rules(&table(&aligned).0, [7, 8]), [plain(7, 8), plain(7, 16)]);
}
