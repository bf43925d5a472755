//! Finds the sections that hold call frame information and reads them.

use std::io::Read;

use flate2::read::ZlibDecoder;
use object::LittleEndian;
use object::elf::{self, CompressionHeader64};
use object::read::elf::CompressionHeader;

use super::UnwindError;
use super::bytes::Bytes;
use super::cfi::{PointerEncoding, record_bytes};
use crate::targets::elf::{ElfFile, Section, Segment, records};

/// Longest section that is read: it is held in memory while its table is made. Browsers and compilers of 200 MB have 8
/// to 15 MB.
const MAX_SECTION_BYTES: u64 = 128 << 20;

/// How much is read at a time of a section whose length nobody tells.
const CHUNK_BYTES: u64 = 1 << 20;

/// The content of a section.
pub(super) struct Frames {
    /// Whether it is `.debug_frame`, whose records count differently.
    pub(super) is_debug: bool,
    /// Its virtual address: pointers in `.eh_frame` are relative to where they stand.
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
}

/// Everything that describes frames in `file`, what is to be believed first before the rest.
/// Without `.debug_frame` unless `with_debug`.
pub(super) fn read(file: &ElfFile<'_>, with_debug: bool) -> Result<Vec<Frames>, UnwindError> {
    let mut all = Vec::new();
    let eh_frame = file.section(b".eh_frame").filter(|section| has_content(section));
    if let Some(section) = eh_frame {
        let bytes = section_bytes(file, section)?;
        all.push(Frames { is_debug: false, address: section.address, bytes });
    } else if let Some(found) = by_program_header(file)? {
        all.push(found);
    }
    // Programs that are partly in another language describe one part in the one and the rest in the other.
    let debug_frame = file.section(b".debug_frame").filter(|section| with_debug && has_content(section));
    if let Some(section) = debug_frame {
        let compressed = section.flags & u64::from(elf::SHF_COMPRESSED) != 0;
        let bytes = if compressed { unpack(file, section)? } else { section_bytes(file, section)? };
        all.push(Frames { is_debug: true, address: 0, bytes });
    }
    Ok(all)
}

fn has_content(section: &Section) -> bool {
    section.kind != elf::SHT_NOBITS && section.bytes > 0
}

fn section_bytes(file: &ElfFile<'_>, section: &Section) -> Result<Vec<u8>, UnwindError> {
    if section.bytes > MAX_SECTION_BYTES {
        return Err(UnwindError::TooLarge("the section"));
    }
    Ok(file.section_bytes(section, MAX_SECTION_BYTES)?)
}

/// A section that Go's linker or `objcopy` compressed; empty where the method is not zlib.
fn unpack(file: &ElfFile<'_>, section: &Section) -> Result<Vec<u8>, UnwindError> {
    let packed = section_bytes(file, section)?;
    let header: Option<&CompressionHeader64<LittleEndian>> = records(&packed)?.first();
    let Some(header) = header.filter(|header| header.ch_type(LittleEndian) == elf::ELFCOMPRESS_ZLIB) else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    // What was damaged on the way leaves what came before.
    let _ =
        ZlibDecoder::new(&packed[size_of_val(header)..]).take(MAX_SECTION_BYTES + 1).read_to_end(&mut bytes);
    if bytes.len() as u64 > MAX_SECTION_BYTES {
        return Err(UnwindError::TooLarge("the section, unpacked"));
    }
    Ok(bytes)
}

/// `.eh_frame` of a file without section headers: the loader's own index points at it.
///
/// Nothing says how long it is. It ends with its segment at the latest, before the index where that comes behind it, and
/// with a record of length zero.
fn by_program_header(file: &ElfFile<'_>) -> Result<Option<Frames>, UnwindError> {
    let Some(index) = file.segments().iter().find(|segment| segment.kind == elf::PT_GNU_EH_FRAME) else {
        return Ok(None);
    };
    let mut header = [0; 12];
    file.read_exactly(index.offset, &mut header, ".eh_frame_hdr")?;
    let mut reader = Bytes::new(&header, 4);
    let pointer = PointerEncoding(header[1]).read(&mut reader, index.address);
    let Some(address) = pointer.filter(|_| header[0] == 1) else { return Ok(None) };
    let holds = |segment: &&Segment| {
        segment.kind == elf::PT_LOAD
            && address.checked_sub(segment.address).is_some_and(|within| within < segment.file_bytes)
    };
    let Some(segment) = file.segments().iter().find(holds) else { return Ok(None) };
    let within = address - segment.address;
    let mut limit = segment.file_bytes - within;
    if let Some(before_index) = index.address.checked_sub(address).filter(|&bytes| bytes > 0) {
        limit = limit.min(before_index);
    }
    let Some(offset) = segment.offset.checked_add(within) else { return Ok(None) };
    let bytes = read_records(file, offset, limit)?;
    Ok(Some(Frames { is_debug: false, address, bytes }))
}

/// Records from `offset` to one of length zero, at most `limit` bytes.
fn read_records(file: &ElfFile<'_>, offset: u64, limit: u64) -> Result<Vec<u8>, UnwindError> {
    let limit = limit.min(MAX_SECTION_BYTES).min(file.byte_count().saturating_sub(offset));
    let mut bytes = Vec::new();
    let mut end = 0;
    loop {
        while let Some(length) = bytes.get(end..).and_then(record_bytes) {
            let Some(next) = end.checked_add(length).filter(|&next| next as u64 <= limit && length > 4)
            else {
                bytes.truncate(end);
                return Ok(bytes);
            };
            end = next;
        }
        let have = bytes.len() as u64;
        let chunk = CHUNK_BYTES.max((end as u64 + 16).saturating_sub(have)).min(limit - have);
        if chunk == 0 {
            bytes.truncate(end);
            return Ok(bytes);
        }
        bytes.resize((have + chunk) as usize, 0);
        file.read_exactly(offset + have, &mut bytes[have as usize..], ".eh_frame")?;
    }
}
