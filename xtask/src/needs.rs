//! What the commands need from the system: one table of Debian packages, each with its reason, and their installation.

use std::collections::BTreeSet;

use crate::failure::{Failure, Result};
use crate::process;

/// Who needs a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Debian's own toolchain for the eBPF programs, where rustup has none with rust-src.
    DebianToolchain,
    /// `cargo xtask test`.
    Tests,
    /// `cargo xtask fuzz`.
    Fuzzing,
    /// `cargo xtask vmtest`, beside what the tests need.
    VirtualMachines,
    /// `cargo xtask bench`.
    Benchmarks,
}

/// A Debian package and why it is needed.
pub(crate) struct Need {
    pub(crate) package: &'static str,
    pub(crate) by: For,
    pub(crate) reason: &'static str,
}

/// Every package there is need of. LLVM's is missing here: its name depends on the version that rustc was built with
/// (see `ebpf/toolchain.rs`).
pub(crate) const NEEDS: &[Need] = &[
    Need { package: "rustc-web", by: For::DebianToolchain, reason: "the compiler of the eBPF programs" },
    Need { package: "cargo-web", by: For::DebianToolchain, reason: "the cargo that fits that compiler" },
    Need {
        package: "rust-web-src",
        by: For::DebianToolchain,
        reason: "the sources of core, built for bpfel",
    },
    Need { package: "gcc", by: For::Tests, reason: "compiles the C workloads" },
    Need { package: "g++", by: For::Tests, reason: "compiles the C++ workloads" },
    Need {
        package: "libc6-dev",
        by: For::Tests,
        reason: "libc.a: workloads that run in a virtual machine are static",
    },
    Need {
        package: "golang-go",
        by: For::Tests,
        reason: "go tool pprof judges our pprof files, and a workload is written in Go",
    },
    Need { package: "binutils", by: For::Tests, reason: "strip and objcopy make binaries with debug links" },
    Need {
        package: "xz-utils",
        by: For::Tests,
        reason: "compresses symbol tables as .gnu_debugdata holds them",
    },
    Need { package: "python3", by: For::Tests, reason: "a program whose stacks are unwound" },
    Need { package: "nodejs", by: For::Tests, reason: "a program that compiles its code while it runs" },
    Need { package: "nginx-light", by: For::Tests, reason: "a server whose stacks are unwound" },
    Need { package: "apache2-utils", by: For::Tests, reason: "ab calls that server" },
    Need {
        package: "redis-server",
        by: For::Tests,
        reason: "a server whose stacks are unwound, and its load",
    },
    Need { package: "postgresql", by: For::Tests, reason: "a server whose stacks are unwound, and its load" },
    Need { package: "bpftool", by: For::Tests, reason: "tells what is loaded into the kernel" },
    Need { package: "prometheus", by: For::Tests, reason: "promtool judges our metrics" },
    Need { package: "g++", by: For::Fuzzing, reason: "compiles libFuzzer" },
    Need { package: "qemu-system-x86", by: For::VirtualMachines, reason: "boots other kernels" },
    Need {
        package: "busybox-static",
        by: For::VirtualMachines,
        reason: "the programs of a machine without libraries",
    },
    Need { package: "cpio", by: For::VirtualMachines, reason: "packs the machine's file system" },
    Need {
        package: "debian-archive-keyring",
        by: For::VirtualMachines,
        reason: "proves that kernels are Debian's",
    },
    Need { package: "gcc", by: For::Benchmarks, reason: "compiles the busy half of the load" },
    Need { package: "libc6-dev", by: For::Benchmarks, reason: "what that program is linked with" },
    Need { package: "bpftrace", by: For::Benchmarks, reason: "a peer, and the cheapest" },
    Need { package: "linux-perf", by: For::Benchmarks, reason: "a peer" },
    Need { package: "bpftool", by: For::Benchmarks, reason: "reads what eBPF programs cost in the kernel" },
    Need {
        package: "binutils",
        by: For::Benchmarks,
        reason: "readelf tells how large unwind information is",
    },
    Need {
        package: "libc6-dbg",
        by: For::Benchmarks,
        reason: "names where threads begin, for every tool alike",
    },
    Need {
        package: "g++",
        by: For::Benchmarks,
        reason: "compiles a workload; its compiler is a large program",
    },
    Need { package: "golang-go", by: For::Benchmarks, reason: "compiles a workload" },
    Need { package: "python3", by: For::Benchmarks, reason: "a workload" },
    Need { package: "nodejs", by: For::Benchmarks, reason: "a workload" },
    Need { package: "nginx", by: For::Benchmarks, reason: "a workload" },
    Need { package: "apache2-utils", by: For::Benchmarks, reason: "ab, the load on nginx" },
    Need { package: "wrk", by: For::Benchmarks, reason: "a load on nginx in which a per cent can be told" },
    Need { package: "postgresql", by: For::Benchmarks, reason: "a workload, and pgbench, its load" },
    Need { package: "redis-server", by: For::Benchmarks, reason: "a workload" },
    Need { package: "redis-tools", by: For::Benchmarks, reason: "redis-benchmark, the load on redis" },
];

