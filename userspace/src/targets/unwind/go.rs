//! Reads the table by which Go's own runtime unwinds (`.gopclntab`): which rule holds where in its functions.
//!
//! Go writes no `.eh_frame`, and in assembly that changes stacks its `.debug_frame` is wrong. But every program carries
//! this table, stripped or not: per function where it begins, how far it has moved the stack pointer at each of its
//! instructions, and whether it is the first of its stack or changes stacks.
//!
//! ```text
//! header ──► functab: (entry, where its record is), by ascending entry
//! record ──► flags, name, where its steps are
//! steps  ──► pairs of varints: how much the stack pointer's distance changes, for how many bytes of code it holds
//! ```
//!
//! Layouts: `pcHeader` and `_func` of src/runtime/symtab.go and src/runtime/runtime2.go, Go 1.16 to 1.25; those before
//! keep frame pointers and need no more. What is read stays in few pages: the table of a big program has 100 MB.

use hostscope_wire::unwind::{Rule, cfa, fp, register};

use super::evaluate::Cause;
use crate::targets::elf::{ElfFile, Section};

/// Bytes of code that a function may have beyond what any linker makes; its steps are held while its rows are made.
const MAX_FUNCTION_BYTES: u64 = 1 << 26;

/// How far behind the beginning of `.text` Go's code may begin: C's startup code comes first where C's linker linked.
const MAX_TEXT_SKEW_BYTES: u64 = 1 << 20;
/// How Go's and C's linkers align the code of an object.
const TEXT_ALIGNMENT: u64 = 16;
/// Functions with a frame, most of which must save rbp as Go's do for a place to be believed where the code begins.
const WITNESSES: usize = 64;
/// Functions among which they are sought.
const MAX_WITNESS_INDEX: u32 = 4096;
/// Bytes of such a function in which it must open its frame: its prologue.
const WITNESS_BYTES: u64 = 64;
/// One in so many may do without.
const MAX_DOUBTS_FRACTION: usize = 2;

/// A new table begins at such addresses (`pclntab` in src/cmd/link/internal/ld/pcln.go).
const TABLE_ALIGNMENT: u64 = 32;

/// Bytes read at a time.
const PAGE_BYTES: u64 = 16 << 10;
/// Pages kept of steps, 1 MiB: functions share those that are alike, so that they lie anywhere.
const STEP_PAGES: usize = 64;

/// `_func.flag`: nobody called it (src/internal/abi/symtab.go, as all of these).
const FLAG_TOP_FRAME: u8 = 1;
/// It writes a value to rsp that its steps do not tell.
const FLAG_SP_WRITE: u8 = 2;

/// `mov $15,%rax; syscall`: what a signal handler returns to.
const SIGRETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Where the fields of a function's record are, in bytes.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Of each field of an entry of functab.
    entry_bytes: u64,
    /// Whether the header says where the code begins, and entries count from there.
    has_text_start: bool,
    name: u64,
    steps: u64,
    flags: u64,
    record_bytes: u64,
}

impl Layout {
    fn of(magic: u32) -> Option<Self> {
        let from_text =
            Self { entry_bytes: 4, has_text_start: true, name: 4, steps: 16, flags: 37, record_bytes: 40 };
        Some(match magic {
            // Go 1.20: the line where a function starts came before.
            0xffff_fff1 => Self { flags: 41, record_bytes: 44, ..from_text },
            // Go 1.18
            0xffff_fff0 => from_text,
            // Go 1.16: addresses.
            0xffff_fffa => Self {
                entry_bytes: 8,
                has_text_start: false,
                name: 8,
                steps: 20,
                flags: 41,
                record_bytes: 44,
            },
            _ => return None,
        })
    }
}

/// From where to where a step of a function holds: from `start` bytes behind its entry to the next one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    start: u32,
    /// Bytes from rsp to the return address.
    depth: i32,
}

/// Where a function saves its caller's rbp, right under the return address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Saved {
    /// The step that opens the frame.
    step: usize,
    /// Bytes of that step before which it is not yet there.
    after: u32,
}

/// The record of a function.
#[derive(Debug, Clone, Copy)]
struct Record {
    name: u32,
    /// Where its steps are; 0 where it has none.
    steps: u32,
    flags: u8,
}

/// Go's functions, in the order of their code.
pub(super) struct Functions<'a> {
    layout: Layout,
    count: u32,
    /// The virtual address from which entries count.
    text: u64,
    functab: Region<'a>,
    records: Region<'a>,
    names: Region<'a>,
    step_bytes: Region<'a>,
    code: Region<'a>,
    /// The virtual address of `code`.
    code_address: u64,
    /// Of the function at hand.
    steps: Vec<Step>,
}

