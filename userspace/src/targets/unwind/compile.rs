//! Makes the table of a file: its functions by ascending place in the file, their rows, and the gaps between them.

use hostscope_wire::unwind::{Rule, cfa, register};
use object::elf;

use super::UnwindError;
use super::cfi::{Function, Parser, Record};
use super::evaluate::{Cause, evaluate};
use super::go;
use super::sections::{self, Frames};
use super::table::{Builder, Table};
use crate::targets::elf::{ElfError, ElfFile, ReadAt, Segment};

/// Most functions of a file: 8 bytes each are held while it is read. A browser of 200 MB has 600,000.
const MAX_FUNCTIONS: usize = 1 << 23;

/// Between functions that are further apart than this lies code that nobody describes; what is nearer is padding to the
/// alignment of the next, which nothing runs.
const MAX_PADDING_BYTES: u64 = 15;

/// A row is made of so many bytes of the section, or more, in most files; what is not used costs no memory.
const SECTION_BYTES_PER_ROW: usize = 16;

/// rbx and r12 to r15: what a called function gives back as it was, beside rbp.
const CALLEE_SAVED: [u8; 5] = [3, 12, 13, 14, 15];

/// Where the CFA is counted from another register for less than this, a prologue is under way (gcc's drap in r13), which
/// calls nothing; in an interrupted frame every register is known.
const LONG_STRETCH_BYTES: i64 = 48;

/// How long the code at an entry without a record is believed to be: glibc's loader calls its first function within the
/// first 8 bytes, and leaves for the program within 48.
const ENTRY_BYTES: u64 = 64;

/// What was met on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Functions in the table.
    pub functions: u32,
    /// Functions whose records cannot be read.
    pub damaged: u32,
    /// Functions without code in an executable segment of the file: what linkers leave of discarded ones.
    pub outside: u32,
    /// Functions that begin where another one does, or, of `.debug_frame`, within one of `.eh_frame`.
    pub repeated: u32,
    /// Rules that cannot be expressed, by the number of their [`Cause`].
    pub unsupported: [u32; Cause::ALL.len()],
}

/// Makes the table of `file`.
///
/// # Errors
/// See [`UnwindError`].
pub fn compile(file: &impl ReadAt) -> Result<Table, UnwindError> {
    compile_tallied(file).map(|(table, _)| table)
}

/// Makes the table of `file`, and tells what was met.
///
/// # Errors
/// See [`UnwindError`].
pub fn compile_tallied(file: &impl ReadAt) -> Result<(Table, Tally), UnwindError> {
    let elf = ElfFile::parse(file)?;
    if !elf.is_64_bit() || elf.machine() != elf::EM_X86_64 {
        return Err(ElfError::Unsupported("not of x86-64").into());
    }
    let Some(code) = Code::of(&elf) else { return Err(UnwindError::NoUnwindInformation) };
    let go = go::Functions::open(&elf);
    // The runtime's own table knows more than `.debug_frame`.
    let sections = sections::read(&elf, go.is_none())?;
    let mut compiler = Compiler::new(&sections, go, code)?;
    compiler.index()?;
    if !compiler.functions.is_empty() {
        compiler.entry = compiler.code.start(elf.entry(), 1).map(u64::from);
    }
    compiler.evaluate();
    if let Some(register) = compiler.register_to_follow() {
        // Few files need this, of which one, the loader, is in every process.
        compiler.begin_again(register);
        compiler.evaluate();
    }
    compiler.finish()
}

/// Where in the file the code lies that is loaded to an address.
struct Code {
    /// The executable ones.
    segments: Vec<Segment>,
    /// Offsets in the index are counted from here.
    first_offset: u64,
    /// The last one that held an address.
    recent: usize,
}

/// A place of code in the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    /// Bytes to the end of its segment.
    available: u64,
}

impl Code {
    fn of(file: &ElfFile<'_>) -> Option<Self> {
        let is_code = |segment: &&Segment| segment.kind == elf::PT_LOAD && segment.flags & elf::PF_X != 0;
        let segments: Vec<_> = file.segments().iter().filter(is_code).copied().collect();
        let first_offset = segments.iter().map(|segment| segment.offset).min()?;
        Some(Self { segments, first_offset, recent: 0 })
    }

