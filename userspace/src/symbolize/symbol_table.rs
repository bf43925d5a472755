//! Which symbol covers which wanted address: one pass over a symbol table, and no index.
//!
//! A capture asks for a few to a few thousand addresses of a file whose table has up to a million symbols. Sorting or
//! indexing the table would cost more than everything else together, so it is the wanted addresses that are sorted,
//! and each symbol of the table finds the ones it covers by binary search. Nothing is allocated a symbol, and names
//! are read for the winners only.
//!
//! Symbols: System V ABI, chapter 4, "Symbol Table" (<https://gabi.xinuos.com/elf/05-symtab.html>).

use std::cmp::Reverse;

use object::LittleEndian;
use object::elf::{self, Sym32, Sym64};
use object::pod::Pod;
use object::read::elf::Sym;

use super::Name;
use crate::targets::elf::{ElfError, ElfFile, Section, records};

/// How much of a symbol table is read at a time: small enough to stay in the CPU's second-level cache, and a multiple
/// of both record sizes (24 and 16 bytes).
const CHUNK_BYTES: usize = 48 * 2048;
/// How many symbols may cover one address on average before the table is taken for hostile. glibc's functions
/// have up to six names.
const MAX_COVERS_PER_ADDRESS: usize = 256;
/// How many names of one function are compared. glibc gives `read` six.
const MAX_ALIASES: usize = 8;
/// The longest name that is read, in bytes; longer ones are cut. C++ templates reach a few thousand.
pub(super) const MAX_NAME_BYTES: usize = 8 * 1024;
/// How much is read at a time from a string table: most names are shorter.
const NAME_CHUNK_BYTES: usize = 256;

/// A symbol table and its names, ready to be scanned.
pub(super) struct SymbolTable<'a> {
    pub(super) elf: &'a ElfFile<'a>,
    symbols: Section,
    strings: Section,
}

impl<'a> SymbolTable<'a> {
    /// The table of sort `kind` (`SHT_SYMTAB` or `SHT_DYNSYM`); `None` where the file has none with content.
    pub(super) fn find(elf: &'a ElfFile<'a>, kind: u32) -> Option<Self> {
        let symbols = *elf.sections().iter().find(|section| section.kind == kind && section.bytes > 0)?;
        let strings = *elf.sections().get(symbols.link as usize)?;
        (strings.kind == elf::SHT_STRTAB).then_some(Self { elf, symbols, strings })
    }

    /// The name that begins at `offset` of the string table.
    pub(super) fn name(&self, offset: u32) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        let mut chunk = [0; NAME_CHUNK_BYTES];
        while name.len() < MAX_NAME_BYTES {
            let position = u64::from(offset) + name.len() as u64;
            let rest = self.strings.bytes.checked_sub(position)?;
            let length = NAME_CHUNK_BYTES.min(rest as usize);
            let count =
                self.elf.read_some(self.strings.offset.checked_add(position)?, &mut chunk[..length]).ok()?;
            let end = chunk[..count].iter().position(|&byte| byte == 0);
            name.extend_from_slice(&chunk[..end.unwrap_or(count)]);
            if end.is_some() || count < NAME_CHUNK_BYTES {
                break;
            }
        }
        (!name.is_empty()).then_some(name)
    }

    /// The name offset of the symbol at `index`.
    pub(super) fn name_offset(&self, index: u32) -> Option<u32> {
        let size = if self.elf.is_64_bit() {
            size_of::<Sym64<LittleEndian>>()
        } else {
            size_of::<Sym32<LittleEndian>>()
        };
        let position = u64::from(index) * size as u64;
        let mut bytes = [0; 4];
        if position >= self.symbols.bytes {
            return None;
        }
        self.elf.read_exactly(self.symbols.offset.checked_add(position)?, &mut bytes, "symbol").ok()?;
        Some(u32::from_le_bytes(bytes))
    }
}

/// A symbol that may name a wanted address.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Candidate {
    start: u64,
    size: u64,
    /// Which of the scanned tables it stands in.
    table: u8,
    section: u16,
    is_function: bool,
    /// How many of `aliases` are in use; 0 is no candidate at all.
    alias_count: u8,
    aliases: [Alias; MAX_ALIASES],
}

