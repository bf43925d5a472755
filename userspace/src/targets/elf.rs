//! ELF files as far as every stage needs them: headers, build id, and file offsets as virtual addresses.
//!
//! Everything is read with `pread` into buffers of bounded size, never through a mapping. A mapped file that is
//! truncated under us (`cp` over a shared library in use is enough) kills the reader with SIGBUS, and the pages of a
//! mapping count as ours: a 150 MB library would be the whole memory budget. A short `pread` is just an error. It is
//! no slower either: a table of 165,000 symbols takes 0.8 ms both ways.
//!
//! Little-endian files only, of 32 and 64 bits. Layouts: System V ABI, chapters 4 and 5
//! (<https://gabi.xinuos.com/>), by way of the `object` crate's types.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use object::elf;
use object::pod::{self, Pod};
use object::read::elf::{FileHeader, NoteHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, elf::FileHeader32, elf::FileHeader64};

#[cfg(test)]
pub(crate) mod test_files;
#[cfg(test)]
mod tests;

/// Most section headers that are read. 16 bits is what the file header's own field can say; more is found only in
/// relocatable files, which do not run.
const MAX_SECTIONS: u16 = 0xfeff;
/// Most program headers that are read: linkers write about ten.
const MAX_SEGMENTS: u16 = 1024;
/// Longest table of section names: 64 KiB is a hundred times what a large binary has.
const MAX_SECTION_NAMES_BYTES: u64 = 64 * 1024;
/// How much of one note section is read: the kernel itself looks for build ids in one page.
const MAX_NOTES_BYTES: u64 = 64 * 1024;

/// Bytes that can be read at any offset: a file, or an image in memory.
pub trait ReadAt {
    /// Reads at `offset` into `buffer` and says how many bytes there were; 0 is the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// How many bytes there are in all.
    fn byte_count(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn byte_count(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn byte_count(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Why a file cannot be used.
#[derive(Debug)]
pub enum ElfError {
    /// Reading failed.
    Read(io::Error),
    /// It does not begin with ELF's magic number.
    NotElf,
    /// It is of a sort that hostscope does not read.
    Unsupported(&'static str),
    /// It contradicts itself or ends too early.
    Corrupt(&'static str),
    /// A part of it is larger than what is read.
    TooLarge(&'static str),
}

impl fmt::Display for ElfError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(formatter, "cannot read it: {error}"),
            Self::NotElf => formatter.write_str("not an ELF file"),
            Self::Unsupported(what) => write!(formatter, "unsupported: {what}"),
            Self::Corrupt(what) => write!(formatter, "corrupt ELF file: {what}"),
            Self::TooLarge(what) => write!(formatter, "too large to read: {what}"),
        }
    }
}

impl std::error::Error for ElfError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Read(error) = self { Some(error) } else { None }
    }
}

/// A GNU build id: what a linker derives from a file's content, so that equal ids mean equal code.
///
/// Up to 32 bytes: linkers write 8 (lld's `fast`), 16 (MD5) or 20 (SHA-1); longer ones, which `--build-id=0x…` allows,
/// are taken for none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId {
    len: u8,
    bytes: [u8; Self::MAX_BYTES],
}

impl BuildId {
    /// The longest id that is kept.
    pub const MAX_BYTES: usize = 32;

    /// The id made of `bytes`; `None` where there are none or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > Self::MAX_BYTES {
            return None;
        }
        let mut id = Self { len: bytes.len() as u8, bytes: [0; Self::MAX_BYTES] };
        id.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(id)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BuildId({self})")
    }
}

/// A part of the file that is loaded or that the loader reads (a program header).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `PT_LOAD`, `PT_NOTE`, …
    pub kind: u32,
    /// `PF_X` and the like.
    pub flags: u32,
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// Its virtual address.
    pub address: u64,
    /// Its length in the file, in bytes.
    pub file_bytes: u64,
    /// The alignment of its address and of notes within it, in bytes.
    pub alignment: u64,
}