/// Whether missing packages may be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    Allowed,
    Refused,
}

impl Install {
    /// From the flag `--no-install`.
    pub(crate) fn unless(no_install: bool) -> Self {
        if no_install { Self::Refused } else { Self::Allowed }
    }
}

/// Installs what `by` needs and is missing.
pub(crate) fn ensure(by: &[For], install: Install) -> Result<()> {
    let wanted: Vec<_> =
        NEEDS.iter().filter(|need| by.contains(&need.by)).map(|need| (need.package, need.reason)).collect();
    ensure_packages(&wanted, install)
}

/// Installs those of the (package, reason) pairs that are missing, or refuses and names them.
pub(crate) fn ensure_packages(wanted: &[(&str, &str)], install: Install) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|(package, _)| *package).collect::<Vec<_>>().join(" ");
    let reasons: Vec<_> = missing.iter().map(|(package, reason)| format!("{package}: {reason}")).collect();
    let reasons = reasons.join("\n  ");
    if install == Install::Refused {
        return Err(Failure::new(
            format!("Debian packages are missing and --no-install forbids to install them:\n  {reasons}"),
            format!("apt-get install {names}"),
        ));
    }
    eprintln!("installing Debian packages:\n  {reasons}");
    let packages: Vec<_> = missing.iter().map(|(package, _)| *package).collect();
    if apt_install(&packages).is_err() {
        // The package lists may be absent or old on a fresh machine.
        process::run(process::as_root("apt-get")?.arg("update"), "mend the sources of apt or the network")?;
        apt_install(&packages)?;
    }
    Ok(())
}

/// Those of the (package, reason) pairs that dpkg does not know as installed.
fn missing<'a>(wanted: &[(&'a str, &'a str)]) -> Result<Vec<(&'a str, &'a str)>> {
    let mut query = std::process::Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Abbrev}${Package}\\n"]);
    query.args(wanted.iter().map(|(package, _)| package));
    let names = || wanted.iter().map(|(package, _)| *package).collect::<Vec<_>>().join(" ");
    // Its status is 1 as soon as one package is unknown: what it prints is the answer.
    let output = process::output(&mut query).map_err(|failure| {
        Failure::new(failure.what, format!("this needs Debian or a relative with the packages: {}", names()))
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("ii ")).collect();
    Ok(wanted.iter().filter(|(package, _)| !installed.contains(package)).copied().collect())
}

/// The package of the virtual machine.
const EMULATOR: &str = "qemu-system-x86";

/// `qemu-utils` in the emulator's version, where it is installed: one of another suite (backports) cannot stand beside the
/// emulator, and apt would rather take it away than change it.
fn tools_of_emulator() -> Result<Option<String>> {
    const TOOLS: &str = "qemu-utils";
    if !missing(&[(TOOLS, "")])?.is_empty() {
        return Ok(None);
    }
    let mut policy = std::process::Command::new("apt-cache");
    let text = process::capture(policy.args(["policy", EMULATOR]), "mend the sources of apt")?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.map(|version| format!("{TOOLS}={version}")))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut command = process::as_root("env")?;
    // RUNLEVEL=1: a server that is installed is not started (invoke-rc.d).
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "--yes", "--quiet"]);
    // Debian's rustc-web conflicts with rustc: rather fail than take something away from the user.
    command.args(["--no-install-recommends", "--no-remove"]).args(packages);
    if packages.contains(&EMULATOR)
        && let Some(same) = tools_of_emulator()?
    {
        command.args(["--allow-downgrades", &same]);
    }
    process::run(&mut command, &format!("install them by hand: apt-get install {}", packages.join(" ")))
}
