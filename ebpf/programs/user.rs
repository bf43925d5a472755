//! The current process as the walk sees it: its memory by helpers, its mappings and tables in maps.

use aya_ebpf::helpers::{bpf_probe_read_user, bpf_probe_read_user_buf};
use hostscope_wire::unwind::{Block, MappingEntry};

use crate::maps::{self, UnwindTable};
use crate::unwind::{Context, Process};

/// The process that runs on this CPU.
pub struct CurrentProcess;

impl Process for CurrentProcess {
    type Table = &'static UnwindTable;

    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        // SAFETY: the helper checks the address and fails instead of faulting; about 30 ns, below too.
        unsafe { bpf_probe_read_user(address as *const u64) }.ok()
    }

    #[inline(always)]
    fn words(&self, address: u64) -> Option<[u64; 2]> {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(address as *const [u64; 2]) }.ok()
    }

    #[inline(always)]
    fn read_context(&self, address: u64, context: &mut Context) -> bool {
        let bytes = core::ptr::from_mut(context).cast::<u8>();
        // SAFETY: the bytes of an array of integers, for which any value is good.
        let bytes = unsafe { core::slice::from_raw_parts_mut(bytes, size_of::<Context>()) };
        // SAFETY: as above.
        unsafe { bpf_probe_read_user_buf(address as *const u8, bytes) }.is_ok()
    }

    #[inline(always)]
    fn mapping(&self, index: u32) -> Option<&MappingEntry> {
        maps::UNWIND_MAPPINGS.get(index)
    }

    #[inline(always)]
    fn table(&self, number: u32) -> Option<Self::Table> {
        let table = maps::UNWIND_TABLES.get(number)?;
        // SAFETY: a map outlives the programs that use it.
        Some(unsafe { &*core::ptr::from_ref(table) })
    }

    #[inline(always)]
    fn used(&self, number: u32) {
        if let Some(used) = maps::UNWIND_USED.get_ptr_mut(number) {
            // SAFETY: a word that every CPU writes the same to; user space reads it at leisure.
            unsafe { *used = maps::interval() };
        }
    }

    #[inline(always)]
    fn block(&self, table: Self::Table, index: u32) -> Option<&Block> {
        table.get(index)
    }
}