impl<'a> Functions<'a> {
    /// The functions of `file`; `None` where it is not of Go, of a version before 1.16, or contradicts itself.
    pub(super) fn open(file: &'a ElfFile<'a>) -> Option<Self> {
        let code = file.section(b".text").filter(|section| section.is_code())?;
        let mut table = find_table(file)?;
        let layout = Layout::of(table.u32(0)?)?;
        // Bytes of an instruction, bytes of a pointer.
        if table.array::<2>(6)? != [1, 8] {
            return None;
        }
        let offsets_at: u64 = if layout.has_text_start { 32 } else { 24 };
        let part = |table: &mut Region<'a>, index: u64| {
            let at = table.u64(offsets_at + 8 * index)?;
            table.part(at)
        };
        let names = part(&mut table, 0)?;
        let step_bytes = part(&mut table, 3)?.of_pages(STEP_PAGES);
        let functab = part(&mut table, 4)?;
        let count = table.u64(8)?;
        // An entry and the place of its record each, and the end of the last.
        let functab_bytes = count.checked_mul(2)?.checked_add(1)?.checked_mul(layout.entry_bytes)?;
        if count == 0 || functab_bytes > functab.bytes {
            return None;
        }
        let mut functions = Self {
            layout,
            count: u32::try_from(count).ok()?,
            text: 0,
            records: functab.part(0)?,
            functab,
            names,
            step_bytes,
            code: Region::of(file, code.offset, code.bytes),
            code_address: code.address,
            steps: Vec::new(),
        };
        let said = if layout.has_text_start { table.u64(24)? } else { 0 };
        functions.text = functions.find_text(said, code)?;
        Some(functions)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the table that say how to unwind, about: entries and records.
    pub(super) fn source_bytes(&self) -> u64 {
        u64::from(self.count) * (2 * self.layout.entry_bytes + self.layout.record_bytes)
    }

    /// Where the code of the function at `index` begins, as a virtual address, and how many bytes it has.
    pub(super) fn extent(&mut self, index: u32) -> Option<(u64, u64)> {
        let start = self.entry(index)?;
        let bytes = self.entry(index.checked_add(1)?)?.checked_sub(start)?;
        Some((self.text.wrapping_add(start), bytes.min(MAX_FUNCTION_BYTES)))
    }

    /// The rules of the first `bytes` of the function at `index`, by ascending distance from its beginning; a signal's
    /// return begins one byte before, since what returns to it is looked up there.
    pub(super) fn rules(&mut self, index: u32, bytes: u64, emit: &mut impl FnMut(i64, Result<Rule, Cause>)) {
        if self.try_rules(index, bytes, emit).is_none() {
            emit(0, Err(Cause::Instructions));
        }
    }

    fn try_rules(
        &mut self,
        index: u32,
        bytes: u64,
        emit: &mut impl FnMut(i64, Result<Rule, Cause>),
    ) -> Option<()> {
        let record = self.record(index)?;
        let (start, _) = self.extent(index)?;
        self.read_steps(&record, bytes)?;
        let has_frame = self.steps.iter().any(|step| step.depth != 0);
        // A signal handler's entry counts as a top frame too, but it keeps registers to return.
        if record.flags & FLAG_TOP_FRAME != 0 && (!has_frame || record.flags & FLAG_SP_WRITE != 0) {
            emit(0, Ok(Rule::END));
            return Some(());
        }
        if !has_frame && self.code_at(start) == Some(SIGRETURN) {
            emit(-1, Ok(Rule::SIGNAL));
            return Some(());
        }
        if record.steps == 0 {
            // C's code, which Go's linker took in.
            emit(0, Ok(Rule::NONE));
            return Some(());
        }
        let saved = self.saved(start);
        let switches = if record.flags & FLAG_SP_WRITE != 0 { self.first_switch(start, bytes) } else { None };
        let switched = switches.map(|at| (at, self.switched_rule(&record)));
        for number in 0..self.steps.len() {
            emit_step(&self.steps, number, saved, switched, emit);
        }
        Some(())
    }

    fn entry(&mut self, index: u32) -> Option<u64> {
        let at = u64::from(index) * 2 * self.layout.entry_bytes;
        if self.layout.entry_bytes == 8 { self.functab.u64(at) } else { self.functab.u32(at).map(u64::from) }
    }

