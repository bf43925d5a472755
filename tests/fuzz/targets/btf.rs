//! The kernel's type information as a file of any content.
#![no_main]

use hostscope::load::btf::Btf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(types) = Btf::parse(data, &["task_struct", "pid"]) {
        let _ = types.member_offset("task_struct", "tgid");
        let _ = types.member_offset("pid", "level");
        let _ = types.size("pid");
    }
});
