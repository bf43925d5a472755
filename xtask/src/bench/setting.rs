//! What is another for a while: a setting of the kernel, a mounted file system, our own priority.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::process;

/// The setting has the wanted value while this lives, and then again the one before.
pub(crate) struct Setting {
    file: &'static str,
    before: String,
}

impl Setting {
    /// Writes `value` to `file` below /proc/sys.
    pub(crate) fn set(file: &'static str, value: &str) -> Result<Self> {
        let path = Path::new(file);
        let before = fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
        fs::write(path, value).map_err(|error| Failure::file("write", path, &error))?;
        Ok(Self { file, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // It was writable a moment ago; there is nobody to tell if it no longer is.
        let _ = fs::write(self.file, self.before.trim());
    }
}

/// tracefs is mounted while this lives; one peer has no other way to see processes end.
pub(crate) struct Tracefs {
    mounted_here: bool,
}

const TRACEFS: &str = "/sys/kernel/tracing";

impl Tracefs {
    /// Mounts it where it is not.
    pub(crate) fn mount() -> Self {
        if Path::new(TRACEFS).join("events").is_dir() {
            return Self { mounted_here: false };
        }
        let mut mount = Command::new("mount");
        let mounted = process::output(mount.args(["-t", "tracefs", "nodev", TRACEFS]));
        // Where it cannot be mounted, the peer that needs it says so itself.
        Self { mounted_here: mounted.is_ok_and(|output| output.status.success()) }
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.mounted_here {
            let _ = process::output(Command::new("umount").arg(TRACEFS));
        }
    }
}

/// This process and what it starts have another priority while this lives.
pub(crate) struct Priority {
    before: [i32; 2],
}

/// The priority of this session as a whole: with automatic grouping (`CONFIG_SCHED_AUTOGROUP`, 2.6.38) a process's own
/// counts within its session only.
const AUTOGROUP: &str = "/proc/self/autogroup";

impl Priority {
    /// As `nice(1)`; a system that does not allow it leaves things as they are.
    pub(crate) fn set(nice: i32) -> Self {
        // As in "/autogroup-84 nice 0".
        let group = fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let group = group.rsplit(' ').next().and_then(|number| number.trim().parse().ok()).unwrap_or(0);
        // SAFETY: takes numbers only; 0 is this process.
        let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        Self::apply(nice, nice);
        Self { before: [own, group] }
    }

    fn apply(own: i32, group: i32) {
        // SAFETY: takes numbers only; 0 is this process.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, own) };
        let _ = fs::write(AUTOGROUP, group.to_string());
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        let [own, group] = self.before;
        Self::apply(own, group);
    }
}
