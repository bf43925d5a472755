//! The tools that are compared: hostscope and its peers, where each comes from and how it is told to do the same job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::needs::Install;
use crate::{process, workspace};

/// The first of [`TOOLS`], to which all others are compared.
pub(crate) const HOSTSCOPE: &str = "hostscope";

/// hostscope once more, its cache of unwind tables empty before each run.
pub(crate) const HOSTSCOPE_COLD: &str = "hostscope-cold";

/// Every tool, hostscope first.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: HOSTSCOPE,
        source: Source::Own,
        command: hostscope,
        after: None,
        programs: true,
        unwinds: true,
    },
    Tool {
        name: HOSTSCOPE_COLD,
        source: Source::Own,
        command: hostscope_cold,
        after: None,
        programs: false,
        unwinds: false,
    },
    Tool {
        name: "bpftrace",
        source: Source::Debian { package: "bpftrace", program: "bpftrace" },
        command: bpftrace,
        after: None,
        programs: true,
        unwinds: false,
    },
    Tool {
        name: "perf",
        source: PERF,
        command: perf_record,
        after: Some(perf_script),
        programs: false,
        unwinds: false,
    },
    Tool {
        name: "perf-dwarf",
        source: PERF,
        command: perf_record_dwarf,
        after: Some(perf_script),
        programs: false,
        unwinds: true,
    },
    Tool {
        name: "profile-bee",
        source: PROFILE_BEE,
        command: profile_bee,
        after: None,
        programs: true,
        unwinds: false,
    },
    Tool {
        name: "profile-bee-dwarf",
        source: PROFILE_BEE,
        command: profile_bee_dwarf,
        after: None,
        programs: true,
        unwinds: true,
    },
    Tool {
        name: "samply",
        source: Source::Cargo { package: "samply", version: "0.13.1", program: "samply" },
        command: samply,
        after: None,
        programs: false,
        unwinds: false,
    },
];

const PERF: Source = Source::Debian { package: "linux-perf", program: "perf" };
const PROFILE_BEE: Source = Source::Cargo { package: "profile-bee", version: "^0.3", program: "probee" };

/// The folder, beside those of the runs, that hostscope keeps its unwind tables in from run to run.
pub(crate) const WARM_CACHE: &str = "unwind-cache";

/// One of them.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    source: Source,
    command: fn(&Job) -> Command,
    /// What has to follow before there is something to look at; counted apart.
    after: Option<fn(&Job) -> Command>,
    /// Whether it samples by an eBPF program whose time in the kernel is worth telling.
    pub(crate) programs: bool,
    /// Whether it is to get through code without frame pointers and [`super::stacks`] can read what it got.
    pub(crate) unwinds: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// This checkout.
    Own,
    /// A Debian package, and its program.
    Debian { package: &'static str, program: &'static str },
    /// A crate to install, and its program.
    Cargo { package: &'static str, version: &'static str, program: &'static str },
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To see what it costs: the usual outputs.
    Cost,
    /// To read from its output when it sampled: an output that [`Tool::text`] understands.
    Clock,
    /// To look at every stack: an output that [`super::stacks::read`] understands.
    Stacks,
}

/// One run.
pub(crate) struct Job<'a> {
    pub(crate) program: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) purpose: Purpose,
    pub(crate) seconds: u32,
    pub(crate) hertz: u32,
    /// The busy process, for those that can only watch one.
    pub(crate) pid: u32,
    /// Nobody else is to be watched.
    pub(crate) alone: bool,
}

impl Job<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.current_dir(self.folder);
        command
    }
}

impl Tool {
    /// The name as shown, with what is particular.
    pub(crate) fn title(&self) -> &'static str {
        match self.name {
            HOSTSCOPE_COLD => "hostscope, cold",
            "perf" => "perf record -g",
            "perf-dwarf" => "perf record --call-graph dwarf",
            "profile-bee-dwarf" => "profile-bee --dwarf",
            "samply" => "samply (one process)",
            name => name,
        }
    }

    /// Whether it is this checkout's program.
    pub(crate) fn is_hostscope(&self) -> bool {
        self.source == Source::Own
    }

    /// The kernel setting that it needs to run at all.
    pub(crate) fn setting(&self) -> Option<(&'static str, &'static str)> {
        // samply asks for a hardware counter first and, where there is none, gives up unless this is 1 or lower.
        (self.name == "samply").then_some(("/proc/sys/kernel/perf_event_paranoid", "1"))
    }

    /// Whether its time runs from its start, not from its first sample.
    pub(crate) fn ends_by_timeout(&self) -> bool {
        self.name == "samply"
    }

    /// What the after-work is called in the table.
    pub(crate) fn after_title(&self) -> Option<&'static str> {
        self.after.map(|_| "  and perf script")
    }

    /// Its program, installed first where that is missing and allowed.
    pub(crate) fn locate(&self, install: Install) -> Result<PathBuf> {
        match self.source {
            Source::Own => Ok(workspace::target().join("release/hostscope")),
            Source::Debian { package, program } => process::find(program).ok_or_else(|| {
                Failure::new(format!("no {program} in PATH"), format!("apt-get install {package}"))
            }),
            Source::Cargo { package, version, program } => cargo_install(package, version, program, install),
        }
    }

    pub(crate) fn command(&self, job: &Job) -> Command {
        (self.command)(job)
    }

    pub(crate) fn after(&self, job: &Job) -> Option<Command> {
        self.after.map(|after| after(job))
    }

    /// What a [`Purpose::Clock`] run has left behind, as text with the functions' names.
    pub(crate) fn text(job: &Job) -> Result<String> {
        let mut text = String::new();
        for file in workspace::files(job.folder)? {
            text.push_str(&String::from_utf8_lossy(&workspace::read_bytes(&file)?));
        }
        Ok(text)
    }
}