    fn record(&mut self, index: u32) -> Option<Record> {
        let Layout { entry_bytes, name, steps, flags, .. } = self.layout;
        let at = u64::from(index) * 2 * entry_bytes + entry_bytes;
        let at = if entry_bytes == 8 { self.functab.u64(at)? } else { self.functab.u32(at)?.into() };
        let mut record = Record {
            name: self.records.u32(at.checked_add(name)?)?,
            steps: self.records.u32(at.checked_add(steps)?)?,
            flags: self.records.array::<1>(at.checked_add(flags)?)?[0],
        };
        if !self.layout.has_text_start {
            record.flags |= self.flags_by_name(&record);
        }
        Some(record)
    }

    /// What Go 1.16 does not say.
    fn flags_by_name(&mut self, record: &Record) -> u8 {
        match self.name(record).as_slice() {
            b"runtime.goexit" | b"runtime.mstart" | b"runtime.rt0_go" => FLAG_TOP_FRAME,
            b"runtime.systemstack"
            | b"runtime.mcall"
            | b"runtime.morestack"
            | b"runtime.asmcgocall"
            | b"runtime.gogo"
            | b"runtime.cgocallback" => FLAG_SP_WRITE,
            _ => 0,
        }
    }

    /// The name, up to 32 bytes of it.
    fn name(&mut self, record: &Record) -> Vec<u8> {
        let mut name = [0; 32];
        let count = self.names.fill(record.name.into(), &mut name);
        name[..count].split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
    }

    /// Reads the steps of the first `bytes` of a function; `None` where they are damaged.
    fn read_steps(&mut self, record: &Record, bytes: u64) -> Option<()> {
        self.steps.clear();
        if record.steps == 0 {
            return Some(());
        }
        let mut reader = Varints::new(&mut self.step_bytes, record.steps.into());
        let (mut start, mut depth) = (0_u64, -1_i32);
        while start < bytes {
            let change = reader.next()?;
            // A zero ends them, except that the first may change nothing.
            if change == 0 && start > 0 {
                break;
            }
            depth = depth.wrapping_add((change >> 1) as i32 ^ -((change & 1) as i32));
            let length = reader.next()?;
            if length == 0 {
                return None;
            }
            self.steps.push(Step { start: start as u32, depth });
            start += u64::from(length);
        }
        Some(())
    }

    /// Where the function at hand, which begins at `start`, saves rbp.
    fn saved(&mut self, start: u64) -> Option<Saved> {
        let step = self.first_frame()?;
        let Step { start: within, depth } = self.steps[step];
        let after = self.saves(start.checked_add(within.into())?, depth)?;
        Some(Saved { step, after })
    }

