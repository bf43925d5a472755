//! The walk that the kernel runs, over stopped programs whose callers are known by construction: at random instants, and
//! at each of thousands of instructions in a row.
//!
//! Needs no privilege. Where a walk goes wrong its snapshot is kept, and walked again by
//! `HOSTSCOPE_SNAPSHOT=FILE cargo test -p hostscope-tests --test replay a_kept_snapshot -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../ebpf/programs/unwind/mod.rs"]
#[allow(clippy::pedantic, missing_docs, reason = "code of another crate")]
mod unwind;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hostscope::profile::FrameKind;
use hostscope::targets::unwind::{Table, compile};
use hostscope_tests::chains::Chains;
use hostscope_tests::host::target_folder;
use hostscope_tests::program::run;
use hostscope_tests::snapshot::{Mapping, Snapshot, Traced};
use hostscope_tests::stacks::{Frame, Stack, text};
use hostscope_tests::workload::{self, Workload};
use hostscope_wire::stack::{EXACT_PC, StackEnd};
use hostscope_wire::unwind::{Block, MappingEntry, NO_TABLE, ProcessEntry};
use unwind::{Context, Process, Walk, step};

/// What a process's mappings lead to.
struct Code {
    entries: Vec<MappingEntry>,
    tables: Vec<Table>,
}

impl Code {
    /// Compiles the tables of all files that are mapped.
    fn of(snapshot: &Snapshot) -> Self {
        let (mut entries, mut tables) = (Vec::new(), Vec::new());
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        for Mapping { start, end, offset, path } in &snapshot.mappings {
            let table = *numbers.entry(path).or_insert_with(|| {
                let compiled = if path == "[vdso]" {
                    let image = snapshot.memory.iter().find(|(region, _)| region == start);
                    image.and_then(|(_, bytes)| compile(bytes).ok())
                } else {
                    File::open(path).ok().and_then(|file| compile(&file).ok())
                };
                let Some(table) = compiled else { return NO_TABLE };
                tables.push(table);
                tables.len() as u32 - 1
            });
            entries.push(MappingEntry { start: *start, end: *end, file_offset: *offset, table, reserved: 0 });
        }
        Self { entries, tables }
    }
}

/// A snapshot as the walk sees it.
struct Replayed<'a> {
    snapshot: &'a Snapshot,
    code: &'a Code,
}

impl Replayed<'_> {
    /// From memory that was kept, else from the file that is mapped there.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        if self.snapshot.read(address, buffer) {
            return Some(());
        }
        let mapping =
            self.snapshot.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address))?;
        let offset = address - mapping.start + mapping.offset;
        File::open(&mapping.path).ok()?.read_exact_at(buffer, offset).ok()
    }
}

impl Process for Replayed<'_> {
    type Table = u32;

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Some(u64::from_ne_bytes(bytes))
    }

    fn words(&self, address: u64) -> Option<[u64; 2]> {
        Some([self.word(address)?, self.word(address.wrapping_add(8))?])
    }

    fn read_context(&self, address: u64, context: &mut Context) -> bool {
        let words = (0..17).map(|index| self.word(address.wrapping_add(index * 8)));
        context.iter_mut().zip(words).all(|(to, word)| word.map(|word| *to = word).is_some())
    }

    fn mapping(&self, index: u32) -> Option<&MappingEntry> {
        self.code.entries.get(index as usize)
    }

    fn table(&self, number: u32) -> Option<u32> {
        Some(number)
    }

    fn used(&self, _number: u32) {}

    fn block(&self, table: u32, index: u32) -> Option<&Block> {
        self.code.tables[table as usize].blocks().get(index as usize)
    }
}

/// The addresses to look the frames up at, leaf first, and why the walk ended.
fn walked(snapshot: &Snapshot, code: &Code) -> (Vec<u64>, StackEnd) {
    let mut walk = Walk::default();
    walk.context = snapshot.registers;
    walk.begin(ProcessEntry { first: 0, count: code.entries.len() as u32 });
    let replayed = Replayed { snapshot, code };
    let mut addresses = Vec::new();
    loop {
        // A caller is where its call instruction is, not where it will go on.
        let called = u64::from(walk.interrupted == 0);
        if !step(&replayed, &mut walk, |_, pc| addresses.push((pc & !EXACT_PC) - called)) {
            return (addresses, StackEnd::from_number(walk.end).unwrap());
        }
    }
}

/// The workload's own functions: where in its file they begin and end, and their names. In these files, addresses are
/// offsets.
struct Symbols {
    file: PathBuf,
    functions: BTreeMap<u64, (u64, String)>,
}

