//! Where rows begin and end: gaps, overlaps, merging, pages, segments, sections.

use hostscope_wire::unwind::{MAX_RULES, Rule};

use super::files::{
    ABSOLUTE, AT_ENTRY, CODE, Records, elf, elf_header, file, first_section, plain, program_header, rules,
    saved, table,
};
use crate::targets::elf::ElfFile;
use crate::targets::unwind::{Cause, UnwindError, check, compile, compile_tallied, lookup};

#[test]
fn only_gaps_that_may_hold_code_are_marked() {
    let records = Records::usual()
        .function(CODE[0], 17, &[0x41, 0x0e, 16])
        .function(CODE[0] + 32, 16, &[])
        .function(CODE[0] + 64, 16, &[]);
    let (table, tally) = table(&records);
    assert_eq!(tally.functions, 3);
    assert_eq!(
        rules(&table, [0, 16, 17, 31, 32, 47, 48, 63, 64, 79, 80, 0xefff]),
        [
            plain(7, 8),
            plain(7, 16),
            plain(7, 16),
            plain(7, 16),
            plain(7, 8),
            plain(7, 8),
            Rule::NONE,
            Rule::NONE,
            plain(7, 8),
            plain(7, 8),
            Rule::NONE,
            Rule::NONE
        ]
    );
    assert_eq!(lookup(table.blocks(), CODE[1] - 1), Some(Rule::NONE));
    assert_eq!(lookup(table.blocks(), 0x1_0000), None);
    assert_eq!(lookup(table.blocks(), u64::MAX), None);
}

#[test]
fn equal_rules_merge_across_functions() {
    let records = (0..100).fold(Records::usual(), |all, index| all.function(CODE[0] + index * 16, 16, &[0]));
    // The page's beginning, the functions, the end.
    assert_eq!(table(&records).0.header().rows, 3);
}

#[test]
fn a_prologue_and_an_epilogue_take_a_row_each() {
    // Six pushes of 1 or 2 bytes, a frame; the frame's end, six pops, ret; an unwinder may stop at each of them.
    let prologue =
        [0x42, 0x0e, 16, 0x42, 0x0e, 24, 0x42, 0x0e, 32, 0x42, 0x0e, 40, 0x41, 0x0e, 48, 0x41, 0x0e, 56];
    let body = [0x44, 0x0e, 96, 0x02, 0x80, 0x0e, 56];
    let epilogue =
        [0x41, 0x0e, 48, 0x41, 0x0e, 40, 0x42, 0x0e, 32, 0x42, 0x0e, 24, 0x42, 0x0e, 16, 0x42, 0x0e, 8];
    let records = Records::usual().function(CODE[0], 256, &[&prologue[..], &body, &epilogue].concat());
    let (table, _) = table(&records);
    check(table.blocks()).unwrap();
    let places = [0, 1, 2, 4, 6, 8, 9, 10, 13, 14, 141, 142, 143, 144, 146, 148, 150, 151, 152, 255];
    let offsets = [8, 8, 16, 24, 32, 40, 48, 56, 56, 96, 96, 56, 48, 40, 32, 24, 16, 16, 8, 8];
    assert_eq!(rules(&table, places), offsets.map(|offset| plain(7, offset)));
    // The page's beginning, the prologue, the body, the epilogue, the end.
    assert_eq!(table.header().rows, 5);
}

