//! Parses the records of call frame information: common ones (CIE) and those of functions (FDE).

use std::collections::HashMap;

use super::bytes::Bytes;
use super::evaluate::State;
use super::sections::Frames;
use hostscope_wire::unwind::register;

/// Most common records of a section. Linkers merge those of `.eh_frame` to a handful; in `.debug_frame` there is one a
/// compilation unit.
const MAX_CIES: usize = 1 << 18;

/// Most bytes of a common record: an augmentation and some ten instructions. A section may consist of records that
/// overlap, so the sum must stay small.
const MAX_CIE_BYTES: usize = 1 << 10;

/// How many bytes the record has with which `bytes` begins, the length itself included; `None` where the length is cut
/// short.
pub(super) fn record_bytes(bytes: &[u8]) -> Option<usize> {
    let mut reader = Bytes::new(bytes, 0);
    let length = match reader.u32()? {
        u32::MAX => reader.u64()?,
        length => length.into(),
    };
    usize::try_from(length).unwrap_or(usize::MAX).checked_add(reader.position()).or(Some(usize::MAX))
}

/// How a pointer is written: `DW_EH_PE_…`, the format in the lower half, what it is relative to in the upper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PointerEncoding(pub(super) u8);

impl PointerEncoding {
    const ABSOLUTE: Self = Self(0);
    const PC_RELATIVE: u8 = 0x10;
    const ALIGNED: u8 = 0x50;

    /// The number alone, sign-extended.
    #[inline]
    fn read_number(self, reader: &mut Bytes<'_>) -> Option<u64> {
        Some(match self.0 & 0x0f {
            0x00 | 0x04 | 0x0c => reader.u64()?,
            0x01 => reader.uleb()?,
            0x02 => reader.u16()?.into(),
            0x03 => reader.u32()?.into(),
            0x09 => reader.sleb()? as u64,
            0x0a => i64::from(reader.u16()? as i16) as u64,
            0x0b => i64::from(reader.u32()? as i32) as u64,
            _ => return None,
        })
    }

    /// An address, where the reader's first byte has the address `section`; `None` where it is relative to what only
    /// a running program knows.
    #[inline]
    pub(super) fn read(self, reader: &mut Bytes<'_>, section: u64) -> Option<u64> {
        let here = section.wrapping_add(reader.position() as u64);
        match self.0 & 0xf0 {
            Self::PC_RELATIVE => Some(here.wrapping_add(self.read_number(reader)?)),
            0 => self.read_number(reader),
            _ => None,
        }
    }

    /// Passes over a pointer of any kind.
    fn skip(self, reader: &mut Bytes<'_>) -> Option<()> {
        if self.0 & 0x70 == Self::ALIGNED {
            reader.take(reader.position().next_multiple_of(8) - reader.position())?;
        }
        self.read_number(reader).map(|_| ())
    }
}

/// What functions have in common.
#[derive(Debug, Clone)]
pub(super) struct Cie {
    pub(super) code_alignment: u64,
    pub(super) data_alignment: i64,
    pub(super) pointers: PointerEncoding,
    has_augmentation_data: bool,
    /// Whether its function is the return from a signal handler, where the registers are the interrupted ones.
    pub(super) is_signal_frame: bool,
    /// What holds where a function begins.
    pub(super) initial: State,
}

/// A function: where its code lies, and the instructions that tell of its frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function {
    /// Virtual address.
    pub(super) start: u64,
    /// Bytes of code.
    pub(super) bytes: u64,
    cie: u32,
    /// Position of the first instruction.
    instructions: usize,
    /// Where they end.
    end: usize,
}

/// What stands at a place of a section.
pub(super) enum Record {
    Function(Function),
    /// Something else: a common record, or a zero that ends one linker's contribution.
    Other,
    /// A function whose record contradicts itself.
    Damaged,
}

/// The head that both sorts of record have.
struct Head {
    /// Behind the head.
    body: usize,
    end: usize,
    /// Where its common record is; `None` for one that is common itself.
    cie: Option<usize>,
}

/// The records of one section.
pub(super) struct Parser<'a> {
    frames: &'a Frames,
    cies: Vec<Option<Cie>>,
    by_position: HashMap<usize, u32>,
    /// The last common record asked for: position, and index among those parsed.
    last: (usize, u32),
}

impl<'a> Parser<'a> {
    pub(super) fn new(frames: &'a Frames) -> Self {
        Self { frames, cies: Vec::new(), by_position: HashMap::new(), last: (usize::MAX, 0) }
    }

    /// The record at `position`, and the position of the next one; `None` at the end, or where no record can be told
    /// from the next.
    #[inline]
    pub(super) fn record(&mut self, position: usize) -> Option<(Record, usize)> {
        let head = self.head(position)?;
        let Some(cie) = head.cie else { return Some((Record::Other, head.end)) };
        let record = self.function(&head, cie).map_or(Record::Damaged, Record::Function);
        Some((record, head.end))
    }

