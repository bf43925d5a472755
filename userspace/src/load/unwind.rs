//! Typed handles to what the walk of user stacks reads: tables by number, mappings by process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, ProgramArray};
use aya::programs::PerfEvent;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_info, bpf_map_type};
use hostscope_wire::limits::UNWIND_TABLES_ENTRIES;
use hostscope_wire::unwind::{BLOCK_BYTES, Block, MappingEntry, ProcessEntry};

use super::attach::explain;
use super::mapped::Mapped;
use super::maps::{broken_object, take};
use super::sys::bpf;
use crate::error::Result;

/// The program that walks user stacks, called by the sampling programs.
const WALK_PROGRAM: &str = "walk_user";

/// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP` of include/uapi/linux/bpf.h: as the object's prototype has them.
const TABLE_FLAGS: u32 = 1 << 10 | 1 << 12;

/// Loads the program that walks user stacks and makes it known to those that call it; in words of failure.
///
/// The array has to be kept: the kernel empties it when nobody outside of programs holds it any more.
pub(super) fn load_walk(ebpf: &mut Ebpf) -> std::result::Result<ProgramArray<MapData>, String> {
    let map = ebpf.take_map("WALK_USER").ok_or("no map WALK_USER in the eBPF object")?;
    let mut programs = ProgramArray::try_from(map).map_err(|error| explain(&error))?;
    let program: &mut PerfEvent = ebpf
        .program_mut(WALK_PROGRAM)
        .ok_or("no program walk_user in the eBPF object")?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| explain(&error))?;
    program.load().map_err(|error| explain(&error))?;
    let fd = program.fd().map_err(|error| explain(&error))?;
    programs.set(0, fd, 0).map_err(|error| explain(&error))?;
    Ok(programs)
}

/// The unwind tables in the kernel, by number.
pub struct UnwindTables {
    outer: MapData,
    used: Mapped<AtomicU32>,
    types: Option<TableTypes>,
}

/// What a table has to be created with to be taken for one.
struct TableTypes {
    btf: OwnedFd,
    key: u32,
    value: u32,
}

/// A table of its own in kernel memory, not yet given a number.
pub struct KernelTable {
    map: OwnedFd,
    /// What the kernel counts for it, in bytes.
    pub memory_bytes: u64,
}

impl UnwindTables {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let Map::ArrayOfMaps(outer) = take(ebpf, "UNWIND_TABLES")? else {
            return Err(broken_object("UNWIND_TABLES", "it is not an array of maps"));
        };
        let used = array_data(ebpf, "UNWIND_USED")?;
        let used = Mapped::new(used.fd().as_fd(), UNWIND_TABLES_ENTRIES as usize, 8)
            .map_err(|error| broken_object("UNWIND_USED", error))?;
        let prototype = array_data(ebpf, "UNWIND_PROTOTYPE")?;
        // Kernels other than 6.1 take a table without types too; where there are none, they are tried without.
        let types = TableTypes::of(prototype.fd().as_fd()).ok();
        Ok(Self { outer, used, types })
    }

    /// How many tables there can be; numbers begin at 0.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        UNWIND_TABLES_ENTRIES
    }

    /// The interval in which the table was last used by a walk.
    #[must_use]
    pub fn last_used(&self, number: u32) -> u32 {
        self.used.get(number as usize).map_or(0, |used| used.load(Ordering::Relaxed))
    }

    /// Copies a table into the kernel: about 20 µs and 2.5 ms for 16 MB.
    ///
    /// # Errors
    /// No kernel memory is left, or what else `bpf(2)` and mmap answer.
    pub fn create(&self, blocks: &[Block]) -> io::Result<KernelTable> {
        // SAFETY: all zeros is a valid `bpf_attr`.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        let count = u32::try_from(blocks.len()).map_err(io::Error::other)?;
        // SAFETY: the part of the union that BPF_MAP_CREATE reads; all of its fields are integers.
        let create = unsafe { &mut attributes.__bindgen_anon_1 };
        create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        create.key_size = 4;
        create.value_size = BLOCK_BYTES as u32;
        create.max_entries = count;
        create.map_flags = TABLE_FLAGS;
        for (to, &from) in create.map_name.iter_mut().zip(b"unwind_table") {
            *to = from as std::ffi::c_char;
        }
        if let Some(types) = &self.types {
            create.btf_fd = types.btf.as_raw_fd() as u32;
            create.btf_key_type_id = types.key;
            create.btf_value_type_id = types.value;
        }
        let fd = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attributes)?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        let map = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut memory = Mapped::<Block>::new(map.as_fd(), blocks.len(), BLOCK_BYTES)?;
        memory.copy_from(blocks);
        let memory_bytes = memory_bytes(map.as_fd())?;
        Ok(KernelTable { map, memory_bytes })
    }

    /// Gives tables their numbers: from now on walks use them. Other tables under the same numbers are freed.
    ///
    /// In one call, since each makes the kernel wait for all programs under way (about 10 ms); one by one on kernels
    /// that know no batches of maps.
    ///
    /// # Errors
    /// What `bpf(2)` answers.
    pub fn insert(&self, tables: &[(u32, KernelTable)]) -> io::Result<()> {
        let keys: Vec<u32> = tables.iter().map(|(number, _)| *number).collect();
        let values: Vec<u32> = tables.iter().map(|(_, table)| table.map.as_raw_fd() as u32).collect();
        // SAFETY: all zeros is a valid `bpf_attr`.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.batch.keys = keys.as_ptr() as u64;
        attributes.batch.values = values.as_ptr() as u64;
        attributes.batch.count = keys.len() as u32;
        attributes.batch.map_fd = self.outer.fd().as_fd().as_raw_fd() as u32;
        if bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attributes).is_ok() {
            return Ok(());
        }
        keys.iter().zip(&values).try_for_each(|(key, value)| self.update(key, value))
    }

    fn update(&self, key: &u32, value: &u32) -> io::Result<()> {
        let mut attributes = self.element(key);
        attributes.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }

    /// Frees a table.
    ///
    /// # Errors
    /// What `bpf(2)` answers.
    pub fn remove(&self, number: u32) -> io::Result<()> {
        bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut self.element(&number)).map(drop)
    }

    fn element(&self, key: &u32) -> bpf_attr {
        // SAFETY: all zeros is a valid `bpf_attr`.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.__bindgen_anon_2.map_fd = self.outer.fd().as_fd().as_raw_fd() as u32;
        attributes.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
        attributes
    }
}

