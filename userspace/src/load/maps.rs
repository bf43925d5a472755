//! Typed handles to the kernel side's maps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use hostscope_wire::loss::Loss;
use hostscope_wire::stack::CountKey;

use super::sys::BatchDrain;
use crate::error::{Error, Result};

/// Entries that one batched call reads at most; 160 KB of buffers.
const BATCH_ENTRIES: usize = 4096;

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).ok_or_else(|| broken_object(name, "it is not in the object"))
}

pub(super) fn broken_object(name: &str, why: impl std::fmt::Display) -> Error {
    Error::failed(
        format!("the eBPF object's map {name} cannot be used: {why}"),
        "rebuild it: cargo xtask ebpf, then build hostscope again",
    )
}

fn hash_data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match take(ebpf, name)? {
        Map::HashMap(data) => Ok(data),
        _ => Err(broken_object(name, "it is not a hash map")),
    }
}

/// Sample counts: two maps, written by turns.
pub struct Counts {
    interval: Array<MapData, u32>,
    number: u32,
    maps: [MapData; 2],
    drain: BatchDrain<CountKey, u64>,
}

impl Counts {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let interval =
            Array::try_from(take(ebpf, "INTERVAL")?).map_err(|error| broken_object("INTERVAL", error))?;
        let maps = [hash_data(ebpf, "COUNTS_EVEN")?, hash_data(ebpf, "COUNTS_ODD")?];
        Ok(Self { interval, number: 0, maps, drain: BatchDrain::new(BATCH_ENTRIES) })
    }

    /// Gives out the counts of the interval before the one that ends now, and begins a new one. A program that was
    /// under way when its interval ended has had a whole interval to finish.
    ///
    /// # Errors
    /// What `bpf(2)` answers.
    pub fn turn(&mut self, each: impl FnMut(&CountKey, &u64)) -> io::Result<()> {
        let next = self.number.wrapping_add(1);
        // The map that is written from now on is the one that was left alone since the last turn.
        let idle = &self.maps[(next & 1) as usize];
        self.drain.drain(idle.fd().as_fd(), each)?;
        self.interval.set(0, next, 0).map_err(io::Error::other)?;
        self.number = next;
        Ok(())
    }

    /// The number of the current interval, as the kernel side knows it.
    #[must_use]
    pub fn interval(&self) -> u32 {
        self.number
    }

    /// Gives out everything that is left, once no program runs any more.
    ///
    /// # Errors
    /// What `bpf(2)` answers.
    pub fn finish(&mut self, mut each: impl FnMut(&CountKey, &u64)) -> io::Result<()> {
        for map in &self.maps {
            self.drain.drain(map.fd().as_fd(), &mut each)?;
        }
        Ok(())
    }
}

/// The ids of stacks that the kernel side has sent.
pub struct Sent {
    map: MapData,
    drain: BatchDrain<u64, u64>,
}

impl Sent {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self { map: hash_data(ebpf, "SENT")?, drain: BatchDrain::new(BATCH_ENTRIES) })
    }

    /// Forgets them all: each stack is sent once more when it is met again.
    ///
    /// # Errors
    /// What `bpf(2)` answers.
    pub fn clear(&mut self) -> io::Result<()> {
        self.drain.drain(self.map.fd().as_fd(), |_, _| ())
    }
}

/// The processes watched.
pub struct Targets(HashMap<MapData, u32, u32>);

impl Targets {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        HashMap::try_from(take(ebpf, "TARGETS")?).map(Self).map_err(|error| broken_object("TARGETS", error))
    }

    /// Watches this process and what it forks from now on.
    ///
    /// # Errors
    /// The map is full, or what else `bpf(2)` answers.
    pub fn insert(&mut self, pid: u32) -> Result<()> {
        self.0.insert(pid, 1, 0).map_err(|error| {
            Error::failed(
                format!("cannot watch process {pid}: {error}"),
                "name fewer processes, or their cgroup",
            )
        })
    }

    /// Watches this process no more. Its id may be given to another one.
    pub fn remove(&mut self, pid: u32) {
        // Not there any more is what is wanted.
        let _ = self.0.remove(&pid);
    }
}

/// What the kernel side lost, by reason.
pub struct Losses(PerCpuArray<MapData, u64>);

impl Losses {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        PerCpuArray::try_from(take(ebpf, "LOSSES")?).map(Self).map_err(|error| broken_object("LOSSES", error))
    }

    /// The counts since load, summed over CPUs; reasons without a loss are left out.
    #[must_use]
    pub fn read(&self) -> Vec<(Loss, u64)> {
        Loss::ALL
            .into_iter()
            .filter_map(|reason| {
                let count: u64 = self.0.get(&(reason as u32), 0).ok()?.iter().sum();
                (count > 0).then_some((reason, count))
            })
            .collect()
    }
}

/// The ring buffer of stacks and process events.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        RingBuf::try_from(take(ebpf, "EVENTS")?).map(Self).map_err(|error| broken_object("EVENTS", error))
    }

    /// Hands out every record that waits.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(record) = self.0.next() {
            each(&record);
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
