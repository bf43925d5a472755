//! The executable mapping that holds an address.

use hostscope_wire::unwind::{MappingEntry, NO_TABLE};

use super::{Process, Walk};

/// Most steps of a search: the kernel allows a process 65,530 mappings (`vm.max_map_count`).
const MAX_STEPS: u32 = 17;

/// Whether `address` lies in `mapping`.
#[inline(always)]
pub fn holds(mapping: &MappingEntry, address: u64) -> bool {
    address >= mapping.start && address < mapping.end
}

/// Finds the process's mapping that holds `address` and makes it the walk's; false where there is none.
///
/// Costs about 10 ns a step, of which there are 5 to 7 for usual processes; most frames need no search, since their
/// caller lies in the same file.
#[inline(always)]
pub fn find<P: Process>(process: &P, walk: &mut Walk, address: u64) -> bool {
    // The last mapping that begins at or before the address, among `count` from `low` on.
    walk.forgotten.set(walk.process.first, walk.process.count);
    for _ in 0..MAX_STEPS {
        let (low, count) = walk.forgotten.get();
        if count <= 1 {
            break;
        }
        let half = count / 2;
        let Some(entry) = process.mapping(low.wrapping_add(half)) else { return false };
        if entry.start <= address {
            walk.forgotten.set(low.wrapping_add(half), count - half);
        } else {
            walk.forgotten.set(low, half);
        }
    }
    let (low, count) = walk.forgotten.get();
    if count == 0 {
        return false;
    }
    match process.mapping(low) {
        Some(entry) if holds(entry, address) => {
            walk.mapping = *entry;
            if entry.table != NO_TABLE {
                process.used(entry.table);
            }
            true
        }
        _ => false,
    }
}
