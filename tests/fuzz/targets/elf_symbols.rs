//! Names of addresses in files of any content: symbol tables, embedded tables, debug links, stubs.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../elf_file.rs"]
mod elf_file;

fuzz_target!(|bytes: &[u8]| elf_file::resolve(bytes, false));
