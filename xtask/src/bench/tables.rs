//! What unwind tables cost in kernel memory: a process that maps ten large programs, and what the tools load for it.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::bpf_objects::{self, Map};
use super::figures::{Bar, table};
use super::load;
use super::report::Section;
use super::rounds::Contestant;
use super::tools::{self, Job, Purpose};
use super::workloads::{postgres_programs, source_file};
use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// Files to map: large and small ones of several compilers.
const FILES: usize = 10;

/// How long a tool runs, and when within that its maps are looked at: tables of large files take their time.
const SECONDS: u32 = 9;
const READING: Duration = Duration::from_secs(8);

/// The bytes of a value of hostscope's unwind tables (`BLOCK_BYTES` in ebpf/wire/unwind.rs), which no other array of
/// its has.
const BLOCK_BYTES: u64 = 64;

/// Promised: at most so many bytes of kernel memory a byte of `.eh_frame`.
const MOST: f64 = 0.6;

/// Where the files lie that need no looking for; those that are there count.
const PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/bin/node",
    "/usr/bin/python3",
    "/usr/bin/perl",
    "/usr/bin/perf",
    "/usr/sbin/nginx",
    "/usr/bin/redis-server",
    "/usr/bin/git",
];

/// A tool's kernel memory.
struct Memory<'a> {
    contestant: &'a Contestant,
    table_bytes: u64,
    tables: usize,
    /// Of all its maps.
    all_bytes: u64,
}

/// Measures the tools that load tables.
pub(crate) fn measure(all: &[Contestant], folder: &Path) -> Result<Section> {
    eprintln!("unwind tables in kernel memory");
    let files = files()?;
    let mapper = Mapper::start(folder, &files)?;
    let mapped = mapper.mapped_files();
    let mut eh_frame_bytes = 0;
    let mut text = format!("unwind tables of {} files:", mapped.len());
    for file in &mapped {
        let bytes = eh_frame_bytes_of(file)?;
        eh_frame_bytes += bytes;
        // Writing to a String cannot fail, here and below.
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let _ = write!(text, " {name} {:.2}", bytes as f64 / 1e6);
    }
    let _ = writeln!(text, "; together {:.2} MB of .eh_frame", eh_frame_bytes as f64 / 1e6);
    let mut memories = Vec::new();
    for contestant in all.iter().filter(|one| one.takes_part() && one.tool.unwinds && one.tool.programs) {
        match memory(contestant, &mapper, folder) {
            Ok(memory) => memories.push(memory),
            Err(failure) => {
                let _ = writeln!(text, "not measured: {}: {failure}", contestant.tool.title());
            }
        }
    }
    text.push_str(&written(&memories, eh_frame_bytes));
    let ours = memories.iter().find(|memory| memory.contestant.tool.is_hostscope());
    let bars = ours.map(|memory| {
        let ratio = memory.table_bytes as f64 / eh_frame_bytes as f64;
        let what = "kernel memory of unwind tables, bytes a byte of .eh_frame";
        let mut bar = Bar::at_most(what, &[ratio].into_iter().collect(), MOST, 2);
        // No tables are no achievement.
        bar.met = bar.met.filter(|_| memory.tables >= FILES);
        bar
    });
    Ok(Section { text, measured: ours.is_some(), bars: bars.into_iter().collect() })
}

fn written(memories: &[Memory], eh_frame_bytes: u64) -> String {
    let heads = ["kernel memory", "tables", "MB", "bytes a byte of .eh_frame", "×", "all maps MB"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let own_bytes =
        memories.iter().find(|one| one.contestant.tool.is_hostscope()).map(|one| one.table_bytes as f64);
    for memory in memories {
        let bytes = memory.table_bytes as f64;
        let ratio = own_bytes.map(|own| bytes / own).filter(|ratio| ratio.is_finite());
        rows.push(vec![
            memory.contestant.tool.title().to_owned(),
            memory.tables.to_string(),
            format!("{:.1}", bytes / 1e6),
            format!("{:.2}", bytes / eh_frame_bytes as f64),
            ratio.map_or(String::new(), |ratio| format!("{ratio:.1}×")),
            format!("{:.1}", memory.all_bytes as f64 / 1e6),
        ]);
    }
    table(&rows)
        + "(profile-bee cuts a table off at 131,072 rows; perf has none: it copies 8 KiB of stack a sample)\n"
}

fn memory<'a>(contestant: &'a Contestant, mapper: &Mapper, folder: &Path) -> Result<Memory<'a>> {
    let folder = folder.join(contestant.tool.name);
    tools::fresh_folder(&folder)?;
    let job = Job {
        program: &contestant.program,
        folder: &folder,
        purpose: Purpose::Stacks,
        seconds: SECONDS,
        hertz: super::HERTZ,
        pid: mapper.child.id(),
        alone: true,
    };
    let before: BTreeSet<u32> = bpf_objects::maps()?.into_keys().collect();
    let mut during = contestant.observed(&job, || {
        thread::sleep(READING);
        bpf_objects::maps()
    })?;
    during.retain(|id, _| !before.contains(id));
    let is_table = |map: &&Map| {
        if contestant.tool.is_hostscope() {
            map.kind == "array" && map.bytes_value == BLOCK_BYTES
        } else {
            // profile-bee's: one a file, all of one size, cut off where a file has more rows.
            map.name.starts_with("standalone_arra")
        }
    };
    let sum = |maps: &[&Map]| maps.iter().map(|map| map.bytes_memlock).sum();
    let tables: Vec<&Map> = during.values().filter(is_table).collect();
    let all: Vec<&Map> = during.values().collect();
    Ok(Memory { contestant, table_bytes: sum(&tables), tables: tables.len(), all_bytes: sum(&all) })
}

