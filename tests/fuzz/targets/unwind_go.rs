//! Go's own unwind table of any content: what comes out is a sound table, soon.
#![no_main]

use std::time::{Duration, Instant};

use hostscope::targets::unwind::{check, compile};
use libfuzzer_sys::fuzz_target;

/// Where the code is: its virtual address, and its offset in the file.
const CODE_ADDRESS: u64 = 0x40_1000;
const CODE_OFFSET: u64 = 0x1000;
const CODE_BYTES: usize = 0x2000;

/// Fifty times what an input of libFuzzer's usual length takes in a slow build.
const LONGEST: Duration = Duration::from_secs(1);

const NAMES: &[u8] = b"\0.text\0.gopclntab\0.data.rel.ro\0.go.buildinfo\0";
/// `push %rbp`, so that frames begin wherever the table says; now and then the stack is changed.
const CODE: [u8; 32] = {
    let mut code = [0x55; 32];
    [code[28], code[29], code[30], code[31]] = [0x48, 0x8b, 0x62, 0x38];
    code
};

// The first byte says where the table is: in a section of its own, or in another one that is searched through.
fuzz_target!(|input: &[u8]| {
    let Some((&first, table)) = input.split_first() else { return };
    let file = program(table, if first % 4 == 3 { 18 } else { 7 });
    let start = Instant::now();
    let result = compile(&file);
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
    let Ok(compiled) = result else { return };
    check(compiled.blocks()).expect("a table that was made is sound");
});

fn program(table: &[u8], name: u32) -> Vec<u8> {
    let code = CODE.repeat(CODE_BYTES / CODE.len());
    let table_at = CODE_OFFSET + code.len() as u64;
    let names_at = table_at + table.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([CODE_ADDRESS, 64, 120].iter().flat_map(|word: &u64| word.to_le_bytes()));
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64, 56, 1, 64, 5, 4].iter().flat_map(|half: &u16| half.to_le_bytes()));
    bytes.extend([1, 5].iter().flat_map(|word: &u32| word.to_le_bytes()));
    let code_bytes = code.len() as u64;
    let segment = [CODE_OFFSET, CODE_ADDRESS, CODE_ADDRESS, code_bytes, code_bytes, 0x1000];
    bytes.extend(segment.iter().flat_map(|word| word.to_le_bytes()));
    let mut section = |name: u32, kind: u32, flags: u64, address: u64, offset: u64, length: u64| {
        bytes.extend([name, kind].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend([flags, address, offset, length, 0, 16, 0].iter().flat_map(|word| word.to_le_bytes()));
    };
    section(0, 0, 0, 0, 0, 0);
    section(1, 1, 6, CODE_ADDRESS, CODE_OFFSET, code_bytes);
    section(name, 1, 2, 0, table_at, table.len() as u64);
    section(31, 1, 2, 0, table_at, 0);
    section(0, 3, 0, 0, names_at, NAMES.len() as u64);
    bytes.resize(CODE_OFFSET as usize, 0);
    [&bytes, &code, table, NAMES].concat()
}
