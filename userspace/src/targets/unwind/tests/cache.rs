//! The cache on disk, among friends and enemies.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::files::{CODE, Records, table};
use crate::targets::elf::BuildId;
use crate::targets::unwind::{Cached, Table, TableCache};

fn id(number: u8) -> BuildId {
    BuildId::new(&[number; 20]).unwrap()
}

fn sample() -> Table {
    table(&Records::usual().function(CODE[0], 64, &[0x41, 0x0e, 16])).0
}

fn path(folder: &Path, number: u8) -> PathBuf {
    folder.join(format!("{}.unwind", id(number)))
}

fn open(folder: &Path) -> TableCache {
    TableCache::open(folder, 1 << 20).unwrap()
}

#[test]
fn what_was_put_in_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/b");
    let mut cache = open(&inner);
    assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(cache.get(&id(1)), None);
    cache.put(&id(1), Some(&sample()));
    cache.put(&id(2), None);
    let mut cache = open(&inner);
    assert_eq!(cache.get(&id(1)), Some(Cached::Table(sample())));
    assert_eq!(cache.get(&id(2)), Some(Cached::NoUnwindInformation));
    assert_eq!(cache.get(&id(3)), None);
    assert_eq!((cache.counts().hits, cache.counts().misses, cache.counts().rejected), (2, 1, 0));
    assert_eq!(fs::read_dir(&inner).unwrap().count(), 2);
}

#[test]
fn damaged_files_are_removed_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut cache = open(folder.path());
    cache.put(&id(1), Some(&sample()));
    let whole = fs::read(path(folder.path(), 1)).unwrap();
    let mut rejected = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(path(folder.path(), 1), damaged).unwrap();
        assert_eq!(cache.get(&id(1)), None, "byte {at}");
        assert!(!path(folder.path(), 1).exists());
        rejected += 1;
    }
    for length in [0, 1, 63, 64, 65, 127, whole.len() - 1] {
        fs::write(path(folder.path(), 1), &whole[..length]).unwrap();
        assert_eq!(cache.get(&id(1)), None, "length {length}");
        rejected += 1;
    }
    // Another file's, under this one's name.
    fs::write(path(folder.path(), 2), &whole).unwrap();
    assert_eq!(cache.get(&id(2)), None);
    assert_eq!(cache.counts().rejected, rejected + 1);
}

#[test]
fn links_pipes_and_folders_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mut cache = open(folder.path());
    cache.put(&id(1), Some(&sample()));
    symlink(path(folder.path(), 1), path(folder.path(), 3)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path(folder.path(), 4),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::create_dir(path(folder.path(), 5)).unwrap();
    for number in [3, 4, 5] {
        assert_eq!(cache.get(&id(number)), None);
    }
    assert_eq!(cache.counts().rejected, 2);
    cache.put(&id(5), Some(&sample()));
    assert_eq!(cache.counts().unwritten, 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn folders_that_others_may_change_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = fs::create_dir(folder.path().join("open"))
        .and_then(|()| fs::set_permissions(folder.path().join("open"), fs::Permissions::from_mode(0o777)))
        .and_then(|()| TableCache::open(&folder.path().join("open"), 1));
    assert!(open.is_err());
    symlink(folder.path(), folder.path().join("link")).unwrap();
    assert!(TableCache::open(&folder.path().join("link"), 1).is_err());
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(TableCache::open(&folder.path().join("file"), 1).is_err());
    if rustix::process::geteuid().is_root() {
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::chown(&other, Some(12345), None).unwrap();
        assert!(TableCache::open(&other, 1).is_err());
    }
}

#[test]
fn another_users_file_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cache = open(folder.path());
    cache.put(&id(1), Some(&sample()));
    std::os::unix::fs::chown(path(folder.path(), 1), Some(12345), None).unwrap();
    assert_eq!(cache.get(&id(1)), None);
    assert_eq!(cache.counts().rejected, 1);
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let each = sample().bytes().len() as u64 + 64;
    let mut cache = TableCache::open(folder.path(), each * 8).unwrap();
    for number in 0..8 {
        cache.put(&id(number), Some(&sample()));
        let file = fs::File::options().write(true).open(path(folder.path(), number)).unwrap();
        let age = Duration::from_secs(1000 - u64::from(number));
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    assert!(cache.get(&id(0)).is_some());
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    cache.put(&id(8), Some(&sample()));
    let left: Vec<u8> = (0..9).filter(|&number| path(folder.path(), number).exists()).collect();
    assert_eq!(left, [0, 3, 4, 5, 6, 7, 8]);
    assert_eq!(cache.counts().evicted, 2);
    assert!(folder.path().join("notes.txt").exists());
    // What a smaller limit leaves at the next start, and what never fits.
    let mut cache = TableCache::open(folder.path(), each * 2).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    assert!(cache.get(&id(8)).is_some());
    let mut cache = TableCache::open(folder.path(), each - 1).unwrap();
    cache.put(&id(1), Some(&sample()));
    assert_eq!(cache.counts().unwritten, 1);
}

#[test]
fn what_was_never_finished_is_removed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    for (name, age) in [("12-3.tmp", 3600), ("14-3.tmp", 1), ("mine.tmp", 3600)] {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    open(folder.path());
    let mut left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["14-3.tmp", "mine.tmp"]);
}
