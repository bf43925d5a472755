//! Stacks and counts of one window, each stack and each code address once; below it, latency and counts by service.
//!
//! Addresses become (mapping, address) here, under the mappings of the moment; names come later, from a stage that
//! knows files.

pub mod exports;
pub mod latency;
pub mod projections;
pub mod report;
pub mod series;
mod slab;
pub mod statistics;
pub mod snapshot;
mod views;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use hostscope_wire::stack::{CountKey, EXACT_PC, StackEnd, StackHeader};

use crate::targets::{Mapping, ProcessId};

/// Where a code address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the kernel.
    Kernel,
    /// In a mapping: index into [`Window::mappings`].
    Mapped(u32),
    /// In no mapping that is known of this process.
    Unmapped(ProcessId),
}

/// A code address that occurs in a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The address; for a caller the last byte of its call instruction.
    pub address: u64,
    /// Where that is.
    pub place: Place,
}

/// A distinct stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Whose.
    pub process: ProcessId,
    /// Indexes into [`Window::locations`], leaf first.
    pub locations: Box<[u32]>,
    /// Why the walk ended.
    pub end: StackEnd,
}

/// Distinct stacks that one window keeps: about 100 MB at 30 frames each. A host at 99 Hz meets this many in hours;
/// who profiles longer takes several windows.
pub const MAX_STACKS: usize = 500_000;

/// Everything counted in one window of time.
#[derive(Default)]
pub struct Window {
    /// Every mapping that a location lies in, with the process it belongs to.
    pub mappings: Vec<(ProcessId, Mapping)>,
    /// Every distinct code address.
    pub locations: Vec<Location>,
    /// Every distinct stack, by its id in the kernel.
    pub stacks: HashMap<u64, Stack>,
    /// Samples by stack and thread.
    pub counts: HashMap<CountKey, u64>,
    /// Stacks beyond [`MAX_STACKS`], whose samples are therefore missing.
    pub stacks_dropped: u64,
    mapping_index: HashMap<(ProcessId, Mapping), u32>,
    location_index: HashMap<Location, u32>,
    scratch: Vec<u32>,
}

/// User addresses end, and the kernel's begin, far on either side of this on x86-64.
const KERNEL_BEGIN: u64 = 1 << 63;

impl Window {
    /// Keeps a stack of `process`; `mapping_at` finds the mapping of a user address.
    pub fn add_stack(
        &mut self,
        header: &StackHeader,
        frames: impl Iterator<Item = u64>,
        process: ProcessId,
        mut mapping_at: impl FnMut(u64) -> Option<Mapping>,
    ) {
        if self.stacks.contains_key(&header.stack_id) {
            return;
        }
        if self.stacks.len() >= MAX_STACKS {
            self.stacks_dropped += 1;
            return;
        }
        // A number that this version does not know comes from an object that it was not built with.
        let mut end = StackEnd::from_number(header.end).unwrap_or(StackEnd::UnreadableStack);
        let mut locations = std::mem::take(&mut self.scratch);
        locations.clear();
        for (index, address) in frames.enumerate() {
            // The first frame of each part is where the CPU was, and so are those that a signal interrupted; all others
            // are return addresses, which may belong to the next line or even the next function: the call lies before
            // them.
            let is_leaf = index == 0 || index == header.kernel_frames as usize;
            let is_user = index >= header.kernel_frames as usize;
            let is_exact = is_leaf || is_user && address & EXACT_PC != 0;
            let address = if is_user { address & !EXACT_PC } else { address };
            let address = if is_exact { address } else { address.wrapping_sub(1) };
            let place = if address >= KERNEL_BEGIN {
                Place::Kernel
            } else {
                match mapping_at(address) {
                    Some(mapping) => Place::Mapped(self.mapping(process, mapping)),
                    None if is_leaf => Place::Unmapped(process),
                    // Not code: the walk took something else for a frame, here or one step before.
                    None => {
                        end = StackEnd::UnmappedPc;
                        break;
                    }
                }
            };
            locations.push(self.location(Location { address, place }));
        }
        self.stacks.insert(header.stack_id, Stack { process, locations: locations.as_slice().into(), end });
        self.scratch = locations;
    }

