//! Symbol names of any content.
#![no_main]

use hostscope::symbolize::demangle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| {
    for prefix in ["", "_Z", "_R", "_ZN"] {
        let _ = demangle(&format!("{prefix}{name}"));
    }
});
