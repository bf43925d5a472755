//! Names of real files' addresses against binutils' opinion of them.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use super::*;
use crate::targets::elf::ElfFile;
use crate::targets::elf::test_files::{Workshop, run, system_files, text};

mod debug_files;
mod hostile;
mod inlines;
mod tables;

const PLAIN: Options = Options { inlines: false, cache_entries: 0 };

/// What [`Symbolizer::elf`] says of virtual addresses of the file at `path`.
fn resolve(
    path: &Path,
    root: Option<&Path>,
    options: Options,
    addresses: &[u64],
) -> Result<ElfNames, ElfError> {
    let file = File::open(path).unwrap();
    let offsets: Vec<u64> = addresses.iter().map(|&address| offset_of(&file, address)).collect();
    Symbolizer::new(options).elf(&ElfSource { file: &file, path, root }, None, &offsets)
}

/// Where in the file `address` lies.
fn offset_of(file: &File, address: u64) -> u64 {
    let elf = ElfFile::parse(file).unwrap();
    let segment = elf.segments().iter().find(|segment| {
        segment.kind == object::elf::PT_LOAD
            && (segment.address..segment.address + segment.file_bytes).contains(&address)
    });
    let segment = segment.unwrap_or_else(|| panic!("{address:#x} is not loaded"));
    address - segment.address + segment.offset
}

/// The raw names found, for easy comparison.
fn system_names(names: &ElfNames) -> Vec<Option<String>> {
    let name = |symbol: &Symbol| symbol.lines.last().unwrap().system_name.to_string();
    names.symbols.iter().map(|symbol| symbol.as_ref().map(name)).collect()
}

/// Address, size and name of each function that `nm` lists.
fn functions(path: &Path, flags: &[&str]) -> Vec<(u64, u64, String)> {
    let listing = run("nm", &[flags, &["-S", "--defined-only", text(path)]].concat());
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [start, size, kind, name] = fields[..] else { return None };
        let number = |text| u64::from_str_radix(text, 16).ok();
        matches!(kind, "t" | "T" | "w" | "W" | "i").then_some((
            number(start)?,
            number(size)?,
            name.to_owned(),
        ))
    };
    listing.lines().filter_map(parse).filter(|(_, size, _)| *size > 0).collect()
}

#[test]
fn every_byte_of_a_program_has_the_name_that_nm_gives() {
    let source = "
        #include <stdlib.h>
        static int __attribute__((noinline)) hidden(int x) { return x * 3 + 1; }
        int __attribute__((noinline)) shown(int x) { return hidden(x) * 5; }
        __attribute__((weak)) int feeble(int x) { return x + abs(x); }
        int main(int count, char **arguments) { return shown(count) + feeble(count); }";
    let workshop = Workshop::new();
    for flags in [&["-O1"][..], &["-O1", "-no-pie"], &["-O1", "-static"]] {
        let path = workshop.compile("program", "c", source, flags);
        for (start, size, name) in functions(&path, &[]) {
            if !["hidden", "shown", "feeble", "main"].contains(&name.as_str()) {
                continue;
            }
            let addresses: Vec<u64> = (start..start + size).collect();
            let names = resolve(&path, None, PLAIN, &addresses).unwrap();
            assert_eq!(names.source, NameSource::SymbolTable);
            assert!(
                system_names(&names).iter().all(|found| found.as_ref() == Some(&name)),
                "{name}: {names:?}"
            );
        }
    }
}

