//! The names of one ELF file's addresses: which tables are asked, in which order, and what each adds.

use object::elf;

use super::debug_file::{self, DebugFile};
use super::sorted::Sorted;
use super::symbol_table::{Matcher, SymbolTable};
use super::{ElfNames, ElfSource, NameSource, Symbol, dwarf, plt};
use crate::targets::elf::{ElfError, ElfFile};

/// The names of the code at `file_offsets` of `source`.
pub(super) fn resolve(
    source: &ElfSource<'_>,
    file_offsets: &[u64],
    inlines: bool,
) -> Result<ElfNames, ElfError> {
    // A device may block or do something when it is read.
    if !source.file.metadata().map_err(ElfError::Read)?.is_file() {
        return Err(ElfError::Unsupported("not a regular file"));
    }
    let file = ElfFile::parse(source.file)?;
    let wanted = Sorted::new(file_offsets.iter().map(|&offset| file.address_of(offset)));
    let own_table = SymbolTable::find(&file, elf::SHT_SYMTAB);
    let own_lines = dwarf::is_in(&file);
    let separate =
        if own_table.is_none() || inlines && !own_lines { debug_file::find(source, &file) } else { None };
    let separate_elf = separate.as_ref().and_then(|separate| ElfFile::parse(&separate.file).ok());

    let separate_table = separate_elf.as_ref().and_then(|elf| SymbolTable::find(elf, elf::SHT_SYMTAB));
    let embedded =
        if own_table.is_none() && separate_table.is_none() { debug_file::embedded(&file) } else { None };
    let embedded_elf = embedded.as_ref().and_then(|image| ElfFile::parse(image).ok());
    let mut name_source = NameSource::SymbolTable;
    let tables = if let Some(table) = own_table {
        vec![table]
    } else if let (Some(table), Some(DebugFile { path, .. })) = (separate_table, &separate) {
        name_source = NameSource::DebugFile(path.clone());
        vec![table]
    } else {
        let embedded = embedded_elf.as_ref().and_then(|elf| SymbolTable::find(elf, elf::SHT_SYMTAB));
        let tables: Vec<_> = SymbolTable::find(&file, elf::SHT_DYNSYM).into_iter().chain(embedded).collect();
        name_source = if tables.is_empty() { NameSource::Nothing } else { NameSource::DynamicSymbols };
        tables
    };

    let mut symbols = symbols_of(&file, &tables, wanted.addresses())?;
    let mut shortfall = None;
    if inlines {
        let lines =
            if own_lines { Some(&file) } else { separate_elf.as_ref().filter(|elf| dwarf::is_in(elf)) };
        let outcome = lines.map(|elf| dwarf::refine(elf, wanted.addresses(), &mut symbols));
        shortfall = outcome.unwrap_or_else(|| Err("it has no debug information (DWARF)".to_owned())).err();
    }
    Ok(ElfNames { symbols: wanted.restore(symbols), source: name_source, shortfall })
}

/// The names of the code at `offsets` of `image`, a file in memory that has no other sources.
pub(super) fn resolve_image(image: &Vec<u8>, offsets: &[u64]) -> Result<Vec<Option<Symbol>>, ElfError> {
    let file = ElfFile::parse(image)?;
    let wanted = Sorted::new(offsets.iter().map(|&offset| file.address_of(offset)));
    let table =
        SymbolTable::find(&file, elf::SHT_SYMTAB).or_else(|| SymbolTable::find(&file, elf::SHT_DYNSYM));
    let symbols = symbols_of(&file, table.as_slice(), wanted.addresses())?;
    Ok(wanted.restore(symbols))
}

/// The names that `tables`, and `file`'s procedure linkage table, give to `addresses` (ascending).
fn symbols_of(
    file: &ElfFile<'_>,
    tables: &[SymbolTable<'_>],
    addresses: &[u64],
) -> Result<Vec<Option<Symbol>>, ElfError> {
    let mut matcher = Matcher::new(addresses.to_vec());
    for table in tables {
        matcher.scan(table)?;
    }
    let names = matcher.names(tables).into_iter().zip(addresses);
    let stubs = plt::Stubs::find(file);
    Ok(names
        .map(|(name, &address)| {
            // Before the tables' answer: a label without a size may seem to reach over the stubs.
            let stub = stubs.as_ref().and_then(|stubs| stubs.name(address));
            stub.or(name).map(Symbol::from)
        })
        .collect())
}
