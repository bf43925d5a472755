//! From the path of a cgroup to what the kernel side compares with.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::load::Filter;

const MEND: &str =
    "name a folder below /sys/fs/cgroup, or a path as in /proc/PID/cgroup (its line that begins with 0::)";

/// The filter for the cgroup (version 2) at `path`: a folder of the cgroup file system, or a name below its root as in
/// `/proc/PID/cgroup`.
///
/// # Errors
/// There is no cgroup2 file system, or no such cgroup in it.
pub fn filter(path: &Path) -> Result<Filter> {
    let (folder, level) = find(path)?;
    // The id of a cgroup is the inode number of its folder (kernfs, 64-bit inodes since 5.5).
    let metadata = fs::metadata(&folder)
        .map_err(|error| Error::failed(format!("cannot look at {}: {error}", folder.display()), MEND))?;
    Ok(Filter::Cgroup { id: metadata.ino(), level })
}

/// The processes in the cgroup (version 2) at `path`, named as above, and in those below it.
///
/// # Errors
/// As above.
pub fn members(path: &Path) -> Result<Vec<u32>> {
    let (folder, _) = find(path)?;
    let mut pids = Vec::new();
    let mut folders = vec![folder];
    // It ends: cgroups are as many as the kernel has memory for, and its file system has no links.
    while let Some(folder) = folders.pop() {
        // A threaded cgroup tells of no processes: they are told of above it. One that has just gone has none.
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        // 0 stands for a process outside of hostscope's own pid namespace.
        pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &u32| pid != 0));
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        folders.extend(below.filter(is_folder).map(|entry| entry.path()));
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// The folder of the cgroup at `path`, and how many levels it lies below the root.
fn find(path: &Path) -> Result<(PathBuf, u32)> {
    let mounts = cgroup2_mounts();
    if mounts.is_empty() {
        return Err(Error::failed(
            "cannot select a cgroup: no cgroup2 file system is mounted",
            "mount one: mount -t cgroup2 none /sys/fs/cgroup",
        ));
    }
    let below = path.strip_prefix("/").unwrap_or(path);
    let folder = std::iter::once(path.to_path_buf())
        .chain(mounts.iter().map(|mount| mount.join(below)))
        .filter_map(|folder| fs::canonicalize(folder).ok())
        .find_map(|folder| {
            let mount = mounts
                .iter()
                .filter(|mount| folder.starts_with(mount))
                .max_by_key(|m| m.as_os_str().len())?;
            let level = folder.strip_prefix(mount).ok()?.components().count() as u32;
            Some((folder, level))
        });
    let Some((folder, level)) = folder else {
        return Err(Error::failed(format!("there is no cgroup (version 2) {}", path.display()), MEND));
    };
    if !folder.is_dir() {
        return Err(Error::failed(format!("{} is not a cgroup's folder", folder.display()), MEND));
    }
    Ok((folder, level))
}

fn cgroup2_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (folder, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(folder))
        })
        .collect()
}