    /// The step at hand that opens the frame.
    fn first_frame(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.depth > 0)
    }

    /// Whether the code at `address`, where a frame of `depth` bytes was opened, saves rbp right under the return
    /// address, and after how many bytes: `push %rbp` opened it (since Go 1.21), or `mov %rbp,…(%rsp)` follows (before).
    #[inline]
    fn saves(&mut self, address: u64, depth: i32) -> Option<u32> {
        let [before, code @ ..] = self.code_at::<9>(address.checked_sub(1)?)?;
        if before == 0x55 && depth == 8 {
            return Some(0);
        }
        let (displacement, after) = match code {
            [0x48, 0x89, 0x6c, 0x24, displacement, ..] => (i32::from(displacement as i8), 5),
            [0x48, 0x89, 0xac, 0x24, displacement @ ..] => (i32::from_le_bytes(displacement), 8),
            _ => return None,
        };
        (displacement == depth - 8).then_some(after)
    }

    /// From where on rsp is in another stack: behind the first instruction that writes it, in a function of which Go
    /// says that there is one.
    fn first_switch(&mut self, start: u64, bytes: u64) -> Option<u32> {
        /// Those functions have 20 to 400 bytes.
        const MAX_BYTES: usize = 1024;
        let mut code = [0; MAX_BYTES];
        let wanted = MAX_BYTES.min(usize::try_from(bytes).unwrap_or(MAX_BYTES));
        let count = self.code.fill(start.checked_sub(self.code_address)?, &mut code[..wanted]);
        let writes = |code: &[u8]| match *code {
            // mov or lea to rsp
            [0x48 | 0x49, 0x8b | 0x8d, operands] => operands & 0x38 == 0x20,
            // mov from a register
            [0x48 | 0x4c, 0x89, operands] => operands & 0xc7 == 0xc4,
            // and
            [0x48, 0x81 | 0x83, operands] => operands == 0xe4,
            _ => false,
        };
        // What begins before the next instruction does, begins with it.
        code[..count].windows(3).position(writes).map(|at| at as u32 + 1)
    }

    /// What holds in another stack: rbp is still the one of the stack left behind. Except where that stack is no longer
    /// this thread's: `mcall` gives its goroutine away, `gogo` gives the thread to another one.
    fn switched_rule(&mut self, record: &Record) -> Rule {
        match self.name(record).as_slice() {
            b"runtime.mcall" | b"runtime.gogo" | b"gogo" => Rule::END,
            _ => by_frame_pointer(),
        }
    }

    #[inline]
    fn code_at<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        self.code.array(address.checked_sub(self.code_address)?)
    }

    /// Where Go's code begins: where the header says, or, as it does not in position-independent programs (and from Go
    /// 1.26 on in none), where functions save rbp as their steps say.
    fn find_text(&mut self, said: u64, code: &Section) -> Option<u64> {
        let witnesses = self.witnesses();
        if !self.layout.has_text_start || said != 0 {
            return self.is_text(said, &witnesses).then_some(said);
        }
        if witnesses.is_empty() {
            return None;
        }
        let skews = (0..code.bytes.min(MAX_TEXT_SKEW_BYTES)).step_by(TEXT_ALIGNMENT as usize);
        skews.map(|skew| code.address.wrapping_add(skew)).find(|&text| self.is_text(text, &witnesses))
    }

    /// Whether entries count from `text`. Some assembly has a frame without rbp in it.
    fn is_text(&mut self, text: u64, witnesses: &[(u64, i32)]) -> bool {
        let mut doubts = witnesses.len() / MAX_DOUBTS_FRACTION;
        witnesses.iter().all(|&(entry, depth)| {
            if self.saves(text.wrapping_add(entry), depth).is_some() {
                return true;
            }
            let is_bearable = doubts > 0;
            doubts = doubts.saturating_sub(1);
            is_bearable
        })
    }

    /// Where functions open frames, counted as their entries are, and how deep those are then.
    fn witnesses(&mut self) -> Vec<(u64, i32)> {
        let mut witnesses = Vec::new();
        for index in 0..self.count.min(MAX_WITNESS_INDEX) {
            let Some((entry, record)) = self.entry(index).zip(self.record(index)) else { continue };
            if self.read_steps(&record, WITNESS_BYTES).is_none() {
                continue;
            }
            let Some(step) = self.first_frame().map(|step| self.steps[step]) else { continue };
            witnesses.push((entry.wrapping_add(step.start.into()), step.depth));
            if witnesses.len() == WITNESSES {
                break;
            }
        }
        witnesses
    }
}

/// Emits the rules of a step: before rbp is saved, after, and in another stack.
fn emit_step(
    steps: &[Step],
    number: usize,
    saved: Option<Saved>,
    switched: Option<(u32, Rule)>,
    emit: &mut impl FnMut(i64, Result<Rule, Cause>),
) {
    let Step { start, depth } = steps[number];
    let end = steps.get(number + 1).map_or(u32::MAX, |next| next.start);
    // Without its frame a function that has one is back in its own stack, or not yet out of it.
    let switched = switched.filter(|&(at, _)| at < end && (depth != 0 || saved.is_none()));
    if switched.is_none_or(|(at, _)| at > start) {
        match saved {
            Some(saved) if saved.step == number && saved.after > 0 => {
                emit(start.into(), by_stack_pointer(depth, false));
                emit(i64::from(start) + i64::from(saved.after), by_stack_pointer(depth, true));
            }
            _ => emit(start.into(), by_stack_pointer(depth, saved.is_some() && depth >= 8)),
        }
    }
    if let Some((at, rule)) = switched {
        emit(at.max(start).into(), Ok(rule));
    }
}

/// The return address stands `depth` bytes above rsp, rbp below it where it is saved.
fn by_stack_pointer(depth: i32, is_saved: bool) -> Result<Rule, Cause> {
    let (fp, fp_offset) = if is_saved { (fp::AT_CFA, -2) } else { (fp::SAME, 0) };
    let rule = Rule { cfa: cfa::REGISTER << 4 | register::SP, fp, fp_offset, cfa_offset: 0 };
    let offset = Some(i64::from(depth)).filter(|&depth| depth >= 0).map(|depth| depth + 8);
    offset.and_then(|offset| rule.with_offset(offset)).ok_or(Cause::CfaOffset)
}

