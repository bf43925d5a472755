//! A table: rows put in by ascending offset become pages, rules and blocks, and are looked up again.

use std::collections::HashMap;

use hostscope_wire::unwind::{
    BLOCK_BYTES, Block, MAX_PAGES, MAX_RULES, PAGE_SHIFT, PAGES_PER_BLOCK, PageEntry, ROWS_PER_BLOCK,
    RULES_PER_BLOCK, Row, Rule, TABLE_MAGIC, TableHeader,
};

use super::UnwindError;
use super::check::{TableError, check};

/// Most rows of a table, 128 MiB: a program of 200 MB has 2 to 4 million.
const MAX_ROWS: usize = 1 << 25;

/// The unwind table of a file: blocks as [`hostscope_wire::unwind`] lays them out, checked or made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    blocks: Vec<Block>,
}

impl Table {
    /// The table that `blocks`, which come from outside, are said to be.
    ///
    /// # Errors
    /// They are none.
    pub fn from_blocks(blocks: Vec<Block>) -> Result<Self, TableError> {
        check(&blocks)?;
        Ok(Self { blocks })
    }

    /// The blocks, the header's first.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The same as bytes, 64 a block.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        block_bytes(&self.blocks)
    }

    /// What the first block says.
    #[must_use]
    pub fn header(&self) -> TableHeader {
        self.blocks.first().map(read_header).unwrap_or_default()
    }

    /// Bytes of `.eh_frame` and `.debug_frame` that it was made from.
    #[must_use]
    pub fn source_bytes(&self) -> u32 {
        self.header().source_bytes
    }
}

/// `blocks` as bytes.
pub(super) fn block_bytes(blocks: &[Block]) -> &[u8] {
    // SAFETY: a block is 16 u32 and nothing else (its size is asserted beside its type), so all its bytes are
    // initialized; the slice spans exactly the borrowed blocks.
    unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), size_of_val(blocks)) }
}

/// `blocks` as bytes to be written.
pub(super) fn block_bytes_mut(blocks: &mut [Block]) -> &mut [u8] {
    // SAFETY: as in `block_bytes`; and every value of the bytes is a value of u32.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), size_of_val(blocks)) }
}

/// The header in the first block.
pub(super) fn read_header(block: &Block) -> TableHeader {
    let [
        magic,
        first_page,
        pages,
        pages_at,
        rules,
        rules_at,
        rows,
        rows_at,
        source_bytes,
        blocks,
        unsupported,
        followed,
        reserved @ ..,
    ] = block.0;
    TableHeader {
        magic,
        first_page,
        pages,
        pages_at,
        rules,
        rules_at,
        rows,
        rows_at,
        source_bytes,
        blocks,
        unsupported,
        followed,
        reserved,
    }
}

fn write_header(header: &TableHeader) -> Block {
    let mut block = Block::ZERO;
    let words = [
        header.magic,
        header.first_page,
        header.pages,
        header.pages_at,
        header.rules,
        header.rules_at,
        header.rows,
        header.rows_at,
        header.source_bytes,
        header.blocks,
        header.unsupported,
        header.followed,
    ];
    block.0[..words.len()].copy_from_slice(&words);
    block
}

/// The word at `index`, counted from the beginning of the block `at`.
#[inline]
pub(super) fn word(blocks: &[Block], at: u32, index: u64) -> Option<u32> {
    const WORDS: u64 = BLOCK_BYTES as u64 / 4;
    let block = blocks.get(usize::try_from(u64::from(at) + index / WORDS).ok()?)?;
    Some(block.0[(index % WORDS) as usize])
}

/// The entry of the page index at `index`.
pub(super) fn page_entry(blocks: &[Block], header: &TableHeader, index: u32) -> Option<PageEntry> {
    let at = u64::from(index) * 2;
    Some(PageEntry {
        first_row: word(blocks, header.pages_at, at)?,
        rows: word(blocks, header.pages_at, at + 1)?,
    })
}

