//! What `/proc` tells of the use that each process makes of CPU and memory: read as what was added since the last time.
//!
//! A reading of `/proc/PID/stat` takes 13 µs and one of `/proc/PID/status` 21 to 32 µs more, measured by `reading_is_cheap` below
//! on a virtual machine with 82 processes; so memory, which changes slowly, may be read less often.
//!
//! What a process uses after its last reading and before its end is told by the kernel side at its end ([`Accounts::ended`]).

use std::collections::HashMap;
use std::path::PathBuf;

use super::TICK_NS;
use super::proc_fs::ProcReader;
use super::services::{Process, ProcessKey, Services};

/// What a process has used, or has used more since the last reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, in nanoseconds (to 10 ms).
    pub user_ns: u64,
    /// CPU time in the kernel, in nanoseconds (to 10 ms).
    pub system_ns: u64,
    /// Page faults that were met from memory.
    pub minor_faults: u64,
    /// Page faults that read from a device.
    pub major_faults: u64,
}

impl Usage {
    fn since(&self, last: &Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_sub(last.user_ns),
            system_ns: self.system_ns.saturating_sub(last.system_ns),
            minor_faults: self.minor_faults.saturating_sub(last.minor_faults),
            major_faults: self.major_faults.saturating_sub(last.major_faults),
        }
    }
}

/// What a process has in memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its own pages.
    pub anonymous: u64,
    /// Pages of files.
    pub file: u64,
    /// Pages of shared memory and tmpfs.
    pub shared: u64,
    /// Of its own pages those that are swapped out.
    pub swap: u64,
}

impl Memory {
    /// All that is resident.
    #[must_use]
    pub const fn resident(&self) -> u64 {
        self.anonymous.saturating_add(self.file).saturating_add(self.shared)
    }

    /// The words for it in labels, each with its bytes.
    #[must_use]
    pub const fn by_type(&self) -> [(&'static str, u64); 5] {
        [
            ("rss", self.resident()),
            ("anonymous", self.anonymous),
            ("file", self.file),
            ("shared", self.shared),
            ("swap", self.swap),
        ]
    }
}

/// A process when it was last read.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    usage: Usage,
    memory: Option<Memory>,
}

/// Remembers what each process had used when it was last read.
pub struct Accounts {
    proc: PathBuf,
    reader: ProcReader,
    last: HashMap<ProcessKey, Account>,
    /// Processes that started before had used something before anybody counted.
    began_ticks: u64,
}

impl Accounts {
    /// Counting begins at `began_boot_ns` of `CLOCK_BOOTTIME`; processes are read below `proc`, which is `/proc` outside of
    /// tests.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>, began_boot_ns: u64) -> Self {
        let began_ticks = began_boot_ns / TICK_NS;
        Self { proc: proc.into(), reader: ProcReader::new(), last: HashMap::new(), began_ticks }
    }

    /// Counting begins now, on this host.
    #[must_use]
    pub fn from_now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self::new("/proc", now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// Hands `each` every living process with what it has used since the last reading, and what it has in memory where
    /// `with_memory` asks for it. Processes that end meanwhile are passed over. Those that are known and for which `has_run` is
    /// false are not read but told as they were: most processes of a host sleep.
    pub fn collect(
        &mut self,
        services: &Services,
        with_memory: bool,
        has_run: impl Fn(ProcessKey) -> bool,
        mut each: impl FnMut(ProcessKey, &Process, Usage, Option<Memory>),
    ) {
        for (key, process) in services.living() {
            let known = self.last.get(&key).copied();
            if let Some(known) = known.filter(|_| !has_run(key)) {
                each(key, process, Usage::default(), known.memory.filter(|_| with_memory));
                continue;
            }
            let Some(usage) = self.usage(key) else { continue };
            let read = if with_memory { self.memory(key.pid) } else { None };
            let memory = if with_memory { read } else { known.and_then(|known| known.memory) };
            self.last.insert(key, Account { usage, memory });
            let before = if key.start_ticks < self.began_ticks { usage } else { Usage::default() };
            let added = usage.since(&known.map_or(before, |known| known.usage));
            each(key, process, added, read);
        }
        self.last.retain(|key, _| services.get(*key).is_some_and(|process| process.ended_at_ns.is_none()));
    }

    /// What a process has used since the last reading, now that it has ended with so much CPU time in all, in nanoseconds. Its last
    /// faults nobody tells.
    pub fn ended(&mut self, key: ProcessKey, user_ns: u64, system_ns: u64) -> Usage {
        let last = self.last.remove(&key);
        if last.is_none() && key.start_ticks < self.began_ticks {
            return Usage::default(); // nobody knows what it had used before
        }
        let total = Usage { user_ns, system_ns, ..Usage::default() };
        total.since(&last.unwrap_or_default().usage)
    }

    fn usage(&mut self, key: ProcessKey) -> Option<Usage> {
        let stat = self.reader.read(&self.proc.join(format!("{}/stat", key.pid))).ok()?;
        parse_usage(stat).and_then(|(start_ticks, usage)| (start_ticks == key.start_ticks).then_some(usage))
    }

    /// A thread of the kernel has none.
    fn memory(&mut self, pid: u32) -> Option<Memory> {
        parse_memory(self.reader.read(&self.proc.join(format!("{pid}/status"))).ok()?)
    }
}