#[test]
fn steps_beyond_the_reach_of_a_row_begin_another() {
    let far = Records::usual().function(
        CODE[0],
        256,
        &[0x50, 0x0e, 16, 0x41, 0x0e, 24, 0x50, 0x0e, 32, 0x51, 0x0e, 40],
    );
    let far = table(&far).0;
    assert_eq!(
        rules(&far, [0, 15, 16, 17, 32, 33, 49, 50]).map(|rule| rule.cfa_offset),
        [8, 8, 16, 24, 24, 32, 32, 40]
    );
    assert_eq!(far.header().rows, 5);
    // A change of direction, of the register, of rbp, and what is too large.
    let large = [0x80, 0x80, 2];
    let changes = [
        &[0x41, 0x0e, 16, 0x41, 0x0e, 8, 0x41, 0x0d, 6, 0x41, 0x0e, 16, 0x41, 0x86, 2, 0x41, 0x0c, 7][..],
        &large,
        &[0x41, 0x0e, 0x88, 0x80, 2],
    ];
    let changes = table(&Records::usual().function(CODE[0], 256, &changes.concat())).0;
    assert_eq!(
        rules(&changes, [0, 1, 2, 3, 4, 5, 6, 7]),
        [
            plain(7, 8),
            plain(7, 16),
            plain(7, 8),
            plain(6, 8),
            plain(6, 16),
            saved(6, 16, 2),
            saved(7, 0x8000, 2),
            saved(7, 0x8008, 2)
        ]
    );
    check(changes.blocks()).unwrap();
}

#[test]
fn steps_end_with_their_page() {
    let records =
        Records::usual().function(CODE[0] + 0xeffc, 32, &[0x42, 0x0e, 16, 0x42, 0x0e, 24, 0x42, 0x0e, 32]);
    let (table, _) = table(&records);
    check(table.blocks()).unwrap();
    let places = [0xeffc, 0xeffd, 0xeffe, 0xefff, 0xf000, 0xf001, 0xf002, 0xf01b];
    assert_eq!(rules(&table, places).map(|rule| rule.cfa_offset), [8, 8, 16, 16, 24, 24, 32, 32]);
}

#[test]
fn functions_may_come_in_any_order_and_overlap() {
    let records = Records::usual()
        .function(CODE[0] + 0x80, 0x20, &[0x0e, 24])
        .function(CODE[0], 0x100, &[0x0e, 16, 0x02, 0xf0, 0x0e, 40])
        .function(CODE[0] + 0x80, 0x40, &[0x0e, 32])
        .function(0, 16, &[])
        .function(CODE[0] + 0x200, 0, &[])
        .function(CODE[0] + CODE[2], 16, &[])
        .function(u64::MAX, 16, &[]);
    let (table, tally) = table(&records);
    assert_eq!((tally.functions, tally.repeated, tally.outside), (2, 1, 4));
    assert_eq!(
        rules(&table, [0, 0x7f, 0x80, 0x9f, 0xa0, 0xf0, 0x100]),
        [plain(7, 16), plain(7, 16), plain(7, 24), plain(7, 24), Rule::NONE, Rule::NONE, Rule::NONE]
    );
}

#[test]
fn a_function_may_cross_pages_and_end_with_its_segment() {
    let records = Records::usual()
        .function(CODE[0] + 0xe000, 0x2_8000, &[0x04, 0, 0x10, 1, 0, 0x0e, 16])
        .function(CODE[0] + 0x8_f000, u64::MAX, &[0x0e, 32]);
    let (table, _) = table(&records);
    check(table.blocks()).unwrap();
    assert_eq!(
        rules(&table, [0xdfff, 0xe000, 0x1_efff, 0x1_f000, 0x3_5fff, 0x3_6000, 0x8_efff, 0x8_f000]),
        [
            Rule::NONE,
            plain(7, 8),
            plain(7, 8),
            plain(7, 16),
            plain(7, 16),
            Rule::NONE,
            Rule::NONE,
            plain(7, 32)
        ]
    );
    assert_eq!(rules(&table, [CODE[2] - 1, CODE[2]]), [plain(7, 32), Rule::NONE]);
    assert_eq!((table.header().first_page, table.header().pages), (0, 17));
}

#[test]
fn a_row_at_the_beginning_of_a_page_stands_once() {
    // The second function begins with the second page.
    let records = Records::usual().function(CODE[0] + 0xe000, 0x1000, &[]).function(
        CODE[0] + 0xf000,
        0x1000,
        &[0x0e, 16],
    );
    let (table, _) = table(&records);
    check(table.blocks()).unwrap();
    assert_eq!(rules(&table, [0xe000, 0xefff, 0xf000]), [plain(7, 8), plain(7, 8), plain(7, 16)]);
    assert_eq!(table.header().rows, 4);
}