/// The files to map: the largest of compilers first, then what else is there.
fn files() -> Result<Vec<PathBuf>> {
    let said = |command: &mut Command| {
        process::output(command).ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let mut candidates = Vec::new();
    candidates.extend(said(Command::new("gcc").arg("-print-prog-name=cc1plus")).map(PathBuf::from));
    if let Some(sysroot) = said(Command::new("rustc").args(["--print", "sysroot"])) {
        let libraries = workspace::files(&Path::new(&sysroot).join("lib")).unwrap_or_default();
        let is_compiler = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let large = fs::metadata(path).is_ok_and(|metadata| metadata.len() > 10_000_000);
            large && (name.starts_with("librustc_driver") || name.starts_with("libLLVM"))
        };
        candidates.extend(libraries.into_iter().filter(is_compiler).take(2));
    }
    candidates.extend(postgres_programs().map(|programs| programs.join("postgres")));
    candidates.extend(PLACES.iter().map(PathBuf::from));
    let mut seen = HashSet::new();
    let real = candidates.into_iter().filter_map(|path| fs::canonicalize(path).ok());
    let files: Vec<PathBuf> =
        real.filter(|path| path.is_file() && seen.insert(path.clone())).take(FILES).collect();
    if files.len() < FILES {
        let what = format!("only {} of {FILES} large programs are here", files.len());
        return Err(Failure::new(what, "apt-get install g++ nodejs postgresql nginx redis-server perl git"));
    }
    Ok(files)
}

/// The size of a file's section `.eh_frame`.
fn eh_frame_bytes_of(file: &Path) -> Result<u64> {
    let mend = "apt-get install binutils";
    let text =
        process::capture(Command::new("readelf").args(["--wide", "--section-headers"]).arg(file), mend)?;
    section_bytes(&text, ".eh_frame")
        .ok_or_else(|| Failure::new(format!("{} has no .eh_frame", file.display()), "choose another file"))
}

/// From a line such as `  [20] .eh_frame  PROGBITS  0000000002346c60 1f46c60 27a5bc 00  A  0  0  8`.
fn section_bytes(text: &str, section: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut fields = line.split_once(']')?.1.split_whitespace();
        (fields.next()? == section).then(|| u64::from_str_radix(fields.nth(3)?, 16).ok())?
    })
}

/// A process that has the files mapped. It ends when this is dropped.
struct Mapper {
    child: Child,
}

impl Mapper {
    fn start(folder: &Path, files: &[PathBuf]) -> Result<Self> {
        let program = folder.join("mapper");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-o"]).arg(&program).arg(source_file("mapper.c"));
        process::run(&mut gcc, "install a C compiler: apt-get install gcc libc6-dev")?;
        let mut command = Command::new(&program);
        command.args(files).stdin(Stdio::null()).stdout(Stdio::piped());
        load::ends_with_parent(&mut command, libc::SIGKILL);
        let mut child = command.spawn().map_err(|error| process::cannot_start(&command, &error))?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            // Without a line the process has ended, and the list of what it maps is empty.
            let _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut ready);
        }
        Ok(Self { child })
    }

    /// Every file that it maps for execution.
    fn mapped_files(&self) -> Vec<PathBuf> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap_or_default();
        executable_files(&maps)
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of executable mappings in the text of /proc/PID/maps, each once.
fn executable_files(maps: &str) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    maps.lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.contains('x')))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|file| seen.insert(file.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_readelf_and_maps() {
        let text = "\
  [19] .eh_frame_hdr     PROGBITS        00000000001a8f40 1a8f40 000100 00   A  0   0  4
  [ 9] .eh_frame         X86_64_UNWIND   00000000001a8f40 1a8f40 0256d0 00   A  0   0  8
";
        assert_eq!(section_bytes(text, ".eh_frame"), Some(0x256d0));
        assert_eq!(section_bytes(text, ".debug_frame"), None);
        let maps = "\
5500-5600 r--p 00000000 00:00 1 /usr/bin/a
5600-5700 r-xp 00001000 00:00 1                          /usr/bin/a
5700-5800 r-xp 00002000 00:00 1                          /usr/bin/a
7f00-7f01 r-xp 00000000 00:00 0                          [vdso]
";
        assert_eq!(executable_files(maps), [PathBuf::from("/usr/bin/a")]);
    }
}
