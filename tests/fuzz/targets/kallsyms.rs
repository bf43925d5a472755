//! The kernel's symbols as a text of any content.
#![no_main]

use hostscope::symbolize::kallsyms;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let wanted = [0xffff_ffff_8100_0000, 0xffff_ffff_8100_0100, 0xffff_ffff_c000_0000, 1, 0, u64::MAX];
    let names = kallsyms(text, &wanted).map(|names| names.symbols.len());
    assert!(names.is_ok_and(|count| count == wanted.len()));
});
