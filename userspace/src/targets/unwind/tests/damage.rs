//! Damaged files and tables: nothing panics, and what comes out is a table.

use hostscope_wire::unwind::{Block, Rule, cfa};

use super::files::{CODE, Records, elf, file, table};
use crate::targets::elf::test_files::{noise, system_files};
use crate::targets::unwind::{TableError, check, compile, lookup};

/// Compiles `bytes`; whatever comes out must be sound.
fn survives(bytes: &Vec<u8>) {
    if let Ok(table) = compile(bytes) {
        check(table.blocks()).unwrap();
        for offset in (0..0x2_0000).step_by(997) {
            let _ = lookup(table.blocks(), offset);
        }
    }
}

fn sample() -> Records {
    let instructions = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x50, 0x0a, 0x0c, 7, 8, 0x41, 0x0b];
    (0..20).fold(Records::usual(), |all, index| all.function(CODE[0] + index * 0x40, 0x30, &instructions))
}

#[test]
fn any_byte_may_be_wrong() {
    let whole = file(&sample(), Some(&sample()));
    let mut random = noise(7);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (random() % 8);
        survives(&damaged);
        damaged[at] = random() as u8;
        survives(&damaged);
    }
    for length in 0..whole.len() {
        survives(&whole[..length].to_vec());
    }
}

#[test]
fn a_real_section_may_be_damaged() {
    let path = system_files().into_iter().find(|path| path.ends_with("libc.so.6")).unwrap();
    let whole = std::fs::read(path).unwrap();
    let mut random = noise(9);
    for _ in 0..20 {
        let mut damaged = whole.clone();
        for _ in 0..2000 {
            let at = random() as usize % damaged.len();
            damaged[at.max(64)] = random() as u8;
        }
        survives(&damaged);
    }
}

#[test]
fn lengths_beyond_everything() {
    for length in [u32::MAX, u32::MAX - 1, 0x7fff_ffff] {
        let mut records = sample();
        records.bytes[..4].copy_from_slice(&length.to_le_bytes());
        survives(&file(&records, None));
    }
    // A common record that a function's record is part of, and one that refers to itself.
    let mut records = sample();
    let at = Records::usual().bytes.len() + 4;
    records.bytes[at..at + 4].copy_from_slice(&4_u32.to_le_bytes());
    survives(&file(&records, None));
}

#[test]
fn a_section_of_one_byte_instructions_takes_no_time() {
    // One function of 8 MiB of instructions that remember, restore and advance.
    let instructions: Vec<u8> = [0x0a, 0x0e, 16, 0x41, 0x0b, 0x41].repeat(1 << 20);
    let records = Records::usual().function(CODE[0], CODE[2], &instructions);
    let start = std::time::Instant::now();
    survives(&elf(&[CODE], &[(".eh_frame", &records.bytes, 0)]));
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let good = table(&sample()).0;
    check(good.blocks()).unwrap();
    let header = good.header();
    let change = |block: u32, word: usize, value: u32| {
        let mut blocks = good.blocks().to_vec();
        blocks[block as usize].0[word] = value;
        check(&blocks)
    };
    assert_eq!(check(&[]), Err(TableError::Magic));
    assert_eq!(check(&[Block::ZERO]), Err(TableError::Magic));
    assert_eq!(change(0, 0, 1), Err(TableError::Magic));
    for word in 2..8 {
        assert_eq!(change(0, word, 1 << 30), Err(TableError::Layout), "{word}");
    }
    assert_eq!(change(0, 1, u32::MAX), Err(TableError::Layout));
    assert_eq!(change(0, 9, header.blocks + 1), Err(TableError::Layout));
    assert_eq!(change(0, 11, 16), Err(TableError::Layout));
    assert_eq!(change(0, 12, 1), Err(TableError::Layout));
    assert_eq!(check(&good.blocks()[..header.blocks as usize - 1]), Err(TableError::Layout));
    assert_eq!(change(header.pages_at, 0, 1), Err(TableError::Pages));
    assert_eq!(change(header.pages_at, 1, 0), Err(TableError::Pages));
    assert_eq!(change(header.pages_at, 1, header.rows + 1), Err(TableError::Pages));
    assert_eq!(change(header.rows_at, 0, 1), Err(TableError::Rows));
    assert_eq!(change(header.rows_at, 2, 0), Err(TableError::Rows));
    assert_eq!(change(header.rows_at, 2, 0xffff_ffff), Err(TableError::Rows));
    // The reserved rules, and a kind and a place of rbp that there are not.
    assert_eq!(change(header.rules_at, 0, 7), Err(TableError::Rules));
    assert_eq!(change(header.rules_at, 4, 0xff), Err(TableError::Rules));
    assert_eq!(change(header.rules_at, 4, 0x0407), Err(TableError::Rules));
    let stub = |threshold: u32| u32::from(cfa::PLT << 4 | 7) | threshold << 16;
    assert_eq!(change(header.rules_at, 4, stub(11)), Ok(()));
    assert_eq!(change(header.rules_at, 4, stub(16)), Err(TableError::Rules));
    assert_eq!(change(header.rules_at, 4, Rule::END.to_words()[0] | 1), Err(TableError::Rules));
}
