//! hostscope itself, run as a user runs it: its arguments, what it prints, its files and its exit status.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hostscope::outputs;
use hostscope::profile::Profile;
use hostscope_wire::PROBES;
use hostscope_wire::spec::{Attach, Purpose};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::{online_cpus, target_folder, wait_for};

/// No run of a test is longer; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// The program under test: what `HOSTSCOPE_BIN` names, else what cargo has built, release first.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HOSTSCOPE_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "HOSTSCOPE_BIN names {}, which does not exist", path.display());
        return path;
    }
    let built = ["release", "debug"].map(|profile| target_folder().join(profile).join("hostscope"));
    let found = built.iter().find(|path| path.is_file());
    found
        .expect(
            "hostscope is not built: run `cargo xtask test`, or first `cargo build --release -p hostscope`",
        )
        .clone()
}

/// hostscope with these arguments, free of what the caller's environment would change.
#[must_use]
pub fn hostscope<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command.env_remove("SUDO_UID").env_remove("SUDO_GID");
    command
}

/// A program that has ended, and what it printed.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// The exit status as a shell shows it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Itself, where it ended with 0.
    #[expect(clippy::return_self_not_must_use, reason = "many want to know nothing else")]
    pub fn success(self) -> Self {
        assert_eq!(self.code(), 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// A program under way, what it prints kept in files. It is killed when this is dropped.
pub struct Running {
    child: Child,
    folder: TempDir,
}

impl Running {
    /// Starts `command`.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let into = |name: &str| File::create(folder.path().join(name)).expect("a file in it");
        let child = command.stdout(into("stdout")).stderr(into("stderr")).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, folder }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been waited for");
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// What it has printed to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.printed("stderr")
    }

    fn printed(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.path().join(name)).expect("the file it prints to");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until hostscope samples every CPU: from then on nothing of its targets is missed.
    pub fn wait_until_sampling(&mut self) {
        let cpus = online_cpus();
        let wanted: usize = PROBES
            .iter()
            .filter(|probe| matches!(probe.purpose, Purpose::Profile | Purpose::Processes))
            .map(|probe| if let Attach::RawTracepoint(_) = probe.attach { 1 } else { cpus })
            .sum();
        let folder = format!("/proc/{}/fd", self.pid());
        let attached = || {
            let links =
                fs::read_dir(&folder).ok()?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            let probes = links.filter(|link| {
                let link = link.to_string_lossy();
                link.ends_with("[perf_event]") || link.ends_with("bpf_link")
            });
            Some(probes.count())
        };
        let mut last = 0;
        let began = std::time::Instant::now();
        // Twice: the event that only tries for a PMU is closed again.
        while last < wanted || attached().unwrap_or(0) < wanted {
            last = attached().unwrap_or(0);
            assert!(!self.has_ended(), "hostscope ended before it sampled:\n{}", self.stderr());
            assert!(began.elapsed() < LIMIT, "{last} of {wanted} probes are attached:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    #[must_use]
    pub fn end(mut self) -> Ended {
        let status = wait_for("hostscope's end", LIMIT, || self.child.try_wait().expect("a child of ours"));
        Ended { status, stdout: self.printed("stdout"), stderr: self.printed("stderr") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end.
#[must_use]
pub fn run(command: &mut Command) -> Ended {
    Running::start(command).end()
}

/// A `hostscope record` under way.
pub struct Recording {
    running: Running,
    folder: TempDir,
}

impl Recording {
    /// Starts `hostscope record -o FILE ARGUMENTS`.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::start_with(|_| {}, arguments)
    }

    /// The same, after `prepare` has changed the command's surroundings.
    #[must_use]
    pub fn start_with<A: AsRef<OsStr>>(
        prepare: impl FnOnce(&mut Command),
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = hostscope(["record", "-o"]);
        command.arg(folder.path().join("profile.json")).args(arguments);
        prepare(&mut command);
        Self { running: Running::start(&mut command), folder }
    }

    /// Starts, and waits until every CPU is sampled.
    #[must_use]
    pub fn begin<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut recording = Self::start(arguments);
        recording.running.wait_until_sampling();
        recording
    }

    /// The process under way.
    #[must_use]
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Ends the capture as Ctrl-C does.
    #[must_use]
    pub fn stop(self) -> Recorded {
        self.running.signal(Signal::INT);
        self.end()
    }

    /// Waits for its end and reads the profile.
    #[must_use]
    pub fn end(self) -> Recorded {
        let ended = self.running.end();
        let path = self.folder.path().join("profile.json");
        assert!(path.exists(), "no profile ({}):\n{}", ended.status, ended.stderr);
        Recorded { profile: read(&path), ended }
    }
}

/// A finished `hostscope record`.
pub struct Recorded {
    /// What it wrote.
    pub profile: Profile,
    /// How it ended, and what it printed.
    pub ended: Ended,
}

impl Recorded {
    /// How many samples or records were lost for this reason.
    #[must_use]
    pub fn lost(&self, reason: &str) -> u64 {
        self.profile.losses.iter().filter(|loss| loss.reason == reason).map(|loss| loss.count).sum()
    }
}

/// Runs `hostscope record ARGUMENTS` to its end, which must be a success.
#[must_use]
pub fn record<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Recorded {
    let recorded = Recording::start(arguments).end();
    Recorded { ended: recorded.ended.success(), ..recorded }
}

/// Reads a profile file.
#[must_use]
pub fn read(path: &Path) -> Profile {
    outputs::read_file(path).unwrap_or_else(|error| panic!("{error}"))
}
