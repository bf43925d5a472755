//! Everything in detail, of a sliding window and since the start: what the JSON API and the terminal show.
//!
//! # Bound
//! [`MAX_ENTRIES`] of at most 800 bytes, and [`MAX_CELLS`] of 16 bytes: 32 MB and 16 MB where every limit is reached. A host of
//! some hundred processes has a few thousand entries.

use std::collections::{HashMap, VecDeque};

use hostscope_wire::histogram::BUCKETS;

use super::series::{Delta, Key, Owner, at, width};
use super::snapshot::Histogram;

/// Most series in detail. A process of an ordinary host has five to ten.
pub const MAX_ENTRIES: usize = 40_000;

/// Entries that only processes may not take: services show more with less.
const RESERVED_FOR_SERVICES: usize = 10_000;

/// Entries that stay free for `~other` when all else is full: its label values are few.
const RESERVED_FOR_OTHER: usize = 1_000;

/// Most changes that the window remembers; beyond it the window is shorter, and says so.
pub const MAX_CELLS: usize = 1_000_000;

/// A series in detail.
pub struct Entry {
    /// Which.
    pub key: Key,
    /// Three times the same numbers (see [`at`]): since the start, of the window, and of the interval that runs.
    values: Box<[u64]>,
    /// The longest since the start, in nanoseconds.
    max_ns: u64,
    /// The interval in which it last changed.
    changed_in: u64,
    /// Whether it was counted as one that has no exported series of its own.
    pub is_folded: bool,
}

impl Entry {
    fn part(&self, part: usize) -> &[u64] {
        let width = self.values.len() / 3;
        &self.values[part * width..(part + 1) * width]
    }

    /// What was counted since the start.
    #[must_use]
    pub fn total(&self) -> Counts<'_> {
        Counts { values: self.part(0), max_ns: self.max_ns }
    }

    /// What was counted in the window.
    #[must_use]
    pub fn window(&self) -> Counts<'_> {
        Counts { values: self.part(1), max_ns: self.max_ns }
    }

    /// What the interval that ends has added.
    #[must_use]
    pub fn current(&self) -> Counts<'_> {
        Counts { values: self.part(2), max_ns: self.max_ns }
    }
}

/// The numbers of a series.
#[derive(Debug, Clone, Copy)]
pub struct Counts<'a> {
    /// In the order of [`at`].
    pub values: &'a [u64],
    /// Not below the longest.
    pub max_ns: u64,
}

impl Counts<'_> {
    /// As a histogram; of a counter, one without observations.
    #[must_use]
    pub fn histogram(&self) -> Histogram {
        let mut buckets = [0; BUCKETS];
        for (bucket, &value) in buckets.iter_mut().zip(&self.values[at::BUCKETS..]) {
            *bucket = value;
        }
        let histogram = Histogram { buckets, sum_ns: self.values[at::SUM], max_ns: self.max_ns };
        Histogram { max_ns: histogram.max_bound_ns(), ..histogram }
    }

    /// Observations, or of a counter what it counts.
    #[must_use]
    pub fn count(&self) -> u64 {
        if self.values.len() == at::BUCKETS {
            return self.values[at::SUM];
        }
        self.values[at::BUCKETS..].iter().fold(0, |count, &bucket| count.saturating_add(bucket))
    }
}

/// One number of one entry, changed in one interval.
struct Cell {
    entry: u32,
    at: u8,
    amount: u64,
}

/// What one interval has added.
struct Slot {
    end_ns: u64,
    duration_ns: u64,
    cells: Vec<Cell>,
}

/// Entries, and the window over them.
pub struct Statistics {
    index: HashMap<Key, u32>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    slots: VecDeque<Slot>,
    cells: usize,
    /// The one that runs, from 1.
    interval: u64,
    began_ns: u64,
    changed: Vec<u32>,
    /// What found no room: of a process, which its service still has, or of a service, which `~other` has.
    pub overflow: u64,
}

