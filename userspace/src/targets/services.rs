//! Which service a process belongs to: its systemd unit, else its container, else its program.
//!
//! Processes are told by the kernel side's events, and by passes over `/proc` for those that were there before. A child
//! belongs to its parent's service until it runs a program of its own; what has ended is remembered for a grace time,
//! since rows come later than events.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hostscope_wire::process::ProcessRecord;
use hostscope_wire::row::UNKNOWN_PROCESS;

use super::TICK_NS;
use super::cgroup::{self, Owner};
use super::containers::Containers;
use super::proc_fs::{self, ProcReader};
use crate::metrics::OTHER;

/// Most processes that are known at once, the ended among them: twice the default `pid_max` of a small host, 8 MB.
pub const MAX_PROCESSES: usize = 65_536;

/// Most names of services in use at once. The exported ones are far fewer (`max_series`); beyond this even the JSON API
/// folds them.
pub const MAX_SERVICES: usize = 4_096;

/// How long an ended process is remembered: several intervals of collection.
pub const GRACE_NS: u64 = 60_000_000_000;

/// Most bytes of a service's name. systemd allows units of 255, but labels that long make a scrape unreadable.
pub const MAX_NAME_BYTES: usize = 64;

/// How often a container is looked up again whose engine has not written down its name yet.
const UNNAMED_TRIES: u8 = 4;

/// The threads of the kernel, which rows name by the pid 0.
pub const KERNEL: &str = "kernel";

/// A process: its id and its start, in ticks of 10 ms since boot, which is all that `/proc` tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// In hostscope's own pid namespace.
    pub pid: u32,
    /// `USER_HZ` ticks since boot.
    pub start_ticks: u64,
}

impl ProcessKey {
    /// From a start in nanoseconds of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn new(pid: u32, start_time_ns: u64) -> Self {
        Self { pid, start_ticks: start_time_ns / TICK_NS }
    }
}

/// A cgroup that names a service.
#[derive(Debug)]
pub struct Cgroup {
    /// The service.
    pub service: Arc<str>,
    /// Paths below the root of the hierarchy of version 2, and below that of the controller `cpu` of version 1.
    pub unified_path: Option<PathBuf>,
    /// See there.
    pub cpu_path: Option<PathBuf>,
    /// Lookups after which a container without a name is content with its id.
    tries: u8,
}

/// What is known of a process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its service.
    pub service: Arc<str>,
    /// The comm of its main thread, as last told.
    pub name: Arc<str>,
    /// The cgroup that named the service, where one did.
    pub cgroup: Option<Arc<Cgroup>>,
    /// When it ended, on the clock of the events; `None` while it lives.
    pub ended_at_ns: Option<u64>,
}

/// The table of processes and their services.
pub struct Services {
    processes: HashMap<ProcessKey, Process>,
    /// The start of the process that has the pid now.
    current: HashMap<u32, u64>,
    ended: VecDeque<(u64, ProcessKey)>,
    /// Every name in use, so that equal names share their bytes.
    names: HashSet<Arc<str>>,
    cgroups: HashMap<Box<[u8]>, Arc<Cgroup>>,
    containers: Containers,
    reader: ProcReader,
    proc: PathBuf,
    other: Arc<str>,
    kernel: Arc<str>,
    by_process_name: bool,
    /// The latest time told, in nanoseconds of `CLOCK_MONOTONIC`, on which events and calls agree.
    now_ns: u64,
    /// Processes that found no room, and names that found none: they count for `~other`.
    pub overflow: u64,
}

impl Default for Services {
    fn default() -> Self {
        Self::new("/proc", Containers::new("/"))
    }
}

