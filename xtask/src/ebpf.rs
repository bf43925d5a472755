//! `cargo xtask ebpf`: builds the eBPF programs into `ebpf/prebuilt`, or checks that what is there is theirs.

mod manifest;
mod toolchain;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::failure::{Failure, Result};
use crate::needs::Install;
use crate::{process, workspace};
use manifest::Manifest;
use toolchain::Toolchain;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: fail where ebpf/prebuilt is not what the sources give
    #[arg(long, conflicts_with = "debug")]
    check: bool,
    /// Build with logging from the kernel side into target/ instead of ebpf/prebuilt
    #[arg(long)]
    debug: bool,
    /// Name missing Debian packages instead of installing them
    #[arg(long)]
    no_install: bool,
}

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// What ships: without logging, and without the debug information that no loader reads.
    Release,
    /// With aya-log and DWARF, for work on the programs.
    Debug,
}

/// Whether cargo may update the programs' Cargo.lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Kept,
    Updated,
}

/// Tells this program, when cargo runs it as `RUSTC_WRAPPER`, that it is to pin the crates' metadata.
const WRAPPER_VARIABLE: &str = "HOSTSCOPE_PIN_METADATA";

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let install = Install::unless(arguments.no_install);
    if arguments.check {
        check()?;
        return Ok(ExitCode::SUCCESS);
    }
    let toolchain = toolchain(install)?;
    let variant = if arguments.debug { Variant::Debug } else { Variant::Release };
    let object = build(&toolchain, variant, Lock::Updated)?;
    if arguments.debug {
        println!("{}", workspace::relative(&object));
        return Ok(ExitCode::SUCCESS);
    }
    let bytes = workspace::read_bytes(&object)?;
    let manifest = Manifest::of(&bytes, toolchain.versions)?;
    workspace::write(&prebuilt_object(), &bytes)?;
    manifest.write()?;
    println!("{}: {} bytes, {}", workspace::relative(&prebuilt_object()), bytes.len(), manifest.toolchain);
    Ok(ExitCode::SUCCESS)
}

/// Builds the object from the sources as they are, for tests; the checkout stays as it is.
pub(crate) fn fresh_object(install: Install) -> Result<PathBuf> {
    build(&toolchain(install)?, Variant::Release, Lock::Kept)
}

/// Installs what a build of the object needs, so that a check can compare bytes.
pub(crate) fn prepare(install: Install) -> Result<()> {
    toolchain(install).map(|_| ())
}

/// The toolchain that the committed object was built with where it is there, else another.
fn toolchain(install: Install) -> Result<Toolchain> {
    let prebuilt = Manifest::read().ok();
    Toolchain::find(prebuilt.as_ref().map(|manifest| &manifest.toolchain), install)
}

/// Fails where `ebpf/prebuilt` is not what the sources give.
pub(crate) fn check() -> Result<()> {
    let mend = "run `cargo xtask ebpf` and commit ebpf/prebuilt";
    let manifest = Manifest::read()?;
    let object = workspace::read_bytes(&prebuilt_object())?;
    let actual = Manifest::of(&object, manifest.toolchain.clone())?;
    if actual.sources_sha256 != manifest.sources_sha256 {
        return Err(Failure::new("ebpf/prebuilt was built from other sources than ebpf/ holds", mend));
    }
    if actual != manifest {
        return Err(Failure::new(
            "ebpf/prebuilt/hostscope.bpf.o is not the object that its manifest describes",
            mend,
        ));
    }
    // A check installs nothing; without the very toolchain other bytes would mean nothing.
    let toolchain = match Toolchain::find(Some(&manifest.toolchain), Install::Refused) {
        Ok(toolchain) if toolchain.versions == manifest.toolchain => toolchain,
        Ok(toolchain) => {
            println!(
                "ebpf: the sources' hash is right; bytes not compared, since the toolchain here is another:"
            );
            println!("  manifest: {}\n  here:     {}", manifest.toolchain, toolchain.versions);
            return Ok(());
        }
        Err(failure) => {
            println!("ebpf: the sources' hash is right; bytes not compared: {}", failure.what);
            return Ok(());
        }
    };
    if workspace::read_bytes(&build(&toolchain, Variant::Release, Lock::Kept)?)? != object {
        return Err(Failure::new(
            "a fresh build with the manifest's toolchain gives other bytes than ebpf/prebuilt",
            mend,
        ));
    }
    println!("ebpf: the sources' hash is right and a fresh build gives the same bytes");
    Ok(())
}

