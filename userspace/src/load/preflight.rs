//! What this host allows: kernel release, BTF, capabilities, pid namespace; each with its mend.

use std::fs;

use hostscope_wire::spec::KernelVersion;
use serde::Serialize;

use super::btf::{self, Btf};
use crate::error::{Error, Result};

/// Capabilities by number (`include/uapi/linux/capability.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// Reads files that belong to others.
    DacReadSearch = 2,
    /// Reads `/proc/PID/maps` and `/proc/PID/root` of other users' processes.
    SysPtrace = 19,
    /// Stands in for each of the others on kernels that do not know them.
    SysAdmin = 21,
    /// Opens perf events of the whole host (5.8).
    Perfmon = 38,
    /// Loads programs and makes maps (5.8).
    Bpf = 39,
    /// Opens `/proc/PID/map_files` (5.9).
    CheckpointRestore = 40,
}

/// The capabilities in effect, as a bit set.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of this process.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn of_this_process() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").map_err(|error| {
            Error::failed(
                format!("cannot read /proc/self/status: {error}"),
                "mount procfs: mount -t proc proc /proc",
            )
        })?;
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let set = set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        Ok(Self(set))
    }

    /// Whether `capability` or the one that includes it is there.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        let bit = |capability: Capability| self.0 >> capability as u32 & 1 == 1;
        bit(capability) || (capability as u32 >= Capability::Perfmon as u32 && bit(Capability::SysAdmin))
    }
}

/// hostscope's own pid namespace, where that is not the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidNamespace {
    /// The device of `/proc/self/ns/pid`.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// The inode of the host's own pid namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const HOST_PID_NAMESPACE_INODE: u64 = 0xEFFF_FFFC;

/// The namespace to translate ids into; `None` on the host.
#[must_use]
pub fn pid_namespace() -> Option<PidNamespace> {
    use std::os::unix::fs::MetadataExt;
    let namespace = fs::metadata("/proc/self/ns/pid").ok()?;
    (namespace.ino() != HOST_PID_NAMESPACE_INODE)
        .then(|| PidNamespace { device: namespace.dev(), inode: namespace.ino() })
}

/// The running kernel's release.
#[must_use]
pub fn kernel_version() -> KernelVersion {
    parse_release(&rustix::system::uname().release().to_string_lossy())
}

fn parse_release(release: &str) -> KernelVersion {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    KernelVersion { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
}

/// The command line with which this program could be started with more rights.
fn privilege_mend() -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "hostscope".into(), |path| path.display().to_string());
    format!(
        "run it with sudo, or once: sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,\
         cap_checkpoint_restore+ep {program}"
    )
}

/// Refuses where no capture is possible at all.
///
/// # Errors
/// A missing capability (exit status 3), or a kernel that is too old or built without what is needed (4).
pub fn require(capabilities: Capabilities, oldest: KernelVersion) -> Result<()> {
    let missing: Vec<&str> = [(Capability::Bpf, "CAP_BPF"), (Capability::Perfmon, "CAP_PERFMON")]
        .iter()
        .filter(|(capability, _)| !capabilities.has(*capability))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(Error::privilege(
            format!("cannot profile: {} missing", missing.join(" and ")),
            privilege_mend(),
        ));
    }
    let kernel = kernel_version();
    if kernel < oldest {
        return Err(Error::kernel(
            format!(
                "this kernel is {}.{}, and CPU profiles need {}.{} or newer",
                kernel.major, kernel.minor, oldest.major, oldest.minor
            ),
            "boot a newer kernel",
        ));
    }
    Ok(())
}

