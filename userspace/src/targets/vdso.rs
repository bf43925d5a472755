//! The vDSO: the library that the kernel maps into every process and that is no file.
//!
//! The kernel gives all processes of one bitness the same image (vdso(7)), so ours stands for theirs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};

/// How large an image is believed: the kernel's has two pages.
const MAX_IMAGE_BYTES: u64 = 1024 * 1024;

/// The image as this process has it mapped: an ELF file.
///
/// # Errors
/// What reading `/proc/self/maps` and `/proc/self/mem` gives, or that there is no vDSO (`vdso=0`, some emulators).
pub(crate) fn image() -> io::Result<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let (start, end) =
        range(&maps).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process has no vDSO"))?;
    let mut memory = File::open("/proc/self/mem")?;
    memory.seek(SeekFrom::Start(start))?;
    let mut image = Vec::new();
    memory.take((end - start).min(MAX_IMAGE_BYTES)).read_to_end(&mut image)?;
    Ok(image)
}

/// First address and end of the mapping called `[vdso]`.
fn range(maps: &str) -> Option<(u64, u64)> {
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (start < end).then_some((start, end))
}
