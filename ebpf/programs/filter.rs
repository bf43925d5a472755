//! Selection of processes in the kernel, so that what nobody asked for costs one look-up.

use aya_ebpf::helpers::bpf_get_current_ancestor_cgroup_id;
use hostscope_wire::limits::filter;

use crate::maps;

/// Whether the current task is one that is watched. `tgid` is its process in hostscope's pid namespace.
///
/// The helper that compares with an ancestor needs no map and costs no path walk; tracing programs have it since 5.10
/// (commit 95b861a7935b).
#[inline(always)]
pub fn watches_current(tgid: u32) -> bool {
    match maps::filter_mode() {
        filter::PROCESSES => is_target(tgid),
        filter::CGROUP => {
            // SAFETY: the helper takes a number and returns one; 0 where there is no such ancestor.
            let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(maps::filter_cgroup_level() as i32) };
            ancestor == maps::filter_cgroup_id()
        }
        _ => true,
    }
}

/// Whether the process is among the targets.
#[inline(always)]
pub fn is_target(tgid: u32) -> bool {
    maps::TARGETS.get_ptr(tgid).is_some()
}