/// One of several symbols of one start.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Alias {
    name: u32,
    binding: u8,
}

impl Candidate {
    const NONE: Self = Self {
        start: 0,
        size: 0,
        table: 0,
        section: 0,
        is_function: false,
        alias_count: 0,
        aliases: [Alias { name: 0, binding: 0 }; MAX_ALIASES],
    };

    fn is_some(&self) -> bool {
        self.alias_count > 0
    }

    /// What makes one candidate better than another: a function before a bare label, then the nearer start.
    fn rank(&self) -> (bool, bool, u64) {
        (self.is_some(), self.is_function, self.start)
    }

    /// Takes `other` in place of this one where it is better, or beside it where they differ in name alone.
    fn offer(&mut self, other: &Self) {
        if other.rank() > self.rank() {
            *self = *other;
        } else if other.rank() == self.rank()
            && other.table == self.table
            && let Some(free) = self.aliases.get_mut(usize::from(self.alias_count))
        {
            *free = other.aliases[0];
            self.alias_count += 1;
        }
    }
}

/// The wanted addresses of one file and the best symbol seen so far for each.
pub(super) struct Matcher {
    /// Ascending.
    addresses: Vec<u64>,
    /// The best symbol with a size that covers the address.
    covering: Vec<Candidate>,
    /// Among the symbols to which no wanted address is nearer: the one with the greatest start. Only these can be the
    /// last symbol before an address, which is what a symbol without a size needs to know.
    preceding: Vec<Candidate>,
    covers_left: usize,
    tables: u8,
}

impl Matcher {
    /// A matcher of `addresses`, virtual addresses in ascending order.
    pub(super) fn new(addresses: Vec<u64>) -> Self {
        debug_assert!(addresses.is_sorted());
        let count = addresses.len();
        Self {
            addresses,
            covering: vec![Candidate::NONE; count],
            preceding: vec![Candidate::NONE; count],
            covers_left: count.saturating_mul(MAX_COVERS_PER_ADDRESS),
            tables: 0,
        }
    }

    /// Offers every symbol of `table` to the addresses. Tables are numbered from 0 in the order of the calls.
    pub(super) fn scan(&mut self, table: &SymbolTable<'_>) -> Result<(), ElfError> {
        let code: Vec<bool> = table.elf.sections().iter().map(Section::is_code).collect();
        // On ARM and RISC-V, labels without a type mark where code and data alternate ($x, $d).
        let labels = matches!(table.elf.machine(), elf::EM_X86_64 | elf::EM_386);
        let outcome = if table.elf.is_64_bit() {
            self.scan_records::<Sym64<LittleEndian>>(table, &code, labels)
        } else {
            self.scan_records::<Sym32<LittleEndian>>(table, &code, labels)
        };
        self.tables += 1;
        outcome
    }

