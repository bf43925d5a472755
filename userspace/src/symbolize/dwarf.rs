//! Inlined functions, source files and lines, from DWARF.
//!
//! <https://dwarfstd.org/dwarf5std.html>, sections 3.3.8 (inlined subroutines) and 6.2 (line numbers), by way of
//! `addr2line`. Not read: DWARF in further files (`.dwo`, `.dwp`, and dwz's `.gnu_debugaltlink`); frames whose name
//! lies there keep the symbol table's.

use std::borrow::Cow;
use std::sync::Arc;

use addr2line::Context;
use gimli::{Dwarf, DwarfSections, SectionId};
use object::elf;

use super::lazy_section::{Budget, LazyReader, LazySection};
use super::{Name, Symbol, SymbolLine};
use crate::targets::elf::ElfFile;

/// How much debug information is held at once for one file. 2,000 addresses spread over a program with 11 MB of it
/// take 25 MB, the tables made of it included; addresses of a real profile lie closer together.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How many inlined functions are believed to lie at one address; compilers stop at a few dozen.
const MAX_INLINED: usize = 256;

/// Whether `file` has DWARF.
pub(super) fn is_in(file: &ElfFile<'_>) -> bool {
    file.section(b".debug_info").is_some_and(|section| section.kind != elf::SHT_NOBITS)
}

/// Adds inlined functions, files and lines to the `symbols` of `addresses` (virtual addresses of `file`).
///
/// # Errors
/// Why nothing or not everything could be added, in words; the symbols stay good.
pub(super) fn refine(
    file: &ElfFile<'_>,
    addresses: &[u64],
    symbols: &mut [Option<Symbol>],
) -> Result<(), String> {
    let budget = Budget::new(MAX_BYTES);
    let mut number = 0;
    let sections = DwarfSections::load(|id: SectionId| {
        number += 1;
        LazySection::new(file, id.name(), number, &budget)
    })?;
    let dwarf: Dwarf<LazyReader<'_>> = sections.borrow(LazySection::reader);
    let context =
        Context::from_dwarf(dwarf).map_err(|error| format!("damaged debug information: {error}"))?;
    let mut failure = None;
    let mut last_file: Arc<str> = Arc::default();
    for (&address, symbol) in addresses.iter().zip(symbols) {
        match lines_at(&context, address, symbol.as_ref(), &mut last_file) {
            Ok(lines) if lines.is_empty() => {}
            Ok(lines) => *symbol = Some(Symbol { lines }),
            Err(_) if budget.get() == 0 => {
                return Err(
                    "there is more debug information than the 256 MiB that are held at once".to_owned()
                );
            }
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), |error| Err(format!("damaged debug information: {error}")))
}

/// What DWARF says of `address`; nothing where it names no function and the symbol table none either.
fn lines_at(
    context: &Context<LazyReader<'_>>,
    address: u64,
    symbol: Option<&Symbol>,
    last_file: &mut Arc<str>,
) -> Result<Vec<SymbolLine>, gimli::Error> {
    let mut frames = context.find_frames(address).skip_all_loads()?;
    let mut lines = Vec::new();
    while let Some(frame) = frames.next()? {
        if lines.len() == MAX_INLINED {
            break;
        }
        let raw = frame.function.as_ref().and_then(|function| function.raw_name().ok());
        let name = Name::new(raw.as_ref().map_or("", Cow::as_ref));
        let (file, line) = frame.location.map_or(("", 0), |at| (at.file.unwrap_or(""), at.line.unwrap_or(0)));
        // Frames of one function mostly lie in one file.
        if **last_file != *file {
            *last_file = file.into();
        }
        lines.push(SymbolLine { name: name.shown, system_name: name.system, file: last_file.clone(), line });
    }
    // The outermost is the function that the symbol table knows, and by the same name as without DWARF.
    if let (Some(outermost), Some(known)) = (lines.last_mut(), symbol.and_then(|symbol| symbol.lines.last()))
    {
        outermost.name = known.name.clone();
        outermost.system_name = known.system_name.clone();
    }
    lines.retain(|line| !line.name.is_empty());
    Ok(lines)
}