impl Symbols {
    fn of(file: &Path) -> Self {
        let listed = run(Command::new("nm").args(["-S", "-C", "--defined-only"]).arg(file)).success().stdout;
        let functions = listed.lines().filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let size = u64::from_str_radix(words.next()?, 16).ok()?;
            let is_code = ["T", "t", "W"].contains(&words.next()?);
            let name = words.next()?.split('(').next()?.to_owned();
            is_code.then_some((address, (address + size, name)))
        });
        Self { file: file.to_path_buf(), functions: functions.collect() }
    }

    /// The frame at an address, as a profile would have it.
    fn frame<'a>(&'a self, snapshot: &'a Snapshot, address: u64) -> Frame<'a> {
        let mapping =
            snapshot.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
        let Some(mapping) = mapping else {
            return Frame { name: "[nowhere]", kind: FrameKind::Native, file: "" };
        };
        let mut name = if mapping.path.is_empty() { "[anon]" } else { "[nameless]" };
        if Path::new(&mapping.path) == self.file {
            let offset = address - mapping.start + mapping.offset;
            let function = self.functions.range(..=offset).next_back();
            name = function.filter(|(_, (end, _))| offset < *end).map_or(name, |(_, (_, name))| name);
        }
        Frame { name, kind: FrameKind::Native, file: &mapping.path }
    }
}

/// The workloads' cases: source, argument, chains.
const CASES: &[(&str, &str, &[&str])] = &[
    ("frames.c", "deep", &["burn? < plain|buffered|crowded|sized+ < run_deep < main < ~ < _start"]),
    ("frames.c", "large", &["burn < large < run_large < main < ~ < _start"]),
    (
        "frames.c",
        "tail",
        &["burn < second? < run_tail < main < ~ < _start", "first|last < run_tail < main < ~ < _start"],
    ),
    ("aligned.c", "fixed", &["burn < fixed < run_fixed < main < ~ < _start"]),
    ("aligned.c", "sized", &["burn < sized < run_sized < main < ~ < _start"]),
    ("aligned.c", "jumper", &["burn < jumper|sized < run_jumper < main < ~ < _start"]),
    ("aligned.c", "variadic", &["burn < variadic < run_variadic < main < ~ < _start"]),
    (
        "library.c",
        "sort",
        &[
            "burn < compare < ~ < sort < run_sort < main < ~ < _start",
            "~|@plt < sort < run_sort < main < ~ < _start",
        ],
    ),
    ("library.c", "print", &["~|@plt < print < run_print < main < ~ < _start"]),
    ("library.c", "allocate", &["~|@plt < allocate < run_allocate < main < ~ < _start"]),
    ("library.c", "copy", &["~|@plt < copy < run_copy < main < ~ < _start"]),
    ("library.c", "clock", &["~|@plt < ask_time < run_ask_time < main < ~ < _start"]),
    ("plt.c", "bound", &["~|@plt < call_library < run_bound < main < ~ < _start"]),
    ("plt_now.c", "bound", &["~|@plt < call_library < run_bound < main < ~ < _start"]),
    ("plt_ibt.c", "bound", &["~|@plt < call_library < run_bound < main < ~ < _start"]),
    ("made.c", "copied", &["burn < copied < run_copied < main < ~ < _start"]),
    ("made.c", "framed", &["[anon] < [anon] < run_framed < main < ~ < _start"]),
    ("made.c", "trampoline", &["burn? < evaluate|[anon]+ < run_trampoline < main < ~ < _start"]),
    (
        "thrower.cpp",
        "virtual",
        &["burn < Square::area|Circle::area < measure < run_virtual < main < ~ < _start"],
    ),
];

/// The unwinder of C++ leaves its own frame for another one's, and goes on there at an instruction that no call precedes:
/// what tables say of its last two instructions is not true.
const THROWING: &[(&str, &str, &[&str])] = &[(
    "thrower.cpp",
    "throw",
    &[
        "burn? < Guard::~Guard? < ~? < @plt? < descend+ < attempt < run_throw < main < ~ < _start",
        "burn < attempt < run_throw < main < ~ < _start",
        "~|@plt < attempt < run_throw < main < ~ < _start",
    ],
)];

