//! Call frame information of any content: what comes out is a sound table, soon.
#![no_main]

use std::time::{Duration, Instant};

use hostscope::targets::unwind::{check, compile, lookup};
use libfuzzer_sys::fuzz_target;

/// Where the code is: its virtual address, and its offset in the file.
const CODE_ADDRESS: u64 = 0x40_1000;
const CODE_OFFSET: u64 = 0x1000;
const CODE_BYTES: u64 = 0x30_0000;

/// Fifty times what an input of libFuzzer's usual length takes in a slow build.
const LONGEST: Duration = Duration::from_secs(1);

// The first byte says how the rest is divided between the two sections, and how they are found.
fuzz_target!(|input: &[u8]| {
    let Some((&first, frames)) = input.split_first() else { return };
    let (eh_frame, debug_frame) = match first {
        0..=127 => (frames, &[][..]),
        128..=191 => (&[][..], frames),
        _ => frames.split_at(frames.len() / 2),
    };
    let file = if first % 8 == 7 { without_sections(frames) } else { with_sections(eh_frame, debug_frame) };
    let start = Instant::now();
    let result = compile(&file);
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
    let Ok(table) = result else { return };
    check(table.blocks()).expect("a table that was made is sound");
    let header = table.header();
    let first_offset = u64::from(header.first_page) << 16;
    for offset in (first_offset..first_offset + (u64::from(header.pages) << 16)).step_by(509) {
        assert!(lookup(table.blocks(), offset).is_some());
    }
});

/// Both sections found by their headers.
fn with_sections(eh_frame: &[u8], debug_frame: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.eh_frame\0.debug_frame\0";
    let start = 64 + 56 + 4 * 64;
    let mut bytes = elf_header(1, 64 + 56, 4);
    bytes.extend(program_header(1, 5, CODE_OFFSET, CODE_ADDRESS, CODE_BYTES));
    bytes.extend([0; 64]);
    let (debug_at, names_at) = (start + eh_frame.len(), start + eh_frame.len() + debug_frame.len());
    bytes.extend(section_header(1, start, eh_frame.len()));
    bytes.extend(section_header(11, debug_at, debug_frame.len()));
    bytes.extend(section_header(0, names_at, NAMES.len()));
    [&bytes, eh_frame, debug_frame, NAMES].concat()
}

/// `.eh_frame` found by the loader's index.
fn without_sections(eh_frame: &[u8]) -> Vec<u8> {
    let start = 64 + 3 * 56;
    let mut bytes = elf_header(3, 0, 0);
    bytes.extend(program_header(1, 4, 0, 0, start + 12 + eh_frame.len() as u64));
    bytes.extend(program_header(1, 5, CODE_OFFSET, CODE_ADDRESS, CODE_BYTES));
    bytes.extend(program_header(0x6474_e550, 4, start, start, 12));
    bytes.extend([1, 0x1b, 3, 0x3b, 8, 0, 0, 0, 0, 0, 0, 0]);
    [&bytes, eh_frame].concat()
}

fn program_header(kind: u32, flags: u32, offset: u64, address: u64, length: u64) -> Vec<u8> {
    let words = [u64::from(kind) | u64::from(flags) << 32, offset, address, address, length, length, 1];
    words.map(u64::to_le_bytes).concat()
}

fn section_header(name: u64, offset: usize, length: usize) -> Vec<u8> {
    let words = [name | 1 << 32, 0, offset as u64, offset as u64, length as u64, 0, 1, 0];
    words.map(u64::to_le_bytes).concat()
}

fn elf_header(segments: u64, section_headers: u64, sections: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let fields = [
        (3, 2),
        (62, 2),
        (1, 4),
        (0, 8),
        (64, 8),
        (section_headers, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (segments, 2),
        (64, 2),
        (sections, 2),
        (sections.saturating_sub(1), 2),
    ];
    for (value, bytes) in fields {
        header.extend(&u64::to_le_bytes(value)[..bytes]);
    }
    header
}
