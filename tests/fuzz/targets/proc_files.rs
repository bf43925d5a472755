//! `/proc/PID/maps`, `stat`, `status` and `cgroup` of any content: names in them are the watched program's.
#![no_main]

use hostscope::targets::services::{MAX_NAME_BYTES, safe_name};
use hostscope::targets::{accounts, cgroup, proc_fs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(line) = proc_fs::parse_maps_line(line) {
            assert!(proc_fs::clean_path(line.path).len() <= line.path.len());
        }
    }
    let _ = proc_fs::parse_stat(text);
    let _ = proc_fs::parse_innermost_pid(&String::from_utf8_lossy(text));
    let _ = accounts::parse_usage(text);
    let _ = accounts::parse_memory(text);
    let _ = cgroup::owner_of_process(text);
    if let Some(name) = safe_name(text) {
        assert!(!name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains('/'), "{name:?}");
        assert!(!name.contains(char::is_control), "{name:?}");
    }
});
