//! Processes and what they have mapped as code, as of the moment that samples are told.
//!
//! A process is (pid, start time): pids are reused. Its life comes from the kernel side's records; what was there
//! before comes from one pass over `/proc`. It knows nothing of stacks and names.

pub mod accounts;
pub mod cgroup;
pub mod containers;
pub mod devices;
pub mod elf;
pub mod files;
pub mod host;
pub mod proc_fs;
pub mod services;
pub mod syscalls;
pub mod tables;
pub mod unwind;
pub(crate) mod vdso;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;

use hostscope_wire::process::ProcessRecord;

use crate::collect::NewMapping;
use files::{FileId, FileKind, Files, Sighting};
use proc_fs::{MapsLine, ProcReader, Stat};

/// Index of a process in [`Processes`], never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

/// An executable mapping of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// The file.
    pub file: FileId,
}

/// A process, living or not.
#[derive(Debug)]
pub struct Process {
    /// Its id in hostscope's own pid namespace.
    pub pid: u32,
    /// When it started, in nanoseconds since boot; from `/proc` only to the tick (10 ms).
    pub start_time_ns: u64,
    /// The main thread's name.
    pub name: String,
    /// The perf map that a JIT compiler writes for it, opened at its first sample in code without a file.
    pub perf_map: Option<File>,
    mappings: Vec<Mapping>,
    /// The mappings of the program before, while an exec is under way: until the new program's registers are set, a
    /// sample inside the kernel shows where the old one made the call.
    before_exec: Vec<Mapping>,
    looked_for_perf_map: bool,
    has_samples: bool,
    exited: bool,
    /// The interval in which its mappings were last read from `/proc`: once in each is enough.
    read_in_interval: u64,
}

impl Process {
    /// What it has mapped as code, in the order of addresses.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The mapping that holds `address`.
    #[must_use]
    pub fn mapping_at(&self, address: u64) -> Option<&Mapping> {
        [&self.mappings, &self.before_exec].into_iter().find_map(|mappings| {
            let after = mappings.partition_point(|mapping| mapping.start <= address);
            mappings[..after].last().filter(|mapping| address < mapping.end)
        })
    }

    /// Puts a mapping in; what it covers of others is theirs no more, as mmap does it. False where it was there.
    fn map(&mut self, new: Mapping) -> bool {
        let first = self.mappings.partition_point(|mapping| mapping.end <= new.start);
        let last = self.mappings.partition_point(|mapping| mapping.start < new.end);
        if self.mappings[first..last] == [new] {
            return false;
        }
        let before = self.mappings[first..last].first().filter(|mapping| mapping.start < new.start).copied();
        let after = self.mappings[first..last].last().filter(|mapping| mapping.end > new.end).copied();
        let before = before.map(|mapping| Mapping { end: new.start, ..mapping });
        let after = after.map(|mapping| Mapping {
            start: new.end,
            file_offset: mapping.file_offset + (new.end - mapping.start),
            ..mapping
        });
        self.mappings.splice(first..last, [before, Some(new), after].into_iter().flatten());
        true
    }
}

/// The tick of `/proc/PID/stat`'s start time: `USER_HZ` is 100 on every architecture but alpha and ia64.
pub(crate) const TICK_NS: u64 = 10_000_000;

fn same_start(left_ns: u64, right_ns: u64) -> bool {
    left_ns / TICK_NS == right_ns / TICK_NS
}

/// Every process that matters: those alive, and those that have samples.
pub struct Processes {
    all: HashMap<ProcessId, Process>,
    by_pid: HashMap<u32, ProcessId>,
    next: u32,
    /// Those whose end was told, with the interval of that: the kernel tells it before it has given back the memory and
    /// closed the files, which takes long enough to be sampled.
    ended: VecDeque<(u64, ProcessId)>,
    /// Whether records of processes never heard of make new entries (the whole host is watched, or a cgroup).
    adopt_unknown: bool,
    interval: u64,
    /// Processes whose mappings are not what they were when this was last taken.
    changed: BTreeSet<ProcessId>,
    /// Ids of processes that are gone for good.
    gone: Vec<u32>,
    reader: ProcReader,
    /// The files mapped.
    pub files: Files,
}

