//! Unwind tables for the files that processes map: which number each has, and the thread that makes them.
//!
//! A file gets its number when it is first seen mapped, before its table is there; files with the same build id share
//! one. The thread takes tables from the cache on disk or compiles them, and puts them into the kernel many at a time.
//! Sampling never waits for it: a walk that meets a file without a table says so.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hostscope_wire::unwind::{MappingEntry, NO_TABLE};

use super::Processes;
use super::elf::{BuildId, ElfFile};
use super::files::{FileId, FileKind, Files};
use super::unwind::{self, Cached, DEFAULT_MAX_BYTES, Table, TableCache, UnwindError};
use super::vdso;
use crate::config::UnwindSettings;
use crate::load::unwind::{KernelTable, UnwindMappings, UnwindTables};

/// A table that a walk used in this interval or the one before is not given up for another.
const KEPT_INTERVALS: u32 = 2;

/// Tables that go to the kernel in one call. Each call makes it wait for all programs under way (10 ms), so the first
/// ones are not kept waiting longer than that either.
const COMMIT_AFTER: Duration = Duration::from_millis(20);

/// What is known of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The thread has been asked for it.
    Pending,
    /// In the kernel.
    Loaded,
    /// The file has no unwind information, or none that can be read.
    Absent,
    /// It was given up for others, or found no room.
    GivenUp,
}

/// What the tables are and cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableFigures {
    /// Files whose table is in the kernel.
    pub loaded: usize,
    /// Of those ever loaded, how many came from the cache on disk.
    pub from_cache: usize,
    /// Files without unwind information, which are walked by frame pointers.
    pub absent: usize,
    /// Files whose unwind information could not be read, with the reason; the first few.
    pub unreadable: Vec<String>,
    /// Tables given up, or never made, to stay within the limit of memory, and files beyond the most tables there can be.
    pub given_up: u64,
    /// Kernel memory of the tables, in bytes, as the kernel counts it.
    pub memory_bytes: u64,
    /// Bytes of unwind information that they were made from.
    pub source_bytes: u64,
    /// From the beginning to the moment when nothing was waiting any more.
    pub ready_after: Option<Duration>,
}

/// How many unreadable files are named.
const MOST_NAMED: usize = 8;

struct Request {
    number: u32,
    name: PathBuf,
    source: Source,
    build_id: Option<BuildId>,
}

enum Source {
    File(File),
    Memory(Vec<u8>),
}

/// What both sides see.
#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    states: Vec<State>,
    pending: usize,
    interval: u32,
    figures: TableFigures,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Nobody panics while holding it; if somebody did, counts and states are still whole.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    BuildId(BuildId),
    File(FileId),
}

/// The numbers of tables, and who makes them.
pub struct Tables {
    by_key: HashMap<Key, u32>,
    by_file: HashMap<FileId, u32>,
    capacity: u32,
    /// At most one for each number waits, since only what was given up is asked for again.
    requests: Sender<Request>,
    shared: Arc<Shared>,
    entries: Vec<MappingEntry>,
}

