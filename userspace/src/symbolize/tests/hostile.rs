//! Damaged and malicious files: an error or a missing name at worst.

use super::*;
use crate::targets::elf::test_files::noise;

const PROGRAM: &str = "
    static inline __attribute__((always_inline)) int inner(int x) { return x * x; }
    int twice(int x) { return inner(x) * 2; } int main(void) { return twice(21); }";

fn look(workshop: &Workshop, image: &[u8], offsets: &[u64]) {
    let path = workshop.path("damaged");
    std::fs::write(&path, image).unwrap();
    let file = File::open(&path).unwrap();
    let source = ElfSource { file: &file, path: &path, root: None };
    let _ = Symbolizer::new(Options { inlines: true, cache_entries: 0 }).elf(&source, None, offsets);
}

#[test]
fn damaged_files_never_panic() {
    let workshop = Workshop::new();
    let path = workshop.compile("program", "c", PROGRAM, &["-g", "-O1", "-nostdlib", "-Wl,-e,main"]);
    let image = std::fs::read(path).unwrap();
    let offsets: Vec<u64> = (0..image.len() as u64).step_by(16).collect();
    for length in (0..image.len()).step_by(64) {
        look(&workshop, &image[..length], &offsets);
    }
    let mut random = noise(7);
    for _ in 0..1_000 {
        let mut image = image.clone();
        for _ in 0..=random() % 16 {
            let place = random() as usize % image.len();
            image[place] = random() as u8;
        }
        look(&workshop, &image, &offsets);
    }
}

#[test]
fn a_file_cut_short_while_it_is_open_is_an_error() {
    let workshop = Workshop::new();
    let path = workshop.compile("program", "c", PROGRAM, &[]);
    let file = File::open(&path).unwrap();
    let elf = ElfFile::parse(&file).unwrap();
    let writer = File::options().write(true).open(&path).unwrap();
    writer.set_len(100).unwrap();
    assert!(elf.build_id().is_none());
    let table = symbol_table::SymbolTable::find(&elf, object::elf::SHT_SYMTAB).unwrap();
    assert!(matches!(symbol_table::Matcher::new(vec![0x1000]).scan(&table), Err(ElfError::Corrupt(_))));
}

#[test]
fn symbols_that_all_cover_everything_are_refused_in_time() {
    // A million symbols of `u64::MAX` bytes each, two thousand addresses: two thousand million matches if all counted.
    let image = elf_with_symbols(1_000_000, 0x1000, u64::MAX / 2);
    let file = ElfFile::parse(&image).unwrap();
    let table = symbol_table::SymbolTable::find(&file, object::elf::SHT_SYMTAB).unwrap();
    let mut matcher = symbol_table::Matcher::new((0x2000..0x2000 + 2_000).collect());
    assert!(matches!(matcher.scan(&table), Err(ElfError::Corrupt(_))));
}

/// An ELF file with nothing but `count` absolute functions that all start at `start` and have `size` bytes.
fn elf_with_symbols(count: u64, start: u64, size: u64) -> Vec<u8> {
    let (header, symbol) = (64_u64, 24_u64);
    let tables = header + count * symbol;
    let section = |kind: u32, offset: u64, bytes: u64, link: u32, record: u64| {
        let mut section = vec![0; 4];
        section.extend(kind.to_le_bytes());
        section.extend([0; 16]);
        section.extend(offset.to_le_bytes());
        section.extend(bytes.to_le_bytes());
        section.extend(link.to_le_bytes());
        section.extend([0; 12]);
        section.extend(record.to_le_bytes());
        section
    };
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    image.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    image.extend([0; 16]);
    image.extend(tables.to_le_bytes());
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 0, 0, 64, 0, 3, 0, 0, 0]);
    for _ in 0..count {
        image.extend([1, 0, 0, 0, 0x12, 0, 0xf1, 0xff]);
        image.extend(start.to_le_bytes());
        image.extend(size.to_le_bytes());
    }
    image.extend(section(0, 0, 0, 0, 0));
    image.extend(section(object::elf::SHT_SYMTAB, header, count * symbol, 2, symbol));
    image.extend(section(object::elf::SHT_STRTAB, 0, 16, 0, 0));
    image
}

#[test]
fn a_symbol_table_of_terabytes_is_an_error() {
    let mut image = elf_with_symbols(1, 0x1000, 1);
    let size = image.len() - 2 * 64 + 32;
    image[size..size + 8].copy_from_slice(&(1_u64 << 43).to_le_bytes());
    let file = ElfFile::parse(&image).unwrap();
    let table = symbol_table::SymbolTable::find(&file, object::elf::SHT_SYMTAB).unwrap();
    assert!(symbol_table::Matcher::new(vec![0x1000]).scan(&table).is_err());
}

#[test]
fn names_that_demangle_to_something_huge_stay_as_they_are() {
    for name in [
        format!("_Z{}", "N".repeat(100_000)),
        format!("_Z1f{}i", "P".repeat(4_000)),
        format!("_Z1fI{}vE", "S_".repeat(1_000)),
        format!("_ZN1a1bE{}", "S0_IS0_".repeat(500)),
        format!("_R{}", "N".repeat(3_000)),
        format!("_RNvC1a{}", "B_".repeat(1_000)),
        "_Z1fIiEvDTcl1gIT_EfpEEDTcl1gIS0_EfpEES1_S1_S1_S1_".to_owned(),
    ] {
        assert!(demangle(&name).len() <= name.len().max(8192));
    }
    assert_eq!(demangle("_ZN4core3fmtE"), "core::fmt");
    assert_eq!(demangle(""), "");
    assert_eq!(demangle("@"), "");
}
