//! The rule for a place in a file, from the file's table.

use hostscope_wire::unwind::{
    Block, PAGE_SHIFT, PAGES_PER_BLOCK, ROWS_PER_BLOCK, RULES_PER_BLOCK, Row, Rule, cfa, register,
};

use super::{Forgotten, Process, Walk};

/// Most steps of the search over blocks: the fullest page has one row a byte, which is 4,096 blocks.
const MAX_BLOCK_STEPS: u32 = 13;

/// The word of a block; the index is masked, so that the verifier sees its bound. The compiler, which may know that the
/// mask changes nothing, must not: hence the `black_box`.
#[inline(always)]
fn word(block: &Block, index: u32) -> u32 {
    block.0[(core::hint::black_box(u64::from(index)) & 15) as usize]
}

/// The rule for `offset` in the file; `None` where the file says nothing about it.
///
/// A look-up costs about 6 ns; there are 4 and one for each halving of the page's blocks, 8 to 10 in all.
#[inline(always)]
pub fn rule_at<P: Process>(process: &P, table: P::Table, offset: u64, walk: &mut Walk) -> Option<Rule> {
    // Word by word as in `TableHeader`.
    let header = process.block(table, 0)?;
    let (first_page, pages, pages_at) = (word(header, 1), word(header, 2), word(header, 3));
    let (rules_at, rows_at) = (word(header, 5), word(header, 7));
    walk.follows = word(header, 11);

    let page = (offset >> PAGE_SHIFT).wrapping_sub(u64::from(first_page));
    if page >= u64::from(pages) {
        return None;
    }
    let page = page as u32;
    let index = process.block(table, pages_at.wrapping_add(page / PAGES_PER_BLOCK))?;
    let slot = (page % PAGES_PER_BLOCK) * 2;
    let (first_row, rows) = (word(index, slot), word(index, slot + 1));

    let row =
        row_at(process, table, rows_at, (first_row, rows), (offset & 0xffff) as u32, &mut walk.forgotten)?;
    let number = row.rule();
    let rules = process.block(table, rules_at.wrapping_add(number / RULES_PER_BLOCK))?;
    let slot = (number % RULES_PER_BLOCK) * 2;
    let rule = Rule::from_words([word(rules, slot), word(rules, slot + 1)]);
    match rule.kind() {
        cfa::NONE => None,
        cfa::PUSHES | cfa::POPS => {
            let distance = ((offset & 0xffff) as u32).wrapping_sub(row.offset());
            let cfa_offset = rule.stepped_offset(distance) & 0x00ff_ffff;
            Some(Rule { cfa: cfa::REGISTER << 4 | register::SP, cfa_offset, ..rule })
        }
        _ => Some(rule),
    }
}

/// The last of a page's rows that begins at or before `offset`. The page's first begins at 0.
///
/// First over blocks, by the first row of each, then within the one found.
#[inline(always)]
fn row_at<P: Process>(
    process: &P,
    table: P::Table,
    rows_at: u32,
    (first_row, rows): (u32, u32),
    offset: u32,
    search: &mut Forgotten,
) -> Option<Row> {
    let last_row = first_row.wrapping_add(rows).wrapping_sub(1);
    let low = first_row / ROWS_PER_BLOCK;
    search.set(low, (last_row / ROWS_PER_BLOCK).wrapping_sub(low).wrapping_add(1));
    for _ in 0..MAX_BLOCK_STEPS {
        let (low, count) = search.get();
        if count <= 1 {
            break;
        }
        let half = count / 2;
        // Any block but the first begins with a row of this page.
        let block = process.block(table, rows_at.wrapping_add(low).wrapping_add(half))?;
        if Row(word(block, 0)).offset() <= offset {
            search.set(low.wrapping_add(half), count - half);
        } else {
            search.set(low, half);
        }
    }
    let (low, _) = search.get();
    let block = process.block(table, rows_at.wrapping_add(low))?;
    // Rows of this block that are of this page: from `first` to `last`.
    let begin = low.wrapping_mul(ROWS_PER_BLOCK);
    let first = first_row.saturating_sub(begin);
    search.set(first, last_row.wrapping_sub(begin));
    let mut half = ROWS_PER_BLOCK / 2;
    while half > 0 {
        let (first, last) = search.get();
        let candidate = first.wrapping_add(half);
        let in_page = candidate <= last && candidate < ROWS_PER_BLOCK;
        if in_page && Row(word(block, candidate)).offset() <= offset {
            search.set(candidate, last);
        }
        half /= 2;
    }
    let (first, _) = search.get();
    Some(Row(word(block, first)))
}
