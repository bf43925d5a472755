//! Tables on disk, a file a build id: what was made once is there at the next start.
//!
//! The folder may be anywhere, and what lies in it is believed only after its owner, its checksum and the table itself
//! were checked. A file that fails is removed, counted, and made again: nothing here is an error for a capture.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use flate2::Crc;
use hostscope_wire::unwind::{BLOCK_BYTES, Block, TABLE_MAGIC};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};

use super::table::{Table, block_bytes, block_bytes_mut};
use crate::targets::elf::BuildId;

/// Most bytes of all files, unless told otherwise: a table is a fiftieth of its file, so this holds the programs of a
/// full disk of 12 GB.
pub const DEFAULT_MAX_BYTES: u64 = 256 << 20;

/// "HSUC", little-endian: the first word of every file.
const CACHE_MAGIC: u32 = 0x4355_5348;

/// To be raised with every change that makes other tables of the same files.
const COMPILE_VERSION: u32 = 5;

/// What ends the names of whole files, and of those being written.
const SUFFIX: &[u8] = b".unwind";
const TEMPORARY_SUFFIX: &[u8] = b".tmp";

/// A file that was being written this long ago was left behind when its writer was killed.
const ABANDONED_AFTER: Duration = Duration::from_mins(10);

/// What the cache knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// Its table.
    Table(Table),
    /// That it has none.
    NoUnwindInformation,
}

/// What became of the cache's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Found.
    pub hits: u64,
    /// Not there.
    pub misses: u64,
    /// Removed since they were damaged, of another version, or another user's.
    pub rejected: u64,
    /// Removed to make room.
    pub evicted: u64,
    /// Could not be written: the disk is full, or the folder is not ours to write.
    pub unwritten: u64,
}

/// Tables on disk.
pub struct TableCache {
    folder: OwnedFd,
    max_bytes: u64,
    /// As far as this process knows; others may use the folder too.
    used_bytes: u64,
    counts: CacheCounts,
}

impl TableCache {
    /// Opens the cache in `folder`, which is made where it is missing, for this user alone. Its files hold `max_bytes`
    /// at most.
    ///
    /// # Errors
    /// The folder cannot be made, is a symbolic link, or could be changed by other users than this one and root.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, folder, flags, Mode::empty())?;
        let stat = fstat(&folder)?;
        if !is_trusted(stat.st_uid) || stat.st_mode & 0o022 != 0 {
            let why = "the folder belongs to another user, or others may write into it";
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        let mut cache = Self { folder, max_bytes, used_bytes: 0, counts: CacheCounts::default() };
        cache.used_bytes = cache.scan()?.iter().map(|entry| entry.bytes).sum();
        cache.make_room(0);
        Ok(cache)
    }

    /// What is known of the file with this build id.
    pub fn get(&mut self, build_id: &BuildId) -> Option<Cached> {
        let name = name_of(build_id)?;
        match self.read(&name, build_id) {
            Ok(found) => {
                self.counts.hits += 1;
                Some(found)
            }
            Err(error) => {
                self.counts.misses += 1;
                if error.kind() != ErrorKind::NotFound
                    && unlinkat(&self.folder, &name, AtFlags::empty()).is_ok()
                {
                    self.counts.rejected += 1;
                }
                None
            }
        }
    }

    /// Keeps the table of the file with this build id, or `None` where it has none.
    pub fn put(&mut self, build_id: &BuildId, table: Option<&Table>) {
        let blocks = table.map_or(&[][..], Table::blocks);
        let bytes = (BLOCK_BYTES + size_of_val(blocks)) as u64;
        if bytes <= self.max_bytes {
            self.make_room(bytes);
        }
        if bytes <= self.max_bytes && self.write(build_id, blocks).is_ok() {
            self.used_bytes += bytes;
        } else {
            self.counts.unwritten += 1;
        }
    }

