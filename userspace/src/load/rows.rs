//! The kernel side's rows, read through memory, and given back when their process has ended.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, Queue};
use hostscope_wire::histogram::BUCKETS;
use hostscope_wire::row::{Row, RowKey};

use super::mapped::Mapped;
use super::maps::{broken_object, take};
use crate::error::Result;

/// The maps that only latency uses, whose sizes are set for it.
pub(super) const MAPS: &[&str] = &[
    "ROWS",
    "ROW_INDEXES",
    "ROW_CACHE",
    "FREE_ROWS",
    "THREAD_SLOTS",
    "THREADS",
    "SYSCALL_PROCESSES",
    "ISSUED_REQUESTS",
    "SPANS",
];

/// A row as words: its key, sum, maximum and buckets.
const WORDS: usize = size_of::<Row>() / 8;

/// All rows.
pub struct Rows {
    memory: Mapped<[AtomicU64; WORDS]>,
    indexes: HashMap<MapData, Key, u32>,
    /// Rows without a key since the last turn: a program may still be counting into them.
    retired: Vec<u32>,
    free: Queue<MapData, u32>,
    len: u32,
}

// SAFETY: integers without padding, 16 bytes (asserted where it is defined).
unsafe impl aya::Pod for Key {}

/// A key, as this crate may say that it is plain bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(RowKey);

impl Rows {
    /// The rows of a loaded object whose map has `len` of them; all but row 0 become free.
    pub(super) fn new(ebpf: &mut Ebpf, len: u32) -> Result<Self> {
        let Map::Array(data) = take(ebpf, "ROWS")? else {
            return Err(broken_object("ROWS", "it is not an array"));
        };
        let memory = Mapped::new(data.fd().as_fd(), len as usize, size_of::<Row>())
            .map_err(|error| broken_object("ROWS", error))?;
        let indexes = HashMap::try_from(take(ebpf, "ROW_INDEXES")?)
            .map_err(|error| broken_object("ROW_INDEXES", error))?;
        let mut free =
            Queue::try_from(take(ebpf, "FREE_ROWS")?).map_err(|error| broken_object("FREE_ROWS", error))?;
        for index in 1..len {
            free.push(index, 0).map_err(|error| broken_object("FREE_ROWS", error))?;
        }
        Ok(Self { memory, indexes, retired: Vec::new(), free, len })
    }

    /// How many rows there are, that of no one (row 0) included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no row at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The row's key; all zeros where it is free, also while the kernel side is still writing it.
    #[must_use]
    pub fn key(&self, index: usize) -> RowKey {
        // The programs write the second word last, and no tail is all zeros: it has a family.
        let tail = self.memory.get(index).map_or(0, |row| row[1].load(Ordering::Acquire));
        if tail == 0 {
            return RowKey::default();
        }
        RowKey {
            start_time_ns: self.word(index, 0),
            subject: tail as u32,
            family: (tail >> 32) as u8,
            label: (tail >> 40) as u8,
            detail: (tail >> 48) as u16,
        }
    }

    /// A copy of the row. Its parts may differ by what is counted while they are read.
    #[must_use]
    pub fn read(&self, index: usize) -> Row {
        let mut buckets = [0; BUCKETS];
        for (at, bucket) in buckets.iter_mut().enumerate() {
            *bucket = self.word(index, 4 + at);
        }
        Row { key: self.key(index), sum: self.word(index, 2), max: self.word(index, 3), buckets }
    }

    fn word(&self, index: usize, at: usize) -> u64 {
        self.memory.get(index).and_then(|row| row.get(at)).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Gives a row back: nobody finds it any more, and from the next [`Rows::recycle`] but one on it may be another's.
    pub fn release(&mut self, index: usize) {
        let key = self.key(index);
        if key == RowKey::default() {
            return;
        }
        // Not there any more is what is wanted.
        let _ = self.indexes.remove(&Key(key));
        if let Some(row) = self.memory.get(index) {
            row[0].store(0, Ordering::Relaxed);
            row[1].store(0, Ordering::Relaxed);
            self.retired.push(index as u32);
        }
    }

    /// Makes those rows free that were released before the last call. To be called once an interval, which is longer than any
    /// program runs.
    pub fn recycle(&mut self) {
        for index in self.retired.drain(..) {
            if let Some(row) = self.memory.get(index as usize) {
                for word in row {
                    word.store(0, Ordering::Relaxed);
                }
                // A row that is not taken back is lost until the next start; the queue has room for all.
                let _ = self.free.push(index, 0);
            }
        }
    }
}
