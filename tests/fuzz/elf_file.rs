//! Bytes as a file whose addresses are to be named.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use hostscope::symbolize::{ElfSource, Options, Symbolizer};
use rustix::fs::{MemfdFlags, memfd_create};

/// Asks for names all over a file of `bytes`.
pub fn resolve(bytes: &[u8], inlines: bool) {
    let Ok(file) = memfd_create("fuzz", MemfdFlags::CLOEXEC) else { return };
    let mut file = File::from(file);
    if file.write_all(bytes).is_err() {
        return;
    }
    let offsets: Vec<u64> = (0..bytes.len() as u64).step_by(1 + bytes.len() / 64).collect();
    let source = ElfSource { file: &file, path: Path::new("/nonexistent/file"), root: None };
    let _ = Symbolizer::new(Options { inlines, cache_entries: 0 }).elf(&source, None, &offsets);
}
