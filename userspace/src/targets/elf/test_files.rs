//! Real ELF files for tests: compiled on the spot, and those of the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Runs `program` and gives what it prints; a failure is the test's.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder in which a test makes its files; it goes with the value.
pub(crate) struct Workshop(TempDir);

impl Workshop {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Compiles `source` with the compiler that its language (`c`, `cc`, `rs`) has, to a file called `name`.
    pub(crate) fn compile(&self, name: &str, language: &str, source: &str, flags: &[&str]) -> PathBuf {
        let input = self.path(&format!("{name}.{language}"));
        fs::write(&input, source).unwrap();
        let output = self.path(name);
        let compiler = match language {
            "c" => "gcc",
            "cc" => "g++",
            _ => "rustc",
        };
        run(compiler, &[flags, &["-o", text(&output), text(&input)]].concat());
        output
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The libraries that every host has, as far as this one does.
pub(crate) fn system_files() -> Vec<PathBuf> {
    let output = Command::new("ldd").arg("/bin/bash").output().expect("ldd runs");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = listing.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    paths.chain([PathBuf::from("/bin/bash")]).filter(|path| path.exists()).collect()
}

/// Bytes that look random and are the same each time (splitmix64).
pub(crate) fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