    #[inline]
    fn head(&self, position: usize) -> Option<Head> {
        let mut reader = Bytes::new(&self.frames.bytes, position);
        let length = reader.u32()?;
        let is_long = length == u32::MAX;
        let length = if is_long { usize::try_from(reader.u64()?).ok()? } else { length as usize };
        let id_at = reader.position();
        let end = id_at.checked_add(length).filter(|&end| end <= self.frames.bytes.len())?;
        // A record too short for its id, mostly of length zero, is passed over as if it were a common one.
        let id_bytes = if is_long && self.frames.is_debug { 8 } else { 4 };
        if length < id_bytes {
            return Some(Head { body: end, end, cie: None });
        }
        let id = if id_bytes == 8 { reader.u64()? } else { reader.u32()?.into() };
        let cie = if self.frames.is_debug {
            let of_common = if is_long { u64::MAX } else { u32::MAX.into() };
            (id != of_common).then_some(usize::try_from(id).unwrap_or(usize::MAX))
        } else {
            // Counted back from where the id stands; what lies before the section becomes what lies behind it.
            (id != 0).then_some(id_at.wrapping_sub(id as usize))
        };
        Some(Head { body: reader.position(), end, cie })
    }

    #[inline]
    fn function(&mut self, head: &Head, cie_position: usize) -> Option<Function> {
        let index = self.cie_index(cie_position)?;
        let cie = self.cies.get(index as usize)?.as_ref()?;
        let mut reader = Bytes::new(&self.frames.bytes[..head.end], head.body);
        let start = cie.pointers.read(&mut reader, self.frames.address)?;
        let bytes = cie.pointers.read_number(&mut reader)?;
        if cie.has_augmentation_data {
            let length = usize::try_from(reader.uleb()?).ok()?;
            reader.take(length)?;
        }
        Some(Function { start, bytes, cie: index, instructions: reader.position(), end: head.end })
    }

    /// What `function`, which this parser gave out, has in common with others, and its own instructions.
    pub(super) fn parts(&self, function: &Function) -> Option<(&Cie, Bytes<'a>)> {
        let cie = self.cies.get(function.cie as usize)?.as_ref()?;
        let frames: &'a Frames = self.frames;
        Some((cie, Bytes::new(frames.bytes.get(..function.end)?, function.instructions)))
    }

    /// The address of the section, for pointers among the instructions.
    pub(super) fn address(&self) -> u64 {
        self.frames.address
    }

    #[inline]
    fn cie_index(&mut self, position: usize) -> Option<u32> {
        if self.last.0 != position {
            self.last = (position, self.find_cie(position)?);
        }
        Some(self.last.1)
    }

    #[cold]
    fn find_cie(&mut self, position: usize) -> Option<u32> {
        if let Some(&index) = self.by_position.get(&position) {
            return Some(index);
        }
        if self.cies.len() >= MAX_CIES {
            return None;
        }
        let index = self.cies.len() as u32;
        self.cies.push(self.parse_cie(position));
        self.by_position.insert(position, index);
        Some(index)
    }

    fn parse_cie(&self, position: usize) -> Option<Cie> {
        let head = self.head(position)?;
        if head.cie.is_some() || head.end - head.body > MAX_CIE_BYTES {
            return None;
        }
        let mut reader = Bytes::new(&self.frames.bytes[..head.end], head.body);
        let version = reader.u8()?;
        let augmentation = reader.until_zero()?;
        match version {
            1 | 3 => {}
            // Version 4 says how wide addresses and segment selectors are.
            4 if reader.take(2)? == [8, 0] => {}
            _ => return None,
        }
        let code_alignment = reader.uleb()?;
        let data_alignment = reader.sleb()?;
        let return_register = if version == 1 { reader.u8()?.into() } else { reader.uleb()? };
        if return_register != u64::from(register::RETURN_ADDRESS) {
            return None;
        }
        let mut cie = Cie {
            code_alignment,
            data_alignment,
            pointers: PointerEncoding::ABSOLUTE,
            has_augmentation_data: false,
            is_signal_frame: false,
            initial: State::UNKNOWN,
        };
        cie.read_augmentation(augmentation, &mut reader)?;
        cie.initial = State::initial(&cie, reader, self.frames.address)?;
        Some(cie)
    }
}

impl Cie {
    /// Reads what the letters of `augmentation` announce, and leaves `reader` behind it.
    fn read_augmentation(&mut self, augmentation: &[u8], reader: &mut Bytes<'_>) -> Option<()> {
        let Some((&first, letters)) = augmentation.split_first() else { return Some(()) };
        // Without 'z' nobody knows how long what follows is.
        if first != b'z' {
            return None;
        }
        self.has_augmentation_data = true;
        let length = usize::try_from(reader.uleb()?).ok()?;
        let mut rest = *reader;
        reader.take(length)?;
        for letter in letters {
            match letter {
                b'L' => {
                    rest.u8()?;
                }
                b'P' => PointerEncoding(rest.u8()?).skip(&mut rest)?,
                b'R' => self.pointers = PointerEncoding(rest.u8()?),
                b'S' => self.is_signal_frame = true,
                // AArch64's; nothing follows.
                b'B' | b'G' => {}
                // What an unknown letter means for the letters behind it, nobody knows.
                _ => break,
            }
        }
        Some(())
    }
}