    #[inline]
    fn place(&mut self, address: u64) -> Option<Place> {
        let within = |segment: &Segment| {
            let within =
                address.checked_sub(segment.address).filter(|&within| within < segment.file_bytes)?;
            let offset = segment.offset.checked_add(within)?;
            Some(Place { offset, available: segment.file_bytes - within })
        };
        if let Some(place) = self.segments.get(self.recent).and_then(within) {
            return Some(place);
        }
        let (index, place) =
            self.segments.iter().enumerate().find_map(|(index, segment)| Some((index, within(segment)?)))?;
        self.recent = index;
        Some(place)
    }

    /// Where `bytes` of code at `address` begin, counted from the first code; `None` where there are none.
    #[inline]
    fn start(&mut self, address: u64, bytes: u64) -> Option<u32> {
        let place = self.place(address).filter(|_| bytes > 0)?;
        u32::try_from(place.offset - self.first_offset).ok()
    }
}

/// A section being read.
struct Source<'a> {
    parser: Parser<'a>,
    /// Where it begins, counted through all sections.
    first: u32,
}

/// A function as it is sorted: where its code begins, counted from the first code, in the upper half; where its record
/// is, counted through all sections, in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

impl Key {
    fn new(start: u32, position: u32) -> Self {
        Self(u64::from(start) << 32 | u64::from(position))
    }

    fn start(self) -> u64 {
        self.0 >> 32
    }

    fn position(self) -> u32 {
        self.0 as u32
    }
}

/// What describes a function.
enum Description {
    /// A record of the section with that number.
    Record(usize, Function),
    /// The entry with that index of Go's own table.
    Go(u32),
}

struct Compiler<'a> {
    sources: Vec<Source<'a>>,
    go: Option<go::Functions<'a>>,
    /// The position of Go's first function; they follow all sections.
    first_go: u32,
    /// Where `.debug_frame` begins, counted through all sections; what it says is believed only where `.eh_frame`,
    /// which the program itself relies on, is silent.
    first_debug: u32,
    source_bytes: u32,
    code: Code,
    functions: Vec<Key>,
    builder: Builder,
    tally: Tally,
    /// Where the program is entered, counted from the first code.
    entry: Option<u64>,
    /// The register that is followed; 0 for none.
    follow: u8,
    /// Bytes of code whose CFA is counted from each register, in long stretches.
    counted_from: [u64; register::GENERAL],
}

impl<'a> Compiler<'a> {
    fn new(sections: &'a [Frames], go: Option<go::Functions<'a>>, code: Code) -> Result<Self, UnwindError> {
        let (mut source_bytes, mut first_debug) = (0_u32, u32::MAX);
        let mut sources = Vec::new();
        for frames in sections {
            if frames.is_debug {
                first_debug = source_bytes;
            }
            sources.push(Source { parser: Parser::new(frames), first: source_bytes });
            source_bytes = u32::try_from(frames.bytes.len())
                .ok()
                .and_then(|bytes| source_bytes.checked_add(bytes))
                .ok_or(UnwindError::TooLarge("the sections together"))?;
        }
        let first_go = source_bytes;
        if let Some(go) = &go {
            source_bytes = u32::try_from(go.source_bytes())
                .ok()
                .and_then(|bytes| source_bytes.checked_add(bytes))
                .ok_or(UnwindError::TooLarge("Go's table"))?;
        }
        let builder = Builder::new(source_bytes as usize / SECTION_BYTES_PER_ROW);
        let (functions, tally) = (Vec::new(), Tally::default());
        let (follow, counted_from) = (0, [0; register::GENERAL]);
        Ok(Self {
            sources,
            go,
            first_go,
            first_debug,
            source_bytes,
            code,
            functions,
            builder,
            tally,
            entry: None,
            follow,
            counted_from,
        })
    }