/// The rule at `index`.
pub(super) fn rule_at(blocks: &[Block], header: &TableHeader, index: u32) -> Option<Rule> {
    let at = u64::from(index) * 2;
    Some(Rule::from_words([word(blocks, header.rules_at, at)?, word(blocks, header.rules_at, at + 1)?]))
}

/// The row at `index`.
pub(super) fn row_at(blocks: &[Block], header: &TableHeader, index: u64) -> Option<Row> {
    word(blocks, header.rows_at, index).map(Row)
}

/// The rule that holds at `file_offset`: what the kernel side must find too. [`Rule::NONE`] between functions; `None`
/// outside the pages of the table, and where the table is damaged.
#[must_use]
pub fn lookup(table: &[Block], file_offset: u64) -> Option<Rule> {
    let header = read_header(table.first()?);
    let page = (file_offset >> PAGE_SHIFT).checked_sub(header.first_page.into())?;
    let page = u32::try_from(page).ok().filter(|&page| page < header.pages)?;
    let entry = page_entry(table, &header, page)?;
    let offset = file_offset as u32 & ((1 << PAGE_SHIFT) - 1);
    // Rows before `low` begin at or before the offset, those from `high` on behind it.
    let (mut low, mut high) = (0, entry.rows);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = row_at(table, &header, u64::from(entry.first_row) + u64::from(middle))?;
        if row.offset() <= offset { low = middle + 1 } else { high = middle }
    }
    let last = u64::from(entry.first_row) + u64::from(low.checked_sub(1)?);
    rule_at(table, &header, row_at(table, &header, last)?.rule())
}

/// Slots of the small table in front of the rules: the rules in use at a time are few.
const RECENT_RULES: usize = 256;

/// The rules of a table, each once.
struct Rules {
    all: Vec<Rule>,
    /// Keyed against collisions that a file could be made to provoke.
    indexes: HashMap<[u32; 2], u16>,
    recent: Vec<(Rule, u16)>,
}

impl Rules {
    fn new() -> Self {
        let indexes = (0..).zip(Rule::RESERVED).map(|(index, rule)| (rule.to_words(), index)).collect();
        Self { all: Rule::RESERVED.to_vec(), indexes, recent: vec![(Rule::NONE, 0); RECENT_RULES] }
    }

    /// The index of `rule`; `None` where there is no room for it.
    #[inline]
    fn index(&mut self, rule: Rule) -> Option<u16> {
        let [low, high] = rule.to_words();
        let mixed = (u64::from(low) << 32 | u64::from(high)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = (mixed >> 56) as usize % RECENT_RULES;
        let (recent, index) = self.recent[slot];
        if recent == rule {
            return Some(index);
        }
        let index = self.find(rule)?;
        self.recent[slot] = (rule, index);
        Some(index)
    }

    fn find(&mut self, rule: Rule) -> Option<u16> {
        if let Some(&index) = self.indexes.get(&rule.to_words()) {
            return Some(index);
        }
        if self.all.len() >= MAX_RULES as usize {
            return None;
        }
        let index = self.all.len() as u16;
        self.all.push(rule);
        self.indexes.insert(rule.to_words(), index);
        Some(index)
    }
}

/// A table that grows by rows.
pub(super) struct Builder {
    rules: Rules,
    first_page: u32,
    pages: Vec<PageEntry>,
    rows: Vec<Row>,
    /// The rule that holds from the last row on.
    current: u16,
    /// One past the last offset that a row began at.
    next_offset: u64,
    is_full: bool,
}

impl Builder {
    /// An empty one, with room for so many rows.
    pub(super) fn new(rows: usize) -> Self {
        Self {
            rules: Rules::new(),
            first_page: 0,
            pages: Vec::new(),
            rows: Vec::with_capacity(rows),
            current: 0,
            next_offset: 0,
            is_full: false,
        }
    }

