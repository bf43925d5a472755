//! Tests of the real kernel that run on the host and, by `cargo xtask vmtest`, on every kernel that is supported.
//!
//! The environment names what they work with: `HOSTSCOPE_BIN` (our executable), `HOSTSCOPE_WORKLOADS` (the folder of the
//! programs built from `tests/workloads`) and, in a virtual machine only, `HOSTSCOPE_VM` (which kernel was booted).

/// Every typed tracepoint and every struct offset comes from here.
#[test]
fn the_kernel_describes_its_types() {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux")
        .expect("kernels since 5.4 with CONFIG_DEBUG_INFO_BTF have it");
    assert_eq!(btf.get(..2), Some(&[0x9f, 0xeb][..]), "the magic number of BTF on a little-endian machine");
}
