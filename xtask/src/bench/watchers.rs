//! Who times the loads: hostscope's agent and its peer, each started until it watches and ended again.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::load;
use super::web;
use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// How long one may take until it watches.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to end when asked to.
const GRACE: Duration = Duration::from_secs(5);

/// After a start and after an end: until the caches are the load's again and the kernel has freed what was left behind.
const SETTLE: Duration = Duration::from_millis(150);

/// Who watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Watcher {
    /// `hostscope agent` with what is always on.
    AlwaysOn(PathBuf),
    /// The same with every system call timed.
    Full(PathBuf),
    /// bpftrace with this script, which must not write anything.
    Bpftrace(PathBuf, &'static str),
}

/// One that watches; it ends when this is dropped.
pub(crate) struct Watching {
    child: Child,
    /// The port where the agent answers, 0 for others.
    pub(crate) port: u16,
}

impl Watcher {
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::AlwaysOn(_) => "hostscope agent",
            Self::Full(_) => "hostscope agent --full-syscalls on",
            Self::Bpftrace(..) => "bpftrace",
        }
    }

    /// Starts it with its log in `folder`; it watches when this returns.
    pub(crate) fn start(&self, folder: &Path) -> Result<Watching> {
        let watching = match self {
            Self::AlwaysOn(program) => agent(program, &[], folder)?,
            Self::Full(program) => agent(program, &["--full-syscalls", "on"], folder)?,
            Self::Bpftrace(program, script) => bpftrace(program, script, folder)?,
        };
        thread::sleep(SETTLE);
        Ok(watching)
    }
}

impl Watching {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).map_err(|error| Failure::file("create", log, &error))?;
        command.stdin(Stdio::null()).stderr(file);
        load::ends_with_parent(command, libc::SIGTERM);
        let child = command.spawn().map_err(|error| process::cannot_start(command, &error))?;
        Ok(Self { child, port: 0 })
    }

    /// A failure where it has ended or `began` is too long ago; else a moment's rest.
    fn rest(&mut self, began: Instant, log: &Path) -> Result<()> {
        let ended = !matches!(self.child.try_wait(), Ok(None));
        if !ended && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
            return Ok(());
        }
        let said = workspace::read_bytes(log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let what = if ended { "has ended" } else { "is not ready" };
        Err(Failure::new(
            format!("a watcher {what} after {:.1?}; it said: {}", began.elapsed(), said.trim()),
            format!("see {}", log.display()),
        ))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let began = Instant::now();
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: takes numbers only; the process is our child, and nobody has waited for it yet.
            unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        }
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(5));
        }
        load::end(std::slice::from_mut(&mut self.child));
        thread::sleep(SETTLE);
    }
}

/// It says itself when it is ready.
fn agent(program: &Path, more: &[&str], folder: &Path) -> Result<Watching> {
    let port = web::free_port()?;
    let log = folder.join("agent.txt");
    let mut command = Command::new(program);
    command.args(["agent", "--listen", &format!("127.0.0.1:{port}")]).args(more).stdout(Stdio::null());
    let mut watching = Watching::start(&mut command, &log)?;
    watching.port = port;
    let began = Instant::now();
    while !web::get(port, "/health/ready").is_ok_and(|answer| answer.status == 200) {
        watching.rest(began, &log)?;
    }
    Ok(watching)
}

/// It attaches the script's probes in order, so the timer's first word comes when all of them are.
fn bpftrace(program: &Path, script: &str, folder: &Path) -> Result<Watching> {
    let log = folder.join("bpftrace.txt");
    let said = folder.join("bpftrace-stdout.txt");
    let stdout = File::create(&said).map_err(|error| Failure::file("create", &said, &error))?;
    let script = format!("{script} interval:ms:200 {{ printf(\"attached\\n\"); }}");
    let mut command = Command::new(program);
    command.args(["-B", "line", "-e", &script]).stdout(stdout);
    let mut watching = Watching::start(&mut command, &log)?;
    let began = Instant::now();
    while !has_attached(&said) {
        watching.rest(began, &log)?;
    }
    Ok(watching)
}

fn has_attached(said: &Path) -> bool {
    File::open(said).is_ok_and(|file| {
        BufReader::new(file).lines().map_while(std::result::Result::ok).any(|line| line == "attached")
    })
}