/// Installs a crate below the cache, unless it is there.
fn cargo_install(package: &str, version: &str, program: &str, install: Install) -> Result<PathBuf> {
    let root = workspace::cache()?.join("peers");
    let program = root.join("bin").join(program);
    if program.is_file() {
        return Ok(program);
    }
    let mend = format!("cargo install {package} --version {version} --locked --root {}", root.display());
    if install == Install::Refused {
        return Err(Failure::new(format!("{package} is not installed and --no-install forbids it"), mend));
    }
    eprintln!("installing the peer {package} {version} into {} (minutes, once)", root.display());
    let mut command = process::cargo();
    command.args(["install", package, "--version", version, "--locked", "--quiet", "--root"]).arg(&root);
    command.env_remove("CARGO_TARGET_DIR");
    process::run(&mut command, &mend)?;
    Ok(program)
}

fn hostscope(job: &Job) -> Command {
    // One for all its runs, and of the benchmark's own: nobody else's is lost or made use of.
    hostscope_with_cache(job, &job.folder.with_file_name(WARM_CACHE))
}

fn hostscope_cold(job: &Job) -> Command {
    // The folder of a run is a fresh one.
    hostscope_with_cache(job, &job.file("unwind-cache"))
}

fn hostscope_with_cache(job: &Job, cache: &Path) -> Command {
    let mut command = job.command();
    command.env("HOSTSCOPE_CACHE", cache).env_remove("RUST_LOG");
    command.args(["record", "-v", "-d", &job.seconds.to_string(), "-F", &job.hertz.to_string()]);
    if job.alone {
        command.args(["-p", &job.pid.to_string()]);
    }
    let outputs: &[&str] = match job.purpose {
        Purpose::Cost => &["profile.svg", "profile.pb.gz"],
        Purpose::Clock | Purpose::Stacks => &["profile.json"],
    };
    for output in outputs {
        command.arg("-o").arg(job.file(output));
    }
    command
}

fn bpftrace(job: &Job) -> Command {
    let mut command = job.command();
    let Job { hertz, seconds, .. } = job;
    command.arg("-e").arg(format!(
        "profile:hz:{hertz} {{ @[ustack, kstack, comm] = count(); }} interval:s:{seconds} {{ exit(); }}"
    ));
    command
}

fn perf_record(job: &Job) -> Command {
    perf_record_with(job, &["-g"])
}

fn perf_record_dwarf(job: &Job) -> Command {
    perf_record_with(job, &["--call-graph", "dwarf"])
}

fn perf_record_with(job: &Job, call_graph: &[&str]) -> Command {
    let mut command = job.command();
    command
        .arg("record")
        .args(call_graph)
        .args(["-F", &job.hertz.to_string(), "-o"])
        .arg(job.file("perf.data"));
    if job.alone {
        command.args(["-p", &job.pid.to_string()]);
    } else {
        command.arg("-a");
    }
    command.args(["--", "sleep", &job.seconds.to_string()]);
    command
}

fn perf_script(job: &Job) -> Command {
    let mut command = job.command();
    // As the others by default: with inlined functions one program with debug information takes it minutes.
    command.args(["script", "--no-inline", "-i"]).arg(job.file("perf.data"));
    if job.purpose == Purpose::Stacks {
        command.args(["-F", "pid,ip,sym,dso"]);
    }
    command
}

fn profile_bee(job: &Job) -> Command {
    let mut command = job.command();
    command.args(["-f", &job.hertz.to_string(), "-t", &(job.seconds * 1000).to_string()]);
    if job.alone {
        command.args(["-p", &job.pid.to_string()]);
    }
    if job.purpose == Purpose::Stacks {
        command.arg("--group-by-process").arg("-o").arg(job.file("profile.folded"));
    } else {
        command.arg("-o").arg(job.file("profile.svg"));
    }
    command
}

fn profile_bee_dwarf(job: &Job) -> Command {
    let mut command = profile_bee(job);
    command.args(["--dwarf", "true"]);
    command
}

fn samply(job: &Job) -> Command {
    // Its own --duration is not heeded with --pid; Ctrl-C is, once.
    let mut command = Command::new("timeout");
    command.current_dir(job.folder).args(["--foreground", "--preserve-status", "--signal=INT"]);
    command.arg(job.seconds.to_string()).arg(job.program);
    command.args(["record", "--save-only", "--rate", &job.hertz.to_string()]);
    command.args(["--pid", &job.pid.to_string(), "--output"]).arg(job.file("profile.json"));
    if job.purpose == Purpose::Clock {
        // Names go to a file of their own, by work after the end: no part of what is read from this run.
        command.arg("--unstable-presymbolicate");
    }
    command
}

/// The version that a tool reports of itself, for the table.
pub(crate) fn version(program: &Path) -> String {
    let output = process::output(Command::new(program).arg("--version"));
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let number = text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        word.starts_with(|first: char| first.is_ascii_digit()).then(|| word.to_owned())
    });
    number.unwrap_or_default()
}

/// The number behind `name` in a line of log, as in `elapsed_ms=812.5`.
pub(crate) fn number_after(line: &str, name: &str) -> Option<f64> {
    let value = line.split_once(name)?.1;
    value.split(|character: char| !(character.is_ascii_digit() || character == '.')).next()?.parse().ok()
}

/// An empty folder for a run's files.
pub(crate) fn fresh_folder(path: &Path) -> Result<()> {
    workspace::remove_folder(path)?;
    fs::create_dir_all(path).map_err(|error| Failure::file("make the folder", path, &error))
}
