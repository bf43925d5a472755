//! Profiles to be compared, of any content: what is read is sound, and every format can write it.
#![no_main]

use hostscope::outputs::{OUTPUTS, read_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = read_bytes(bytes) {
        assert_eq!(profile.validate(), Ok(()));
        for output in OUTPUTS {
            let _ = output.write(&profile, &mut std::io::sink());
        }
    }
});
