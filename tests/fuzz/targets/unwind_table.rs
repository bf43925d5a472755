//! Unwind tables of any content, as a damaged cache might give them: what the checker lets pass is safe to walk.
#![no_main]

use hostscope::targets::unwind::{Table, check, lookup};
use hostscope_wire::unwind::{Block, Rule, cfa, fp};
use libfuzzer_sys::fuzz_target;

// The checker is asked by itself too, as a table that does not pass must not hinder a lookup from ending.
fuzz_target!(|input: &[u8]| {
    let mut blocks: Vec<Block> = input
        .chunks(64)
        .map(|chunk| {
            let mut block = Block::ZERO;
            for (word, bytes) in block.0.iter_mut().zip(chunk.chunks_exact(4)) {
                *word = u32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
            }
            block
        })
        .collect();
    look_around(&blocks);
    mend(&mut blocks);
    let sound = check(&blocks).is_ok();
    for rule in look_around(&blocks).into_iter().filter(|_| sound) {
        let rule = rule.expect("every offset of a sound table has a rule");
        assert!(rule.kind() <= cfa::UNSUPPORTED && rule.fp_kind() <= fp::UNDEFINED, "{rule:?}");
        assert!(rule.return_register().is_none_or(|register| register <= 14));
    }
    assert_eq!(Table::from_blocks(blocks).is_ok(), sound);
});

/// The rules all over the pages that the table says it has.
fn look_around(blocks: &[Block]) -> Vec<Option<Rule>> {
    let Some(header) = blocks.first() else { return Vec::new() };
    let first = u64::from(header.0[1]) << 16;
    let bytes = u64::from(header.0[2]) << 16;
    (first..first + bytes).step_by(1 + bytes as usize / 512).map(|offset| lookup(blocks, offset)).collect()
}

/// Puts right what nobody would find by chance: the magic number and the positions of a table of so many blocks.
fn mend(blocks: &mut [Block]) {
    let count = blocks.len() as u32;
    let Some(header) = blocks.first_mut() else { return };
    let pages = header.0[2] % 17;
    let rules = 2 + header.0[4] % 30;
    let rules_at = 1 + pages.div_ceil(8);
    let rows_at = rules_at + rules.div_ceil(8);
    let rows = (count.saturating_sub(rows_at) * 16).saturating_sub(header.0[6] % 16);
    header.0 = [
        hostscope_wire::unwind::TABLE_MAGIC,
        header.0[1],
        pages,
        1,
        rules,
        rules_at,
        rows,
        rows_at,
        header.0[8],
        count,
        header.0[10],
        0,
        0,
        0,
        0,
        0,
    ];
    // The reserved rules.
    if let Some(block) = blocks.get_mut(rules_at as usize) {
        for (words, rule) in block.0.chunks_exact_mut(2).zip(Rule::RESERVED) {
            words.copy_from_slice(&rule.to_words());
        }
    }
}