impl Tables {
    /// Starts the thread. `began` is when the program did, for the time after which everything was ready.
    #[must_use]
    pub fn new(tables: UnwindTables, settings: &UnwindSettings, began: Instant) -> Self {
        let (requests, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let capacity = tables.capacity();
        let worker = Worker {
            tables,
            cache: settings.cache_folder.as_deref().and_then(open_cache),
            memory_limit: settings.memory_bytes,
            shared: Arc::clone(&shared),
            loaded: HashMap::new(),
            ready: Vec::new(),
            ready_sizes: Vec::new(),
            began,
        };
        let thread = std::thread::Builder::new().name("unwind-tables".into());
        if let Err(error) = thread.spawn(move || worker.run(&receiver)) {
            tracing::warn!("no thread for unwind tables, stacks end early: {error}");
        }
        Self {
            by_key: HashMap::new(),
            by_file: HashMap::new(),
            capacity,
            requests,
            shared,
            entries: Vec::new(),
        }
    }

    /// Tells the kernel side what has changed in the processes' mappings, and asks for the tables of new files.
    pub fn publish(&mut self, processes: &mut Processes, mappings: &mut UnwindMappings) {
        for pid in processes.take_gone() {
            mappings.remove(pid);
        }
        for id in processes.take_changed() {
            let Some(process) = processes.find(id) else { continue };
            let mut entries = std::mem::take(&mut self.entries);
            entries.clear();
            entries.extend(process.mappings().iter().map(|mapping| MappingEntry {
                start: mapping.start,
                end: mapping.end,
                file_offset: mapping.file_offset,
                table: self.number_of(mapping.file, &processes.files),
                reserved: 0,
            }));
            mappings.publish(process.pid, &entries);
            self.entries = entries;
        }
    }

    /// The number of a file's table, [`NO_TABLE`] where it can have none.
    fn number_of(&mut self, id: FileId, files: &Files) -> u32 {
        if let Some(&number) = self.by_file.get(&id) {
            return number;
        }
        let number = self.assign(id, files);
        self.by_file.insert(id, number);
        number
    }

    fn assign(&mut self, id: FileId, files: &Files) -> u32 {
        let Some((source, build_id)) = source(id, files) else { return NO_TABLE };
        let key = build_id.map_or(Key::File(id), Key::BuildId);
        if let Some(&number) = self.by_key.get(&key) {
            return number;
        }
        let number = self.by_key.len() as u32;
        if number >= self.capacity {
            self.shared.lock().figures.given_up += 1;
            return NO_TABLE;
        }
        self.by_key.insert(key, number);
        self.request(Request { number, name: files.get(id).path.clone(), source, build_id });
        number
    }

    /// A walk has ended in this file for want of its table: asks for it once more where it was given up.
    pub fn missed(&mut self, id: FileId, files: &Files) {
        let Some(&number) = self.by_file.get(&id) else { return };
        if self.shared.lock().states.get(number as usize) != Some(&State::GivenUp) {
            return;
        }
        if let Some((source, build_id)) = source(id, files) {
            self.request(Request { number, name: files.get(id).path.clone(), source, build_id });
        }
    }

    fn request(&self, request: Request) {
        let mut progress = self.shared.lock();
        let number = request.number as usize;
        if progress.states.len() <= number {
            progress.states.resize(number + 1, State::Pending);
        }
        progress.states[number] = State::Pending;
        progress.pending += 1;
        drop(progress);
        // The thread ends only after this end of the channel.
        let _ = self.requests.send(request);
    }

    /// A new interval begins, with the number by which the kernel side notes what it uses.
    pub fn begin_interval(&self, interval: u32) {
        self.shared.lock().interval = interval;
    }

    /// Waits until every table asked for is there, at most `limit`.
    pub fn wait(&self, limit: Duration) {
        let waiting = self.shared.lock();
        let result = self.shared.changed.wait_timeout_while(waiting, limit, |progress| progress.pending > 0);
        drop(result);
    }

    /// What there is.
    #[must_use]
    pub fn figures(&self) -> TableFigures {
        self.shared.lock().figures.clone()
    }
}

fn open_cache(folder: &Path) -> Option<TableCache> {
    TableCache::open(folder, DEFAULT_MAX_BYTES)
        .inspect_err(|error| tracing::info!("no cache of unwind tables: {error}"))
        .ok()
}

/// Where the unwind information of a file is read from, with its build id; `None` where there can be none.
fn source(id: FileId, files: &Files) -> Option<(Source, Option<BuildId>)> {
    let file = files.get(id);
    match file.kind {
        FileKind::Anonymous => None,
        FileKind::Vdso => {
            let image = vdso::image().ok()?;
            let build_id = ElfFile::parse(&image).ok()?.build_id();
            Some((Source::Memory(image), build_id))
        }
        FileKind::File => {
            let handle = file.handle.as_ref()?;
            let build_id = ElfFile::parse(handle).ok()?.build_id().filter(|_| is_trusted(handle));
            Some((Source::File(handle.try_clone().ok()?), build_id))
        }
    }
}

/// Whether the build id of a file is believed: anybody can write one into a file of their own, and would then give their
/// table to everybody who maps another file with that id.
fn is_trusted(file: &File) -> bool {
    let own = rustix::process::geteuid().as_raw();
    file.metadata().is_ok_and(|metadata| [0, own].contains(&metadata.uid()))
}

/// The thread that makes tables.
struct Worker {
    tables: UnwindTables,
    cache: Option<TableCache>,
    memory_limit: u64,
    shared: Arc<Shared>,
    /// Kernel memory and source of each table that is loaded.
    loaded: HashMap<u32, Size>,
    /// Tables in kernel memory that wait for their numbers; they count, but are not to be given up yet.
    ready: Vec<(u32, KernelTable)>,
    ready_sizes: Vec<(u32, Size)>,
    began: Instant,
}

#[derive(Clone, Copy)]
struct Size {
    memory_bytes: u64,
    source_bytes: u64,
}

impl Worker {
    fn run(mut self, requests: &Receiver<Request>) {
        let mut waiting: Vec<Request> = Vec::new();
        while let Ok(first) = requests.recv() {
            waiting.push(first);
            waiting.extend(requests.try_iter());
            // Small ones first: most processes need only those.
            waiting.sort_by_key(|request| std::cmp::Reverse(request.source.bytes()));
            let mut committed = Instant::now();
            while let Some(request) = waiting.pop() {
                if let Err(state) = self.make(&request) {
                    self.settle(&[request.number], state);
                }
                if committed.elapsed() > COMMIT_AFTER {
                    self.commit();
                    committed = Instant::now();
                    waiting.extend(requests.try_iter());
                }
            }
            self.commit();
        }
    }