/// The start in ticks and the usage that `/proc/PID/stat` tells (`proc_pid_stat(5)`).
#[must_use]
pub fn parse_usage(stat: &[u8]) -> Option<(u64, Usage)> {
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[close + 1..]).ok()?.split_ascii_whitespace();
    // Field 3 is the first here.
    let mut skip = |fields_between: usize| fields.nth(fields_between)?.parse::<u64>().ok();
    let (minor_faults, major_faults) = (skip(10 - 3)?, skip(12 - 11)?);
    let (user_ticks, system_ticks) = (skip(14 - 13)?, skip(0)?);
    let start_ticks = skip(22 - 16)?;
    let [user_ns, system_ns] = [user_ticks, system_ticks].map(|ticks| ticks.saturating_mul(TICK_NS));
    Some((start_ticks, Usage { user_ns, system_ns, minor_faults, major_faults }))
}

/// The memory that `/proc/PID/status` tells; `None` where the process has none of its own.
#[must_use]
pub fn parse_memory(status: &[u8]) -> Option<Memory> {
    let mut memory = Memory::default();
    let mut found = false;
    for line in status.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let place = match &line[..colon] {
            b"RssAnon" => &mut memory.anonymous,
            b"RssFile" => &mut memory.file,
            b"RssShmem" => &mut memory.shared,
            b"VmSwap" => &mut memory.swap,
            _ => continue,
        };
        let kibibytes = std::str::from_utf8(&line[colon + 1..]).ok()?.trim().strip_suffix(" kB")?;
        *place = kibibytes.trim().parse::<u64>().ok()?.saturating_mul(1024);
        found = true;
        if line.starts_with(b"VmSwap") {
            break;
        }
    }
    found.then_some(memory)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::targets::containers::Containers;

    fn stat(user_ticks: u64, start_ticks: u64) -> String {
        format!("7 (a) b) S 1 1 1 0 -1 0 11 99 12 99 {user_ticks} 5 9 9 20 0 1 0 {start_ticks} 0 0")
    }

    #[test]
    fn usage_and_memory_are_read() {
        let usage =
            Usage { user_ns: 3 * TICK_NS, system_ns: 5 * TICK_NS, minor_faults: 11, major_faults: 12 };
        assert_eq!(parse_usage(stat(3, 44).as_bytes()), Some((44, usage)));
        let status = b"Name:\tx\nVmRSS:\t 9 kB\nRssAnon:\t 1 kB\nRssFile:\t 2 kB\nRssShmem:\t 3 kB\nVmSwap:\t 4 kB\nX:\t1\n";
        let memory = parse_memory(status).expect("memory");
        assert_eq!((memory.resident(), memory.swap), (6 * 1024, 4 * 1024));
        assert_eq!((parse_memory(b"Name:\tkthreadd\n"), parse_memory(b"RssAnon:\txx kB\n")), (None, None));
        assert_eq!((parse_usage(b"7 (a"), parse_usage(b"7 (a) S 1 1"), parse_usage(b"")), (None, None, None));
    }

    #[test]
    fn only_what_was_added_since_counting_began_is_told() {
        let proc = tempfile::tempdir().expect("a folder");
        let write = |pid: u32, text: String| {
            let folder = proc.path().join(pid.to_string());
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(folder.join("stat"), text).expect("stat");
        };
        write(1, stat(100, 10));
        let mut services = Services::new(proc.path(), Containers::new(proc.path()));
        let mut accounts = Accounts::new(proc.path(), 50 * TICK_NS);
        let mut ticks = |services: &mut Services| {
            services.scan(0).expect("a folder");
            let mut all = Vec::new();
            accounts.collect(
                services,
                false,
                |_| true,
                |key, _, usage, _| all.push((key.pid, usage.user_ns / TICK_NS)),
            );
            all.sort_unstable();
            all
        };
        assert_eq!(ticks(&mut services), [(1, 0)]);
        write(1, stat(130, 10));
        write(2, stat(7, 60));
        assert_eq!(ticks(&mut services), [(1, 30), (2, 7)]);
        // The pid is given to another, and a value shrinks: never below zero.
        write(1, stat(4, 70));
        write(2, stat(6, 60));
        assert_eq!(ticks(&mut services), [(1, 4), (2, 0)]);
    }

    #[test]
    fn this_process_has_used_something() {
        let mut services = Services::default();
        services.scan(0).expect("proc");
        let mut accounts = Accounts::new("/proc", 0);
        let mut own = None;
        accounts.collect(
            &services,
            true,
            |_| true,
            |key, _, usage, memory| {
                if key.pid == std::process::id() {
                    own = Some((usage, memory));
                }
            },
        );
        let (usage, memory) = own.expect("itself");
        assert!(usage.minor_faults > 0 && memory.is_some_and(|memory| memory.resident() > 1 << 20));
    }

    #[test]
    fn who_has_not_run_is_told_as_before_and_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("7");
        std::fs::create_dir(&own).expect("a folder");
        std::fs::write(
            own.join("status"),
            "RssAnon:\t 1 kB\nRssFile:\t 2 kB\nRssShmem:\t 3 kB\nVmSwap:\t 4 kB\n",
        )
        .expect("a file");
        std::fs::write(own.join("stat"), stat(3, 44)).expect("a file");
        let mut services = Services::new(folder.path(), Containers::new("/none"));
        services.scan(0).expect("a folder");
        let mut accounts = Accounts::new(folder.path(), 0);
        let mut collect = |has_run: bool| {
            let mut all = Vec::new();
            accounts.collect(
                &services,
                true,
                |_| has_run,
                |_, _, usage, memory| {
                    all.push((usage.user_ns / TICK_NS, memory.map(|memory| memory.resident())));
                },
            );
            all
        };
        assert_eq!(
            collect(false),
            [(3, Some(6 * 1024))],
            "a process is read once, whether or not it has run"
        );
        std::fs::write(own.join("stat"), stat(9, 44)).expect("a file");
        assert_eq!(collect(false), [(0, Some(6 * 1024))]);
        assert_eq!(collect(true), [(6, Some(6 * 1024))]);
    }

    #[test]
    #[ignore = "measures"]
    fn reading_is_cheap() {
        let mut services = Services::default();
        let begin = Instant::now();
        let processes = services.scan(0).expect("proc") as u32;
        println!("first scan: {:?} a process", begin.elapsed() / processes);
        let mut accounts = Accounts::from_now();
        for with_memory in [false, true, false, true] {
            let begin = Instant::now();
            (0..20).for_each(|_| accounts.collect(&services, with_memory, |_| true, |_, _, _, _| {}));
            println!("memory {with_memory}: {:?} a process of {processes}", begin.elapsed() / 20 / processes);
        }
    }
}
