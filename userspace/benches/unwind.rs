//! How long unwind tables take to make, and how large they are: the largest binaries of this host.
//!
//! `cargo bench --bench unwind [-- FILE...]`; without FILE, those of [`usual_files`] that there are. The time is the
//! fastest of five runs; the growth of the process's peak resident memory is the first run's.

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hostscope::targets::unwind::{Cause, Table, Tally, UnwindError, compile_tallied};

const RUNS: usize = 5;

/// Most bytes of a table a byte of what it was made from.
const MOST_BYTES_A_BYTE: f64 = 0.6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut files: Vec<PathBuf> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).map(PathBuf::from).collect();
    if files.is_empty() {
        files = usual_files();
    }
    println!(
        "{:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>9} {:>9} {:>11}  file",
        "source", "ms", "MB/s", "peak KiB", "ratio", "rules", "rows", "functions", "unsupported"
    );
    // Smaller files first: a peak that was reached before would hide theirs.
    let mut by_size: Vec<_> =
        files.into_iter().filter_map(|path| Some((fs::metadata(&path).ok()?.len(), path))).collect();
    by_size.sort();
    for (_, path) in by_size {
        measure(&path)?;
    }
    Ok(())
}

fn measure(path: &Path) -> Result<(), Box<dyn Error>> {
    let file = File::open(path)?;
    // From here on the peak is this file's.
    fs::write("/proc/self/clear_refs", "5")?;
    let before_kib = peak_kib();
    let (table, tally) = match compile_tallied(&file) {
        Ok(made) => made,
        Err(error @ (UnwindError::NoUnwindInformation | UnwindError::File(_))) => {
            println!("{}: {error}", path.display());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let peak_kib = peak_kib().saturating_sub(before_kib);
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        black_box(compile_tallied(&file)?);
        fastest = fastest.min(start.elapsed());
    }
    report(path, &table, &tally, fastest, peak_kib);
    Ok(())
}

fn report(path: &Path, table: &Table, tally: &Tally, time: Duration, peak_kib: u64) {
    let header = table.header();
    let source = f64::from(header.source_bytes);
    let ratio = table.bytes().len() as f64 / source;
    println!(
        "{:>8} {:>8.2} {:>8.0} {:>8} {:>6.3} {:>6} {:>9} {:>9} {:>11}  {}{}",
        header.source_bytes,
        time.as_secs_f64() * 1e3,
        source / time.as_secs_f64() / 1e6,
        peak_kib,
        ratio,
        header.rules,
        header.rows,
        tally.functions,
        header.unsupported,
        path.display(),
        if ratio > MOST_BYTES_A_BYTE { "  TOO LARGE" } else { "" },
    );
    for (cause, count) in Cause::ALL.iter().zip(tally.unsupported).filter(|(_, count)| *count > 0) {
        println!("{count:>12} {cause:?}");
    }
    if tally.damaged + tally.outside + tally.repeated > 0 {
        println!(
            "{:>12} damaged, {} outside of code, {} repeated",
            tally.damaged, tally.outside, tally.repeated
        );
    }
}

/// The most memory that was resident so far, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

/// Large programs and libraries, as far as they are installed, and those that everything is linked with.
fn usual_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["libc.so.6", "libcrypto.so.3", "libstdc++.so.6", "libLLVM-15.so.1"]
        .iter()
        .map(|name| Path::new("/usr/lib/x86_64-linux-gnu").join(name))
        .chain(["/usr/bin/node", "/usr/bin/python3"].map(PathBuf::from))
        .collect();
    files.extend(printed_by("gcc", &["-print-prog-name=cc1plus"]));
    if let Some(folder) = printed_by("rustc", &["--print", "sysroot"]) {
        let entries = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    files
}

/// The path that a program prints.
fn printed_by(program: &str, arguments: &[&str]) -> Option<PathBuf> {
    let output = Command::new(program).args(arguments).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}