    /// The callee-saved register that the CFA is counted from over calls, where there is one.
    fn register_to_follow(&self) -> Option<u8> {
        let counted =
            CALLEE_SAVED.into_iter().map(|register| (self.counted_from[usize::from(register)], register));
        counted.max().filter(|(bytes, _)| *bytes > 0).map(|(_, register)| register)
    }

    /// Forgets all rows, to evaluate once more with a register to follow.
    fn begin_again(&mut self, register: u8) {
        self.builder = Builder::new(self.source_bytes as usize / SECTION_BYTES_PER_ROW);
        self.tally = Tally { damaged: self.tally.damaged, outside: self.tally.outside, ..Tally::default() };
        self.follow = register;
    }

    /// Finds every function, and sorts them by their code.
    fn index(&mut self) -> Result<(), UnwindError> {
        for source in &mut self.sources {
            let mut position = 0;
            while let Some((record, next)) = source.parser.record(position) {
                match record {
                    Record::Other => {}
                    Record::Damaged => self.tally.damaged += 1,
                    Record::Function(function) => match self.code.start(function.start, function.bytes) {
                        Some(start) => self.functions.push(Key::new(start, source.first + position as u32)),
                        None => self.tally.outside += 1,
                    },
                }
                if self.functions.len() > MAX_FUNCTIONS {
                    return Err(UnwindError::TooLarge("the number of functions"));
                }
                position = next;
            }
        }
        self.index_go()?;
        self.functions.sort_unstable();
        Ok(())
    }

    fn index_go(&mut self) -> Result<(), UnwindError> {
        let Some(go) = &mut self.go else { return Ok(()) };
        if self.functions.len() + go.count() as usize > MAX_FUNCTIONS {
            return Err(UnwindError::TooLarge("the number of functions"));
        }
        for index in 0..go.count() {
            let start = go.extent(index).and_then(|(address, bytes)| self.code.start(address, bytes));
            match start {
                Some(start) => self.functions.push(Key::new(start, self.first_go + index)),
                None => self.tally.outside += 1,
            }
        }
        Ok(())
    }

    /// Puts the rows of every function into the table.
    fn evaluate(&mut self) {
        // The end of the code that was described last, and the furthest end of what `.eh_frame` describes.
        let (mut described, mut settled) = (None, 0);
        let mut previous = None;
        for index in 0..self.functions.len() {
            let key = self.functions[index];
            let (start, is_debug) = (key.start(), self.is_debug(key));
            if previous == Some(start) || is_debug && start < settled {
                self.tally.repeated += 1;
                continue;
            }
            let Some((description, address, bytes)) = self.description(key.position()) else { continue };
            previous = Some(start);
            let available = self.code.place(address).map_or(0, |place| place.available);
            let end = start + bytes.min(available);
            if !is_debug {
                settled = settled.max(end);
            }
            self.put_gap(described, start);
            let end = self.next_start(index, end);
            match description {
                Description::Record(source, function) => self.put(source, &function, start, end),
                Description::Go(index) => self.put_go(index, start, end),
            }
            described = Some(end);
        }
        self.put_gap(described, u64::MAX);
    }

    /// Nobody describes the code from `described`, or the beginning, to `start`; but the program's entry, which the
    /// loader's lacks a record for, has no caller.
    fn put_gap(&mut self, described: Option<u64>, start: u64) {
        let gap = described.unwrap_or(0);
        let entry = self.entry.filter(|entry| (gap..start).contains(entry));
        if described.is_some() && (start - gap > MAX_PADDING_BYTES || entry.is_some()) && entry != Some(gap) {
            self.builder.push(self.code.first_offset + gap, Rule::NONE);
        }
        if let Some(entry) = entry {
            self.builder.push(self.code.first_offset + entry, Rule::END);
            let end = entry + ENTRY_BYTES;
            if end < start {
                self.builder.push(self.code.first_offset + end, Rule::NONE);
            }
        }
    }

    fn is_debug(&self, key: Key) -> bool {
        key.position() >= self.first_debug
    }