#[test]
fn functions_of_system_libraries_have_a_name_that_nm_knows() {
    for path in system_files() {
        let symbols = functions(&path, &["-D"]);
        let addresses: Vec<u64> = symbols
            .iter()
            .step_by(1 + symbols.len() / 500)
            .map(|(start, size, _)| start + size / 2)
            .collect();
        let names = resolve(&path, None, PLAIN, &addresses).unwrap();
        let symbols = match &names.source {
            NameSource::DebugFile(path) => functions(path, &[]),
            _ => symbols,
        };
        for (&address, name) in addresses.iter().zip(system_names(&names)) {
            let name = name.unwrap_or_else(|| panic!("{}: {address:#x} has no name", path.display()));
            let mut covering =
                symbols.iter().filter(|(start, size, _)| (*start..start + size).contains(&address));
            // nm shows versions, which the table of dynamic symbols has elsewhere.
            let known = covering.any(|(_, _, known)| known.split('@').next() == name.split('@').next());
            assert!(known, "{}: {address:#x} is not {name}", path.display());
        }
    }
}

#[test]
fn of_several_names_the_one_that_programs_use_wins() {
    let libc = system_files().into_iter().find(|path| path.to_string_lossy().contains("libc.so")).unwrap();
    let symbols = functions(&libc, &["-D"]);
    let starts: HashMap<&str, u64> =
        symbols.iter().map(|(start, _, name)| (name.split('@').next().unwrap_or(name), *start)).collect();
    for expected in ["read", "malloc", "write", "puts"] {
        let names = resolve(&libc, None, PLAIN, &[starts[expected] + 1]).unwrap();
        assert_eq!(&*names.symbols[0].as_ref().unwrap().lines[0].name, expected);
    }
}

#[test]
fn labels_without_size_reach_to_the_next_symbol() {
    let source = r#"
        __asm__(".text\n.globl first\nfirst: nop\nnop\nnop\n.globl second\n.type second,@function\nsecond: nop\nnop\n"
                ".globl third\n.type third,@function\nthird: nop\n.size third,.-third\nnop\nnop\n"
                ".section .other,\"ax\"\nfourth: nop\nnop\n");
        int main(void) { return 0; }"#;
    let workshop = Workshop::new();
    let path = workshop.compile(
        "labels",
        "c",
        source,
        &["-nostdlib", "-Wl,-e,first", "-fno-asynchronous-unwind-tables"],
    );
    let listing = run("nm", &[text(&path)]);
    let start = |name: &str| {
        let line = listing.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
        u64::from_str_radix(&line[..16], 16).unwrap()
    };
    let (first, fourth) = (start("first"), start("fourth"));
    let addresses: Vec<u64> = (first..first + 8).chain([fourth + 1]).collect();
    let names = system_names(&resolve(&path, None, PLAIN, &addresses).unwrap());
    let names: Vec<&str> = names.iter().map(|name| name.as_deref().unwrap_or("-")).collect();
    assert_eq!(names, ["first", "first", "first", "second", "second", "third", "-", "-", "fourth"]);
}

#[test]
fn stubs_are_named_after_what_they_call() {
    let source = "#include <stdlib.h>\n#include <stdio.h>\n
        int main(int count, char **arguments) { puts(arguments[0]); free(malloc(count)); return abs(rand()); }";
    let workshop = Workshop::new();
    for (flags, section) in [
        (&["-fcf-protection=full", "-Wl,-z,ibtplt"][..], ".plt.sec"),
        (&["-fcf-protection=none", "-Wl,-z,lazy"], ".plt"),
        (&["-no-pie", "-fcf-protection=none", "-Wl,-z,lazy"], ".plt"),
    ] {
        let path = workshop.compile("stubs", "c", source, flags);
        let listing = run("objdump", &["-d", "-j", section, text(&path)]);
        let stubs: Vec<(u64, &str)> = listing
            .lines()
            .filter_map(|line| line.strip_suffix(">:")?.split_once(" <"))
            .filter(|(_, name)| name.ends_with("@plt"))
            .map(|(address, name)| (u64::from_str_radix(address, 16).unwrap(), name))
            .filter(|(_, name)| *name != "*ABS*+0x0@plt")
            .collect();
        assert!(stubs.len() >= 3, "{listing}");
        let addresses: Vec<u64> = stubs.iter().map(|(address, _)| address + 6).collect();
        let names = resolve(&path, None, PLAIN, &addresses).unwrap();
        for ((_, expected), symbol) in stubs.iter().zip(&names.symbols) {
            assert_eq!(symbol.as_ref().map(|symbol| &*symbol.lines[0].name), Some(*expected));
        }
    }
}