impl Services {
    /// An empty table that reads processes below `proc`, which is `/proc` outside of tests.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>, containers: Containers) -> Self {
        Self {
            processes: HashMap::new(),
            current: HashMap::new(),
            ended: VecDeque::new(),
            names: HashSet::new(),
            cgroups: HashMap::new(),
            containers,
            reader: ProcReader::new(),
            proc: proc.into(),
            other: OTHER.into(),
            kernel: KERNEL.into(),
            by_process_name: false,
            now_ns: 0,
            overflow: 0,
        }
    }

    /// Takes every process for a service by its own name: what tells apart the processes of a target, which often belong to one
    /// service all together.
    #[must_use]
    pub fn by_process_name(self) -> Self {
        Self { by_process_name: true, ..self }
    }

    /// Reads every process of the host as of `now_ns` of `CLOCK_MONOTONIC`, and ends those whose end was not told. About 36 µs a process,
    /// measured on a virtual machine with 82. A process that a service manager moved into its cgroup only after its exec is
    /// found by this.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn scan(&mut self, now_ns: u64) -> io::Result<usize> {
        self.now_ns = self.now_ns.max(now_ns);
        let mut alive = HashSet::new();
        for entry in std::fs::read_dir(&self.proc)?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // One that ended meanwhile is passed over.
            let Some(stat) = self.stat(pid) else { continue };
            let key = ProcessKey { pid, start_ticks: stat.start_ticks };
            alive.insert(key);
            self.learn(key, &stat);
        }
        let gone: Vec<_> =
            self.current.iter().map(|(&pid, &start_ticks)| ProcessKey { pid, start_ticks }).collect();
        for key in gone {
            if !alive.contains(&key) {
                self.end(key);
            }
        }
        Ok(alive.len())
    }

    /// A process was born.
    pub fn on_fork(&mut self, record: &ProcessRecord) {
        self.now_ns = self.now_ns.max(record.header.time_ns);
        let key = ProcessKey::new(record.tgid, record.start_time_ns);
        let Some(parent) = self.current(record.parent_tgid).and_then(|key| self.processes.get(&key)).cloned()
        else {
            return self.adopt(key, &super::comm(&record.comm));
        };
        self.insert(key, Process { ended_at_ns: None, ..parent });
    }

    /// A process runs another program.
    pub fn on_exec(&mut self, record: &ProcessRecord) {
        let key = ProcessKey::new(record.tgid, record.start_time_ns);
        self.adopt(key, &super::comm(&record.comm));
    }

    /// A process has ended.
    pub fn on_exit(&mut self, record: &ProcessRecord) {
        self.now_ns = self.now_ns.max(record.header.time_ns);
        self.end(ProcessKey::new(record.tgid, record.start_time_ns));
    }

    /// The service of the process that a row names. One that nobody told of is looked up; if it has gone too, nobody will
    /// ever know.
    pub fn service_of(&mut self, pid: u32, start_time_ns: u64) -> Arc<str> {
        if pid == 0 {
            return self.kernel.clone();
        }
        if pid == UNKNOWN_PROCESS {
            return self.other.clone();
        }
        let key = ProcessKey::new(pid, start_time_ns);
        if let Some(process) = self.processes.get(&key) {
            return process.service.clone();
        }
        match self.stat(pid) {
            Some(stat) if stat.start_ticks == key.start_ticks => self.learn(key, &stat),
            _ => {
                self.overflow += 1;
                let (service, name) = (self.other.clone(), self.other.clone());
                // Remembered, so that its rows do not ask again.
                self.insert(key, Process { service, name, cgroup: None, ended_at_ns: None });
                self.end(key);
            }
        }
        self.processes.get(&key).map_or_else(|| self.other.clone(), |process| process.service.clone())
    }

    /// The process that has this id now.
    #[must_use]
    pub fn current(&self, pid: u32) -> Option<ProcessKey> {
        self.current.get(&pid).map(|&start_ticks| ProcessKey { pid, start_ticks })
    }

    /// What is known of a process.
    #[must_use]
    pub fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.processes.get(&key)
    }

    /// The processes that live.
    pub fn living(&self) -> impl Iterator<Item = (ProcessKey, &Process)> {
        self.current.iter().filter_map(|(&pid, &start_ticks)| {
            let key = ProcessKey { pid, start_ticks };
            Some((key, self.processes.get(&key)?))
        })
    }

    /// The cgroups that name services.
    pub fn cgroups(&self) -> impl Iterator<Item = &Arc<Cgroup>> {
        self.cgroups.values()
    }

    /// Processes known, the ended among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Whether no process is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Forgets the processes that ended a grace time before `now_ns` of `CLOCK_MONOTONIC`, and cgroups and names that nobody needs any more.
    pub fn expire(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        while let Some((_, key)) =
            self.ended.pop_front_if(|(ended_at_ns, _)| ended_at_ns.saturating_add(GRACE_NS) <= now_ns)
        {
            self.forget(key);
        }
        self.cgroups.retain(|_, cgroup| Arc::strong_count(cgroup) > 1);
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }

    /// Removes a process that has ended; not one that was told anew since.
    fn forget(&mut self, key: ProcessKey) {
        if self.processes.get(&key).is_some_and(|process| process.ended_at_ns.is_some()) {
            self.processes.remove(&key);
        }
    }

    fn end(&mut self, key: ProcessKey) {
        if self.current.get(&key.pid) == Some(&key.start_ticks) {
            self.current.remove(&key.pid);
        }
        if let Some(process) = self.processes.get_mut(&key)
            && process.ended_at_ns.is_none()
        {
            process.ended_at_ns = Some(self.now_ns);
            self.ended.push_back((self.now_ns, key));
        }
    }

    fn insert(&mut self, key: ProcessKey, process: Process) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&key) {
            if let Some((_, oldest)) = self.ended.pop_front() {
                self.forget(oldest);
            }
            if self.processes.len() >= MAX_PROCESSES {
                self.overflow += 1;
                return;
            }
        }
        self.processes.insert(key, process);
        match self.current.insert(key.pid, key.start_ticks) {
            // It was told late: the pid is another's by now.
            Some(later) if later > key.start_ticks => {
                self.end(key);
                self.current.insert(key.pid, later);
            }
            // Whoever had the pid before has ended, though nobody said so.
            Some(earlier) if earlier < key.start_ticks => {
                self.end(ProcessKey { start_ticks: earlier, ..key });
            }
            _ => {}
        }
    }

    fn stat(&mut self, pid: u32) -> Option<proc_fs::Stat> {
        proc_fs::parse_stat(self.reader.read(&self.proc.join(format!("{pid}/stat"))).ok()?)
    }

    /// Takes in a process as `/proc` shows it.
    fn learn(&mut self, key: ProcessKey, stat: &proc_fs::Stat) {
        if stat.is_kernel_thread {
            let (service, name) = (self.kernel.clone(), self.kernel.clone());
            return self.insert(key, Process { service, name, cgroup: None, ended_at_ns: None });
        }
        self.adopt(key, &stat.name);
    }

    /// Takes in a process under the name that its cgroup, its program or else its comm gives it. One that has gone
    /// meanwhile keeps a cgroup that it was known to be in.
    fn adopt(&mut self, key: ProcessKey, comm: &str) {
        let known = self.processes.get(&key).and_then(|process| process.cgroup.clone());
        let is_there = self.stat(key.pid).is_some_and(|stat| stat.start_ticks == key.start_ticks);
        let cgroup = if is_there { self.cgroup_of(key.pid) } else { known };
        let comm = safe_name(comm.as_bytes());
        let service = match (&cgroup, comm.as_deref()) {
            (_, Some(comm)) if self.by_process_name => self.intern(comm),
            (Some(cgroup), _) => cgroup.service.clone(),
            (None, comm) => {
                let program = if is_there { self.program(key.pid) } else { None };
                match program.as_deref().or(comm) {
                    Some(name) => self.intern(name),
                    None => self.other.clone(),
                }
            }
        };
        // A process's own name is bounded by the process, so it does not take one of the services' places.
        let name = comm.map_or_else(|| self.other.clone(), Arc::from);
        self.insert(key, Process { service, name, cgroup, ended_at_ns: None });
    }

    /// The file name of the program it runs; a script's is that of its interpreter.
    fn program(&self, pid: u32) -> Option<String> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::fs::read_link(self.proc.join(format!("{pid}/exe"))).ok()?;
        let path = path.as_os_str().as_bytes();
        safe_name(path.strip_suffix(b" (deleted)").unwrap_or(path))
    }

    fn cgroup_of(&mut self, pid: u32) -> Option<Arc<Cgroup>> {
        let file = self.reader.read(&self.proc.join(format!("{pid}/cgroup"))).ok()?;
        let (owner, path) = cgroup::owner_of_process(file)?;
        if let Some(known) = self.cgroups.get(path)
            && known.tries == 0
        {
            return Some(known.clone());
        }
        let tries = self.cgroups.get(path).map_or(UNNAMED_TRIES, |known| known.tries) - 1;
        let (name, tries) = match owner {
            Owner::Unit(name) | Owner::Lxc(name) => (safe_name(name)?, 0),
            Owner::Container(id) => {
                match self.containers.name(id).and_then(|name| safe_name(name.as_bytes())) {
                    Some(name) => (name, 0),
                    None => (cgroup::short_id(id).to_owned(), tries),
                }
            }
        };
        let (path, unified_path, cpu_path) = (path.into(), path_of(file, b""), path_of(file, b"cpu"));
        let service = self.intern(&name);
        let cgroup = Arc::new(Cgroup { service, unified_path, cpu_path, tries });
        self.cgroups.insert(path, cgroup.clone());
        Some(cgroup)
    }

    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        if self.names.len() >= MAX_SERVICES {
            self.overflow += 1;
            return self.other.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }
}

