//! ELF headers, build ids and file offsets as addresses, of files of any content.
#![no_main]

use hostscope::targets::elf::ElfFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: Vec<u8>| {
    let Ok(elf) = ElfFile::parse(&bytes) else { return };
    let _ = elf.build_id();
    let _ = elf.section(b".text");
    for offset in [0, 1, 0x1000, u64::MAX] {
        let _ = elf.address_of(offset);
    }
});
