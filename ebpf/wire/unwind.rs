//! Unwind tables: how a pc leads to the rule by which its frame's caller is found.
//!
//! One table a file, as an array of 64-byte [`Block`]s: a [`TableHeader`], the page index, the rules, the rows.
//!
//! ```text
//! pc of a process ── mappings of the process ──► (table, offset in the file)
//! offset >> 16    ── page index               ──► the rows of that 64 KiB page
//! offset & 0xffff ── binary search            ──► the last row that begins at or before it
//! row             ── rule                     ──► CFA, return address, rbp
//! ```
//!
//! Offsets are offsets in the file, not virtual addresses: a mapping says where in the file it begins, so nobody needs
//! the program headers again after the table was made. A row is 4 bytes and holds until the next one of the file begins;
//! a range without code that is described begins with a row whose rule is [`Rule::NONE`].

/// Bytes of a [`Block`].
pub const BLOCK_BYTES: usize = 64;
/// Rows in a block.
pub const ROWS_PER_BLOCK: u32 = 16;
/// Rules in a block.
pub const RULES_PER_BLOCK: u32 = 8;
/// Entries of the page index in a block.
pub const PAGES_PER_BLOCK: u32 = 8;
/// An offset in the file, shifted right by this, is the number of its page.
pub const PAGE_SHIFT: u32 = 16;

/// Most pages of a table: 4 GiB of code, the reach of x86-64's relative calls.
pub const MAX_PAGES: u32 = 1 << 16;
/// Most rows of one page: one a byte, and the repeated one at its beginning.
pub const MAX_PAGE_ROWS: u32 = 1 << PAGE_SHIFT;
/// Most rules of a table: what a row's 16 bits can name.
pub const MAX_RULES: u32 = 1 << 16;

/// What a table is made of; as large as a cache line, so that a step of a search touches one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Block(pub [u32; BLOCK_BYTES / 4]);

impl Block {
    /// All zeros.
    pub const ZERO: Self = Self([0; BLOCK_BYTES / 4]);
}

/// "HSUW", little-endian, and the version of this layout: the first word of every table.
pub const TABLE_MAGIC: u32 = 0x5755_5301;

/// The first block of a table, word by word. All positions count blocks from the table's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TableHeader {
    /// [`TABLE_MAGIC`].
    pub magic: u32,
    /// The number of the page that the index begins with.
    pub first_page: u32,
    /// Pages in the index, without a hole between them.
    pub pages: u32,
    /// Where the page index begins; its entries are [`PageEntry`]s.
    pub pages_at: u32,
    /// Rules, the reserved ones included.
    pub rules: u32,
    /// Where the rules begin.
    pub rules_at: u32,
    /// Rows of the whole file.
    pub rows: u32,
    /// Where the rows begin.
    pub rows_at: u32,
    /// Bytes of `.eh_frame` or `.debug_frame` that the table was made from.
    pub source_bytes: u32,
    /// Blocks of the whole table.
    pub blocks: u32,
    /// Rules that were met in the file but cannot be expressed; their rows say [`Rule::UNSUPPORTED`].
    pub unsupported: u32,
    /// The DWARF number of the callee-saved register that the rules follow beside rbp; 0 where none is needed. A file
    /// whose code counts its CFA from rbx, say, over a call (glibc's `_dl_runtime_resolve`) has rules that say where each
    /// function saved it.
    pub followed: u32,
    /// Zero.
    pub reserved: [u32; 4],
}

/// The rows of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PageEntry {
    /// Index of its first row among the file's; that row begins at offset 0 of the page.
    pub first_row: u32,
    /// How many rows it has, at least one.
    pub rows: u32,
}

/// A row: the lower half is the offset within the page where it begins, the upper half the index of its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Row(pub u32);

impl Row {
    /// A row that begins at `offset` of its page.
    #[must_use]
    pub const fn new(offset: u16, rule: u16) -> Self {
        Self(offset as u32 | (rule as u32) << 16)
    }

    /// Where in its page it begins.
    #[must_use]
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 & 0xffff
    }

    /// Its rule.
    #[must_use]
    #[inline(always)]
    pub const fn rule(self) -> u32 {
        self.0 >> 16
    }
}

