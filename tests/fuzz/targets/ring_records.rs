//! Records of the ring buffer and of the kernel's mapping records, of any content.
#![no_main]

use hostscope::collect::{mapping_records, ring};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(ring::RingRecord::Stack(stack, frames)) = ring::parse(bytes) {
        let count = frames.iter().count() as u64;
        assert_eq!(count, u64::from(stack.kernel_frames) + u64::from(stack.user_frames));
    }
    let mut end = 0;
    mapping_records::split(bytes, |_, range| {
        assert!(range.start == end && range.end <= bytes.len());
        end = range.end;
        let _ = mapping_records::parse(&bytes[range]);
    });
    let _ = mapping_records::parse(bytes);
});