    /// Adds `count` samples of one stack and thread.
    pub fn add_count(&mut self, key: &CountKey, count: u64) {
        match self.counts.entry(*key) {
            Entry::Occupied(mut entry) => *entry.get_mut() += count,
            Entry::Vacant(entry) => {
                entry.insert(count);
            }
        }
    }

    /// Samples whose stack is not known: sent by the kernel side, but dropped here.
    #[must_use]
    pub fn samples_without_stack(&self) -> u64 {
        self.counts
            .iter()
            .filter(|(key, _)| !self.stacks.contains_key(&key.stack_id))
            .map(|(_, count)| count)
            .sum()
    }

    fn mapping(&mut self, process: ProcessId, mapping: Mapping) -> u32 {
        *self.mapping_index.entry((process, mapping)).or_insert_with(|| {
            self.mappings.push((process, mapping));
            self.mappings.len() as u32 - 1
        })
    }

    fn location(&mut self, location: Location) -> u32 {
        *self.location_index.entry(location).or_insert_with(|| {
            self.locations.push(location);
            self.locations.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::files::FileId;

    const CODE: Mapping = Mapping { start: 0x1000, end: 0x2000, file_offset: 0, file: FileId(0) };

    fn header(stack_id: u64, kernel_frames: u32, user_frames: u32) -> StackHeader {
        StackHeader {
            header: hostscope_wire::event::EventHeader::default(),
            stack_id,
            start_time_ns: 0,
            tgid: 1,
            end: StackEnd::Complete as u32,
            kernel_frames,
            user_frames,
        }
    }

    fn mapped(address: u64) -> Option<Mapping> {
        (CODE.start..CODE.end).contains(&address).then_some(CODE)
    }

    #[test]
    fn return_addresses_are_moved_into_their_calls_and_leaves_are_not() {
        let mut window = Window::default();
        let frames = [KERNEL_BEGIN + 8, KERNEL_BEGIN + 16, 0x1500, 0x1600];
        window.add_stack(&header(1, 2, 2), frames.into_iter(), ProcessId(0), mapped);
        let addresses: Vec<u64> = window.locations.iter().map(|location| location.address).collect();
        assert_eq!(addresses, [KERNEL_BEGIN + 8, KERNEL_BEGIN + 15, 0x1500, 0x15ff]);
        assert_eq!(window.locations[1].place, Place::Kernel);
        assert_eq!(window.locations[3].place, Place::Mapped(0));
    }

    #[test]
    fn what_a_signal_interrupted_stays_where_it_is() {
        let mut window = Window::default();
        let frames = [0x1500, 0x1600 | EXACT_PC, 0x1700 | EXACT_PC, 0x1800];
        window.add_stack(&header(1, 0, 4), frames.into_iter(), ProcessId(0), mapped);
        let addresses: Vec<u64> = window.locations.iter().map(|location| location.address).collect();
        assert_eq!(addresses, [0x1500, 0x1600, 0x1700, 0x17ff]);
    }

    #[test]
    fn a_caller_outside_of_code_ends_the_stack_and_says_so() {
        let mut window = Window::default();
        window.add_stack(&header(1, 0, 3), [0x1500, 0x9000, 0x1600].into_iter(), ProcessId(0), mapped);
        let stack = &window.stacks[&1];
        assert_eq!((stack.locations.len(), stack.end), (1, StackEnd::UnmappedPc));
        window.add_stack(&header(2, 0, 1), [0x9000].into_iter(), ProcessId(0), mapped);
        assert_eq!(window.stacks[&2].end, StackEnd::Complete);
        assert_eq!(window.locations[1].place, Place::Unmapped(ProcessId(0)));
    }

    #[test]
    fn equal_addresses_are_one_location_and_counts_add_up() {
        let mut window = Window::default();
        window.add_stack(&header(1, 0, 1), [0x1500].into_iter(), ProcessId(0), mapped);
        window.add_stack(&header(2, 0, 2), [0x1500, 0x1501].into_iter(), ProcessId(0), mapped);
        assert_eq!(window.locations.len(), 1);
        let key = CountKey { stack_id: 1, tid: 7, ..CountKey::default() };
        window.add_count(&key, 2);
        window.add_count(&key, 3);
        assert_eq!(window.counts[&key], 5);
        window.add_count(&CountKey { stack_id: 9, ..key }, 4);
        assert_eq!(window.samples_without_stack(), 4);
    }
}