/// Where the owner's cgroup lies in the hierarchy that has `controller`, below its root.
fn path_of(file: &[u8], controller: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let has = |line: &cgroup::CgroupLine<'_>| {
        line.controllers.split(|&byte| byte == b',').any(|name| name == controller)
    };
    let (_, path) = cgroup::lines(file).filter(has).find_map(|line| cgroup::owner(line.path))?;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
    // A path that climbs is of another cgroup namespace and means nothing here.
    let is_plain = !path.components().any(|part| part == std::path::Component::ParentDir);
    is_plain.then(|| path.strip_prefix("/").unwrap_or(path).to_owned())
}

/// A name that a label may carry: what follows the last slash, valid UTF-8, without control characters, bounded, and not
/// one of hostscope's own, which begin with a tilde. `None` where nothing is left.
#[must_use]
pub fn safe_name(name: &[u8]) -> Option<String> {
    let name = name.rsplit(|&byte| byte == b'/').next()?;
    // Longer than this cannot count, whatever it decodes to.
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME_BYTES)]);
    let mut safe: String = name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    while safe.len() > MAX_NAME_BYTES {
        safe.pop();
    }
    if safe.starts_with('~') {
        safe.replace_range(..1, "_");
    }
    (!safe.trim().is_empty()).then_some(safe)
}

#[cfg(test)]
mod tests;