    /// What became of its files so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        self.counts
    }

    /// An error is a file that is none of ours, or not there.
    fn read(&self, name: &CString, build_id: &BuildId) -> io::Result<Cached> {
        let damaged = || io::Error::from(ErrorKind::InvalidData);
        // Without waiting: somebody may have put a pipe there.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        let bytes = metadata.len();
        if !metadata.is_file() || !is_trusted(metadata.uid()) || bytes > self.max_bytes {
            return Err(damaged());
        }
        let mut prelude = [Block::ZERO];
        file.read_exact(block_bytes_mut(&mut prelude))?;
        let mut blocks = vec![Block::ZERO; (bytes / BLOCK_BYTES as u64).saturating_sub(1) as usize];
        if bytes != ((blocks.len() + 1) * BLOCK_BYTES) as u64 {
            return Err(damaged());
        }
        file.read_exact(block_bytes_mut(&mut blocks))?;
        if prelude[0] != make_prelude(build_id, &blocks) {
            return Err(damaged());
        }
        // That it was used lately keeps it; a file that this user may not touch goes earlier than it should.
        let _ = file.set_modified(SystemTime::now());
        if blocks.is_empty() {
            return Ok(Cached::NoUnwindInformation);
        }
        Table::from_blocks(blocks).map(Cached::Table).map_err(|_| damaged())
    }

    fn write(&self, build_id: &BuildId, blocks: &[Block]) -> io::Result<()> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = name_of(build_id).ok_or(ErrorKind::InvalidInput)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = CString::new(format!("{}-{number}.tmp", std::process::id()))?;
        // Pids come round again: what an earlier process of this one left behind is in the way.
        let _ = unlinkat(&self.folder, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file
            .write_all(block_bytes(&[make_prelude(build_id, blocks)]))
            .and_then(|()| file.write_all(block_bytes(blocks)))
            // What a power failure leaves of it, the checksum shows: nobody waits for the disk.
            .and_then(|()| Ok(renameat(&self.folder, &temporary, &self.folder, &name)?));
        if written.is_err() {
            let _ = unlinkat(&self.folder, &temporary, AtFlags::empty());
        }
        written
    }

    /// Removes the files used longest ago until `bytes` more have room, and an eighth of the whole beyond that, so that
    /// not every file that comes has to read the folder.
    fn make_room(&mut self, bytes: u64) {
        if self.used_bytes + bytes <= self.max_bytes {
            return;
        }
        let Ok(mut entries) = self.scan() else { return };
        entries.sort_by_key(|entry| entry.used);
        self.used_bytes = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if self.used_bytes + bytes <= self.max_bytes - self.max_bytes / 8 {
                break;
            }
            if unlinkat(&self.folder, &entry.name, AtFlags::empty()).is_ok() {
                self.used_bytes -= entry.bytes;
                self.counts.evicted += 1;
            }
        }
    }

    /// The files that are ours by their names; those that were never finished are removed. Others are left alone: the
    /// folder is whatever somebody has named.
    fn scan(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_owned();
            let is_temporary =
                is_named(name.as_bytes(), TEMPORARY_SUFFIX, |byte| byte == b'-' || byte.is_ascii_digit());
            if !is_temporary && !is_named(name.as_bytes(), SUFFIX, |byte| byte.is_ascii_hexdigit()) {
                continue;
            }
            let Ok(stat) = statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                continue;
            }
            let used =
                SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            if is_temporary {
                if used.elapsed().is_ok_and(|age| age > ABANDONED_AFTER) {
                    let _ = unlinkat(&self.folder, &name, AtFlags::empty());
                }
                continue;
            }
            let used = used + Duration::from_nanos(stat.st_mtime_nsec);
            entries.push(Entry { name, used, bytes: u64::try_from(stat.st_size).unwrap_or(0) });
        }
        Ok(entries)
    }
}

/// A file of the cache.
struct Entry {
    name: CString,
    used: SystemTime,
    bytes: u64,
}

/// Whether what this user owns may be believed: one's own, and root's.
fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Whether `name` is of bytes that `allowed` lets pass, and then `suffix`.
fn is_named(name: &[u8], suffix: &[u8], allowed: impl Fn(u8) -> bool) -> bool {
    name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty() && stem.iter().all(|&byte| allowed(byte)))
}

fn name_of(build_id: &BuildId) -> Option<CString> {
    let mut name = build_id.to_string().into_bytes();
    name.extend(SUFFIX);
    CString::new(name).ok()
}

/// The first block of the file that holds `blocks`.
fn make_prelude(build_id: &BuildId, blocks: &[Block]) -> Block {
    let mut prelude = Block::ZERO;
    prelude.0[..4].copy_from_slice(&[CACHE_MAGIC, TABLE_MAGIC, COMPILE_VERSION, blocks.len() as u32]);
    let id = build_id.as_bytes();
    prelude.0[5] = id.len() as u32;
    for (word, bytes) in prelude.0[6..].iter_mut().zip(id.chunks(4)) {
        let mut padded = [0; 4];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_le_bytes(padded);
    }
    let mut sum = Crc::new();
    sum.update(block_bytes(&[prelude]));
    sum.update(block_bytes(blocks));
    prelude.0[4] = sum.sum();
    prelude
}