/// How the caller of a frame is found: 8 bytes.
///
/// The return address stands at CFA - 8 unless `return_address` names a register. All registers have their DWARF numbers
/// (System V ABI for x86-64, figure 3.36). Only rsp and rbp are known in every frame; the others are in the frame that
/// was interrupted: the first one, and the one below a signal handler. A rule that needs another one elsewhere ends the
/// walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct Rule {
    /// A kind (`cfa` module) in the upper half, a register in the lower: see [`Rule::kind`], [`Rule::register`].
    pub cfa: u8,
    /// Where the caller's rbp is (`fp` module) in the lower half; in the upper half 0 where the return address stands at
    /// CFA - 8, else 1 + the register that holds it (0 to 14).
    pub fp: u8,
    /// Of [`fp::AT_CFA`] and [`fp::AT_FP`]: where, in words of 8 bytes. Of [`cfa::PLT`]: from which (pc & 15) on the
    /// stack holds one word more. Of [`cfa::DEREFERENCE`] with [`fp::SAME`]: nothing.
    pub fp_offset: i16,
    /// The lower 24 bits, signed: bytes from the register ([`Rule::offset`]). Of [`cfa::DEREFERENCE`] the lower 16 bits,
    /// signed, are bytes from the register to the word read ([`Rule::inner`]), the next 8, signed, are added to that word
    /// ([`Rule::outer`]). The upper 8 bits: where the followed register is ([`Rule::saved`]).
    pub cfa_offset: i32,
}

/// [`Rule::saved`] of a register whose place cannot be said.
pub const SAVED_ELSEWHERE: u8 = 255;

/// How the CFA is computed: the upper half of [`Rule::cfa`].
pub mod cfa {
    /// register + offset
    pub const REGISTER: u8 = 0;
    /// word at (register + lower offset) + upper offset: stack realignment (gcc's drap), OpenSSL's assembly.
    pub const DEREFERENCE: u8 = 1;
    /// rsp + offset + 8 if (pc & 15) >= threshold: a PLT stub, which pushes a word within.
    pub const PLT: u8 = 2;
    /// A signal frame: rsp points at the `ucontext_t`, which holds every register of the interrupted code.
    pub const SIGNAL: u8 = 3;
    /// No caller: the entry of a thread or process (the return address is undefined).
    pub const END: u8 = 4;
    /// No rule: no code is described here.
    pub const NONE: u8 = 5;
    /// There is a rule, but of a form that a table cannot hold.
    pub const UNSUPPORTED: u8 = 6;
}

/// Where the caller's rbp is: the lower half of [`Rule::fp`].
pub mod fp {
    /// Still in rbp.
    pub const SAME: u8 = 0;
    /// At CFA + offset.
    pub const AT_CFA: u8 = 1;
    /// At rbp + offset (gcc's drap saves it under itself).
    pub const AT_FP: u8 = 2;
    /// Nowhere: the caller does without it.
    pub const UNDEFINED: u8 = 3;
}

/// DWARF numbers of the registers that the walk carries.
pub mod register {
    /// rbp.
    pub const FP: u8 = 6;
    /// rsp.
    pub const SP: u8 = 7;
    /// The return address.
    pub const RETURN_ADDRESS: u8 = 16;
    /// How many general registers there are: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15.
    pub const GENERAL: usize = 16;
}

impl Rule {
    /// No code is described.
    pub const NONE: Self = Self::of_kind(cfa::NONE);
    /// The entry of a thread or process.
    pub const END: Self = Self::of_kind(cfa::END);
    /// A signal frame.
    pub const SIGNAL: Self = Self::of_kind(cfa::SIGNAL);
    /// A rule that cannot be expressed.
    pub const UNSUPPORTED: Self = Self::of_kind(cfa::UNSUPPORTED);

    /// The rules that every table begins with; index 0 is [`Rule::NONE`].
    pub const RESERVED: [Self; 2] = [Self::NONE, Self::UNSUPPORTED];

    const fn of_kind(kind: u8) -> Self {
        Self { cfa: kind << 4, fp: 0, fp_offset: 0, cfa_offset: 0 }
    }

    /// One of `cfa`.
    #[must_use]
    #[inline(always)]
    pub const fn kind(self) -> u8 {
        self.cfa >> 4
    }

