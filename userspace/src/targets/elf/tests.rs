//! Headers and build ids of real files against binutils' reading of them, and of damaged ones.

use super::test_files::{Workshop, noise, run, system_files, text};
use super::*;

const PROGRAM: &str = "int twice(int x) { return 2 * x; } int main(void) { return twice(21); }";

fn build_id_by_readelf(path: &std::path::Path) -> Option<String> {
    let notes = run("readelf", &["-nW", text(path)]);
    notes.split("Build ID: ").nth(1).map(|rest| rest.split_whitespace().next().unwrap().to_owned())
}

#[test]
fn build_ids_are_those_that_readelf_finds() {
    let mut found = 0;
    for path in system_files() {
        let file = File::open(&path).unwrap();
        let ours = ElfFile::parse(&file).unwrap().build_id().map(|id| id.to_string());
        assert_eq!(ours, build_id_by_readelf(&path), "{}", path.display());
        found += usize::from(ours.is_some());
    }
    assert!(found > 0, "this host's files have build ids");
}

#[test]
fn build_ids_of_every_length() {
    let workshop = Workshop::new();
    for (style, digits) in [
        ("none", None),
        ("md5", Some(32)),
        ("sha1", Some(40)),
        ("0x0a", Some(2)),
        (&format!("0x{}", "ab".repeat(33)), None),
    ] {
        let path = workshop.compile("program", "c", PROGRAM, &[&format!("-Wl,--build-id={style}")]);
        let file = File::open(path).unwrap();
        let id = ElfFile::parse(&file).unwrap().build_id();
        assert_eq!(id.map(|id| id.to_string().len()), digits, "{style}");
    }
}

#[test]
fn build_id_without_section_headers() {
    let workshop = Workshop::new();
    let path = workshop.compile("program", "c", PROGRAM, &["-Wl,--build-id=sha1"]);
    let expected = build_id_by_readelf(&path);
    let mut image = std::fs::read(path).unwrap();
    image[0x3c] = 0; // e_shnum
    let file = ElfFile::parse(&image).unwrap();
    assert!(file.sections().is_empty());
    assert_eq!(file.build_id().map(|id| id.to_string()), expected);
}

#[test]
fn file_offsets_become_addresses() {
    let workshop = Workshop::new();
    for flags in [&["-pie", "-fPIE"][..], &["-no-pie"], &["-m32", "-nostdlib", "-static", "-Wl,-e,main"]] {
        let path = workshop.compile("program", "c", PROGRAM, flags);
        let file = File::open(&path).unwrap();
        let elf = ElfFile::parse(&file).unwrap();
        assert_eq!(elf.is_position_independent(), flags[0] == "-pie");
        assert_eq!(elf.is_64_bit(), flags[0] != "-m32");
        let code = elf.section(b".text").unwrap();
        assert!(code.is_code());
        assert_eq!(elf.address_of(code.offset), Some(code.address));
        assert_eq!(elf.address_of(code.offset + code.bytes - 1), Some(code.address + code.bytes - 1));
        assert_eq!(elf.address_of(u64::MAX), None);
        let symbols = run("nm", &[text(&path)]);
        let twice = symbols.lines().find(|line| line.ends_with(" twice")).unwrap();
        let twice = u64::from_str_radix(&twice[..twice.find(' ').unwrap()], 16).unwrap();
        assert_eq!(elf.address_of(twice - code.address + code.offset), Some(twice));
    }
}

#[test]
fn what_is_no_elf_file_is_said_so() {
    assert!(matches!(ElfFile::parse(&Vec::new()), Err(ElfError::NotElf)));
    assert!(matches!(ElfFile::parse(&b"#!/bin/sh\n".to_vec()), Err(ElfError::NotElf)));
    assert!(matches!(
        ElfFile::parse(&b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0".to_vec()),
        Err(ElfError::Unsupported(_))
    ));
    assert!(matches!(
        ElfFile::parse(&b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec()),
        Err(ElfError::Corrupt(_))
    ));
}

#[test]
fn damaged_files_are_errors_at_worst() {
    let workshop = Workshop::new();
    let path = workshop.compile("program", "c", PROGRAM, &["-Wl,--build-id=sha1"]);
    let image = std::fs::read(path).unwrap();
    let look = |image: &Vec<u8>| {
        if let Ok(elf) = ElfFile::parse(image) {
            let _ = elf.build_id();
            let _ = elf.address_of(0x1000);
            for section in elf.sections() {
                let _ = elf.section_bytes(section, 1 << 20);
            }
        }
    };
    for length in (0..image.len()).step_by(64) {
        look(&image[..length].to_vec());
    }
    let mut random = noise(1);
    for _ in 0..2_000 {
        let mut image = image.clone();
        for _ in 0..8 {
            // Headers and notes lie at the two ends.
            let place = random() as usize % 2048;
            let place = if random() & 1 == 0 { place } else { image.len() - 1 - place };
            image[place] = random() as u8;
        }
        look(&image);
    }
}
