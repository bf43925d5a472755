//! Validated settings, plain data: what the command line or a configuration file asked for.

pub mod agent;
pub mod duration;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a profile counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Time on the CPU, by sampling.
    Cpu,
}

impl Kind {
    /// Every kind there is, in the order in which help texts name them.
    pub const ALL: &[Self] = &[Self::Cpu];

    /// The name on the command line, in file names and in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }
}

/// Whom to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every process of the host, and the kernel.
    Host,
    /// These processes (ids as this process sees them) and what they fork from now on; never empty.
    Pids(Vec<u32>),
    /// Every process in this cgroup (version 2) or below it.
    Cgroup(PathBuf),
    /// A program to start, with its arguments, and what it forks; never empty.
    Command(Vec<String>),
}

/// The slowest and the fastest sampling that is accepted, in samples a second and CPU. Above 10 kHz a sample's own
/// cost (microseconds) would be a visible part of what is measured.
pub const FREQUENCY_HERTZ_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;

/// One capture to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSettings {
    /// What to count.
    pub kind: Kind,
    /// Whom to watch.
    pub target: Target,
    /// How long; `None` is until told to stop or until the targets end.
    pub duration: Option<Duration>,
    /// Samples a second and CPU, within [`FREQUENCY_HERTZ_RANGE`].
    pub frequency_hertz: u32,
    /// Whether the idle task is sampled too.
    pub include_idle: bool,
    /// Whether DWARF is read for inlined functions and lines (slower, more memory).
    pub inlines: bool,
    /// What unwind tables may take.
    pub unwind: UnwindSettings,
}

/// Where unwind tables go and what they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnwindSettings {
    /// Most kernel memory of all tables, in bytes.
    pub memory_bytes: u64,
    /// The folder of tables kept from run to run; `None` keeps none.
    pub cache_folder: Option<PathBuf>,
    /// How long the sampling of a whole host waits for tables at its start.
    pub wait_of_host: Duration,
}

/// How long somebody who waits for the first sample of a host is kept waiting for tables: enough for those on disk.
const DEFAULT_WAIT_OF_HOST: Duration = Duration::from_millis(60);

/// Kernel memory of all unwind tables where nothing else is asked for: the files of a host with 300 processes take about
/// 20 MB.
pub const DEFAULT_UNWIND_MEMORY_BYTES: u64 = 64 << 20;

/// The variable that names the folder of kept tables; empty keeps none.
const CACHE_VARIABLE: &str = "HOSTSCOPE_CACHE";

impl Default for UnwindSettings {
    /// [`DEFAULT_UNWIND_MEMORY_BYTES`], and the folder that `HOSTSCOPE_CACHE` names, else `/var/cache/hostscope/unwind` for
    /// root and `~/.cache/hostscope/unwind` (or what `XDG_CACHE_HOME` says) for others.
    fn default() -> Self {
        // The XDG base directory specification: a path that is not absolute is to be ignored.
        let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
        let cache_folder = match std::env::var_os(CACHE_VARIABLE) {
            Some(folder) => (!folder.is_empty()).then(|| folder.into()),
            None if rustix::process::geteuid().is_root() => Some("/var/cache/hostscope/unwind".into()),
            None => home().map(|folder| folder.join("hostscope/unwind")),
        };
        Self { memory_bytes: DEFAULT_UNWIND_MEMORY_BYTES, cache_folder, wait_of_host: DEFAULT_WAIT_OF_HOST }
    }
}
