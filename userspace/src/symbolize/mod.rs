//! Names for code addresses.
//!
//! It is given a file, or the text of a table, and the addresses that were seen in it. It knows nothing of processes,
//! stacks, samples or probes.
//!
//! The names of a file come from one source: its own symbol table; else that of its separate debug file, found by
//! build id or debug link; else its dynamic symbols together with the table embedded for that purpose
//! (`.gnu_debugdata`). No index is built over any of them (see `symbol_table`), and nothing is mapped (see
//! [`crate::targets::elf`]).

use std::cell::OnceCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::targets::elf::{BuildId, ElfError};

mod cache;
mod debug_file;
mod demangle;
mod dwarf;
mod elf_names;
mod kernel;
mod lazy_section;
mod lines;
mod perf_map;
mod plt;
mod sorted;
mod symbol_table;
mod window;

#[cfg(test)]
mod tests;

pub use demangle::demangle;
pub use kernel::{KernelNames, KernelSymbol, kallsyms};
pub use perf_map::{PerfMapNames, perf_map};
pub use window::{CodeKind, NamedLocation, WindowNames, name_window};

use crate::load::kernel_names::KernelLookup;
use cache::Cache;

/// How names are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether DWARF is read for inlined functions, files and lines (slower, more memory).
    pub inlines: bool,
    /// How many addresses are remembered by build id for the next question; 0 for a single capture.
    pub cache_entries: usize,
}

/// A file that code was mapped from.
#[derive(Debug, Clone, Copy)]
pub struct ElfSource<'a> {
    /// The file itself.
    pub file: &'a File,
    /// Its path as the process saw it.
    pub path: &'a Path,
    /// Where that process has its root (`/proc/PID/root`): debug files are looked for there before in our own root.
    pub root: Option<&'a Path>,
}

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Never empty; the innermost inlined function first, the function that the symbol table names last.
    pub lines: Vec<SymbolLine>,
}

/// A function, and the line in it where the address or the inlined call is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolLine {
    /// The name to show.
    pub name: Arc<str>,
    /// The name as the symbol table has it.
    pub system_name: Arc<str>,
    /// The source file; empty where unknown.
    pub file: Arc<str>,
    /// The source line, from 1; 0 where unknown.
    pub line: u32,
}

/// Where the names of a file came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameSource {
    /// Its own symbol table.
    SymbolTable,
    /// The symbol table of its separate debug file.
    DebugFile(PathBuf),
    /// Its dynamic symbols (what it offers to other files), with the embedded table where it has one: functions of
    /// its own have no names, and an address in one may be credited to none.
    DynamicSymbols,
    /// It has no names at all.
    Nothing,
    /// All addresses were known from earlier.
    Cache,
}

/// The names for a file's addresses, as many as could be found.
#[derive(Debug)]
pub struct ElfNames {
    /// One entry for each file offset asked for, in the same order.
    pub symbols: Vec<Option<Symbol>>,
    /// Where they came from.
    pub source: NameSource,
    /// Why inlined functions are missing that were asked for.
    pub shortfall: Option<String>,
}

/// A function's name, shown and raw.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    shown: Arc<str>,
    system: Arc<str>,
}

impl Name {
    fn new(system: &str) -> Self {
        Self { shown: demangle(system).into(), system: system.into() }
    }
}

impl From<Name> for Symbol {
    fn from(name: Name) -> Self {
        let line = SymbolLine { name: name.shown, system_name: name.system, file: Arc::default(), line: 0 };
        Self { lines: vec![line] }
    }
}

/// Finds names, and remembers them within its bound.
pub struct Symbolizer {
    options: Options,
    cache: Cache<(BuildId, u64), Option<Symbol>>,
    /// `None` within where the kernel cannot be asked.
    kernel: OnceCell<Option<KernelLookup>>,
}

impl Symbolizer {
    /// A symbolizer that knows nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, cache: Cache::new(options.cache_entries), kernel: OnceCell::new() }
    }

    /// The names of the code at `file_offsets` (bytes into the file, in any order; ascending is fastest).
    ///
    /// `build_id` identifies the file in the cache; without it nothing is remembered.
    ///
    /// # Errors
    /// A file that cannot be read, that is no ELF file, or whose symbol table is damaged. The other files' names do
    /// not depend on it: the caller counts it and goes on.
    pub fn elf(
        &mut self,
        source: &ElfSource<'_>,
        build_id: Option<&BuildId>,
        file_offsets: &[u64],
    ) -> Result<ElfNames, ElfError> {
        let Some(&build_id) = build_id.filter(|_| self.options.cache_entries > 0) else {
            return elf_names::resolve(source, file_offsets, self.options.inlines);
        };
        let mut symbols: Vec<_> =
            file_offsets.iter().map(|&offset| self.cache.get(&(build_id, offset))).collect();
        let missing: Vec<u64> = file_offsets
            .iter()
            .zip(&symbols)
            .filter(|(_, known)| known.is_none())
            .map(|(&offset, _)| offset)
            .collect();
        let mut shortfall = None;
        let mut name_source = NameSource::Cache;
        if !missing.is_empty() {
            let found = elf_names::resolve(source, &missing, self.options.inlines)?;
            (name_source, shortfall) = (found.source, found.shortfall);
            for (&offset, symbol) in missing.iter().zip(&found.symbols) {
                self.cache.insert((build_id, offset), symbol.clone());
            }
            for (place, symbol) in symbols.iter_mut().filter(|known| known.is_none()).zip(found.symbols) {
                *place = Some(symbol);
            }
        }
        Ok(ElfNames {
            symbols: symbols.into_iter().map(Option::flatten).collect(),
            source: name_source,
            shortfall,
        })
    }

    /// Loads the BPF program by which the kernel is asked for names (see `load::kernel_names`), in 0.3 ms.
    ///
    /// [`Self::kernel`] does so itself when it is first needed; whoever drops capabilities calls this before.
    pub fn prepare_kernel(&self) {
        self.kernel.get_or_init(|| KernelLookup::load().ok());
    }

    /// The names of the kernel's code at `addresses`, in any order.
    #[must_use]
    pub fn kernel(&self, addresses: &[u64]) -> KernelNames {
        if addresses.is_empty() {
            return KernelNames { symbols: Vec::new(), shortfall: None };
        }
        self.prepare_kernel();
        let symbols = self
            .kernel
            .get()
            .and_then(Option::as_ref)
            .and_then(|lookup| kernel::by_asking(lookup, addresses).ok());
        match symbols {
            Some(symbols) => KernelNames { symbols, shortfall: None },
            None => kernel::by_kallsyms(addresses),
        }
    }

    /// The names of the code at `offsets` (bytes into the mapping) of the vDSO.
    ///
    /// # Errors
    /// That this process has no vDSO, or that its symbol table is damaged.
    pub fn vdso(&self, offsets: &[u64]) -> Result<Vec<Option<Symbol>>, ElfError> {
        let image = crate::targets::vdso::image().map_err(ElfError::Read)?;
        elf_names::resolve_image(&image, offsets)
    }
}