impl Processes {
    /// An empty table. `adopt_unknown`: whether processes that nobody named are kept too.
    #[must_use]
    pub fn new(adopt_unknown: bool) -> Self {
        Self {
            all: HashMap::new(),
            by_pid: HashMap::new(),
            next: 0,
            ended: VecDeque::new(),
            adopt_unknown,
            interval: 0,
            changed: BTreeSet::new(),
            gone: Vec::new(),
            reader: ProcReader::new(),
            files: Files::new(),
        }
    }

    /// Reads every process of the host from `/proc`: about 40 µs each. Those that end meanwhile are passed over.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn scan_host(&mut self) -> std::io::Result<usize> {
        let pids = proc_fs::process_ids()?;
        Ok(pids.into_iter().filter(|&pid| self.scan(pid).is_ok()).count())
    }

    /// Reads one process from `/proc`.
    ///
    /// # Errors
    /// It does not exist.
    pub fn scan(&mut self, pid: u32) -> std::io::Result<ProcessId> {
        let Stat { name, start_ticks, .. } = self.reader.stat(pid)?;
        let id = self.insert(pid, start_ticks * TICK_NS, name);
        self.read_mappings(id);
        Ok(id)
    }

    /// The process behind `id`.
    #[must_use]
    pub fn get(&self, id: ProcessId) -> &Process {
        &self.all[&id]
    }

    /// The process behind `id`, where it is still kept.
    #[must_use]
    pub fn find(&self, id: ProcessId) -> Option<&Process> {
        self.all.get(&id)
    }

    /// The living processes whose mappings have changed since the last call.
    pub fn take_changed(&mut self) -> Vec<ProcessId> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter(|id| self.all.get(id).is_some_and(|process| !process.exited)).collect()
    }

    /// The ids of processes that have gone since the last call and were not given to others since.
    pub fn take_gone(&mut self) -> Vec<u32> {
        let gone = std::mem::take(&mut self.gone);
        gone.into_iter().filter(|pid| !self.by_pid.contains_key(pid)).collect()
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A new interval begins: mappings that were looked for in vain may be looked for again. Processes that ended a
    /// whole interval ago are forgotten, those without samples for good.
    pub fn begin_interval(&mut self) {
        self.interval += 1;
        while let Some((_, id)) = self.ended.pop_front_if(|(interval, _)| *interval + 1 < self.interval) {
            let Some(process) = self.all.get(&id) else { continue };
            if self.by_pid.get(&process.pid) == Some(&id) {
                self.by_pid.remove(&process.pid);
                self.gone.push(process.pid);
            }
            if !process.has_samples {
                self.all.remove(&id);
            }
        }
    }

    /// The process that a sample names, from now on kept whatever becomes of it.
    pub fn of_sample(&mut self, pid: u32, start_time_ns: u64) -> ProcessId {
        let id = match self.by_pid.get(&pid) {
            Some(&id) if same_start(self.all[&id].start_time_ns, start_time_ns) => id,
            _ => self.stranger(pid, start_time_ns),
        };
        if let Some(process) = self.all.get_mut(&id) {
            process.has_samples = true;
            process.start_time_ns = start_time_ns;
        }
        id
    }

    /// A process that no record announced: its birth was lost, or it is the idle task.
    fn stranger(&mut self, pid: u32, start_time_ns: u64) -> ProcessId {
        if pid == 0 {
            return self.insert(0, start_time_ns, "swapper".into());
        }
        match self.reader.stat(pid) {
            Ok(stat) if same_start(stat.start_ticks * TICK_NS, start_time_ns) => {
                let id = self.insert(pid, start_time_ns, stat.name);
                self.read_mappings(id);
                id
            }
            _ => {
                let id = self.insert(pid, start_time_ns, format!("pid {pid}"));
                self.mark_exited(id);
                id
            }
        }
    }

    /// The mapping of a process that holds `address`; where there is none and the process lives, its mappings are
    /// read once more, at most once an interval: a walk that went astray asks for many.
    pub fn mapping_at(&mut self, id: ProcessId, address: u64) -> Option<Mapping> {
        let process = self.all.get(&id)?;
        if let Some(&mapping) = process.mapping_at(address) {
            return Some(mapping);
        }
        if process.exited || process.read_in_interval == self.interval || process.pid == 0 {
            return None;
        }
        let alive = self
            .reader
            .stat(process.pid)
            .is_ok_and(|stat| same_start(stat.start_ticks * TICK_NS, process.start_time_ns));
        if !alive {
            self.mark_exited(id);
            return None;
        }
        self.read_mappings(id);
        self.all.get(&id)?.mapping_at(address).copied()
    }

    /// Whether a mapping holds code that was made at run time.
    #[must_use]
    pub fn is_runtime_code(&self, mapping: &Mapping) -> bool {
        self.files.get(mapping.file).kind == FileKind::Anonymous
    }

    /// Opens the perf map of a process that has a sample in code without a file, while it is there to be opened.
    pub fn hold_perf_map(&mut self, id: ProcessId) {
        let Some(process) = self.all.get_mut(&id) else { return };
        if std::mem::replace(&mut process.looked_for_perf_map, true) {
            return;
        }
        let pid = process.pid;
        let inner = self.reader.innermost_pid(pid).unwrap_or(pid);
        process.perf_map = File::open(format!("/proc/{pid}/root/tmp/perf-{inner}.map"))
            .or_else(|_| File::open(format!("/tmp/perf-{pid}.map")))
            .ok();
    }

    /// A process was born: it has its parent's mappings and name until it says otherwise.
    pub fn on_fork(&mut self, record: &ProcessRecord) {
        let parent = self.by_pid.get(&record.parent_tgid).and_then(|id| self.all.get(id));
        let mappings = parent.map_or_else(Vec::new, |parent| parent.mappings.clone());
        let id = self.insert(record.tgid, record.start_time_ns, comm(&record.comm));
        if let Some(process) = self.all.get_mut(&id) {
            process.mappings = mappings;
            self.changed.insert(id);
        }
    }

    /// A process runs a new program: its name is another. Its mappings were told before. Where they were not, because
    /// nobody records them, they are read.
    pub fn on_exec(&mut self, record: &ProcessRecord, mappings_are_recorded: bool) {
        let known = self.by_pid.get(&record.tgid).copied();
        let id = match known.filter(|id| same_start(self.all[id].start_time_ns, record.start_time_ns)) {
            Some(id) => id,
            None => self.insert(record.tgid, record.start_time_ns, String::new()),
        };
        if let Some(process) = self.all.get_mut(&id) {
            process.name = comm(&record.comm);
            process.start_time_ns = record.start_time_ns;
            process.looked_for_perf_map = false;
            process.before_exec = Vec::new();
        }
        if !mappings_are_recorded {
            self.read_mappings(id);
        }
    }

    /// An exec has begun: the old program's mappings are gone.
    pub fn on_exec_begin(&mut self, pid: u32) {
        if let Some(process) = self.by_pid.get(&pid).and_then(|id| self.all.get_mut(id)) {
            process.before_exec = std::mem::take(&mut process.mappings);
        }
        self.changed.extend(self.by_pid.get(&pid));
    }

    /// A process has ended.
    pub fn on_exit(&mut self, record: &ProcessRecord) {
        let Some(&id) = self.by_pid.get(&record.tgid) else { return };
        if same_start(self.all[&id].start_time_ns, record.start_time_ns) {
            self.mark_exited(id);
            self.ended.push_back((self.interval, id));
        }
    }

    /// A process maps code.
    pub fn on_mapping(&mut self, new: &NewMapping<'_>) {
        let known = self.by_pid.get(&new.pid).copied().filter(|id| !self.all[id].exited);
        let id = match known {
            Some(id) => id,
            None if self.adopt_unknown => match self.scan(new.pid) {
                Ok(id) => id,
                Err(_) => return,
            },
            None => return,
        };
        let path = proc_fs::clean_path(new.path);
        let NewMapping { pid, start, end, file_offset, device, inode, .. } = *new;
        let file = self.files.intern(&Sighting { pid, start, end, device, inode, path: &path });
        let mapping = Mapping { start, end, file_offset, file };
        if self.all.get_mut(&id).is_some_and(|process| process.map(mapping)) {
            self.changed.insert(id);
        }
    }

    fn insert(&mut self, pid: u32, start_time_ns: u64, name: String) -> ProcessId {
        if let Some(&id) = self.by_pid.get(&pid) {
            if same_start(self.all[&id].start_time_ns, start_time_ns) {
                return id;
            }
            // The pid is another process's now; its end was lost.
            self.mark_exited(id);
            if !self.all[&id].has_samples {
                self.all.remove(&id);
            }
        }
        let id = ProcessId(self.next);
        self.next += 1;
        let process = Process {
            pid,
            start_time_ns,
            name,
            perf_map: None,
            mappings: Vec::new(),
            before_exec: Vec::new(),
            looked_for_perf_map: false,
            has_samples: false,
            exited: false,
            read_in_interval: u64::MAX,
        };
        self.all.insert(id, process);
        self.by_pid.insert(pid, id);
        self.changed.insert(id);
        id
    }

    fn mark_exited(&mut self, id: ProcessId) {
        if let Some(process) = self.all.get_mut(&id) {
            process.exited = true;
        }
    }

    /// Reads the mappings from `/proc` over what is known. A mapping that has gone meanwhile stays: samples taken
    /// under it may still be on their way.
    fn read_mappings(&mut self, id: ProcessId) {
        let Some(process) = self.all.get_mut(&id) else { return };
        let (pid, files) = (process.pid, &mut self.files);
        process.read_in_interval = self.interval;
        let mut is_changed = false;
        // A process that has gone has no mappings to be read; one that is hidden (no CAP_SYS_PTRACE) neither.
        let _ = self.reader.executable_mappings(pid, |line| {
            let MapsLine { start, end, file_offset, device, inode, path } = line;
            let cleaned;
            let path = if path.ends_with(b")") || path.contains(&b'\\') {
                cleaned = proc_fs::clean_path(path);
                &cleaned
            } else {
                path
            };
            let file = files.intern(&Sighting { pid, start, end, device, inode, path });
            is_changed |= process.map(Mapping { start, end, file_offset, file });
        });
        if is_changed {
            self.changed.insert(id);
        }
    }
}