/// Starts each case, built with more flags, and judges `stops` walks; `go_on` goes from one stop to the next. Returns
/// what was wrong.
fn wrong_of(
    cases: &[(&str, &str, &[&str])],
    flags: &[&str],
    stops: u32,
    go_on: impl Fn(&mut Traced, u32),
) -> Vec<String> {
    // Kept beside the snapshots, which are of no use without the files.
    let folder = target_folder().join("replayed").join(flags.concat());
    std::fs::create_dir_all(&folder).unwrap();
    let mut wrong = Vec::new();
    for (source, argument, patterns) in cases {
        let name = source.split('.').next().unwrap();
        let file = folder.join(name);
        workload::build_with(source, flags, &file);
        let symbols = Symbols::of(&file);
        let workload = Workload::start_file(&file, [argument]);
        std::thread::sleep(Duration::from_millis(50));
        let mut traced = Traced::seize(workload.pid());
        let mappings = traced.mappings();
        let code = Code::of(&traced.snapshot(&mappings));
        let patterns: Vec<(f64, &str)> = patterns.iter().map(|pattern| (0.0, *pattern)).collect();
        let chains = Chains::new(std::slice::from_ref(&name), &patterns);
        let mut failures = 0;
        for stop in 0..stops {
            go_on(&mut traced, stop);
            let snapshot = traced.snapshot(&mappings);
            let Err(stack) = judged(&snapshot, &code, &symbols, &chains) else { continue };
            failures += 1;
            if failures <= 5 {
                let kept = folder.join(format!("{name}-{argument}-{failures}"));
                snapshot.save(&kept);
                wrong.push(format!("{name} {argument}, {}: {stack}", kept.display()));
            }
        }
        if failures > 5 {
            wrong.push(format!("{name} {argument}: {failures} of {stops}"));
        }
    }
    wrong
}

/// Whether a walk over the snapshot ends at the entry, by way of exactly the callers that there are; else its stack.
fn judged(snapshot: &Snapshot, code: &Code, symbols: &Symbols, chains: &Chains<'_>) -> Result<(), String> {
    let (addresses, end) = walked(snapshot, code);
    let frames = addresses.iter().map(|&address| symbols.frame(snapshot, address)).collect();
    let stack = Stack { pid: 0, process: "", tid: 0, thread: "", frames, end: end.name(), count: 1 };
    if end == StackEnd::Complete && chains.fit(&stack) { Ok(()) } else { Err(text(&[stack])) }
}

/// The next of a fixed sequence of numbers that look random: microseconds between two stops.
fn microseconds(stop: u32) -> u64 {
    u64::from(stop.wrapping_mul(2_654_435_769) >> 22)
}

#[test]
fn walks_are_right_at_any_instant() {
    let wrong =
        wrong_of(CASES, &[], 100, |traced, stop| traced.run_for(Duration::from_micros(microseconds(stop))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn walks_are_right_while_exceptions_are_thrown() {
    let wrong = wrong_of(THROWING, &[], 300, |traced, stop| {
        traced.run_for(Duration::from_micros(microseconds(stop)));
    });
    // One or two of a hundred are met where libgcc goes on in the frame that catches: chance brings twice as many.
    assert!(wrong.len() <= 15, "{}", wrong.join("\n"));
}

#[test]
fn walks_are_right_at_each_instruction() {
    // Work so short that the frames around it come and go.
    let wrong = wrong_of(CASES, &["-DUNIT=1"], 600, |traced, _| traced.step());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn walks_through_signal_handlers_are_right_at_any_instant() {
    let interrupted = "leaf? < step? < run < main < ~ < _start";
    let handler = format!("burn? < handle < ~ < {interrupted}");
    let nested = format!("burn? < handle? < ~? < handle_first < ~ < {interrupted}");
    let cases: [(&str, &str, &[&str]); 2] =
        [("signals.c", "plain", &[&handler, interrupted]), ("signals.c", "nested", &[&nested, interrupted])];
    let wrong =
        wrong_of(&cases, &[], 300, |traced, stop| traced.run_for(Duration::from_micros(microseconds(stop))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_kept_snapshot_is_walked_alike() {
    let Some(path) = std::env::var_os("HOSTSCOPE_SNAPSHOT").map(PathBuf::from) else {
        let workload = Workload::start("shares", [""; 0]);
        std::thread::sleep(Duration::from_millis(50));
        let traced = Traced::seize(workload.pid());
        let snapshot = traced.snapshot(&traced.mappings());
        let file = tempfile::NamedTempFile::new().unwrap();
        snapshot.save(file.path());
        assert_eq!(Snapshot::load(file.path()), snapshot);
        return;
    };
    let snapshot = Snapshot::load(&path);
    let (addresses, end) = walked(&snapshot, &Code::of(&snapshot));
    for address in addresses {
        let mapping =
            snapshot.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
        let place = mapping.map(|mapping| (address - mapping.start + mapping.offset, mapping.path.as_str()));
        println!("{address:#x} {:x?}", place.unwrap_or_default());
    }
    println!("{}", end.name());
}
