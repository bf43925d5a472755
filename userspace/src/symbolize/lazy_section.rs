//! A section of debug information of which only what is looked at is read.
//!
//! Debug information is ten times the size of the code it describes, and a few thousand addresses touch a small part
//! of it. A mapping would give the same, and SIGBUS with it (see [`crate::targets::elf`]).

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::io::Read;

use flate2::read::ZlibDecoder;
use gimli::{Error, LittleEndian, Reader, ReaderOffsetId, Result};
use memchr::memchr;
use object::elf::{self, CompressionHeader32, CompressionHeader64};
use object::read::elf::CompressionHeader;

use crate::targets::elf::{ElfFile, Section, records};

/// How much is read at a time. Headers of compilation units lie kilobytes apart and each of them is looked at.
const BLOCK_BYTES: usize = 8 * 1024;

/// How many bytes of debug information may still be read; 0 once more was wanted than there was left.
pub(super) type Budget = Cell<u64>;

/// A section in blocks, each read when it is first looked at.
pub(super) struct LazySection<'a> {
    file: &'a ElfFile<'a>,
    offset: u64,
    length: usize,
    /// Told apart from the other sections by this.
    number: u64,
    blocks: Vec<OnceCell<Box<[u8]>>>,
    budget: &'a Budget,
}

impl<'a> LazySection<'a> {
    /// The section called `name`; an empty one where `file` has none.
    ///
    /// # Errors
    /// One that lies outside the file, or is compressed in a way that is not supported, in words.
    pub(super) fn new(
        file: &'a ElfFile<'a>,
        name: &str,
        number: u64,
        budget: &'a Budget,
    ) -> std::result::Result<Self, String> {
        let mut lazy = Self { file, offset: 0, length: 0, number, blocks: Vec::new(), budget };
        let Some(section) = file.section(name.as_bytes()).filter(|section| section.kind != elf::SHT_NOBITS)
        else {
            return Ok(lazy);
        };
        if section.flags & u64::from(elf::SHF_COMPRESSED) != 0 {
            lazy.unpack(section).map_err(|why| format!("section {name}: {why}"))?;
            return Ok(lazy);
        }
        if section.offset.checked_add(section.bytes).is_none_or(|end| end > file.byte_count()) {
            return Err(format!("section {name} lies outside the file"));
        }
        (lazy.offset, lazy.length) = (section.offset, section.bytes as usize);
        lazy.blocks.resize_with(lazy.length.div_ceil(BLOCK_BYTES), OnceCell::new);
        Ok(lazy)
    }

    /// Unpacks a compressed section whole.
    fn unpack(&mut self, section: &Section) -> std::result::Result<(), String> {
        let packed =
            self.file.section_bytes(section, self.budget.get()).map_err(|error| error.to_string())?;
        let (method, header_bytes) = if self.file.is_64_bit() {
            method::<CompressionHeader64<object::LittleEndian>>(&packed)
        } else {
            method::<CompressionHeader32<object::LittleEndian>>(&packed)
        }
        .ok_or("its header is cut short")?;
        match method {
            elf::ELFCOMPRESS_ZLIB => {}
            elf::ELFCOMPRESS_ZSTD => {
                return Err("it is compressed with zstd, which hostscope does not read".into());
            }
            _ => return Err("it is compressed with an unknown method".into()),
        }
        let mut unpacked = ZlibDecoder::new(&packed[header_bytes..]);
        loop {
            self.spend(BLOCK_BYTES).map_err(|_| "there is too much debug information")?;
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            (&mut unpacked)
                .take(BLOCK_BYTES as u64)
                .read_to_end(&mut block)
                .map_err(|error| error.to_string())?;
            let is_last = block.len() < BLOCK_BYTES;
            self.length += block.len();
            self.blocks.push(OnceCell::from(block.into_boxed_slice()));
            if is_last {
                return Ok(());
            }
        }
    }

    fn spend(&self, bytes: usize) -> Result<()> {
        let left = self.budget.get().checked_sub(bytes as u64);
        self.budget.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or(Error::Io)
    }

