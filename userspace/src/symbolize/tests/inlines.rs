//! Inlined functions and lines against `addr2line -i`.

use std::collections::HashSet;

use super::*;

const INLINES: Options = Options { inlines: true, cache_entries: 0 };

const PROGRAM: &str = "
    #include <vector>
    #include <numeric>
    namespace shop {
    static inline __attribute__((always_inline)) long inner(long x) { return x * x + 7; }
    static inline __attribute__((always_inline)) long middle(long x) { return inner(x) + inner(x + 1); }
    struct Till { long sum = 0; __attribute__((noinline)) void add(const std::vector<long> &all) {
        for (long one : all) sum += middle(one); } };
    }
    int main(int count, char **arguments) {
        std::vector<long> all(count * 10);
        std::iota(all.begin(), all.end(), 1);
        shop::Till till;
        till.add(all);
        return till.sum;
    }";

/// For each address the frames that `addr2line` finds, innermost first: raw function name and `file:line`.
fn by_addr2line(path: &Path, addresses: &[u64]) -> Vec<Vec<(String, String)>> {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("{address:#x}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let listing = run("addr2line", &[&["-a", "-i", "-f", "-e", text(path)], &addresses[..]].concat());
    let mut answers = Vec::new();
    let mut lines = listing.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            answers.push(Vec::new());
        } else {
            let place = lines.next().unwrap().split(" (").next().unwrap().to_owned();
            answers.last_mut().unwrap().push((line.to_owned(), place));
        }
    }
    answers
}

/// A frame as `addr2line` writes it.
fn raw_frame(line: &SymbolLine) -> (String, String) {
    let number = if line.line == 0 { "?".to_owned() } else { line.line.to_string() };
    (line.system_name.to_string(), format!("{}:{number}", line.file))
}

/// Compares every second byte of the functions called one of `names`.
fn compare(path: &Path, names: &[&str]) {
    let mut deepest = 0;
    for (start, size, name) in functions(path, &[]) {
        if !names.iter().any(|part| name.contains(part)) {
            continue;
        }
        let addresses: Vec<u64> = (start..start + size).step_by(2).collect();
        let found = resolve(path, None, INLINES, &addresses).unwrap();
        assert_eq!(found.shortfall, None);
        for ((address, symbol), theirs) in
            addresses.iter().zip(found.symbols).zip(by_addr2line(path, &addresses))
        {
            let ours: Vec<(String, String)> = symbol.unwrap().lines.iter().map(raw_frame).collect();
            assert_eq!(ours.len(), theirs.len(), "{name} at {address:#x}: {ours:?} {theirs:?}");
            for (place, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(ours.1, theirs.1, "{name} at {address:#x}");
                // Of the innermost, binutils gives the symbol table's name though it is inlined.
                assert!(place == 0 || ours.0 == theirs.0, "{name} at {address:#x}: {ours:?} {theirs:?}");
            }
            deepest = deepest.max(ours.len());
        }
    }
    assert!(deepest >= 3, "something was inlined twice");
}

#[test]
fn frames_are_those_of_addr2line() {
    let workshop = Workshop::new();
    for flags in [&["-gdwarf-5"][..], &["-gdwarf-4"], &["-gdwarf-5", "-gz=zlib"], &["-gdwarf-5", "-no-pie"]] {
        let path = workshop.compile("shop", "cc", PROGRAM, &[&["-O2"], flags].concat());
        compare(&path, &["Till"]);
    }
}

#[test]
fn the_outermost_name_is_the_symbol_tables() {
    let workshop = Workshop::new();
    let path = workshop.compile("shop", "cc", PROGRAM, &["-O2", "-g"]);
    let (start, size, _) =
        functions(&path, &[]).into_iter().find(|(_, _, name)| name.contains("Till")).unwrap();
    let addresses: Vec<u64> = (start..start + size).collect();
    let names = resolve(&path, None, INLINES, &addresses).unwrap();
    let plain = resolve(&path, None, PLAIN, &addresses).unwrap();
    let mut shown = HashSet::new();
    for (with, without) in names.symbols.iter().flatten().zip(plain.symbols.iter().flatten()) {
        assert_eq!(with.lines.last().unwrap().name, without.lines[0].name);
        shown.extend(with.lines.iter().map(|line| line.name.to_string()));
    }
    for name in ["shop::Till::add", "middle", "inner"] {
        assert!(shown.contains(name), "{name} in {shown:?}");
    }
}

#[test]
fn rust_programs() {
    let source = "
        #[inline(always)] fn inner(x: u64) -> u64 { x.wrapping_mul(3) ^ 7 }
        #[inline(never)] fn outer(x: u64) -> u64 { (0..x).map(|y| inner(y)).sum() }
        fn main() { println!(\"{}\", outer(std::env::args().count() as u64)); }";
    let workshop = Workshop::new();
    let path = workshop.compile("shop", "rs", source, &["-g", "-O", "-Csymbol-mangling-version=v0"]);
    let outer = functions(&path, &[]).into_iter().find(|(_, _, name)| name.contains("5outer")).unwrap();
    let names = resolve(&path, None, INLINES, &[outer.0 + 4]).unwrap();
    assert_eq!(&*names.symbols[0].as_ref().unwrap().lines.last().unwrap().name, "shop::outer");
}

#[test]
fn what_cannot_be_read_keeps_its_names_and_says_why() {
    let workshop = Workshop::new();
    let path = workshop.compile("shop", "cc", PROGRAM, &["-O2", "-g", "-gz=zlib"]);
    let (start, _, name) =
        functions(&path, &[]).into_iter().find(|(_, _, name)| name.contains("Till")).unwrap();
    let shortfall = |path: &Path| {
        let names = resolve(path, None, INLINES, &[start]).unwrap();
        assert_eq!(system_names(&names), [Some(name.clone())]);
        names.shortfall.unwrap()
    };
    // The method stands first in a compressed section: 1 is zlib, 2 zstd.
    let mut image = std::fs::read(&path).unwrap();
    let file = File::open(&path).unwrap();
    let info = *ElfFile::parse(&file).unwrap().section(b".debug_info").unwrap();
    image[info.offset as usize] = 2;
    let zstd = workshop.path("zstd");
    std::fs::write(&zstd, &image).unwrap();
    assert!(shortfall(&zstd).contains("zstd"));
    image[info.offset as usize] = 1;
    image[info.offset as usize + 64] ^= 0xff;
    std::fs::write(&zstd, &image).unwrap();
    assert!(!shortfall(&zstd).is_empty());
    run("strip", &["--strip-debug", text(&path)]);
    assert!(shortfall(&path).contains("no debug information"));
}