#[test]
fn addresses_become_offsets_by_their_segment() {
    let code = [[0x40_0000, 0x2_0000, 0x1000], [0x80_0000, 0x1_0000, 0x1000]];
    let records =
        Records::usual().function(0x40_0010, 16, &[0x0e, 16]).function(0x80_0010, 0x8000, &[0x0e, 32]);
    let table = compile(&elf(&code, &[(".eh_frame", &records.bytes, 0)])).unwrap();
    let at = |offset| lookup(table.blocks(), offset);
    assert_eq!(at(0x2_0010), Some(plain(7, 16)));
    assert_eq!(
        [at(0x1_0010), at(0x1_0fff), at(0x1_1000)],
        [Some(plain(7, 32)), Some(plain(7, 32)), Some(Rule::NONE)]
    );
}

#[test]
fn code_beyond_the_reach_of_a_table_is_left_out() {
    let code = [[0x1000, 0x1000, 0x1000], [1 << 40, 1 << 40, 0x1000]];
    let records = Records::usual().function(0x1000, 16, &[]).function(1 << 40, 16, &[]);
    let (table, tally) = compile_tallied(&elf(&code, &[(".eh_frame", &records.bytes, 0)])).unwrap();
    assert_eq!((table.header().pages, tally.outside), (1, 1));
    // Far from the file's beginning, but near each other.
    let code = [[1 << 40, 1 << 44, 0x1000]];
    let table = compile(&elf(&code, &[(".eh_frame", &records.bytes, 0)])).unwrap();
    assert_eq!(lookup(table.blocks(), 1 << 44), Some(plain(7, 8)));
}

#[test]
fn debug_frame_fills_what_eh_frame_leaves() {
    let eh = Records::usual().function(CODE[0] + 0x100, 0x100, &[0x0e, 16]);
    let debug = Records::debug()
        .cie((b"\0", &[]), AT_ENTRY)
        .function(CODE[0], 0x180, &[0x0e, 24])
        .function(CODE[0] + 0x100, 0x100, &[0x0e, 32])
        .function(CODE[0] + 0x140, 0x10, &[0x0e, 40])
        .function(CODE[0] + 0x200, 0x10, &[0x0e, 48]);
    let (table, tally) = compile_tallied(&file(&eh, Some(&debug))).unwrap();
    assert_eq!(tally.repeated, 2);
    assert_eq!(
        rules(&table, [0, 0xff, 0x100, 0x140, 0x1ff, 0x200, 0x210]).map(|rule| rule.cfa_offset),
        [24, 24, 16, 16, 16, 48, 0]
    );
    assert_eq!(table.source_bytes() as usize, eh.bytes.len() + debug.bytes.len());
}

#[test]
fn compressed_debug_frame_is_unpacked() {
    let debug = Records::debug().cie((b"\0", &[]), AT_ENTRY).function(CODE[0], 16, &[]);
    let mut packed = [1_u64, debug.bytes.len() as u64, 8].map(u64::to_le_bytes).concat();
    let mut encoder = flate2::write::ZlibEncoder::new(&mut packed, flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, &debug.bytes).unwrap();
    drop(encoder);
    let table = compile(&elf(&[CODE], &[(".debug_frame", &packed, 0x800)])).unwrap();
    assert_eq!(rules(&table, [0]), [plain(7, 8)]);
    // zstd
    packed[0] = 2;
    let error = compile(&elf(&[CODE], &[(".debug_frame", &packed, 0x800)])).unwrap_err();
    assert!(matches!(error, UnwindError::NoUnwindInformation));
}