impl Statistics {
    /// Empty; the first interval begins at `now_ns` of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        Self {
            index: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            slots: VecDeque::new(),
            cells: 0,
            interval: 1,
            began_ns: now_ns,
            changed: Vec::new(),
            overflow: 0,
        }
    }

    /// Adds to a series, making it where there is none and room.
    pub fn add(&mut self, key: Key, delta: &Delta<'_>) {
        let Some(index) = self.find_or_make(key) else { return };
        let Some(entry) = &mut self.entries[index as usize] else { return };
        if entry.changed_in != self.interval {
            entry.changed_in = self.interval;
            self.changed.push(index);
        }
        entry.max_ns = entry.max_ns.max(delta.max_ns);
        let current = entry.values.len() / 3 * 2;
        let current = &mut entry.values[current..];
        current[at::SUM] = current[at::SUM].saturating_add(delta.sum);
        current[at::ERRORS] = current[at::ERRORS].saturating_add(delta.errors);
        for (sum, &bucket) in current[at::BUCKETS..].iter_mut().zip(delta.buckets.into_iter().flatten()) {
            *sum = sum.saturating_add(bucket);
        }
    }

    /// The entry of `key`, or of what it folds into where there is no room for it.
    fn find_or_make(&mut self, key: Key) -> Option<u32> {
        if let Some(&index) = self.index.get(&key) {
            return Some(index);
        }
        let (reserved, fallback) = match key.owner {
            Owner::Process(_) => (RESERVED_FOR_SERVICES, None),
            Owner::Service(_) => (RESERVED_FOR_OTHER, Some(Key { owner: Owner::Other, ..key })),
            Owner::Host => (RESERVED_FOR_OTHER, Some(key.without_details())),
            // Without its details there is one a metric: far fewer than are reserved.
            Owner::Other => (RESERVED_FOR_OTHER / 2, Some(key.without_details())),
        };
        if self.index.len() + reserved >= MAX_ENTRIES && fallback != Some(key) {
            self.overflow += 1;
            return self.find_or_make(fallback?);
        }
        let values = vec![0; 3 * width(key.metric.0)].into_boxed_slice();
        let entry = Some(Entry { key, values, max_ns: 0, changed_in: 0, is_folded: false });
        let index = self.free.pop().unwrap_or(self.entries.len() as u32);
        match self.entries.get_mut(index as usize) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
        self.index.insert(key, index);
        Some(index)
    }

    /// The entries that the interval that runs has changed.
    pub fn changed(&self) -> impl Iterator<Item = &Entry> {
        self.changed.iter().filter_map(|&index| self.entries[index as usize].as_ref())
    }

    /// Every entry.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// Seconds that the window spans now.
    #[must_use]
    pub fn window_seconds(&self) -> f64 {
        self.slots.iter().map(|slot| slot.duration_ns).sum::<u64>() as f64 / 1e9
    }

    /// Ends the interval at `now_ns`: each changed entry is shown to `each`, becomes part of the totals and of the window,
    /// and what is older than `window_ns` leaves the window.
    pub fn end_interval(&mut self, now_ns: u64, window_ns: u64, mut each: impl FnMut(&mut Entry)) {
        let mut cells = Vec::new();
        for &index in &self.changed {
            let Some(entry) = &mut self.entries[index as usize] else { continue };
            each(entry);
            let width = entry.values.len() / 3;
            for at in 0..width {
                let amount = std::mem::take(&mut entry.values[2 * width + at]);
                if amount != 0 {
                    entry.values[at] = entry.values[at].saturating_add(amount);
                    entry.values[width + at] = entry.values[width + at].saturating_add(amount);
                    cells.push(Cell { entry: index, at: at as u8, amount });
                }
            }
        }
        self.changed.clear();
        self.cells += cells.len();
        let duration_ns = now_ns.saturating_sub(self.began_ns);
        self.slots.push_back(Slot { end_ns: now_ns, duration_ns, cells });
        self.began_ns = now_ns;
        self.interval += 1;
        while self.slots.len() > 1
            && self
                .slots
                .front()
                .is_some_and(|slot| slot.end_ns.saturating_add(window_ns) <= now_ns || self.cells > MAX_CELLS)
        {
            self.leave_window();
        }
    }

    fn leave_window(&mut self) {
        let Some(slot) = self.slots.pop_front() else { return };
        self.cells -= slot.cells.len();
        for cell in slot.cells {
            if let Some(entry) = &mut self.entries[cell.entry as usize] {
                let at = entry.values.len() / 3 + usize::from(cell.at);
                entry.values[at] = entry.values[at].saturating_sub(cell.amount);
            }
        }
    }

    /// Forgets the entries whose owner is gone, as `is_gone` says, save those that the window still has.
    pub fn forget(&mut self, is_gone: impl Fn(Owner) -> bool) {
        // One slot is an interval: what changed before the first of them is in none.
        let oldest = self.interval - self.slots.len() as u64;
        for (index, place) in self.entries.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|entry| entry.changed_in < oldest && is_gone(entry.key.owner))
                && let Some(entry) = place.take()
            {
                self.index.remove(&entry.key);
                self.free.push(index as u32);
            }
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use hostscope_wire::histogram::bucket;

    use super::*;
    use crate::aggregate::series::{MetricRef, Symbol};
    use crate::metrics::{OFFCPU, OOM_KILLS, PAGE_FAULTS};

    const SECOND_NS: u64 = 1_000_000_000;

    fn key(owner: Owner) -> Key {
        Key { metric: MetricRef(&OFFCPU), owner, labels: [Symbol::NONE; 2] }
    }

    #[test]
    fn the_window_forgets_and_the_total_does_not() {
        let mut statistics = Statistics::new(0);
        let mut buckets = [0; BUCKETS];
        buckets[bucket(3_000)] = 2;
        for second in 1..=10 {
            let delta = Delta { sum: 6_000, errors: 1, max_ns: 3_000, buckets: Some(&buckets) };
            statistics.add(key(Owner::Host), &delta);
            statistics.end_interval(second * SECOND_NS, 3 * SECOND_NS, |_| {});
        }
        let entry = statistics.entries().next().expect("an entry");
        assert_eq!((entry.total().count(), entry.window().count(), entry.current().count()), (20, 6, 0));
        assert_eq!((entry.total().values[at::ERRORS], entry.window().histogram().sum_ns), (10, 18_000));
        assert_eq!(
            (entry.window().histogram().max_ns, statistics.window_seconds().round() as u64),
            (3_000, 3)
        );
        // Three quiet seconds later the window is empty, and with it what holds the entry.
        statistics.forget(|_| true);
        assert_eq!(statistics.len(), 1);
        for second in 11..=13 {
            statistics.end_interval(second * SECOND_NS, 3 * SECOND_NS, |_| {});
        }
        assert_eq!(statistics.entries().next().map(|entry| entry.window().count()), Some(0));
        statistics.forget(|_| true);
        assert!(statistics.is_empty() && statistics.cells == 0);
    }

    #[test]
    fn what_finds_no_room_is_folded_and_counted() {
        let mut statistics = Statistics::new(0);
        let delta = Delta::count(1);
        let of = |metric, owner| Key { metric: MetricRef(metric), owner, labels: [Symbol::NONE; 2] };
        for index in 0..2 * MAX_ENTRIES as u32 {
            statistics.add(of(&PAGE_FAULTS, Owner::Process(index)), &delta);
        }
        assert_eq!(statistics.len(), MAX_ENTRIES - RESERVED_FOR_SERVICES);
        for index in 0..2 * MAX_ENTRIES as u32 {
            statistics.add(of(&OOM_KILLS, Owner::Service(index)), &delta);
        }
        assert!(statistics.len() <= MAX_ENTRIES);
        let kills = statistics.entries().filter(|entry| entry.key.metric == MetricRef(&OOM_KILLS));
        assert_eq!(kills.map(|entry| entry.current().count()).sum::<u64>(), 2 * MAX_ENTRIES as u64);
        assert!(statistics.overflow > MAX_ENTRIES as u64);
    }
}