/// rbp points at the caller's, and above that stands the return address.
fn by_frame_pointer() -> Rule {
    Rule { cfa: cfa::REGISTER << 4 | register::FP, fp: fp::AT_CFA, fp_offset: -2, cfa_offset: 16 }
}

/// The table of `file`: in a section of its own, or among others' data where C's linker made a program that may be
/// loaded anywhere.
fn find_table<'a>(file: &'a ElfFile<'a>) -> Option<Region<'a>> {
    let own = [&b".gopclntab"[..], b".data.rel.ro.gopclntab"].iter().find_map(|name| file.section(name));
    if let Some(section) = own {
        return Some(Region::of(file, section.offset, section.bytes));
    }
    // Go's alone are searched through.
    file.section(b".go.buildinfo").or_else(|| file.section(b".note.go.buildid"))?;
    let section = file.section(b".data.rel.ro")?;
    let mut data = Region::of(file, section.offset, section.bytes);
    let first = section.address.wrapping_neg() % TABLE_ALIGNMENT;
    let is_table = |head: [u8; 8]| {
        let [magic @ .., 0, 0, 1, 8] = head else { return false };
        Layout::of(u32::from_le_bytes(magic)).is_some()
    };
    let places = (first..data.bytes).step_by(TABLE_ALIGNMENT as usize);
    let mut found = places.filter(|&at| data.array(at).is_some_and(is_table));
    let at = found.next()?;
    data.part(at)
}

/// Unsigned numbers of 7 bits a byte, the lowest first.
struct Varints<'r, 'a> {
    region: &'r mut Region<'a>,
    /// Behind what was read into `chunk`.
    at: u64,
    chunk: [u8; 32],
    used: usize,
    count: usize,
}

impl<'r, 'a> Varints<'r, 'a> {
    fn new(region: &'r mut Region<'a>, at: u64) -> Self {
        Self { region, at, chunk: [0; 32], used: 0, count: 0 }
    }

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        if self.used == self.count {
            self.count = self.region.fill(self.at, &mut self.chunk);
            self.at += self.count as u64;
            self.used = 0;
        }
        let byte = *self.chunk[..self.count].get(self.used)?;
        self.used += 1;
        Some(byte)
    }
}

/// Bytes of a file that are read a page at a time, of which the last few are kept.
struct Region<'a> {
    file: &'a ElfFile<'a>,
    start: u64,
    bytes: u64,
    /// The number of a page and what it holds, each at the number's remainder; empty until the first is asked for.
    pages: Vec<(u64, Vec<u8>)>,
}

impl<'a> Region<'a> {
    /// `bytes` of `file` from offset `start` on.
    fn of(file: &'a ElfFile<'a>, start: u64, bytes: u64) -> Self {
        let bytes = bytes.min(file.byte_count().saturating_sub(start));
        Self { file, start, bytes, pages: vec![(0, Vec::new())] }
    }

    /// The same, of which `count` pages are kept.
    fn of_pages(mut self, count: usize) -> Self {
        self.pages.resize(count, (0, Vec::new()));
        self
    }

    /// The part from `at` to the end.
    fn part(&self, at: u64) -> Option<Self> {
        let bytes = self.bytes.checked_sub(at)?;
        Some(Self::of(self.file, self.start.checked_add(at)?, bytes))
    }

    /// Fills `buffer` from `at` as far as there is something, and says how far.
    #[inline]
    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(at) = at.checked_add(filled as u64).filter(|&at| at < self.bytes) else { break };
            let page = self.page(at / PAGE_BYTES);
            let rest = page.get((at % PAGE_BYTES) as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len() - filled);
            if count == 0 {
                break;
            }
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
        }
        filled
    }

    #[inline]
    fn page(&mut self, number: u64) -> &[u8] {
        let slot = (number % self.pages.len() as u64) as usize;
        let (kept, page) = &mut self.pages[slot];
        if *kept != number || page.is_empty() {
            let first = number * PAGE_BYTES;
            page.resize(PAGE_BYTES.min(self.bytes.saturating_sub(first)) as usize, 0);
            let count = self.file.read_some(self.start.saturating_add(first), page).unwrap_or(0);
            page.truncate(count);
            *kept = number;
        }
        page
    }

    #[inline]
    fn array<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let mut array = [0; N];
        (self.fill(at, &mut array) == N).then_some(array)
    }

    #[inline]
    fn u32(&mut self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    #[inline]
    fn u64(&mut self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