#[test]
fn files_of_32_bits() {
    let workshop = Workshop::new();
    let source = "int twice(int x) { return 2 * x; } int main(void) { return twice(21); }";
    let path = workshop.compile("small", "c", source, &["-m32", "-nostdlib", "-static", "-Wl,-e,main"]);
    for (start, _, name) in functions(&path, &[]) {
        assert_eq!(system_names(&resolve(&path, None, PLAIN, &[start]).unwrap()), [Some(name)]);
    }
}

#[test]
fn offsets_in_any_order_and_outside_the_file() {
    let workshop = Workshop::new();
    let source =
        "int one(void) { return 1; } int two(void) { return 2; } int main(void) { return one() + two(); }";
    let path = workshop.compile("program", "c", source, &[]);
    let starts: HashMap<String, u64> =
        functions(&path, &[]).into_iter().map(|(start, _, name)| (name, start)).collect();
    let file = File::open(&path).unwrap();
    let source = ElfSource { file: &file, path: &path, root: None };
    let [one, two] = ["one", "two"].map(|name| offset_of(&file, starts[name]));
    let names = Symbolizer::new(PLAIN).elf(&source, None, &[two, u64::MAX, one, two, 1 << 40]).unwrap();
    let expected = [Some("two"), None, Some("one"), Some("two"), None].map(|name| name.map(str::to_owned));
    assert_eq!(system_names(&names), expected);
    assert!(Symbolizer::new(PLAIN).elf(&source, None, &[]).unwrap().symbols.is_empty());
}

#[test]
fn what_was_asked_before_needs_no_file() {
    let workshop = Workshop::new();
    let path = workshop.compile("program", "c", "int main(void) { return 0; }", &["-Wl,--build-id=sha1"]);
    let file = File::open(&path).unwrap();
    let id = ElfFile::parse(&file).unwrap().build_id().unwrap();
    let main = functions(&path, &[]).into_iter().find(|(_, _, name)| name == "main").unwrap().0;
    let offsets = [offset_of(&file, main), 1 << 40];
    let mut symbolizer = Symbolizer::new(Options { inlines: false, cache_entries: 100 });
    let first =
        symbolizer.elf(&ElfSource { file: &file, path: &path, root: None }, Some(&id), &offsets).unwrap();
    std::fs::write(workshop.path("empty"), "").unwrap();
    let empty = File::open(workshop.path("empty")).unwrap();
    let source = ElfSource { file: &empty, path: &path, root: None };
    let second = symbolizer.elf(&source, Some(&id), &offsets).unwrap();
    assert_eq!(second.source, NameSource::Cache);
    assert_eq!(first.symbols, second.symbols);
    assert!(matches!(symbolizer.elf(&source, Some(&id), &[7]), Err(ElfError::NotElf)));
}

#[test]
fn the_vdso_has_names() {
    let image = crate::targets::vdso::image().unwrap();
    let workshop = Workshop::new();
    let path = workshop.path("vdso.so");
    std::fs::write(&path, &image).unwrap();
    let symbols = functions(&path, &["-D"]);
    assert!(!symbols.is_empty());
    let file = File::open(&path).unwrap();
    let offsets: Vec<u64> = symbols.iter().map(|(start, _, _)| offset_of(&file, *start)).collect();
    let names = Symbolizer::new(PLAIN).vdso(&offsets).unwrap();
    for ((start, _, _), symbol) in symbols.iter().zip(names) {
        let found = symbol.unwrap().lines[0].name.to_string();
        let same = symbols.iter().filter(|(other, _, _)| other == start);
        assert!(same.map(|(_, _, name)| name.split('@').next()).any(|name| name == Some(&found)), "{found}");
        assert!(!found.starts_with("__"), "{found} is the less usual of two names");
    }
}