/// A comm up to its zero byte.
#[must_use]
pub fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn record(tgid: u32, parent_tgid: u32, start_time_ns: u64, name: &str) -> ProcessRecord {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        ProcessRecord { start_time_ns, tgid, parent_tgid, comm, ..ProcessRecord::default() }
    }

    fn mapping(pid: u32, start: u64, end: u64, inode: u64) -> NewMapping<'static> {
        NewMapping { pid, start, end, file_offset: 0x100, device: (0, 1), inode, path: b"/no/such/file" }
    }

    /// Above any pid of this host (`PID_MAX_LIMIT` is 2^22), so that `/proc` has nothing to say.
    const PID: u32 = 0x7000_0000;

    #[test]
    fn a_new_mapping_takes_what_it_covers() {
        let mut processes = Processes::new(false);
        processes.on_fork(&record(PID, 0, 1, "a"));
        processes.on_mapping(&mapping(PID, 0x1000, 0x9000, 1));
        processes.on_mapping(&mapping(PID, 0x3000, 0x5000, 2));
        let id = processes.of_sample(PID, 1);
        let at = |processes: &Processes, address| {
            processes.get(id).mapping_at(address).map(|m| (m.start, m.end, m.file_offset, m.file.0))
        };
        assert_eq!(at(&processes, 0x1fff), Some((0x1000, 0x3000, 0x100, 0)));
        assert_eq!(at(&processes, 0x3000), Some((0x3000, 0x5000, 0x100, 1)));
        assert_eq!(at(&processes, 0x5000), Some((0x5000, 0x9000, 0x4100, 0)));
        assert_eq!(at(&processes, 0x9000), None);
        processes.on_mapping(&mapping(PID, 0x1000, 0x9000, 3));
        assert_eq!(processes.get(id).mappings.len(), 1);
    }

    #[test]
    fn a_child_has_its_parents_mappings_until_it_runs_a_program() {
        let mut processes = Processes::new(false);
        processes.on_fork(&record(PID, 0, 1, "parent"));
        processes.on_mapping(&mapping(PID, 0x1000, 0x2000, 1));
        processes.on_fork(&record(PID + 1, PID, 2, "parent"));
        let child = processes.of_sample(PID + 1, 2);
        assert!(processes.get(child).mapping_at(0x1000).is_some());
        processes.on_exec_begin(PID + 1);
        processes.on_mapping(&mapping(PID + 1, 0x7000, 0x8000, 2));
        processes.on_exec(&record(PID + 1, 0, 2, "child"), true);
        let process = processes.get(child);
        assert_eq!(process.name, "child");
        assert!(process.mapping_at(0x1000).is_none() && process.mapping_at(0x7000).is_some());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut processes = Processes::new(false);
        processes.on_fork(&record(PID, 0, TICK_NS, "first"));
        let first = processes.of_sample(PID, TICK_NS);
        // The end of the first was lost; the second is announced.
        processes.on_fork(&record(PID, 0, 9 * TICK_NS, "second"));
        let second = processes.of_sample(PID, 9 * TICK_NS);
        assert_ne!(first, second);
        assert_eq!(
            (processes.get(first).name.as_str(), processes.get(second).name.as_str()),
            ("first", "second")
        );
        // The third is not announced either, and is gone before anybody can ask.
        let third = processes.of_sample(PID, 20 * TICK_NS);
        assert_eq!(processes.get(third).name, format!("pid {PID}"));
    }

    #[test]
    fn what_has_ended_is_kept_only_for_its_samples() {
        let mut processes = Processes::new(false);
        processes.on_fork(&record(PID, 0, 1, "sampled"));
        processes.on_fork(&record(PID + 1, 0, 1, "unseen"));
        let sampled = processes.of_sample(PID, 1);
        processes.on_exit(&record(PID, 0, 1, "sampled"));
        processes.on_exit(&record(PID + 1, 0, 1, "unseen"));
        processes.begin_interval();
        processes.begin_interval();
        assert_eq!(processes.len(), 1);
        assert_eq!(processes.get(sampled).name, "sampled");
    }

    #[test]
    fn a_sample_taken_while_a_process_gives_its_memory_back_is_still_its_own() {
        let mut processes = Processes::new(false);
        processes.on_fork(&record(PID, 0, 1, "large"));
        processes.on_exit(&record(PID, 0, 1, "large"));
        processes.begin_interval();
        let late = processes.of_sample(PID, 1);
        assert_eq!(processes.get(late).name, "large");
        processes.on_fork(&record(PID, 0, 9 * TICK_NS, "next"));
        let next = processes.of_sample(PID, 9 * TICK_NS);
        processes.begin_interval();
        processes.begin_interval();
        assert_eq!(processes.of_sample(PID, 9 * TICK_NS), next);
    }

    #[test]
    fn during_an_exec_the_caller_is_in_the_old_program() {
        let mut processes = Processes::new(false);
        processes.on_fork(&record(PID, 0, 1, "old"));
        processes.on_mapping(&mapping(PID, 0x1000, 0x2000, 1));
        let id = processes.of_sample(PID, 1);
        processes.on_exec_begin(PID);
        processes.on_mapping(&mapping(PID, 0x7000, 0x8000, 2));
        assert!(processes.mapping_at(id, 0x1000).is_some());
        processes.on_exec(&record(PID, 0, 1, "new"), true);
        assert!(processes.get(id).mapping_at(0x1000).is_none());
    }
}
