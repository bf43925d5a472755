//! Separate debug files: where distributions put the symbols that they strip from a file.
//!
//! By build id, by debug link, or embedded and compressed: GDB's manual, "Debugging Information in Separate Files"
//! and the section after it (<https://sourceware.org/gdb/current/onlinedocs/gdb.html/Separate-Debug-Files.html>).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use lzma_rust2::XzReader;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::ElfSource;
use crate::targets::elf::{BuildId, ElfFile};

/// Where distributions install debug files.
const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// The longest `.gnu_debuglink` that is read: a file name and a checksum.
const MAX_LINK_BYTES: u64 = 4096;
/// The largest debug file whose checksum is computed: tenths of a second of work. Those with a build id need none.
const MAX_CHECKSUM_BYTES: u64 = 256 * 1024 * 1024;
/// The longest compressed `.gnu_debugdata` that is read: the names alone of a large program's functions.
const MAX_EMBEDDED_BYTES: u64 = 16 * 1024 * 1024;
/// The longest table that it may unpack to.
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;
/// How much memory unpacking may take, in KiB: as much as `xz -9` asks for, its dictionary of 64 MiB.
const MAX_UNPACK_MEMORY_KIB: u32 = 65 * 1024 + 512;

/// An open debug file.
pub(super) struct DebugFile {
    pub(super) file: File,
    /// Its path in the root where it was found.
    pub(super) path: PathBuf,
}

/// The debug file that belongs to `elf`, the headers of `source`.
pub(super) fn find(source: &ElfSource<'_>, elf: &ElfFile<'_>) -> Option<DebugFile> {
    let build_id = elf.build_id();
    let link =
        elf.section(b".gnu_debuglink").and_then(|section| elf.section_bytes(section, MAX_LINK_BYTES).ok());
    let link = link.as_deref().and_then(debug_link);
    let by_link = link.map(|(name, checksum)| (linked_paths(source.path, &name), checksum));
    [source.root, Some(Path::new("/"))].into_iter().flatten().filter_map(Root::open).find_map(|root| {
        let by_id = build_id.and_then(|id| {
            let path = path_of_build_id(&id)?;
            let file = root.open_file(&path)?;
            has_build_id(&file, &id).then_some(DebugFile { file, path })
        });
        by_id.or_else(|| {
            let (paths, checksum) = by_link.as_ref()?;
            paths.iter().find_map(|path| {
                let file = root.open_file(path)?;
                let fits = !is_same_file(&file, source.file) && belongs(&file, build_id.as_ref(), *checksum);
                fits.then(|| DebugFile { file, path: path.clone() })
            })
        })
    })
}

/// The symbol table embedded in `elf`: itself an ELF file.
pub(super) fn embedded(elf: &ElfFile<'_>) -> Option<Vec<u8>> {
    let packed = elf.section_bytes(elf.section(b".gnu_debugdata")?, MAX_EMBEDDED_BYTES).ok()?;
    let mut image = Vec::new();
    XzReader::new_mem_limit(&packed[..], false, MAX_UNPACK_MEMORY_KIB)
        .take(MAX_UNPACKED_BYTES)
        .read_to_end(&mut image)
        .ok()?;
    Some(image)
}

/// File name and checksum of a `.gnu_debuglink` section: a name that ends with a zero byte, padding to four bytes, and
/// the CRC-32 of the file.
pub(super) fn debug_link(section: &[u8]) -> Option<(String, u32)> {
    let length = section.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(&section[..length]).ok()?;
    let checksum = section.get((length + 1).next_multiple_of(4)..)?.first_chunk()?;
    // A name, not a path: it must not lead out of the folders that are searched.
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    is_name.then(|| (name.to_owned(), u32::from_le_bytes(*checksum)))
}

/// Where a debug file called `name` may lie that belongs to the file at `path`.
fn linked_paths(path: &Path, name: &str) -> Vec<PathBuf> {
    let Some(folder) = path.parent().filter(|folder| folder.is_absolute()) else { return Vec::new() };
    let below = folder.strip_prefix("/").unwrap_or(folder);
    vec![folder.join(name), folder.join(".debug").join(name), Path::new(DEBUG_FOLDER).join(below).join(name)]
}

/// `/usr/lib/debug/.build-id/ab/cdef….debug`.
fn path_of_build_id(id: &BuildId) -> Option<PathBuf> {
    let digits = id.to_string();
    let (first, rest) = digits.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())?;
    Some(format!("{DEBUG_FOLDER}/.build-id/{first}/{rest}.debug").into())
}

/// Whether `file` is the debug file that a link with `checksum` means, in a file whose build id is `build_id`.
fn belongs(file: &File, build_id: Option<&BuildId>, checksum: u32) -> bool {
    let theirs = ElfFile::parse(file).ok().and_then(|elf| elf.build_id());
    match (build_id, theirs) {
        (Some(ours), Some(theirs)) => *ours == theirs,
        _ => checksum_of(file).is_ok_and(|sum| sum == Some(checksum)),
    }
}

fn has_build_id(file: &File, id: &BuildId) -> bool {
    ElfFile::parse(file).is_ok_and(|elf| elf.build_id().as_ref() == Some(id))
}

/// The CRC-32 of `file` (the one of zlib, as GDB computes it); `None` where it is too large.
fn checksum_of(file: &File) -> io::Result<Option<u32>> {
    if file.metadata()?.len() > MAX_CHECKSUM_BYTES {
        return Ok(None);
    }
    let mut crc = Crc::new();
    let mut file = file;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Some(crc.sum())),
            count => crc.update(&chunk[..count]),
        }
    }
}

fn is_same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The root of a file system as a process sees it.
struct Root(rustix::fd::OwnedFd);

impl Root {
    fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok().map(Self)
    }

    /// The regular file at `path` below this root.
    ///
    /// The root may be a container's: `RESOLVE_IN_ROOT` (Linux 5.6) keeps its symbolic links within it, and the file
    /// is looked at before it is opened, since opening a device or a pipe may block or have an effect.
    fn open_file(&self, path: &Path) -> Option<File> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve).ok()?;
        let mode = rustix::fs::fstat(&found).ok()?.st_mode;
        if !rustix::fs::FileType::from_raw_mode(mode).is_file() {
            return None;
        }
        File::open(format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&found))).ok()
    }
}
