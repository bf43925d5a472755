//! `/proc/PID/maps`, `stat` and `status` of any content: names in them are the watched program's.
#![no_main]

use hostscope::targets::proc_fs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(line) = proc_fs::parse_maps_line(line) {
            assert!(proc_fs::clean_path(line.path).len() <= line.path.len());
        }
    }
    let _ = proc_fs::parse_stat(text);
    let _ = proc_fs::parse_innermost_pid(&String::from_utf8_lossy(text));
});
