//! Finds what builds the eBPF programs: a rustc with the sources of core, and a bpf-linker with the same LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::manifest::Versions;
use crate::failure::{Failure, Result};
use crate::needs::{self, For, Install};
use crate::{process, workspace};

/// The version of bpf-linker that the committed object was built with.
const BPF_LINKER: &str = "0.13.0";

/// The oldest minor version of rustc 1 that compiles the programs: the workspace's `rust-version`.
const OLDEST_RUSTC_MINOR: u32 = 95;

/// Everything a build of the programs needs.
pub(super) struct Toolchain {
    pub(super) cargo: PathBuf,
    pub(super) rustc: PathBuf,
    pub(super) sysroot: PathBuf,
    /// The folder of bpf-linker, for PATH.
    pub(super) linker_folder: PathBuf,
    /// The folder of LLVM's tools.
    pub(super) llvm_bin: PathBuf,
    pub(super) versions: Versions,
}

/// A rustc that can build core.
struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    sysroot: PathBuf,
    version: String,
    llvm: String,
}

impl Toolchain {
    /// The toolchain of these `preferred` versions where it is there, else another one that is there, else Debian's,
    /// newly installed.
    pub(super) fn find(preferred: Option<&Versions>, install: Install) -> Result<Self> {
        let compiler = find_compiler(preferred, install)?;
        let major = compiler.llvm.split('.').next().unwrap_or_default().to_owned();
        let llvm_bin = PathBuf::from(format!("/usr/lib/llvm-{major}/bin"));
        let (llvm, llvm_dev) = (format!("llvm-{major}"), format!("llvm-{major}-dev"));
        needs::ensure_packages(
            &[
                (&llvm, "llvm-strip takes the debug information out of the object"),
                (&llvm_dev, "bpf-linker links with the LLVM that rustc has"),
                ("libzstd-dev", "LLVM links with it"),
                ("zlib1g-dev", "LLVM links with it"),
                ("gcc", "links bpf-linker"),
            ],
            install,
        )?;
        let mut llvm_config = Command::new(llvm_bin.join("llvm-config"));
        let linker_llvm = process::capture(llvm_config.arg("--version"), "install the package of LLVM anew")?;
        let linker_folder = find_linker(&major, &llvm_bin)?;
        Ok(Self {
            cargo: compiler.cargo,
            rustc: compiler.rustc,
            sysroot: compiler.sysroot,
            linker_folder,
            llvm_bin,
            versions: Versions {
                rustc: compiler.version,
                llvm: compiler.llvm,
                bpf_linker: format!("{BPF_LINKER} with LLVM {}", linker_llvm.trim()),
            },
        })
    }
}

fn find_compiler(preferred: Option<&Versions>, install: Install) -> Result<Compiler> {
    let mut found = compilers();
    if found.is_empty() {
        needs::ensure(&[For::DebianToolchain], install).map_err(|failure| {
            let mend = format!("`rustup component add rust-src`, or Debian's toolchain: {}", failure.mend);
            Failure::new(
                format!(
                    "no rustc of 1.{OLDEST_RUSTC_MINOR} or newer has the sources of core. {}",
                    failure.what
                ),
                mend,
            )
        })?;
        found = compilers();
    }
    let index = found
        .iter()
        .position(|compiler| preferred.is_some_and(|versions| versions.rustc == compiler.version));
    if found.is_empty() {
        return Err(Failure::new(
            format!(
                "no rustc of 1.{OLDEST_RUSTC_MINOR} or newer has the sources of core, Debian's packages here included"
            ),
            "`rustup component add rust-src` for a toolchain of that version",
        ));
    }
    Ok(found.swap_remove(index.unwrap_or(0)))
}

/// Every rustc that is new enough and has the sources of core.
fn compilers() -> Vec<Compiler> {
    let mut folders = vec![PathBuf::from("/usr/bin")];
    if let Ok(list) = process::capture(Command::new("rustup").args(["toolchain", "list"]), "") {
        for toolchain in list.lines().filter_map(|line| line.split_whitespace().next()) {
            let rustc = process::capture(
                Command::new("rustup").args(["which", "--toolchain", toolchain, "rustc"]),
                "",
            );
            folders
                .extend(rustc.ok().and_then(|path| Path::new(path.trim()).parent().map(Path::to_path_buf)));
        }
    }
    folders.iter().filter_map(|folder| compiler_in(folder)).collect()
}

fn compiler_in(folder: &Path) -> Option<Compiler> {
    let (rustc, cargo) = (folder.join("rustc"), folder.join("cargo"));
    let sysroot = folder.parent()?.to_path_buf();
    if !cargo.is_file() || !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return None;
    }
    // The cargo that runs us points these at its own toolchain.
    let mut command = Command::new(&rustc);
    command.arg("-vV").env_remove("RUSTUP_TOOLCHAIN").env_remove("LD_LIBRARY_PATH");
    let text = process::capture(&mut command, "").ok()?;
    let version = text.lines().next()?.to_owned();
    let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.to_owned();
    (minor_version(&version)? >= OLDEST_RUSTC_MINOR).then_some(Compiler {
        cargo,
        rustc,
        sysroot,
        version,
        llvm,
    })
}

/// The 96 of `rustc 1.96.0 (…)`.
fn minor_version(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

/// The folder of the bpf-linker for this LLVM, built into the cache where it is not there yet.
fn find_linker(llvm_major: &str, llvm_bin: &Path) -> Result<PathBuf> {
    let home = workspace::cache()?.join(format!("tools/bpf-linker-{BPF_LINKER}-llvm-{llvm_major}"));
    let folder = home.join("bin");
    let mend = "mend what the compiler says above, or delete the folder and try again";
    if process::capture(Command::new(folder.join("bpf-linker")).arg("--version"), mend).is_ok() {
        return Ok(folder);
    }
    eprintln!(
        "building bpf-linker {BPF_LINKER} for LLVM {llvm_major} into {} (about a minute)",
        home.display()
    );
    let mut command = process::cargo();
    command.args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER, "--no-default-features"]);
    command.args(["--quiet", "--force", "--features", &format!("llvm-{llvm_major}"), "--root"]).arg(&home);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Its build script asks the first llvm-config in PATH.
    let folders = std::iter::once(llvm_bin.to_path_buf()).chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    process::run(&mut command, mend)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_minor_version() {
        assert_eq!(
            minor_version("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some(96)
        );
        assert_eq!(minor_version("rustc 1.97.0-nightly (0123 2026-05-25)"), Some(97));
        assert_eq!(minor_version("rustc 2"), None);
    }
}
