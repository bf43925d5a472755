//! The load that is profiled: many processes that sleep and one that never does, all started and ended here.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// The length of the time slots by whose functions the busy process tells when a sample was taken; as in busy.c.
pub(crate) const SLOT_MS: f64 = 5.0;

/// Whether the busy process keeps frame pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramePointers {
    Kept,
    Omitted,
}

/// Processes that end when this is dropped, or with their parent, whichever comes first.
pub(crate) struct Idle {
    children: Vec<Child>,
}

impl Idle {
    /// `count` processes that sleep.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let mut idle = Self { children: Vec::with_capacity(count) };
        idle.grow_to(count)?;
        Ok(idle)
    }

    /// Adds what is missing to `count`.
    pub(crate) fn grow_to(&mut self, count: usize) -> Result<()> {
        while self.children.len() < count {
            let mut command = Command::new("sleep");
            command.arg("3600").stdin(Stdio::null());
            ends_with_parent(&mut command, libc::SIGKILL);
            self.children.push(command.spawn().map_err(|error| process::cannot_start(&command, &error))?);
        }
        Ok(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        end(&mut self.children);
    }
}

/// The busy process: two threads that never wait.
pub(crate) struct Busy {
    child: [Child; 1],
    clock: PathBuf,
}

impl Busy {
    /// Compiles it and starts it, its work `depth` callers deep.
    pub(crate) fn start(folder: &Path, frame_pointers: FramePointers, depth: u32) -> Result<Self> {
        let program = compile(folder, frame_pointers)?;
        let clock = folder.join("clock");
        workspace::write(&clock, [0; 8])?;
        let mut command = Command::new(&program);
        command.args(["2", &depth.to_string()]).arg(&clock).stdin(Stdio::null());
        ends_with_parent(&mut command, libc::SIGKILL);
        let child = command.spawn().map_err(|error| process::cannot_start(&command, &error))?;
        Ok(Self { child: [child], clock })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child[0].id()
    }

    /// From now on functions are named by the time since now.
    pub(crate) fn start_clock(&self) -> Result<()> {
        self.set_clock(monotonic_ns())
    }

    /// Functions have their everyday names again.
    pub(crate) fn stop_clock(&self) -> Result<()> {
        self.set_clock(0)
    }

    fn set_clock(&self, nanoseconds: u64) -> Result<()> {
        // In place: the process has this very file mapped.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(&self.clock)
            .map_err(|error| Failure::file("open", &self.clock, &error))?;
        std::io::Write::write_all(&mut file, &nanoseconds.to_ne_bytes())
            .map_err(|error| Failure::file("write", &self.clock, &error))
    }

    /// CPU time it has had so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Fields 14 and 15, counted from behind the name, which is field 2.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / 100.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

pub(crate) fn end(children: &mut [Child]) {
    for child in &mut *children {
        // Gone already: nothing to do.
        let _ = child.kill();
    }
    for child in children {
        let _ = child.wait();
    }
}

/// Has the kernel send the command a signal that ends it, should this thread die before it can.
pub(crate) fn ends_with_parent(command: &mut Command, signal: libc::c_int) {
    // SAFETY: the closure only makes a system call that is safe between fork and exec, and touches no memory.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            Ok(())
        });
    }
}

fn compile(folder: &Path, frame_pointers: FramePointers) -> Result<PathBuf> {
    workspace::make_folder(folder)?;
    let (name, flags): (_, &[&str]) = match frame_pointers {
        FramePointers::Kept => ("busy-frames", &["-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"]),
        FramePointers::Omitted => ("busy", &["-fomit-frame-pointer"]),
    };
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    // Without the last two, functions of equal bodies would become one, and callers would leave no frame.
    gcc.args(["-O2", "-pthread", "-fno-ipa-icf", "-fno-optimize-sibling-calls"])
        .args(flags)
        .arg("-o")
        .arg(&program);
    gcc.arg(workspace::root().join("xtask/src/bench/busy.c"));
    process::run(&mut gcc, "install a C compiler: apt-get install gcc libc6-dev")?;
    Ok(program)
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec that clock_gettime fills; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The first and the last time slot that a profile's text names, in milliseconds since the clock was started.
pub(crate) fn slots_in(text: &str) -> Option<(f64, f64)> {
    let mut range: Option<(u32, u32)> = None;
    let boundary = |character: Option<char>| character.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    for (position, _) in text.match_indices("at_") {
        if !boundary(text[..position].chars().next_back()) {
            continue;
        }
        let rest = &text[position + 3..];
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        if let Ok(slot) = rest[..digits].parse::<u32>()
            && boundary(rest[digits..].chars().next())
        {
            range = Some(range.map_or((slot, slot), |(first, last)| (first.min(slot), last.max(slot))));
        }
    }
    range.map(|(first, last)| (f64::from(first) * SLOT_MS, f64::from(last) * SLOT_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_time_slots_in_any_text() {
        let text = "busy;main;at_17 3\n  55d0 at_9+0x1f (/tmp/busy)\n<title>at_101 (2 samples, 1%)</title>";
        assert_eq!(slots_in(text), Some((45.0, 505.0)));
        assert_eq!(slots_in("look at_once; what_3; at_4b; at_"), None);
        assert_eq!(slots_in("at_12"), Some((60.0, 60.0)));
    }
}