    /// A reader of the whole section.
    pub(super) fn reader(&'a self) -> LazyReader<'a> {
        LazyReader { section: self, start: 0, length: self.length }
    }

    /// What lies at `position` and behind it in the same block; never empty within the section.
    #[inline]
    fn bytes_at(&self, position: usize) -> Result<&[u8]> {
        let (index, within) = (position / BLOCK_BYTES, position % BLOCK_BYTES);
        let cell = self.blocks.get(index).ok_or(Error::Io)?;
        let block = match cell.get() {
            Some(block) => block,
            None => self.load(cell, index)?,
        };
        block.get(within..).ok_or(Error::Io)
    }

    #[cold]
    fn load<'b>(&self, cell: &'b OnceCell<Box<[u8]>>, index: usize) -> Result<&'b [u8]> {
        let position = index * BLOCK_BYTES;
        let length = BLOCK_BYTES.min(self.length - position);
        self.spend(length)?;
        let mut block = vec![0; length].into_boxed_slice();
        let offset = self.offset + position as u64;
        self.file.read_exactly(offset, &mut block, "debug information").map_err(|_| Error::Io)?;
        Ok(cell.get_or_init(|| block))
    }
}

/// The compression method and the length of the header in front of a compressed section.
fn method<H: CompressionHeader<Endian = object::LittleEndian>>(section: &[u8]) -> Option<(u32, usize)> {
    let header: &H = records(section).ok()?.first()?;
    Some((header.ch_type(object::LittleEndian), size_of::<H>()))
}

/// A part of a section, and the place within it up to which it was read.
#[derive(Clone, Copy)]
pub(super) struct LazyReader<'a> {
    section: &'a LazySection<'a>,
    start: usize,
    length: usize,
}

impl fmt::Debug for LazyReader<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "section {} at {}, {} bytes", self.section.number, self.start, self.length)
    }
}

impl<'a> LazyReader<'a> {
    fn end_of_input<T>(&self) -> Result<T> {
        Err(Error::UnexpectedEof(self.offset_id()))
    }

    /// The bytes in one piece where one block holds them, else copied together.
    fn gather(&self) -> Result<Cow<'a, [u8]>> {
        if self.length == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        if let Some(bytes) = self.section.bytes_at(self.start)?.get(..self.length) {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut bytes = vec![0; self.length];
        self.clone().read_slice(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }
}

impl Reader for LazyReader<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    #[inline]
    fn len(&self) -> usize {
        self.length
    }

    fn empty(&mut self) {
        self.length = 0;
    }

    fn truncate(&mut self, length: usize) -> Result<()> {
        if length > self.length {
            return self.end_of_input();
        }
        self.length = length;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.start.saturating_sub(base.start)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        // Sections are far shorter than 2^56 bytes.
        ReaderOffsetId(self.section.number << 56 | self.start as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let offset = id.0.checked_sub(self.offset_id().0)? as usize;
        (offset <= self.length).then_some(offset)
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let mut found = 0;
        while found < self.length {
            let bytes = self.section.bytes_at(self.start + found)?;
            let bytes = &bytes[..bytes.len().min(self.length - found)];
            match memchr(byte, bytes) {
                Some(position) => return Ok(found + position),
                None => found += bytes.len(),
            }
        }
        self.end_of_input()
    }

    #[inline]
    fn skip(&mut self, length: usize) -> Result<()> {
        if length > self.length {
            return self.end_of_input();
        }
        self.start += length;
        self.length -= length;
        Ok(())
    }

    fn split(&mut self, length: usize) -> Result<Self> {
        let mut first = *self;
        self.skip(length)?;
        first.length = length;
        Ok(first)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        self.gather()
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        match self.gather()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Error::BadUtf8),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Error::BadUtf8),
        }
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        Ok(match self.gather()? {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    #[inline]
    fn read_slice(&mut self, buffer: &mut [u8]) -> Result<()> {
        if buffer.len() > self.length {
            return self.end_of_input();
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let bytes = self.section.bytes_at(self.start + filled)?;
            let count = bytes.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&bytes[..count]);
            filled += count;
        }
        self.skip(filled)
    }

    #[inline]
    fn read_u8(&mut self) -> Result<u8> {
        if self.length == 0 {
            return self.end_of_input();
        }
        let byte = *self.section.bytes_at(self.start)?.first().ok_or(Error::Io)?;
        self.skip(1)?;
        Ok(byte)
    }
}
