//! The files that code is mapped from, held open so that their names outlive the process and the file's own name.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::elf::{BuildId, ElfFile};

/// Index of a file in [`Files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// What sort of thing is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file, which should be ELF.
    File,
    /// The code that the kernel lends every process.
    Vdso,
    /// Memory without a file, or a file that only carries memory: code made at run time.
    Anonymous,
}

/// A file that code is mapped from.
#[derive(Debug)]
pub struct MappedFile {
    /// The path as the process saw it first, or a name in brackets.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// The file, open for reading; `None` where it could not be opened.
    pub handle: Option<File>,
    /// A process that maps it: debug files are looked for under its root first.
    pub pid: u32,
}

impl MappedFile {
    /// The build id, read from the open file; `None` where there is none to be read.
    #[must_use]
    pub fn build_id(&self) -> Option<BuildId> {
        ElfFile::parse(self.handle.as_ref()?).ok()?.build_id()
    }
}

/// Where a file is mapped, for opening it.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'a> {
    /// The process.
    pub pid: u32,
    /// First address of the mapping.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// The file's device, major and minor number.
    pub device: (u32, u32),
    /// Its inode; 0 where it is no file.
    pub inode: u64,
    /// The cleaned path.
    pub path: &'a [u8],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    File { device: (u32, u32), inode: u64 },
    Named(Vec<u8>),
}

/// All files met, one entry each.
#[derive(Default)]
pub struct Files {
    all: Vec<MappedFile>,
    by_key: HashMap<Key, FileId>,
    held: usize,
    most_held: usize,
    /// Files that could not be opened or held; their frames show as `[file+0xoffset]`.
    pub unopened: u64,
}

impl Files {
    /// An empty table that holds at most half as many files open as this process may have.
    #[must_use]
    pub fn new() -> Self {
        Self { most_held: raise_open_file_limit() / 2, ..Self::default() }
    }

    /// The file behind `id`.
    #[must_use]
    pub fn get(&self, id: FileId) -> &MappedFile {
        &self.all[id.0 as usize]
    }

    /// The file of a mapping; opened at the first sighting, while the process still lives.
    ///
    /// About 5 µs for a file not met before, 50 ns for one that was.
    pub fn intern(&mut self, sighting: &Sighting<'_>) -> FileId {
        let kind = kind_of(sighting);
        let key = match kind {
            FileKind::File => Key::File { device: sighting.device, inode: sighting.inode },
            FileKind::Vdso | FileKind::Anonymous => Key::Named(sighting.path.to_vec()),
        };
        if let Some(&id) = self.by_key.get(&key) {
            if kind == FileKind::File && self.all[id.0 as usize].handle.is_none() {
                // It could not be opened through the process that showed it first; this one may be luckier.
                self.hold(id, sighting);
            }
            return id;
        }
        let path = match kind {
            FileKind::Vdso => PathBuf::from("[vdso]"),
            FileKind::Anonymous if sighting.path.is_empty() || sighting.path.starts_with(b"//anon") => {
                "[anon]".into()
            }
            _ => PathBuf::from(OsStr::from_bytes(sighting.path)),
        };
        let id = FileId(self.all.len() as u32);
        self.all.push(MappedFile { path, kind, handle: None, pid: sighting.pid });
        self.by_key.insert(key, id);
        if kind == FileKind::File && !self.hold(id, sighting) {
            self.unopened += 1;
        }
        id
    }

    fn hold(&mut self, id: FileId, sighting: &Sighting<'_>) -> bool {
        if self.held >= self.most_held {
            return false;
        }
        let Some(file) = open(sighting) else { return false };
        let entry = &mut self.all[id.0 as usize];
        entry.handle = Some(file);
        entry.pid = sighting.pid;
        self.held += 1;
        true
    }
}

fn kind_of(sighting: &Sighting<'_>) -> FileKind {
    /// Files that carry only memory: what stands in them is no ELF, and their names say nothing.
    const MEMORY: &[&[u8]] = &[
        b"//anon",
        b"/memfd:",
        b"/dev/zero",
        b"/dev/shm/",
        b"/SYSV",
        b"/anon_hugepage",
        b"anon_inode:",
        b"[anon",
    ];
    let path = sighting.path;
    if path.starts_with(b"[vdso]") {
        FileKind::Vdso
    } else if path.is_empty() || sighting.inode == 0 || MEMORY.iter().any(|prefix| path.starts_with(prefix)) {
        FileKind::Anonymous
    } else {
        FileKind::File
    }
}

/// Opens the file of a mapping: by the mapping itself, which is right even where the file was deleted or lies in
/// another mount namespace; else by its path under the process's root; else, where the process has gone, by its path
/// under our own. A path leads to another file where that was replaced, so the inode is compared.
fn open(sighting: &Sighting<'_>) -> Option<File> {
    let Sighting { pid, start, end, .. } = *sighting;
    let by_mapping = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    if let Ok(file) = open_for_reading(Path::new(&by_mapping)) {
        return Some(file);
    }
    let path = Path::new(OsStr::from_bytes(sighting.path));
    let in_root = path.strip_prefix("/").ok().map(|path| Path::new(&format!("/proc/{pid}/root")).join(path));
    [in_root.as_deref(), Some(path)].into_iter().flatten().find_map(|path| {
        let file = open_for_reading(path).ok()?;
        is_same_file(&file, sighting).then_some(file)
    })
}

fn open_for_reading(path: &Path) -> std::io::Result<File> {
    // A hostile path may name a pipe or a terminal: neither wait for it nor let it become ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("not a regular file")) }
}

fn is_same_file(file: &File, sighting: &Sighting<'_>) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    // Overlay and btrfs show other device numbers to stat than to the mapping, all of them with major number 0.
    metadata.ino() == sighting.inode && (device == sighting.device || device.0 == 0 || sighting.device.0 == 0)
}

/// Raises the soft limit of open files to the hard one, and says how many that is.
fn raise_open_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    // A bound of our own where the system has none: a host with more distinct files mapped as code is not known.
    current.unwrap_or(u64::MAX).min(1 << 16) as usize
}
