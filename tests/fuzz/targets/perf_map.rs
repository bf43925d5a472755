//! Perf maps of any content.
#![no_main]

use hostscope::symbolize::perf_map;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let wanted = [0x1000, 0x1010, 0x10ff, 0x7fff_0000_0000, 0, u64::MAX];
    let names = perf_map(text, &wanted).map(|names| names.names.len());
    assert!(names.is_ok_and(|count| count == wanted.len()));
});