    /// Puts a table into kernel memory, without its number yet; or says what becomes of the request instead.
    fn make(&mut self, request: &Request) -> Result<(), State> {
        let mut cache = self.cache.as_mut().zip(request.build_id.as_ref());
        let cached = cache.as_mut().and_then(|(cache, id)| cache.get(id));
        let is_cached = cached.is_some();
        let made = match cached {
            Some(Cached::Table(table)) => Ok(table),
            Some(Cached::NoUnwindInformation) => Err(UnwindError::NoUnwindInformation),
            None => request.source.compile(),
        };
        if let Some((cache, id)) = cache.filter(|_| !is_cached) {
            match &made {
                Ok(table) => cache.put(id, Some(table)),
                Err(UnwindError::NoUnwindInformation) => cache.put(id, None),
                // Reading may succeed next time.
                Err(_) => {}
            }
        }
        let table = match made {
            Ok(table) => table,
            Err(UnwindError::NoUnwindInformation) => return Err(State::Absent),
            Err(error) => {
                tracing::debug!(file = %request.name.display(), "no unwind table: {error}");
                let mut progress = self.shared.lock();
                if progress.figures.unreadable.len() < MOST_NAMED {
                    progress.figures.unreadable.push(format!("{}: {error}", request.name.display()));
                }
                return Err(State::Absent);
            }
        };
        let wanted_bytes = size_of_val(table.blocks()) as u64;
        if !self.make_room(wanted_bytes) {
            return Err(State::GivenUp);
        }
        let made = self.tables.create(table.blocks()).map_err(|error| {
            tracing::debug!(file = %request.name.display(), "no kernel memory for an unwind table: {error}");
            State::GivenUp
        })?;
        let size = Size { memory_bytes: made.memory_bytes, source_bytes: u64::from(table.source_bytes()) };
        self.ready.push((request.number, made));
        self.ready_sizes.push((request.number, size));
        self.shared.lock().figures.from_cache += usize::from(is_cached);
        Ok(())
    }

    /// Gives up the least recently used tables until `bytes` more fit; false where those in use leave no room.
    fn make_room(&mut self, bytes: u64) -> bool {
        let sizes = self.loaded.values().chain(self.ready_sizes.iter().map(|(_, size)| size));
        let mut total: u64 = sizes.map(|size| size.memory_bytes).sum();
        while total + bytes > self.memory_limit {
            let interval = self.shared.lock().interval;
            let oldest = self.loaded.iter().min_by_key(|(number, _)| self.tables.last_used(**number));
            let Some((&number, &size)) = oldest else { return false };
            // A table just loaded has not been used yet, and is as good a choice as any.
            let used = self.tables.last_used(number);
            if used != 0 && used + KEPT_INTERVALS > interval {
                return false;
            }
            self.loaded.remove(&number);
            let _ = self.tables.remove(number);
            total -= size.memory_bytes;
            let mut progress = self.shared.lock();
            progress.states[number as usize] = State::GivenUp;
            progress.figures.given_up += 1;
        }
        true
    }

    /// Gives the tables that are ready their numbers.
    fn commit(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let sizes = std::mem::take(&mut self.ready_sizes);
        let numbers: Vec<u32> = sizes.iter().map(|(number, _)| *number).collect();
        let state = match self.tables.insert(&self.ready) {
            Ok(()) => {
                self.loaded.extend(sizes);
                State::Loaded
            }
            Err(error) => {
                tracing::warn!("the kernel takes no unwind tables, stacks end early: {error}");
                State::GivenUp
            }
        };
        self.ready.clear();
        self.settle(&numbers, state);
    }

    fn settle(&self, numbers: &[u32], state: State) {
        let mut progress = self.shared.lock();
        for &number in numbers {
            progress.states[number as usize] = state;
            progress.pending -= 1;
        }
        let loaded = self.loaded.values();
        progress.figures.loaded = loaded.len();
        progress.figures.memory_bytes = loaded.clone().map(|size| size.memory_bytes).sum();
        progress.figures.source_bytes = loaded.map(|size| size.source_bytes).sum();
        progress.figures.given_up += if state == State::GivenUp { numbers.len() as u64 } else { 0 };
        progress.figures.absent += if state == State::Absent { numbers.len() } else { 0 };
        if progress.pending == 0 && progress.figures.ready_after.is_none() {
            progress.figures.ready_after = Some(self.began.elapsed());
            tracing::info!(
                elapsed_ms = self.began.elapsed().as_millis() as u64,
                files = progress.figures.loaded,
                from_cache = progress.figures.from_cache,
                absent = progress.figures.absent,
                bytes = progress.figures.memory_bytes,
                source_bytes = progress.figures.source_bytes,
                "unwind tables ready"
            );
        }
        drop(progress);
        self.shared.changed.notify_all();
    }
}

impl Source {
    fn bytes(&self) -> u64 {
        match self {
            Self::File(file) => file.metadata().map_or(0, |metadata| metadata.len()),
            Self::Memory(image) => image.len() as u64,
        }
    }

    fn compile(&self) -> Result<Table, UnwindError> {
        match self {
            Self::File(file) => unwind::compile(file),
            Self::Memory(image) => unwind::compile(image),
        }
    }
}