/// A section header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its name's offset in the table of section names.
    pub name: u32,
    /// `SHT_SYMTAB`, `SHT_NOBITS`, …
    pub kind: u32,
    /// `SHF_EXECINSTR` and the like.
    pub flags: u64,
    /// Its virtual address; 0 where it is not loaded.
    pub address: u64,
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The section that belongs to it: for a symbol table its string table.
    pub link: u32,
    /// The length of one record in bytes, for tables.
    pub record_bytes: u64,
    /// The alignment of notes within it, in bytes.
    pub alignment: u64,
}

impl Section {
    /// Whether it holds code.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.flags & u64::from(elf::SHF_EXECINSTR) != 0
    }

    /// Whether `address` lies within it.
    #[must_use]
    pub fn covers(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|offset| offset < self.bytes)
    }
}

/// The headers of an ELF file, and the way to the rest of it.
pub struct ElfFile<'a> {
    source: &'a dyn ReadAt,
    byte_count: u64,
    is_64_bit: bool,
    kind: u16,
    machine: u16,
    entry: u64,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    section_names: Vec<u8>,
}

impl<'a> ElfFile<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// What is no ELF file, or one whose program headers cannot be read. Section headers are not needed to run, so a
    /// file whose section headers are damaged counts as one that has none.
    pub fn parse(source: &'a dyn ReadAt) -> Result<Self, ElfError> {
        let mut ident = [0; size_of::<elf::Ident>()];
        let count = read_fully(source, 0, &mut ident).map_err(ElfError::Read)?;
        if count < elf::ELFMAG.len() || ident[..4] != elf::ELFMAG {
            return Err(ElfError::NotElf);
        }
        if ident[5] != elf::ELFDATA2LSB {
            return Err(ElfError::Unsupported("not little-endian"));
        }
        match ident[4] {
            elf::ELFCLASS64 => Self::parse_class::<FileHeader64<LittleEndian>>(source),
            elf::ELFCLASS32 => Self::parse_class::<FileHeader32<LittleEndian>>(source),
            _ => Err(ElfError::Unsupported("neither 32 nor 64 bits")),
        }
    }

    fn parse_class<H: FileHeader<Endian = LittleEndian>>(source: &'a dyn ReadAt) -> Result<Self, ElfError> {
        let byte_count = source.byte_count().map_err(ElfError::Read)?;
        let mut file = Self {
            source,
            byte_count,
            is_64_bit: H::is_type_64_sized(),
            kind: 0,
            machine: 0,
            entry: 0,
            segments: Vec::new(),
            sections: Vec::new(),
            section_names: Vec::new(),
        };
        let bytes = file.read(0, size_of::<H>() as u64, 64, "file header")?;
        let header: &H = first_record(&bytes)?;
        file.kind = header.e_type(LittleEndian);
        file.machine = header.e_machine(LittleEndian);
        file.entry = header.e_entry(LittleEndian).into();
        file.segments = file.read_segments(header)?;
        if let Ok((sections, names)) = file.read_sections(header) {
            (file.sections, file.section_names) = (sections, names);
        }
        Ok(file)
    }

    fn read_segments<H: FileHeader<Endian = LittleEndian>>(
        &self,
        header: &H,
    ) -> Result<Vec<Segment>, ElfError> {
        let count = header.e_phnum(LittleEndian);
        if count == 0 {
            return Ok(Vec::new());
        }
        if count > MAX_SEGMENTS {
            return Err(ElfError::TooLarge("program headers"));
        }
        if usize::from(header.e_phentsize(LittleEndian)) != size_of::<H::ProgramHeader>() {
            return Err(ElfError::Corrupt("program headers of a wrong size"));
        }
        let length = u64::from(count) * size_of::<H::ProgramHeader>() as u64;
        let bytes = self.read(header.e_phoff(LittleEndian).into(), length, length, "program headers")?;
        let records: &[H::ProgramHeader] = records(&bytes)?;
        Ok(records
            .iter()
            .map(|record| Segment {
                kind: record.p_type(LittleEndian),
                flags: record.p_flags(LittleEndian),
                offset: record.p_offset(LittleEndian).into(),
                address: record.p_vaddr(LittleEndian).into(),
                file_bytes: record.p_filesz(LittleEndian).into(),
                alignment: record.p_align(LittleEndian).into(),
            })
            .collect())
    }

    fn read_sections<H: FileHeader<Endian = LittleEndian>>(
        &self,
        header: &H,
    ) -> Result<(Vec<Section>, Vec<u8>), ElfError> {
        let count = header.e_shnum(LittleEndian).min(MAX_SECTIONS);
        if count == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        if usize::from(header.e_shentsize(LittleEndian)) != size_of::<H::SectionHeader>() {
            return Err(ElfError::Corrupt("section headers of a wrong size"));
        }
        let length = u64::from(count) * size_of::<H::SectionHeader>() as u64;
        let bytes = self.read(header.e_shoff(LittleEndian).into(), length, length, "section headers")?;
        let records: &[H::SectionHeader] = records(&bytes)?;
        let sections: Vec<_> = records
            .iter()
            .map(|record| Section {
                name: record.sh_name(LittleEndian),
                kind: record.sh_type(LittleEndian),
                flags: record.sh_flags(LittleEndian).into(),
                address: record.sh_addr(LittleEndian).into(),
                offset: record.sh_offset(LittleEndian).into(),
                bytes: record.sh_size(LittleEndian).into(),
                link: record.sh_link(LittleEndian),
                record_bytes: record.sh_entsize(LittleEndian).into(),
                alignment: record.sh_addralign(LittleEndian).into(),
            })
            .collect();
        let names = sections
            .get(usize::from(header.e_shstrndx(LittleEndian)))
            .map(|section| self.section_bytes(section, MAX_SECTION_NAMES_BYTES))
            .transpose()?
            .unwrap_or_default();
        Ok((sections, names))
    }

    /// Whether addresses are of 64 bits.
    #[must_use]
    pub fn is_64_bit(&self) -> bool {
        self.is_64_bit
    }

    /// The machine it runs on: `EM_X86_64` and the like.
    #[must_use]
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// The address at which it is entered; 0 for most libraries.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Whether it may be loaded anywhere: a shared library or a position-independent program.
    #[must_use]
    pub fn is_position_independent(&self) -> bool {
        self.kind == elf::ET_DYN
    }

    /// The length of the whole file in bytes, when its headers were read.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// The program headers.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The section headers, by index; none where the file has none or they are damaged.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The first section called `name`.
    #[must_use]
    pub fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| {
            self.section_names
                .get(section.name as usize..)
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.first() == Some(&0))
        })
    }

    /// The virtual address, as the file's own headers number them, of the code or data at `file_offset`; `None` where
    /// nothing is loaded from there.
    #[must_use]
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        let loaded = |segment: &&Segment| {
            segment.kind == elf::PT_LOAD
                && file_offset.checked_sub(segment.offset).is_some_and(|within| within < segment.file_bytes)
        };
        // Two segments may hold the same bytes (a page that ends one and begins the next); we ask about code.
        let executable = |segment: &&Segment| segment.flags & elf::PF_X != 0;
        self.segments
            .iter()
            .filter(loaded)
            .find(executable)
            .or_else(|| self.segments.iter().find(loaded))
            .map(|segment| (file_offset - segment.offset).wrapping_add(segment.address))
    }

    /// The GNU build id, from whichever note holds it.
    #[must_use]
    pub fn build_id(&self) -> Option<BuildId> {
        // Sections first: in a file of debug information alone they are right and the segments' offsets are not.
        let sections = self.sections.iter().filter(|section| section.kind == elf::SHT_NOTE);
        let segments = self.segments.iter().filter(|segment| segment.kind == elf::PT_NOTE);
        sections
            .map(|section| (section.offset, section.bytes, section.alignment))
            .chain(segments.map(|segment| (segment.offset, segment.file_bytes, segment.alignment)))
            .find_map(|(offset, length, alignment)| {
                let notes = self.read(offset, length, MAX_NOTES_BYTES, "notes").ok()?;
                build_id_in_notes(&notes, alignment)
            })
    }

    /// The content of `section`, at most `limit` bytes.
    ///
    /// # Errors
    /// A section longer than `limit`, one that has no content in the file, or one that lies outside it.
    pub fn section_bytes(&self, section: &Section, limit: u64) -> Result<Vec<u8>, ElfError> {
        if section.kind == elf::SHT_NOBITS {
            return Err(ElfError::Corrupt("a section without content is asked for its content"));
        }
        self.read(section.offset, section.bytes, limit, "section")
    }

    /// `length` bytes at `offset`, at most `limit`; `what` they are stands in the error.
    pub fn read(
        &self,
        offset: u64,
        length: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, ElfError> {
        if length > limit {
            return Err(ElfError::TooLarge(what));
        }
        // Before the buffer is made: a length of terabytes costs nothing to write into a header.
        if offset.checked_add(length).is_none_or(|end| end > self.byte_count) {
            return Err(ElfError::Corrupt(what));
        }
        let mut bytes = vec![0; length as usize];
        self.read_exactly(offset, &mut bytes, what)?;
        Ok(bytes)
    }

    /// Fills `buffer` from `offset`; `what` is read stands in the error.
    pub fn read_exactly(&self, offset: u64, buffer: &mut [u8], what: &'static str) -> Result<(), ElfError> {
        let count = read_fully(self.source, offset, buffer).map_err(ElfError::Read)?;
        if count == buffer.len() { Ok(()) } else { Err(ElfError::Corrupt(what)) }
    }

    /// As much of `buffer` as there is from `offset`: how many bytes.
    pub fn read_some(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ElfError> {
        read_fully(self.source, offset, buffer).map_err(ElfError::Read)
    }
}

/// `bytes` as records of `T`; a remainder shorter than one is dropped.
pub(crate) fn records<T: Pod>(bytes: &[u8]) -> Result<&[T], ElfError> {
    pod::slice_from_bytes(bytes, bytes.len() / size_of::<T>())
        .map(|(records, _)| records)
        .map_err(|()| ElfError::Corrupt("a table is misaligned"))
}

/// The record of `T` with which `bytes` begins.
fn first_record<T: Pod>(bytes: &[u8]) -> Result<&T, ElfError> {
    pod::from_bytes(bytes).map(|(record, _)| record).map_err(|()| ElfError::Corrupt("a record is cut short"))
}

/// Reads until `buffer` is full or the source ends.
fn read_fully(source: &dyn ReadAt, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(position) = offset.checked_add(filled as u64) else { break };
        match source.read_at(position, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The build id among `notes`, which are aligned to `alignment` bytes (4, or 8 where it says so).
fn build_id_in_notes(notes: &[u8], alignment: u64) -> Option<BuildId> {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(if alignment == 8 { 8 } else { 4 });
    let mut rest = notes;
    loop {
        let (note, content): (&elf::NoteHeader32<LittleEndian>, _) = pod::from_bytes(rest).ok()?;
        let name = content.get(..note.n_namesz(LittleEndian) as usize)?;
        // The descriptor begins at a multiple of the alignment counted from the note, the header's 12 bytes included.
        let header = size_of::<elf::NoteHeader32<LittleEndian>>();
        let start =
            padded(header as u32 + note.n_namesz(LittleEndian).min(u32::MAX / 2))?.checked_sub(header)?;
        let length = note.n_descsz(LittleEndian);
        let descriptor = content.get(start..)?;
        if note.n_type(LittleEndian) == elf::NT_GNU_BUILD_ID && name == b"GNU\0" {
            return BuildId::new(descriptor.get(..length as usize)?);
        }
        rest = descriptor.get(padded(length)?..)?;
    }
}