/// Where the members are that the programs read: byte offsets in the running kernel, and the name of the constant that
/// each sets.
pub type Offsets = Vec<(&'static str, u32)>;

/// Each constant of the programs that stands for an offset, with the struct and member it stands for.
const MEMBERS: &[(&str, &str, &str)] = &[
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_MM", "task_struct", "mm"),
    ("TASK_GROUP_LEADER", "task_struct", "group_leader"),
    ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
    ("TASK_SELF_EXEC_ID", "task_struct", "self_exec_id"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_SIGNAL", "task_struct", "signal"),
    ("SIGNAL_LIVE", "signal_struct", "live"),
    ("TASK_STACK", "task_struct", "stack"),
    ("TASK_THREAD_PID", "task_struct", "thread_pid"),
    ("PID_LEVEL", "pid", "level"),
    ("PID_NUMBERS", "pid", "numbers"),
];

/// Members that only some probes read, or that have had several names: the first that the kernel has counts.
const OPTIONAL_MEMBERS: &[(&str, &[(&str, &str)])] = &[
    ("SIGNAL_RUNTIME", &[("signal_struct", "sum_sched_runtime")]),
    ("SIGNAL_UTIME", &[("signal_struct", "utime")]),
    ("SIGNAL_STIME", &[("signal_struct", "stime")]),
    ("TASK_RUNTIME", &[("task_struct", "se.sum_exec_runtime")]),
    ("TASK_EXEC_START", &[("task_struct", "se.exec_start")]),
    ("TASK_UTIME", &[("task_struct", "utime")]),
    ("TASK_STIME", &[("task_struct", "stime")]),
    ("TASK_PID", &[("task_struct", "pid")]),
    ("TASK_FLAGS", &[("task_struct", "flags")]),
    // Renamed in 5.14 (commit 2f064a59a11f).
    ("TASK_STATE", &[("task_struct", "__state"), ("task_struct", "state")]),
    ("TASK_RUN_DELAY", &[("task_struct", "sched_info.run_delay")]),
    ("TASK_ARRIVALS", &[("task_struct", "sched_info.pcount")]),
    ("SOCK_PROTOCOL", &[("sock", "sk_protocol")]),
    ("SOCK_STATE", &[("sock_common", "skc_state")]),
    ("SOCK_SOCKET", &[("sock", "sk_socket")]),
    ("SOCK_FAMILY", &[("sock_common", "skc_family")]),
    ("SOCK_LOCAL_PORT", &[("sock_common", "skc_num")]),
    ("SOCK_REMOTE_PORT", &[("sock_common", "skc_dport")]),
    ("SOCK_ERROR", &[("sock", "sk_err")]),
    ("SOCK_SOFT_ERROR", &[("sock", "sk_err_soft")]),
    ("TCP_SMOOTHED_RTT", &[("tcp_sock", "srtt_us")]),
    ("TCP_LAST_DATA", &[("inet_connection_sock", "icsk_ack.lrcvtime")]),
    ("TCP_BIND_BUCKET", &[("inet_connection_sock", "icsk_bind_hash")]),
    ("BUCKET_REUSE", &[("inet_bind_bucket", "fastreuse")]),
    ("REQUEST_BYTES", &[("request", "__data_len")]),
    ("REQUEST_START_TIME", &[("request", "start_time_ns")]),
    ("REQUEST_FLAGS", &[("request", "cmd_flags")]),
    ("REQUEST_QUEUE", &[("request", "q")]),
    // Moved in 5.15 (commit d152c682f03c); the former is gone since 5.17.
    ("QUEUE_DISK", &[("request_queue", "disk")]),
    ("REQUEST_DISK", &[("request", "rq_disk")]),
    ("DISK_MAJOR", &[("gendisk", "major")]),
    ("DISK_FIRST_MINOR", &[("gendisk", "first_minor")]),
    ("MAPPING_HOST", &[("address_space", "host")]),
    ("INODE_BYTES", &[("inode", "i_size")]),
    ("FOLIO_FLAGS", &[("folio", "flags")]),
    // The lowest byte of the former since 6.6.
    ("FOLIO_ORDER", &[("folio", "_folio_order"), ("folio", "_flags_1")]),
];

/// Tracepoints whose arguments have changed: the constant that says how many the running kernel has.
const ARGUMENTS: &[(&str, &str)] = &[
    ("RETRANSMIT_ARGUMENTS", "btf_trace_tcp_retransmit_skb"),
    ("VICTIM_ARGUMENTS", "btf_trace_mark_victim"),
];

/// Flags that have moved: the constant for the mask, the enumeration, and the bit's name in it.
const FLAGS: &[(&str, &str, &str)] = &[("FOLIO_HEAD_MASK", "pageflags", "PG_head")];

/// Bit fields: the constants for the 32-bit word's offset and for the mask, and the member.
const BITS: &[(&str, &str, &str, &str)] =
    &[("TASK_IOWAIT_WORD", "TASK_IOWAIT_MASK", "task_struct", "in_iowait")];

/// Reads the offsets from the kernel's BTF; those of members that only some probes need are left out where the kernel does
/// not have them.
///
/// # Errors
/// A kernel without BTF or without one of the members that every capture needs (exit status 4).
pub fn offsets() -> Result<Offsets> {
    let mend = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (every distribution's kernel since 2020 has it)";
    let data = btf::Vmlinux::open()
        .map_err(|error| Error::kernel(format!("cannot read {}: {error}", btf::VMLINUX), mend))?;
    let unusable = |error: btf::BtfError| Error::kernel(error.to_string(), mend);
    let optional = OPTIONAL_MEMBERS.iter().flat_map(|(_, members)| members.iter());
    let mut wanted: Vec<&str> = MEMBERS.iter().map(|(_, structure, _)| *structure).collect();
    wanted.extend(optional.map(|(structure, _)| *structure));
    wanted.push("upid");
    wanted.extend(FLAGS.iter().map(|(_, enumeration, _)| *enumeration));
    wanted.extend(ARGUMENTS.iter().map(|(_, tracepoint)| *tracepoint));
    let types = Btf::parse(&data, &wanted).map_err(unusable)?;
    let mut offsets = Offsets::with_capacity(MEMBERS.len() + OPTIONAL_MEMBERS.len() + 1);
    for &(constant, structure, member) in MEMBERS {
        offsets.push((constant, types.member_offset(structure, member).map_err(unusable)?));
    }
    offsets.push(("UPID_BYTES", types.size("upid").map_err(unusable)?));
    for &(constant, members) in OPTIONAL_MEMBERS {
        let found =
            members.iter().find_map(|(structure, member)| types.member_offset(structure, member).ok());
        offsets.extend(found.map(|offset| (constant, offset)));
    }
    for &(constant, tracepoint) in ARGUMENTS {
        offsets.extend(types.tracepoint_arguments(tracepoint).map(|count| (constant, count)));
    }
    for &(constant, enumeration, name) in FLAGS {
        let bit = types.enumerator(enumeration, name).filter(|&bit| bit < u32::BITS);
        offsets.extend(bit.map(|bit| (constant, 1 << bit)));
    }
    for &(word, mask, structure, member) in BITS {
        if let Ok(bit) = types.member_bit_offset(structure, member) {
            offsets.push((word, bit / 32 * 4));
            offsets.push((mask, 1 << (bit % 32)));
        }
    }
    Ok(offsets)
}

/// The state of one thing that a capture may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// Whether all is well.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What the user can do, empty where nothing is to be done.
    pub mend: String,
}

/// How well something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Fully.
    On,
    /// In part.
    Degraded,
    /// Not at all.
    Off,
}

impl State {
    /// The word for it in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Degraded => "degraded",
            Self::Off => "off",
        }
    }
}