    /// The register that the CFA starts from.
    #[must_use]
    #[inline(always)]
    pub const fn register(self) -> u8 {
        self.cfa & 15
    }

    /// One of `fp`.
    #[must_use]
    #[inline(always)]
    pub const fn fp_kind(self) -> u8 {
        self.fp & 15
    }

    /// Bytes from the register to the CFA.
    #[must_use]
    #[inline(always)]
    pub const fn offset(self) -> i32 {
        self.cfa_offset << 8 >> 8
    }

    /// Bytes from the register to the word that is read.
    #[must_use]
    #[inline(always)]
    pub const fn inner(self) -> i16 {
        self.cfa_offset as i16
    }

    /// What is added to the word that is read.
    #[must_use]
    #[inline(always)]
    pub const fn outer(self) -> i8 {
        (self.cfa_offset >> 16) as i8
    }

    /// Where the caller's value of the followed register is: so many words below the CFA, 0 where it still is in the
    /// register, [`SAVED_ELSEWHERE`] where it is not known.
    #[must_use]
    #[inline(always)]
    pub const fn saved(self) -> u8 {
        (self.cfa_offset >> 24) as u8
    }

    /// The same rule with `offset` bytes from the register; `None` beyond 24 bits.
    #[must_use]
    pub const fn with_offset(mut self, offset: i64) -> Option<Self> {
        if offset < -(1 << 23) || offset >= 1 << 23 {
            return None;
        }
        self.cfa_offset = self.cfa_offset & (0xff_u32 << 24) as i32 | offset as i32 & 0x00ff_ffff;
        Some(self)
    }

    /// The same rule with both offsets of [`cfa::DEREFERENCE`].
    #[must_use]
    pub const fn with_dereference(mut self, inner: i16, outer: i8) -> Self {
        let low = (inner as u16 as u32) | (outer as u8 as u32) << 16;
        self.cfa_offset = (self.cfa_offset as u32 & 0xff << 24 | low) as i32;
        self
    }

    /// The same rule with the place of the followed register.
    #[must_use]
    pub const fn with_saved(mut self, saved: u8) -> Self {
        self.cfa_offset = (self.cfa_offset as u32 & 0x00ff_ffff | (saved as u32) << 24) as i32;
        self
    }

    /// The register that holds the return address, where it is not at CFA - 8.
    #[must_use]
    #[inline(always)]
    pub const fn return_register(self) -> Option<u8> {
        (self.fp >> 4).checked_sub(1)
    }

    /// The two words that a block holds of it.
    #[must_use]
    #[inline(always)]
    pub const fn to_words(self) -> [u32; 2] {
        [
            self.cfa as u32 | (self.fp as u32) << 8 | (self.fp_offset as u16 as u32) << 16,
            self.cfa_offset as u32,
        ]
    }

    /// The rule in two words of a block.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(words: [u32; 2]) -> Self {
        Self {
            cfa: words[0] as u8,
            fp: (words[0] >> 8) as u8,
            fp_offset: (words[0] >> 16) as i16,
            cfa_offset: words[1] as i32,
        }
    }
}

/// An executable mapping of a process, in the array that all processes share; those of one process lie side by side in
/// the order of their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct MappingEntry {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// Which table; [`NO_TABLE`] where there never will be one (code made at run time, Go).
    pub table: u32,
    /// Zero.
    pub reserved: u32,
}

/// The [`MappingEntry::table`] of code without a table.
pub const NO_TABLE: u32 = u32::MAX;

/// Where the mappings of a process are, by process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ProcessEntry {
    /// Index of its first [`MappingEntry`].
    pub first: u32,
    /// How many it has.
    pub count: u32,
}

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES);
const _: () = assert!(size_of::<TableHeader>() == BLOCK_BYTES);
const _: () = assert!(size_of::<PageEntry>() * PAGES_PER_BLOCK as usize == BLOCK_BYTES);
const _: () = assert!(size_of::<Row>() * ROWS_PER_BLOCK as usize == BLOCK_BYTES);
const _: () = assert!(size_of::<Rule>() * RULES_PER_BLOCK as usize == BLOCK_BYTES);
const _: () = assert!(size_of::<MappingEntry>() == 32);
const _: () = assert!(size_of::<ProcessEntry>() == 8);
