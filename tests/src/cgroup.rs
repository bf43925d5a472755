//! Cgroups of the tests' own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::workload::Workload;

/// A cgroup of the test's own, removed when this is dropped; its processes must have ended by then.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// One with this name in a folder of the cgroup file system.
    #[must_use]
    pub fn below(parent: &Path, name: &str) -> Self {
        let folder = parent.join(name);
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self(folder)
    }

    /// Puts a workload into it.
    pub fn adopt(&self, workload: &Workload) {
        fs::write(self.0.join("cgroup.procs"), workload.pid_text()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where the file system of cgroups (version 2) is.
#[must_use]
pub fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = words.find(|words| words[2] == "cgroup2");
    PathBuf::from(found.expect("a cgroup2 file system: mount -t cgroup2 none /sys/fs/cgroup/unified")[1])
}
