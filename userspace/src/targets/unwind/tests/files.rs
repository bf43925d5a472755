//! ELF files that hold given call frame information and nothing else.

use hostscope_wire::unwind::{Rule, cfa, fp};

use crate::targets::unwind::{Table, Tally, compile_tallied, lookup};

/// Where the code of a test file is: virtual address, offset in the file, bytes.
pub(super) const CODE: [u64; 3] = [0x40_1000, 0x1000, 0x10_0000];

/// The augmentation of most tests: pointers are 8 bytes and absolute.
pub(super) const ABSOLUTE: (&[u8], &[u8]) = (b"zR\0", &[0]);

/// CFA = rsp + 8, return address at CFA - 8: where every function begins.
pub(super) const AT_ENTRY: &[u8] = &[0x0c, 7, 8, 0x90, 1];

/// Records of `.eh_frame` or `.debug_frame`.
#[derive(Clone, Default)]
pub(super) struct Records {
    pub(super) bytes: Vec<u8>,
    is_debug: bool,
    last_cie: usize,
}

impl Records {
    pub(super) fn eh() -> Self {
        Self::default()
    }

    pub(super) fn debug() -> Self {
        Self { is_debug: true, ..Self::default() }
    }

    /// With the common record that nearly all functions have.
    pub(super) fn usual() -> Self {
        Self::eh().cie(ABSOLUTE, AT_ENTRY)
    }

    fn record(mut self, body: &[u8]) -> Self {
        let length = body.len().next_multiple_of(4);
        self.bytes.extend((length as u32).to_le_bytes());
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len() + length - body.len(), 0);
        self
    }

    pub(super) fn cie(mut self, (letters, data): (&[u8], &[u8]), instructions: &[u8]) -> Self {
        self.last_cie = self.bytes.len();
        let id = if self.is_debug { u32::MAX } else { 0 };
        let mut body = id.to_le_bytes().to_vec();
        body.push(1);
        body.extend(letters);
        body.extend([1, 0x78, 16]);
        if letters.first() == Some(&b'z') {
            body.push(data.len() as u8);
            body.extend(data);
        }
        body.extend(instructions);
        self.record(&body)
    }

    /// A function of the last common record whose pointers are absolute.
    pub(super) fn function(self, start: u64, bytes: u64, instructions: &[u8]) -> Self {
        let pointers = [start.to_le_bytes(), bytes.to_le_bytes()].concat();
        self.function_with(&pointers, instructions)
    }

    /// A function of the last common record, with its pointers as bytes.
    pub(super) fn function_with(self, pointers: &[u8], instructions: &[u8]) -> Self {
        let place = self.bytes.len() + 4;
        let id = if self.is_debug { self.last_cie } else { place - self.last_cie };
        let mut body = (id as u32).to_le_bytes().to_vec();
        body.extend(pointers);
        if !self.is_debug {
            body.push(0);
        }
        body.extend(instructions);
        self.record(&body)
    }
}

/// A file with these records and [`CODE`].
pub(super) fn file(eh: &Records, debug: Option<&Records>) -> Vec<u8> {
    let mut sections: Vec<(&str, &[u8], u64)> = vec![(".eh_frame", &eh.bytes, 0)];
    if let Some(debug) = debug {
        sections.push((".debug_frame", &debug.bytes, 0));
    }
    elf(&[CODE], &sections)
}

/// Where in a file of [`elf`] its first section lies, which is its virtual address too.
pub(super) fn first_section(segments: usize) -> u64 {
    64 + 56 * segments as u64
}

/// A file with these segments of code (virtual address, offset, bytes) and sections (name, content, flags).
pub(super) fn elf(code: &[[u64; 3]], sections: &[(&str, &[u8], u64)]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    for &[address, offset, length] in code {
        bytes.extend(program_header(1, 5, offset, address, length));
    }
    let mut headers = vec![0; 64];
    let mut names = b"\0.shstrtab\0".to_vec();
    for (name, content, flags) in sections {
        let header = [
            (names.len() as u64) | 1 << 32,
            *flags,
            bytes.len() as u64,
            bytes.len() as u64,
            content.len() as u64,
            0,
            1,
            0,
        ];
        headers.extend(header.map(u64::to_le_bytes).concat());
        names.extend(name.as_bytes());
        names.push(0);
        bytes.extend(*content);
    }
    let header = [1 | 3 << 32, 0, 0, bytes.len() as u64, names.len() as u64, 0, 1, 0];
    headers.extend(header.map(u64::to_le_bytes).concat());
    bytes.extend(names);
    let section_headers = bytes.len() as u64;
    let section_count = headers.len() / 64;
    bytes.extend(headers);
    bytes[..64].copy_from_slice(&elf_header(code.len(), section_headers, section_count));
    bytes
}

pub(super) fn program_header(kind: u32, flags: u32, offset: u64, address: u64, length: u64) -> Vec<u8> {
    let words = [u64::from(kind) | u64::from(flags) << 32, offset, address, address, length, length, 1];
    words.map(u64::to_le_bytes).concat()
}

pub(super) fn elf_header(segments: usize, section_headers: u64, sections: usize) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    for (value, bytes) in [
        (3, 2),
        (62, 2),
        (1, 4),
        (0, 8),
        (64, 8),
        (section_headers, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (segments as u64, 2),
        (64, 2),
        (sections as u64, 2),
        (sections.saturating_sub(1) as u64, 2),
    ] {
        header.extend(&value.to_le_bytes()[..bytes]);
    }
    header
}

/// The table of these records.
pub(super) fn table(records: &Records) -> (Table, Tally) {
    compile_tallied(&file(records, None)).expect("there is a table")
}

/// The rules at these bytes from the beginning of the code.
pub(super) fn rules<const N: usize>(table: &Table, places: [u64; N]) -> [Rule; N] {
    places.map(|place| lookup(table.blocks(), CODE[1] + place).expect("the code is in the table"))
}

/// CFA = register + offset, rbp untouched.
pub(super) fn plain(register: u8, offset: i32) -> Rule {
    Rule { cfa: cfa::REGISTER << 4 | register, cfa_offset: offset, ..Rule::default() }
}

/// CFA = register + offset, rbp at CFA - `words` * 8.
pub(super) fn saved(register: u8, offset: i32, words: i16) -> Rule {
    Rule { fp: fp::AT_CFA, fp_offset: -words, ..plain(register, offset) }
}
