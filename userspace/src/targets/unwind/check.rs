//! Checks that blocks from outside are a table that the kernel side may walk: everything within bounds, in order, valid.

use std::fmt;

use hostscope_wire::unwind::{
    Block, MAX_PAGE_ROWS, MAX_PAGES, MAX_RULES, Rule, TABLE_MAGIC, TableHeader, cfa, fp, register,
};

use super::table::{lay_out, page_entry, read_header, row_at, rule_at};

/// What is wrong with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableError {
    /// It does not begin with the magic number of this version.
    Magic,
    /// The header's sizes or positions are not those of a table of so many blocks.
    Layout,
    /// The pages do not follow one another, or one has no rows.
    Pages,
    /// A page's rows do not begin at its beginning, or do not ascend, or name rules that there are not.
    Rows,
    /// A rule is none.
    Rules,
}

impl fmt::Display for TableError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Magic => "it is no unwind table of this version",
            Self::Layout => "its parts are not where they belong",
            Self::Pages => "its page index is damaged",
            Self::Rows => "its rows are damaged",
            Self::Rules => "its rules are damaged",
        })
    }
}

impl std::error::Error for TableError {}

/// Whether `blocks` are a table. What passes can be looked up at any offset, by the kernel side too.
///
/// # Errors
/// The first fault found.
pub fn check(blocks: &[Block]) -> Result<(), TableError> {
    let header = blocks.first().map(read_header).ok_or(TableError::Magic)?;
    if header.magic != TABLE_MAGIC {
        return Err(TableError::Magic);
    }
    check_layout(&header, blocks.len())?;
    check_rules(blocks, &header)?;
    check_rows(blocks, &header)
}

fn check_layout(header: &TableHeader, blocks: usize) -> Result<(), TableError> {
    let mut wanted = *header;
    lay_out(&mut wanted);
    wanted.reserved = [0; 4];
    let is_counted = (1..=MAX_PAGES).contains(&header.pages)
        && (Rule::RESERVED.len() as u32..=MAX_RULES).contains(&header.rules)
        && header.first_page.checked_add(header.pages).is_some()
        && (header.followed as usize) < register::GENERAL;
    if *header == wanted && is_counted && header.blocks as usize == blocks {
        Ok(())
    } else {
        Err(TableError::Layout)
    }
}

fn check_rules(blocks: &[Block], header: &TableHeader) -> Result<(), TableError> {
    for index in 0..header.rules {
        let rule = rule_at(blocks, header, index).ok_or(TableError::Layout)?;
        let reserved = Rule::RESERVED.get(index as usize);
        if !is_valid(rule) || reserved.is_some_and(|&reserved| reserved != rule) {
            return Err(TableError::Rules);
        }
    }
    Ok(())
}

fn is_valid(rule: Rule) -> bool {
    let fp_is_valid = match rule.fp_kind() {
        fp::SAME | fp::UNDEFINED => rule.fp_offset == 0,
        fp::AT_CFA | fp::AT_FP => true,
        _ => false,
    };
    match rule.kind() {
        cfa::REGISTER | cfa::DEREFERENCE => fp_is_valid,
        cfa::PLT => {
            rule.register() == register::SP && rule.fp == fp::SAME && (0..=15).contains(&rule.fp_offset)
        }
        cfa::SIGNAL => rule == Rule::SIGNAL,
        cfa::END => rule == Rule::END,
        cfa::NONE => rule == Rule::NONE,
        cfa::UNSUPPORTED => rule == Rule::UNSUPPORTED,
        _ => false,
    }
}

fn check_rows(blocks: &[Block], header: &TableHeader) -> Result<(), TableError> {
    let mut next_row = 0_u32;
    for page in 0..header.pages {
        let entry = page_entry(blocks, header, page).ok_or(TableError::Layout)?;
        let end = next_row.checked_add(entry.rows).filter(|&end| end <= header.rows);
        let (Some(end), true) = (end, (1..=MAX_PAGE_ROWS).contains(&entry.rows)) else {
            return Err(TableError::Pages);
        };
        if entry.first_row != next_row {
            return Err(TableError::Pages);
        }
        let mut wanted = 0;
        for index in next_row..end {
            let row = row_at(blocks, header, index.into()).ok_or(TableError::Layout)?;
            let in_order = if index == next_row { row.offset() == 0 } else { row.offset() >= wanted };
            if !in_order || row.rule() >= header.rules {
                return Err(TableError::Rows);
            }
            wanted = row.offset() + 1;
        }
        next_row = end;
    }
    if next_row == header.rows { Ok(()) } else { Err(TableError::Pages) }
}
