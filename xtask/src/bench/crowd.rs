//! A host of many different programs: how soon hostscope knows all their code, and what memory that takes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::figures::{Bar, Figures, table};
use super::load;
use super::report::Section;
use super::rounds::Contestant;
use super::tools::{self, Job, Purpose};
use super::{HERTZ, Plan};
use crate::failure::Result;
use crate::{process, workspace};

/// How long each tool samples.
const SECONDS: u32 = 5;

/// The programs, how many of each, and what makes them wait.
const PROGRAMS: &[(&str, usize, &[&str])] = &[
    ("/usr/bin/python3", 70, &["-c", "import ssl, sqlite3, ctypes, lzma, decimal, time; time.sleep(3600)"]),
    ("node", 30, &["-e", "setTimeout(() => {}, 3600000)"]),
    ("perl", 80, &["-MPOSIX", "-MSocket", "-MStorable", "-e", "sleep 3600"]),
    ("bash", 60, &["-c", "read line; true"]),
    ("sleep", 60, &["3600"]),
];

/// Until they have loaded their libraries and sleep.
const SETTLE: Duration = Duration::from_secs(4);

/// Promised of [`PROGRAMS`]: all mappings known after so long, in so much resident memory.
const READY_MS: f64 = 2000.0;
const PEAK_MEGABYTES: f64 = 50.0;

/// One tool's runs.
struct Runs<'a> {
    contestant: &'a Contestant,
    cpu_seconds: Figures,
    peak_megabytes: Figures,
    /// hostscope's own word: from its start until every mapping then known had its table.
    ready_ms: Figures,
}

/// Runs the tools that unwind, hostscope with an empty cache.
pub(crate) fn measure(all: &[Contestant], folder: &Path, plan: &Plan) -> Result<Section> {
    eprintln!("a host of many programs");
    let crowd = Crowd::start(folder)?;
    let mut text = String::new();
    let mut all: Vec<Runs> = all
        .iter()
        .filter(|one| one.takes_part() && one.tool.unwinds)
        .map(|contestant| Runs {
            contestant,
            cpu_seconds: Figures::default(),
            peak_megabytes: Figures::default(),
            ready_ms: Figures::default(),
        })
        .collect();
    let mut said = None;
    for runs in &mut all {
        // The peers stand beside for comparison only.
        let rounds = if runs.contestant.tool.is_hostscope() { plan.rounds } else { 1 };
        for _ in 0..rounds {
            match runs.run(folder) {
                Ok(Some(ready)) => said = Some(ready),
                Ok(None) => {}
                // Writing to a String cannot fail, here and below.
                Err(failure) => {
                    let _ = writeln!(text, "not measured: {}: {failure}", runs.contestant.tool.title());
                }
            }
        }
    }
    let count = crowd.children.len();
    drop(crowd);
    let Some(ours) = all.iter().find(|runs| runs.contestant.tool.is_hostscope()) else {
        return Ok(Section { text, bars: Vec::new(), measured: false });
    };
    if let Some(Ready { files, bytes, .. }) = said {
        let _ = writeln!(text, "hostscope made tables of {files} files, {:.1} MB", bytes / 1e6);
    }
    let title = format!("{count} idle processes of {} programs, {SECONDS} s", PROGRAMS.len());
    let bars = vec![
        Bar::at_most(format!("{count} processes: all mappings known, cold, ms"), &ours.ready_ms, READY_MS, 0),
        Bar::at_most(
            format!("{count} processes: peak resident memory, cold, MB"),
            &ours.peak_megabytes,
            PEAK_MEGABYTES,
            1,
        ),
    ];
    let measured = !ours.peak_megabytes.is_empty();
    Ok(Section { text: written(title, ours, &all) + &text, bars, measured })
}

fn written(title: String, ours: &Runs, all: &[Runs]) -> String {
    let heads = ["own CPU s", "×", "peak MB", "×", "all mappings known ms"];
    let mut rows = vec![std::iter::once(title).chain(heads.map(str::to_owned)).collect()];
    for runs in all {
        let title = runs.contestant.tool.title();
        rows.push(vec![
            if runs.contestant.tool.is_hostscope() { format!("{title}, cold") } else { title.to_owned() },
            runs.cpu_seconds.shown(2),
            runs.cpu_seconds.ratio_to(&ours.cpu_seconds),
            runs.peak_megabytes.shown(0),
            runs.peak_megabytes.ratio_to(&ours.peak_megabytes),
            runs.ready_ms.shown(0),
        ]);
    }
    table(&rows)
}

impl Runs<'_> {
    fn run(&mut self, folder: &Path) -> Result<Option<Ready>> {
        workspace::remove_folder(&folder.join(tools::WARM_CACHE))?;
        let folder: PathBuf = folder.join(self.contestant.tool.name);
        tools::fresh_folder(&folder)?;
        let job = Job {
            program: &self.contestant.program,
            folder: &folder,
            purpose: Purpose::Cost,
            seconds: SECONDS,
            hertz: HERTZ,
            pid: std::process::id(),
            alone: false,
        };
        let (cost, _) = self.contestant.run_once(&job)?;
        self.cpu_seconds.push(cost.cpu_seconds());
        self.peak_megabytes.push(cost.peak_megabytes);
        let ready = Ready::read(&workspace::read(&folder.join("stderr.txt"))?);
        if let Some(ready) = &ready {
            self.ready_ms.push(ready.elapsed_ms);
        }
        Ok(ready)
    }
}

/// The line by which `hostscope -v` tells that every mapping known at its start has a table.
#[derive(Debug, PartialEq)]
struct Ready {
    elapsed_ms: f64,
    files: f64,
    bytes: f64,
}

impl Ready {
    fn read(stderr: &str) -> Option<Self> {
        let line = stderr.lines().find(|line| line.contains("unwind tables ready"))?;
        let field = |name: &str| tools::number_after(line, name);
        Some(Self { elapsed_ms: field("elapsed_ms=")?, files: field("files=")?, bytes: field("bytes=")? })
    }
}

/// The processes; they end when this is dropped.
struct Crowd {
    children: Vec<Child>,
}

impl Crowd {
    fn start(folder: &Path) -> Result<Self> {
        let mut crowd = Self { children: Vec::new() };
        for (program, count, arguments) in PROGRAMS {
            for _ in 0..*count {
                let mut command = Command::new(program);
                command
                    .args(*arguments)
                    .current_dir(folder)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                load::ends_with_parent(&mut command, libc::SIGKILL);
                crowd
                    .children
                    .push(command.spawn().map_err(|error| process::cannot_start(&command, &error))?);
            }
        }
        thread::sleep(SETTLE);
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        load::end(&mut self.children);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_of_readiness() {
        let line = " INFO x: unwind tables ready elapsed_ms=812.5 files=57 bytes=1234567\n";
        assert_eq!(
            Ready::read(&format!("note\n{line}more")),
            Some(Ready { elapsed_ms: 812.5, files: 57.0, bytes: 1_234_567.0 })
        );
        assert_eq!(Ready::read("unwind tables: none"), None);
    }
}
