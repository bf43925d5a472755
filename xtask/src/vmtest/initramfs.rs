//! The machine's only file system: busybox, our programs, and the script that runs the tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// The first process of the machine.
const INIT: &str = include_str!("init.sh");

/// What is put into the machine; everything statically linked.
pub(super) struct Programs {
    pub(super) hostscope: PathBuf,
    /// The eBPF programs, built from the sources as they are.
    pub(super) object: PathBuf,
    /// The test program, in libtest's manner.
    pub(super) test: PathBuf,
    pub(super) workloads: Vec<PathBuf>,
}

/// Lays the file system out under `folder` and packs it; returns the archive.
pub(super) fn build(programs: &Programs, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("root");
    workspace::remove_folder(&tree)?;
    for folder in ["bin", "dev", "etc", "proc", "sys", "tests", "tmp", "workloads"] {
        workspace::make_folder(&tree.join(folder))?;
    }
    workspace::write(&tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    workspace::write(&tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::file("make executable", &tree.join("init"), &error))?;
    let busybox = process::find("busybox")
        .ok_or_else(|| Failure::new("there is no busybox in PATH", "apt-get install busybox-static"))?;
    copy(&busybox, &tree.join("bin/busybox"))?;
    copy(&programs.hostscope, &tree.join("bin/hostscope"))?;
    copy(&programs.object, &tree.join("hostscope.bpf.o"))?;
    copy(&programs.test, &tree.join("tests/vm"))?;
    for workload in &programs.workloads {
        copy(workload, &tree.join("workloads").join(workload.file_name().unwrap_or_default()))?;
    }
    let archive = folder.join("initramfs.cpio");
    let mut pack = Command::new("sh");
    pack.current_dir(&tree).env("ARCHIVE", &archive);
    pack.args(["-c", "find . | cpio --quiet --create --format=newc --owner=+0:+0 > \"$ARCHIVE\""]);
    process::run(&mut pack, "install cpio, or free some disk space")?;
    Ok(archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(|_| ()).map_err(|error| Failure::file("copy into the machine", from, &error))
}