#[test]
fn without_section_headers_the_loaders_index_leads_there() {
    let start = 64 + 3 * 56 + 12;
    let mut records = Records::eh().cie((b"zR\0", &[0x1b]), AT_ENTRY);
    let place = start + records.bytes.len() as u64 + 8;
    let pointer = (CODE[0].wrapping_sub(place) as u32).to_le_bytes();
    records = records.function_with(&[pointer, 16_u32.to_le_bytes()].concat(), &[]);
    // The end, and what would be another function behind it.
    records.bytes.extend([0; 4]);
    let mut bytes = elf_header(3, 0, 0);
    let length = start + records.bytes.len() as u64 + 100;
    bytes.extend(program_header(1, 4, 0, 0, length));
    bytes.extend(program_header(1, 5, CODE[1], CODE[0], CODE[2]));
    bytes.extend(program_header(0x6474_e550, 4, start - 12, start - 12, 12));
    bytes.extend([1, 0x1b, 3, 0x3b, 8, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(&records.bytes);
    bytes.extend([0x33; 100]);
    let table = compile(&bytes).unwrap();
    assert_eq!(rules(&table, [0, 15, 16]), [plain(7, 8), plain(7, 8), Rule::NONE]);
    assert_eq!(table.source_bytes() as usize, records.bytes.len() - 4);
}

#[test]
fn pointers_relative_to_where_they_stand() {
    let mut records = Records::eh().cie((b"zR\0", &[0x1b]), AT_ENTRY);
    for index in 0..3 {
        let place = first_section(1) + records.bytes.len() as u64 + 8;
        let pointer = ((CODE[0] + index * 16).wrapping_sub(place) as u32).to_le_bytes();
        records =
            records.function_with(&[pointer, 16_u32.to_le_bytes()].concat(), &[0x0e, 8 * (1 + index as u8)]);
    }
    assert_eq!(rules(&table(&records).0, [0, 16, 32]).map(|rule| rule.cfa_offset), [8, 16, 24]);
}

#[test]
fn rules_beyond_the_most_are_unsupported() {
    let count = u64::from(MAX_RULES) + 10;
    let mut records = Records::usual();
    for index in 0..count {
        let offset = [index as u8 | 0x80, (index >> 7) as u8 | 0x80, (index >> 14) as u8];
        records = records.function(CODE[0] + index * 4, 4, &[&[0x0e], &offset[..]].concat());
    }
    let (table, tally) = table(&records);
    check(table.blocks()).unwrap();
    assert_eq!(table.header().rules, MAX_RULES);
    assert_eq!(tally.unsupported[Cause::TooManyRules as usize], 12);
    assert_eq!(rules(&table, [4, (count - 1) * 4]), [plain(7, 1), Rule::UNSUPPORTED]);
}

#[test]
fn what_has_no_table_says_so() {
    let none = |bytes: &Vec<u8>| matches!(compile(bytes), Err(UnwindError::NoUnwindInformation));
    assert!(none(&elf(&[CODE], &[])));
    assert!(none(&elf(&[CODE], &[(".eh_frame", &[0; 4], 0)])));
    assert!(none(&elf(&[], &[(".eh_frame", &Records::usual().function(0, 8, &[]).bytes, 0)])));
    assert!(none(&file(&Records::usual(), None)));
    let mut other = file(&Records::eh().cie(ABSOLUTE, AT_ENTRY).function(CODE[0], 4, &[]), None);
    assert!(compile(&other).is_ok());
    other[18] = 183;
    assert!(matches!(compile(&other), Err(UnwindError::File(_))));
    assert!(matches!(compile(&b"#!/bin/sh".to_vec()), Err(UnwindError::File(_))));
}

#[test]
fn the_loader_is_entered_where_no_record_says_so() {
    let file = std::fs::File::open("/lib64/ld-linux-x86-64.so.2").unwrap();
    let elf = ElfFile::parse(&file).unwrap();
    let segment =
        elf.segments().iter().find(|segment| segment.address <= elf.entry() && segment.flags & 1 != 0);
    let segment = segment.unwrap();
    let entry = elf.entry() - segment.address + segment.offset;
    let table = compile(&file).unwrap();
    check(table.blocks()).unwrap();
    // Its first call returns 8 bytes in.
    assert_eq!([entry, entry + 7].map(|at| lookup(table.blocks(), at)), [Some(Rule::END); 2]);
}