/// Everything that can be told without loading a program, in the order in which `hostscope doctor` prints it.
#[must_use]
pub fn findings(oldest: KernelVersion) -> Vec<Finding> {
    let kernel = kernel_version();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut findings = vec![Finding {
        name: "kernel",
        state: if kernel >= oldest { State::On } else { State::Off },
        detail: format!("{release} ({}.{} or newer is needed)", oldest.major, oldest.minor),
        mend: if kernel >= oldest { String::new() } else { "boot a newer kernel".into() },
    }];
    findings.push(match offsets() {
        Ok(offsets) => on("btf", format!("{} member offsets found", offsets.len())),
        Err(error) => Finding { name: "btf", state: State::Off, detail: error.what, mend: error.mend },
    });
    findings.push(capabilities_finding());
    findings.push(pid_namespace_finding());
    findings
}

/// Whether every process of the host can be named.
#[must_use]
pub fn pid_namespace_finding() -> Finding {
    match pid_namespace() {
        None => on("pid namespace", "the host's own".into()),
        Some(_) => Finding {
            name: "pid namespace",
            state: State::Degraded,
            detail: "a namespace of its own: processes outside of it have no id here and are counted as lost"
                .into(),
            mend: "start the container with the host's pid namespace (docker run --pid=host)".into(),
        },
    }
}

fn on(name: &'static str, detail: String) -> Finding {
    Finding { name, state: State::On, detail, mend: String::new() }
}

fn capabilities_finding() -> Finding {
    const NEEDED: &[(Capability, &str, bool)] = &[
        (Capability::Bpf, "CAP_BPF", true),
        (Capability::Perfmon, "CAP_PERFMON", true),
        (Capability::SysPtrace, "CAP_SYS_PTRACE", false),
        (Capability::DacReadSearch, "CAP_DAC_READ_SEARCH", false),
        (Capability::CheckpointRestore, "CAP_CHECKPOINT_RESTORE", false),
    ];
    let name = "capabilities";
    let have = match Capabilities::of_this_process() {
        Ok(have) => have,
        Err(error) => return Finding { name, state: State::Off, detail: error.what, mend: error.mend },
    };
    let missing: Vec<_> = NEEDED.iter().filter(|(capability, ..)| !have.has(*capability)).collect();
    if missing.is_empty() {
        return on(name, "all that are needed".into());
    }
    let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
    let fatal = missing.iter().any(|(.., fatal)| *fatal);
    Finding {
        name,
        state: if fatal { State::Off } else { State::Degraded },
        detail: if fatal {
            format!("{} missing", names.join(", "))
        } else {
            format!("{} missing: other users' processes go without names", names.join(", "))
        },
        mend: privilege_mend(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.12.48+deb13-cloud-amd64"), KernelVersion { major: 6, minor: 12 });
        assert_eq!(parse_release("5.4"), KernelVersion { major: 5, minor: 4 });
        assert_eq!(parse_release("nonsense"), KernelVersion { major: 0, minor: 0 });
        assert!(parse_release("5.10.0") > parse_release("5.9.0"));
    }
}