    fn scan_records<S: Pod + Sym<Endian = LittleEndian>>(
        &mut self,
        table: &SymbolTable<'_>,
        code: &[bool],
        labels: bool,
    ) -> Result<(), ElfError> {
        let Some(&last) = self.addresses.last() else { return Ok(()) };
        if table.symbols.record_bytes != size_of::<S>() as u64 {
            return Err(ElfError::Corrupt("symbols of a wrong size"));
        }
        let mut chunk = vec![0; CHUNK_BYTES.min(table.symbols.bytes as usize)];
        let mut offset = table.symbols.offset;
        let end = offset.checked_add(table.symbols.bytes).ok_or(ElfError::Corrupt("symbol table"))?;
        while offset < end {
            let length = chunk.len().min((end - offset) as usize);
            table.elf.read_exactly(offset, &mut chunk[..length], "symbol table")?;
            offset += length as u64;
            for symbol in records::<S>(&chunk[..length])? {
                let start = symbol.st_value(LittleEndian).into();
                let section = symbol.st_shndx(LittleEndian);
                let is_function = matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC);
                if start > last
                    || section == elf::SHN_UNDEF
                    || !(is_function || labels && symbol.st_type() == elf::STT_NOTYPE)
                    || !code.get(usize::from(section)).copied().unwrap_or(is_function)
                {
                    continue;
                }
                let mut aliases = Candidate::NONE.aliases;
                aliases[0] = Alias { name: symbol.st_name(LittleEndian), binding: symbol.st_bind() };
                let size = symbol.st_size(LittleEndian).into();
                self.offer(&Candidate {
                    start,
                    size,
                    table: self.tables,
                    section,
                    is_function,
                    alias_count: 1,
                    aliases,
                })?;
            }
        }
        Ok(())
    }

    /// Offers one symbol, which starts at or before the last address.
    fn offer(&mut self, symbol: &Candidate) -> Result<(), ElfError> {
        let first = self.addresses.partition_point(|&address| address < symbol.start);
        if let Some(preceding) = self.preceding.get_mut(first) {
            // Here the start counts before the type: the question is who comes last before the address.
            let key = |candidate: &Candidate| (candidate.is_some(), candidate.start, candidate.size > 0);
            if key(symbol) > key(preceding) {
                *preceding = *symbol;
            } else if key(symbol) == key(preceding) {
                preceding.offer(symbol);
            }
        }
        let covered =
            self.addresses[first..].iter().take_while(|&&address| address - symbol.start < symbol.size);
        for (_, covering) in covered.zip(&mut self.covering[first..]) {
            self.covers_left = self
                .covers_left
                .checked_sub(1)
                .ok_or(ElfError::Corrupt("its symbols overlap without end"))?;
            covering.offer(symbol);
        }
        Ok(())
    }

    /// The names of the addresses, in their order. `tables` are those scanned, in the order of the scans.
    pub(super) fn names(&self, tables: &[SymbolTable<'_>]) -> Vec<Option<Name>> {
        let mut preceding = &Candidate::NONE;
        let mut last: Option<(&Candidate, Option<Name>)> = None;
        let mut names = Vec::with_capacity(self.addresses.len());
        for (index, &address) in self.addresses.iter().enumerate() {
            if self.preceding[index].is_some() {
                preceding = &self.preceding[index];
            }
            let covering = &self.covering[index];
            let goes_on =
                || preceding.is_some() && preceding.size == 0 && reaches(preceding, address, tables);
            if !covering.is_some() && !goes_on() {
                names.push(None);
                continue;
            }
            let winner = if covering.is_some() { covering } else { preceding };
            // Addresses of one function are neighbours: its name is read and demangled once.
            let name = match &last {
                Some((same, name)) if *same == winner => name.clone(),
                _ => best_name(winner, tables),
            };
            last = Some((winner, name.clone()));
            names.push(name);
        }
        names
    }
}

/// Whether a symbol without a size, the last before `address`, goes on up to it: within one section it does.
fn reaches(symbol: &Candidate, address: u64, tables: &[SymbolTable<'_>]) -> bool {
    let table = tables.get(usize::from(symbol.table));
    let section = table.and_then(|table| table.elf.sections().get(usize::from(symbol.section)));
    section.is_some_and(|section| section.covers(symbol.start) && section.covers(address))
}

/// The name among a symbol's aliases that a reader of the source knows best.
///
/// libc gives one function several names (`read`, `__read`, `__GI___libc_read`), and it is the weak or local one that
/// programs call. So the fewest leading underscores win, as in perf, and only then the binding: global, weak, local.
fn best_name(symbol: &Candidate, tables: &[SymbolTable<'_>]) -> Option<Name> {
    let table = tables.get(usize::from(symbol.table))?;
    let binding = |alias: &Alias| match alias.binding {
        elf::STB_GLOBAL => 2,
        elf::STB_WEAK => 1,
        _ => 0,
    };
    symbol.aliases[..usize::from(symbol.alias_count)]
        .iter()
        .filter_map(|alias| Some((alias, table.name(alias.name)?)))
        .min_by_key(|(alias, name)| {
            let underscores = name.iter().take_while(|&&byte| byte == b'_').count();
            (underscores, Reverse(binding(alias)))
        })
        .map(|(_, name)| Name::new(&String::from_utf8_lossy(&name)))
}
