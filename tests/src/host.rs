//! One test at a time on the one host there is, and only where it can run.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// The host for one test alone, until this is dropped.
#[must_use]
pub struct Host {
    _lock: File,
}

/// Waits until no other test uses the host: tests share its CPUs, and what one of them burns would be in the profile of
/// another. `cargo test` runs them in threads, and two `cargo test` may run at once; both are kept apart.
#[must_use]
pub fn host() -> Host {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test loads eBPF programs and needs root: run `cargo xtask test`, which asks sudo where needed"
    );
    let path = own_folder().join(".host-in-use");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flock(&file, FlockOperation::LockExclusive).expect("a lock on a file of our own");
    Host { _lock: file }
}

/// The folder that the test program lies in, which is the tests' own to write to.
#[must_use]
pub fn own_folder() -> PathBuf {
    let program = std::env::current_exe().expect("/proc is mounted");
    program.parent().expect("a program lies in a folder").to_path_buf()
}

/// Cargo's target folder, two above the test program (`target/debug/deps`).
#[must_use]
pub fn target_folder() -> PathBuf {
    own_folder().ancestors().nth(2).map_or_else(own_folder, PathBuf::from)
}

/// Leaves a test out for something that the environment lacks: `return skip!("reason")`. It is printed and, for the
/// count at the end of `cargo xtask test`, appended to the file that `HOSTSCOPE_SKIPPED_FILE` names.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        fn here() {}
        $crate::host::skipped(std::any::type_name_of_val(&here), &format!($($reason)*))
    }};
}

/// Notes that a test was left out; `place` is the type name of a function within it. Use [`skip!`].
pub fn skipped(place: &str, reason: &str) {
    let name = place.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let line = format!("{name}: {reason}\n");
    eprint!("skipped {line}");
    if let Some(path) = std::env::var_os("HOSTSCOPE_SKIPPED_FILE") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of skipped tests");
    }
}

/// How many CPUs are online.
#[must_use]
pub fn online_cpus() -> usize {
    hostscope::load::online_cpus().expect("/sys is mounted").len()
}

/// Asks every 10 ms until there is an answer.
///
/// Panics, naming `what`, where there is none within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