impl TableTypes {
    fn of(prototype: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: all zeros is a valid value of both.
        let (mut info, mut attributes): (bpf_map_info, bpf_attr) = unsafe { std::mem::zeroed() };
        attributes.info.bpf_fd = prototype.as_raw_fd() as u32;
        attributes.info.info_len = size_of::<bpf_map_info>() as u32;
        attributes.info.info = std::ptr::from_mut(&mut info) as u64;
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
        // SAFETY: all zeros is a valid `bpf_attr`.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.__bindgen_anon_6.__bindgen_anon_1.btf_id = info.btf_id;
        let fd = bpf(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attributes)?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        let btf = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { btf, key: info.btf_key_type_id, value: info.btf_value_type_id })
    }
}

/// What the kernel counts for a map, as `/proc` tells it.
fn memory_bytes(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).ok_or_else(|| io::Error::other("no memlock in fdinfo"))
}

fn array_data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match take(ebpf, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(broken_object(name, "it is not an array")),
    }
}

/// The mappings of every process that is walked.
///
/// Those of one process lie side by side. A change is written to a new place and then made known, so that a walk under
/// way goes on in the old one, which stays as it is for two intervals.
pub struct UnwindMappings {
    processes: HashMap<MapData, u32, [u32; 2]>,
    entries: Mapped<MappingEntry>,
    places: Places,
    by_pid: std::collections::HashMap<u32, ProcessEntry>,
    /// Processes that found no room among the mappings or the processes: their stacks end at the first frame.
    pub full: u64,
}

impl UnwindMappings {
    pub(super) fn new(ebpf: &mut Ebpf, mappings: u32) -> Result<Self> {
        let name = "UNWIND_PROCESSES";
        let processes = HashMap::try_from(take(ebpf, name)?).map_err(|error| broken_object(name, error))?;
        let name = "UNWIND_MAPPINGS";
        let map = array_data(ebpf, name)?;
        let entries = Mapped::new(map.fd().as_fd(), mappings as usize, size_of::<MappingEntry>())
            .map_err(|error| broken_object(name, error))?;
        Ok(Self {
            processes,
            entries,
            places: Places::new(mappings),
            by_pid: std::collections::HashMap::new(),
            full: 0,
        })
    }

    /// Makes known what `pid` has mapped, in the order of addresses: about 2 µs.
    pub fn publish(&mut self, pid: u32, mappings: &[MappingEntry]) {
        let count = mappings.len() as u32;
        let Some(first) = self.places.take(count) else {
            self.full += 1;
            return;
        };
        self.entries.write(first as usize, mappings);
        if self.processes.insert(pid, [first, count], 0).is_err() {
            self.full += 1;
            self.places.give_back(first, count);
            return;
        }
        if let Some(old) = self.by_pid.insert(pid, ProcessEntry { first, count }) {
            self.places.give_back(old.first, old.count);
        }
    }

    /// Forgets a process.
    pub fn remove(&mut self, pid: u32) {
        // It may have inherited its parent's and never have got its own.
        let _ = self.processes.remove(&pid);
        if let Some(old) = self.by_pid.remove(&pid) {
            self.places.give_back(old.first, old.count);
        }
    }

    /// Two intervals after a place was given back it may be taken again.
    pub fn begin_interval(&mut self) {
        self.places.begin_interval();
    }
}

/// Room for the mappings of processes: places whose sizes are powers of two, reused by size.
struct Places {
    capacity: u32,
    unused_from: u32,
    free: [Vec<u32>; 32],
    given_back: [Vec<(u32, u32)>; 2],
}

impl Places {
    fn new(capacity: u32) -> Self {
        Self { capacity, unused_from: 0, free: Default::default(), given_back: Default::default() }
    }

    fn class(count: u32) -> u32 {
        count.max(8).next_power_of_two().trailing_zeros()
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        // No process has as many as would overflow the power of two.
        if count > self.capacity {
            return None;
        }
        let class = Self::class(count);
        if let Some(first) = self.free[class as usize].pop() {
            return Some(first);
        }
        let end = self.unused_from.checked_add(1 << class)?;
        if end > self.capacity {
            return None;
        }
        Some(std::mem::replace(&mut self.unused_from, end))
    }

    fn give_back(&mut self, first: u32, count: u32) {
        self.given_back[0].push((first, Self::class(count)));
    }

    fn begin_interval(&mut self) {
        let [newest, oldest] = &mut self.given_back;
        for (first, class) in oldest.drain(..) {
            self.free[class as usize].push(first);
        }
        std::mem::swap(newest, oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reused_after_two_intervals_and_end_at_the_capacity() {
        let mut places = Places::new(32);
        assert_eq!((places.take(3), places.take(9), places.take(1)), (Some(0), Some(8), Some(24)));
        assert_eq!((places.take(1), places.take(100)), (None, None));
        places.give_back(0, 3);
        assert_eq!(places.take(8), None);
        places.begin_interval();
        assert_eq!(places.take(8), None);
        places.begin_interval();
        assert_eq!(places.take(8), Some(0));
    }
}