    /// From `offset` in the file on, `rule` holds. Offsets ascend; what does not is passed over, and so is what lies
    /// beyond the most pages. Says whether there was room for the rule.
    #[inline]
    pub(super) fn push(&mut self, offset: u64, rule: Rule) -> bool {
        let index = self.rules.index(rule);
        // The second of the reserved rules.
        let known = index.unwrap_or(1);
        if offset >= self.next_offset && (known != self.current || self.rows.is_empty()) {
            self.begin(offset, known);
        }
        index.is_some()
    }

    #[inline]
    fn begin(&mut self, offset: u64, rule: u16) {
        let Ok(page) = u32::try_from(offset >> PAGE_SHIFT) else { return };
        if self.rows.len() >= MAX_ROWS {
            self.is_full = true;
            return;
        }
        let last_page = self.first_page.wrapping_add(self.pages.len() as u32).wrapping_sub(1);
        let within = offset as u16;
        if (self.pages.is_empty() || page != last_page) && !self.turn_to(page, within == 0) {
            return;
        }
        self.rows.push(Row::new(within, rule));
        if let Some(entry) = self.pages.last_mut() {
            entry.rows += 1;
        }
        self.current = rule;
        self.next_offset = offset + 1;
    }

    /// Begins the pages up to `page`, each with a row of the rule in force; the last one without if `bare`, as its first
    /// row comes. `false` where they are too many.
    #[cold]
    fn turn_to(&mut self, page: u32, bare: bool) -> bool {
        if self.pages.is_empty() {
            self.first_page = page;
        }
        if page - self.first_page >= MAX_PAGES {
            return false;
        }
        while self.first_page + self.pages.len() as u32 <= page {
            let is_last = self.first_page + self.pages.len() as u32 == page;
            let rows = u32::from(!(is_last && bare));
            self.pages.push(PageEntry { first_row: self.rows.len() as u32, rows });
            if rows == 1 {
                self.rows.push(Row::new(0, self.current));
            }
        }
        true
    }

    /// The table; `source_bytes` and `unsupported` go into its header.
    ///
    /// # Errors
    /// There are no rows, or too many.
    pub(super) fn finish(
        self,
        source_bytes: u32,
        unsupported: u32,
        followed: u8,
    ) -> Result<Table, UnwindError> {
        if self.rows.is_empty() {
            return Err(UnwindError::NoUnwindInformation);
        }
        if self.is_full {
            return Err(UnwindError::TooLarge("the number of rows"));
        }
        let mut header = TableHeader {
            magic: TABLE_MAGIC,
            first_page: self.first_page,
            pages: self.pages.len() as u32,
            rules: self.rules.all.len() as u32,
            rows: self.rows.len() as u32,
            source_bytes,
            unsupported,
            followed: followed.into(),
            ..TableHeader::default()
        };
        lay_out(&mut header);
        let mut blocks = Vec::with_capacity(header.blocks as usize);
        blocks.push(write_header(&header));
        append(&mut blocks, self.pages.iter().map(|entry| [entry.first_row, entry.rows]));
        append(&mut blocks, self.rules.all.iter().map(|rule| rule.to_words()));
        append(&mut blocks, self.rows.iter().map(|row| [row.0]));
        Ok(Table { blocks })
    }
}

/// Sets the positions of a table's parts: they follow one another, each in blocks of its own.
pub(super) fn lay_out(header: &mut TableHeader) {
    header.pages_at = 1;
    header.rules_at = header.pages_at.saturating_add(header.pages.div_ceil(PAGES_PER_BLOCK));
    header.rows_at = header.rules_at.saturating_add(header.rules.div_ceil(RULES_PER_BLOCK));
    header.blocks = header.rows_at.saturating_add(header.rows.div_ceil(ROWS_PER_BLOCK));
}

/// Puts `entries` into new blocks.
fn append<const N: usize>(blocks: &mut Vec<Block>, entries: impl ExactSizeIterator<Item = [u32; N]>) {
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let mut block = Block::ZERO;
        for (words, entry) in block.0.chunks_exact_mut(N).zip(&mut entries) {
            words.copy_from_slice(&entry);
        }
        blocks.push(block);
    }
}
