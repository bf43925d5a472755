//! The object with all programs and maps: its constants and sizes set, its maps made.

use aya::{Ebpf, EbpfLoader};
use hostscope_wire::spec::KernelVersion;

use super::attach::explain;
use super::{btf, preflight};
use crate::error::{Error, Result};

/// The object that cargo embeds: built by `cargo xtask ebpf`.
static PREBUILT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/prebuilt/hostscope.bpf.o");

/// The variable that names another object to load: how the tests run the one just built.
const OBJECT_VARIABLE: &str = "HOSTSCOPE_EBPF_OBJECT";

/// Since when kernels have `bpf_task_pt_regs` (commit dd6e10fbd9fb).
const TASK_PT_REGS_SINCE: KernelVersion = KernelVersion { major: 5, minor: 15 };

/// The value of one of the programs' constants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Constant {
    /// Of 32 bits.
    Word(u32),
    /// Of 64 bits.
    Long(u64),
}

/// Loads the object with these `constants`, beside those that follow from the kernel alone, and these sizes of maps.
///
/// # Errors
/// The kernel lacks BTF, or refuses a map; each program's own fate is told when it is loaded.
pub(super) fn load(constants: &[(&'static str, Constant)], sizes: &[(&'static str, u32)]) -> Result<Ebpf> {
    let offsets = preflight::offsets()?;
    let namespace = preflight::pid_namespace();
    let has_task_pt_regs = u32::from(preflight::kernel_version() >= TASK_PT_REGS_SINCE);
    let common = [
        ("HAS_TASK_PT_REGS", Constant::Word(has_task_pt_regs)),
        ("PID_NAMESPACE_DEVICE", Constant::Long(namespace.map_or(0, |namespace| namespace.device))),
        ("PID_NAMESPACE_INODE", Constant::Long(namespace.map_or(0, |namespace| namespace.inode))),
    ];
    let mut loader = loader_without_types();
    for (constant, offset) in &offsets {
        loader.override_global(constant, offset, true);
    }
    for (name, value) in common.iter().chain(constants) {
        match value {
            Constant::Word(word) => loader.override_global(name, word, true),
            Constant::Long(long) => loader.override_global(name, long, true),
        };
    }
    for (map, entries) in sizes {
        loader.map_max_entries(map, *entries);
    }
    let other = std::env::var_os(OBJECT_VARIABLE);
    let loaded = match &other {
        Some(path) => loader.load_file(path),
        None => loader.load(PREBUILT),
    };
    loaded.map_err(|error| {
        let object = other.map_or_else(|| "the eBPF object".into(), |path| path.display().to_string());
        Error::kernel(format!("cannot load {object}: {}", explain(&error)), "see hostscope doctor -v")
    })
}

/// A loader that knows nothing of the kernel's types: without CO-RE relocations in Rust nothing asks for them.
///
/// aya's one constructor reads and parses all of the kernel's BTF, wanted or not: 24 ms and 15 MB here, more than
/// everything else of a start. So it runs in a thread to which the file does not exist. Without `CAP_SYS_CHROOT` it
/// does, and only the cost is back.
fn loader_without_types<'a>() -> EbpfLoader<'a> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let construct = || {
        // SAFETY: root and working folder are this thread's own from here on, and it ends at once. Its descriptors,
        // whose separation would be unsafe, stay shared.
        if unsafe { unshare_unsafe(UnshareFlags::FS) }.is_ok() {
            // The folder of that file holds no path that leads to it.
            let _ = rustix::process::chroot(btf::FOLDER);
        }
        EbpfLoader::new()
    };
    let built = std::thread::scope(|scope| scope.spawn(construct).join());
    let mut loader = built.unwrap_or_else(|_| EbpfLoader::new());
    loader.btf(None);
    loader
}
