//! What is timed: programs that wait for the kernel, started from `waits.c`, and how long their turns take.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::load;
use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// The program, compiled.
pub(crate) struct Waits {
    program: PathBuf,
}

impl Waits {
    pub(crate) fn compile(folder: &Path) -> Result<Self> {
        workspace::make_folder(folder)?;
        let program = folder.join("waits");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-o"]).arg(&program).arg(workspace::root().join("xtask/src/bench/waits.c"));
        process::run(&mut gcc, "install a C compiler: apt-get install gcc libc6-dev")?;
        Ok(Self { program })
    }

    /// One process that makes calls, or two that give the CPU to each other, whenever a turn is asked for.
    pub(crate) fn meter(&self, what: &str) -> Result<Meter> {
        let mut command = Command::new(&self.program);
        command.arg(what).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Children::start(&mut command)?;
        let broken = || Failure::new("a load has no pipe", "run it again");
        let child = process.0.first_mut().ok_or_else(broken)?;
        let ask = child.stdin.take().ok_or_else(broken)?;
        let answers = BufReader::new(child.stdout.take().ok_or_else(broken)?);
        Ok(Meter { _process: process, ask, answers })
    }

    /// Two processes that switch about so many times a second, in bursts each millisecond.
    pub(crate) fn paced(&self, switches_a_second: u32) -> Result<Children> {
        let mut command = Command::new(&self.program);
        command.args(["paced", &switches_a_second.to_string()]);
        Children::start(&mut command)
    }

    /// So many programs of different names, each waiting in several ways 50 times a second.
    pub(crate) fn services(&self, folder: &Path, count: usize) -> Result<Children> {
        let folder = folder.join("services");
        workspace::make_folder(&folder)?;
        let mut all = Children(Vec::with_capacity(count));
        for number in 0..count {
            let program = folder.join(format!("service-{number}"));
            fs::copy(&self.program, &program).map_err(|error| Failure::file("write", &program, &error))?;
            all.0.append(&mut Children::start(Command::new(program).arg("service"))?.0);
        }
        Ok(all)
    }
}

/// Processes that end when this is dropped, or with their parent, whichever comes first.
pub(crate) struct Children(Vec<Child>);

impl Children {
    fn start(command: &mut Command) -> Result<Self> {
        load::ends_with_parent(command, libc::SIGKILL);
        Ok(Self(vec![command.spawn().map_err(|error| process::cannot_start(command, &error))?]))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        load::end(&mut self.0);
    }
}

/// A load that measures itself, turn by turn. It stays the same process, so that nothing but the watcher changes.
pub(crate) struct Meter {
    _process: Children,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What one call, switch or request took in a turn, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Turn {
    /// The median of its batches.
    pub(crate) median_ns: f64,
    /// The fastest batch.
    pub(crate) least_ns: f64,
}

impl Meter {
    pub(crate) fn turn(&mut self) -> Result<Turn> {
        let mut line = String::new();
        let failed = |error| Failure::new(format!("a load does not answer: {error}"), "run it again");
        self.ask.write_all(b"\n").map_err(failed)?;
        self.answers.read_line(&mut line).map_err(failed)?;
        Turn::read(&line).ok_or_else(|| Failure::new(format!("a load says {line:?}"), "see waits.c"))
    }
}

impl Turn {
    fn read(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
        Some(Self { median_ns: numbers.next()?, least_ns: numbers.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_turn() {
        assert_eq!(Turn::read("127.48 122.07\n"), Some(Turn { median_ns: 127.48, least_ns: 122.07 }));
        assert_eq!((Turn::read("127.48\n"), Turn::read("")), (None, None));
    }
}
