//! Names of the stubs through which a file calls other files: `malloc@plt`.
//!
//! The n-th stub belongs to the n-th relocation of `.rela.plt`, whose symbol is a dynamic one. x86-64 and 64-bit ARM
//! ABI supplements, "Procedure Linkage Table"; `.plt.sec` is where x86-64 has the stubs when the processor tracks
//! indirect branches (IBT), and then `.plt` has one for each as well.

use object::LittleEndian;
use object::elf::{self, Rela64};

use super::Name;
use super::symbol_table::SymbolTable;
use crate::targets::elf::{ElfFile, Section, records};

/// The stubs of one file.
pub(super) struct Stubs<'a> {
    file: &'a ElfFile<'a>,
    symbols: SymbolTable<'a>,
    relocations: Section,
    /// Each with the length of what stands before the first stub.
    sections: Vec<(Section, u64)>,
    stub_bytes: u64,
}

impl<'a> Stubs<'a> {
    /// The stubs of `file`; `None` where it has none or they are laid out in a way not known here.
    pub(super) fn find(file: &'a ElfFile<'a>) -> Option<Self> {
        let (header_bytes, stub_bytes) = match file.machine() {
            elf::EM_X86_64 => (16, 16),
            elf::EM_AARCH64 => (32, 16),
            _ => return None,
        };
        let relocations = *file.section(b".rela.plt")?;
        let sections = [(&b".plt"[..], header_bytes), (b".plt.sec", 0)]
            .into_iter()
            .filter_map(|(name, header)| Some((*file.section(name)?, header)))
            .collect();
        Some(Self {
            file,
            symbols: SymbolTable::find(file, elf::SHT_DYNSYM)?,
            relocations,
            sections,
            stub_bytes,
        })
    }

    /// The name of the stub at `address`.
    pub(super) fn name(&self, address: u64) -> Option<Name> {
        let (section, header) = self.sections.iter().find(|(section, _)| section.covers(address))?;
        let index = (address - section.address).checked_sub(*header)? / self.stub_bytes;
        let size = size_of::<Rela64<LittleEndian>>() as u64;
        if index >= self.relocations.bytes / size {
            return None;
        }
        let offset = self.relocations.offset.checked_add(index * size)?;
        let bytes = self.file.read(offset, size, size, "relocation").ok()?;
        let relocation: &Rela64<LittleEndian> = records(&bytes).ok()?.first()?;
        let symbol = relocation.r_sym(LittleEndian, false);
        let name = self.symbols.name(self.symbols.name_offset(symbol)?)?;
        let mut name = Name::new(&String::from_utf8_lossy(&name));
        name.shown = format!("{}@plt", name.shown).into();
        Some(name)
    }
}
