//! Inlined functions and lines of addresses in files of any content.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../elf_file.rs"]
mod elf_file;

fuzz_target!(|bytes: &[u8]| elf_file::resolve(bytes, true));