    /// Where the function at `index`, which says that it ends at `end`, ends because the next one begins.
    fn next_start(&self, index: usize, end: u64) -> u64 {
        let this = self.functions[index];
        let rest = self.functions[index + 1..].iter().take_while(|next| next.start() < end);
        let counts =
            |next: &&Key| next.start() > this.start() && (self.is_debug(this) || !self.is_debug(**next));
        rest.into_iter().find(counts).map_or(end, |next| next.start())
    }

    /// What describes the function at `position`; its address and bytes of code.
    fn description(&mut self, position: u32) -> Option<(Description, u64, u64)> {
        if let Some(go) = self.go.as_mut().filter(|_| position >= self.first_go) {
            let index = position - self.first_go;
            let (address, bytes) = go.extent(index)?;
            return Some((Description::Go(index), address, bytes));
        }
        let number = usize::from(position >= self.first_debug).min(self.sources.len() - 1);
        let source = &mut self.sources[number];
        match source.parser.record((position - source.first) as usize)? {
            (Record::Function(function), _) => {
                Some((Description::Record(number, function), function.start, function.bytes))
            }
            _ => None,
        }
    }

    /// Puts the rows of one function into the table; its code lies from `start` to `end`, counted from the first code.
    fn put(&mut self, source: usize, function: &Function, start: u64, end: u64) {
        let parser = &self.sources[source].parser;
        let Some((cie, instructions)) = parser.parts(function) else { return };
        let (section, follow, code_bytes) = (parser.address(), self.follow, end - start);
        let mut rows = Rows {
            builder: &mut self.builder,
            unsupported: &mut self.tally.unsupported,
            counted_from: &mut self.counted_from,
            offset: self.code.first_offset + start,
            last: (0, Rule::NONE),
        };
        evaluate(cie, instructions, section, function.start, code_bytes, follow, |within, rule| {
            rows.push(within as i64, rule);
        });
        rows.count(code_bytes as i64);
        self.tally.functions += 1;
    }

    /// The same for one of Go's.
    fn put_go(&mut self, index: u32, start: u64, end: u64) {
        let Some(go) = &mut self.go else { return };
        let mut rows = Rows {
            builder: &mut self.builder,
            unsupported: &mut self.tally.unsupported,
            counted_from: &mut self.counted_from,
            offset: self.code.first_offset + start,
            last: (0, Rule::NONE),
        };
        go.rules(index, end - start, &mut |within, rule| rows.push(within, rule));
        self.tally.functions += 1;
    }

    fn finish(mut self) -> Result<(Table, Tally), UnwindError> {
        let unsupported = self.tally.unsupported.iter().fold(0_u32, |sum, &count| sum.saturating_add(count));
        let (table, refused) = self.builder.finish(self.source_bytes, unsupported, self.follow)?;
        self.tally.unsupported[Cause::TooManyRules as usize] = refused;
        Ok((table, self.tally))
    }
}

/// The rows of one function on their way into the table.
struct Rows<'b> {
    builder: &'b mut Builder,
    unsupported: &'b mut [u32; Cause::ALL.len()],
    /// See [`Compiler::counted_from`].
    counted_from: &'b mut [u64; register::GENERAL],
    /// Where in the file it begins.
    offset: u64,
    /// The row that came last.
    last: (i64, Rule),
}

impl Rows<'_> {
    /// From `within` bytes behind the function's beginning on `rule` holds.
    #[inline]
    fn push(&mut self, within: i64, rule: Result<Rule, Cause>) {
        let rule = rule.unwrap_or_else(|cause| {
            self.unsupported[cause as usize] += 1;
            Rule::UNSUPPORTED
        });
        self.count(within);
        self.last = (within, rule);
        self.builder.push(self.offset.wrapping_add_signed(within), rule);
    }

    /// The last row ends at `end`.
    #[inline]
    fn count(&mut self, end: i64) {
        let (begin, rule) = self.last;
        let bytes = end.saturating_sub(begin);
        if rule.kind() <= cfa::DEREFERENCE && bytes >= LONG_STRETCH_BYTES {
            self.counted_from[usize::from(rule.register())] += bytes as u64;
        }
    }
}