/// Builds and returns the path of the object under `target`.
fn build(toolchain: &Toolchain, variant: Variant, lock: Lock) -> Result<PathBuf> {
    // A folder each: the two have the same name, and turning from one to the other should not rebuild core.
    let folder = workspace::target().join(if variant == Variant::Debug { "ebpf-debug" } else { "ebpf" });
    let mend = "mend what the compiler or linker says above";
    // Unpacks the dependencies, whose folders the path prefixes below are read from.
    process::run(cargo(toolchain, lock, "fetch").arg("--quiet"), mend)?;
    let mut command = cargo(toolchain, lock, "build");
    command.args(["--quiet", "--release", "-Zbuild-std=core", "--target", "bpfel-unknown-none"]);
    command.arg("--target-dir").arg(&folder);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain).join("\x1f"));
    if variant == Variant::Debug {
        command.args(["--features", "log"]);
    }
    process::run(&mut command, mend)?;
    let linked = folder.join("bpfel-unknown-none/release/hostscope-ebpf");
    if variant == Variant::Debug {
        return Ok(linked);
    }
    let object = folder.join("hostscope.bpf.o");
    let mut strip = Command::new(toolchain.llvm_bin.join("llvm-strip"));
    // DWARF has served to make the BTF and would make the object ten times as big.
    strip.arg("--strip-debug").arg("-o").arg(&object).arg(&linked);
    process::run(&mut strip, "install the package of LLVM's tools anew")?;
    Ok(object)
}

fn cargo(toolchain: &Toolchain, lock: Lock, subcommand: &str) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    command.arg(subcommand).current_dir(workspace::root().join("ebpf/programs"));
    if lock == Lock::Kept {
        command.arg("--locked");
    }
    // What the cargo that runs us has set belongs to another toolchain.
    for variable in ["CARGO", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(variable);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(toolchain.linker_folder.clone()).chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    // Standard Rust refuses -Zbuild-std without it; there is no prebuilt core for this target in rustup.
    command.env("RUSTC", &toolchain.rustc).env("RUSTC_BOOTSTRAP", "1");
    if let Ok(this) = std::env::current_exe() {
        command.env("RUSTC_WRAPPER", this).env(WRAPPER_VARIABLE, "1");
    }
    command
}

/// rustc's flags: BTF needs debug information, and no path of this machine may enter the bytes.
fn flags(toolchain: &Toolchain) -> Vec<String> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    for folder in registry_folders() {
        remap(&folder, "/cargo");
    }
    let sources = toolchain.sysroot.join("lib/rustlib/src/rust");
    remap(&sources, "/rust");
    if let Ok(real) = sources.canonicalize() {
        remap(&real, "/rust");
    }
    remap(&workspace::root(), "/hostscope");
    remap(&workspace::target(), "/hostscope/target");
    flags
}

/// The folders that cargo unpacks dependencies to; their names hold a hash of the registry's address.
fn registry_folders() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let folders = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    let mut folders: Vec<_> = folders.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

fn prebuilt_object() -> PathBuf {
    workspace::root().join("ebpf/prebuilt/hostscope.bpf.o")
}

/// What this program does where cargo runs it in place of rustc: it replaces the metadata of our own crates.
///
/// cargo derives a crate's `-C metadata` from the absolute path of a path dependency outside the workspace (the wire
/// crate), and from it follow the hashes in symbol names: two checkouts would give different bytes.
pub(crate) fn rustc_wrapper() -> Option<ExitCode> {
    std::env::var_os(WRAPPER_VARIABLE)?;
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next()?);
    let arguments: Vec<_> = arguments.collect();
    let crate_name =
        arguments.windows(2).find(|pair| pair[0] == "--crate-name").and_then(|pair| pair[1].to_str());
    let ours = crate_name.filter(|name| name.starts_with("hostscope"));
    command.args(arguments.iter().map(|argument| match ours {
        Some(name) if argument.to_string_lossy().starts_with("metadata=") => {
            format!("metadata={name}").into()
        }
        _ => argument.clone(),
    }));
    let error = command.exec();
    eprintln!("error: {}", process::cannot_start(&command, &error));
    Some(ExitCode::FAILURE)
}
