//! How long names take: 2,000 addresses of a large file, and of the kernel.
//!
//! `cargo bench --bench symbolize [-- FILE]`; without FILE, the compiler's own library. Each figure is the fastest of
//! five runs in nanoseconds, with the process's peak resident memory after it.

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use hostscope::symbolize::{self, ElfSource, Options, Symbolizer};
use hostscope::targets::elf::ElfFile;

const ADDRESSES: usize = 2_000;
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let path = path.or_else(compiler_library).unwrap_or_else(|| "/proc/self/exe".into());
    let file = File::open(&path)?;
    println!("{}", path.display());
    let offsets = code_offsets(&file)?;
    kernel()?;
    for (name, inlines) in [("symbol table", false), ("inlines", true)] {
        let source = ElfSource { file: &file, path: &path, root: None };
        let mut shortfall = None;
        let mut found = 0;
        measure(name, || {
            let mut symbolizer = Symbolizer::new(Options { inlines, cache_entries: 0 });
            let names = symbolizer.elf(&source, None, &offsets)?;
            found = names.symbols.iter().flatten().count();
            shortfall = names.shortfall;
            Ok(())
        })?;
        println!(
            "  {found} of {} named{}",
            offsets.len(),
            shortfall.map(|why| format!("; {why}")).unwrap_or_default()
        );
    }
    Ok(())
}

/// As many kernel addresses, spread over all symbols.
fn kernel() -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string("/proc/kallsyms")?;
    let starts: Vec<u64> = text
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok())
        .filter(|&address| address != 0)
        .collect();
    let wanted: Vec<u64> =
        starts.iter().step_by((starts.len() / ADDRESSES).max(1)).map(|start| start + 1).collect();
    drop((text, starts));
    measure("kernel, by asking it", || {
        let symbolizer = Symbolizer::new(Options { inlines: false, cache_entries: 0 });
        black_box(symbolizer.kernel(&wanted));
        Ok(())
    })?;
    measure("kernel, by reading its table", || {
        black_box(symbolize::kallsyms(File::open("/proc/kallsyms")?, &wanted)?);
        Ok(())
    })?;
    let text = fs::read("/proc/kallsyms")?;
    measure("kernel, parsing alone", || {
        black_box(symbolize::kallsyms(&text[..], &wanted)?);
        Ok(())
    })
}

/// File offsets spread evenly over its code.
fn code_offsets(file: &File) -> Result<Vec<u64>, Box<dyn Error>> {
    let elf = ElfFile::parse(file)?;
    let code = elf.section(b".text").ok_or("it has no code")?;
    let step = code.bytes / ADDRESSES as u64;
    Ok((0..ADDRESSES as u64).map(|index| code.offset + index * step).collect())
}

fn measure(name: &str, mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let mut fastest = u128::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        fastest = fastest.min(start.elapsed().as_nanos());
    }
    println!("{name}: {fastest} ns, peak {} KiB", peak_kib());
    Ok(())
}

/// The most memory that was resident so far, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

fn compiler_library() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let folder = Path::new(String::from_utf8(output.stdout).ok()?.trim()).join("lib");
    let mut files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.to_string_lossy().contains("librustc_driver"))
}
