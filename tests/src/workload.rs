//! The programs of `tests/workloads`: built at first use, started for a test, ended with it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::host::target_folder;

/// The file of a workload. `HOSTSCOPE_WORKLOADS` names a folder where they are built already; else they are compiled
/// here, those whose source is newer.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os("HOSTSCOPE_WORKLOADS") {
        Some(folder) => PathBuf::from(folder),
        None => build_all(),
    });
    let path = folder.join(name);
    assert!(path.is_file(), "there is no workload {}: see tests/workloads", path.display());
    path
}

fn build_all() -> PathBuf {
    let folder = target_folder().join("workloads");
    fs::create_dir_all(&folder).expect("a folder below target");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(".lock"));
    let lock = lock.expect("a lock file below target");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock on a file of our own");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let files: Vec<PathBuf> =
        fs::read_dir(&sources).expect("tests/workloads").map(|entry| entry.unwrap().path()).collect();
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let newest = files.iter().filter_map(|file| changed(file)).max();
    for source in &files {
        let output = folder.join(source.file_stem().unwrap_or_default());
        // Some include others: any newer source is reason enough, all of them take two seconds.
        if changed(&output) < newest {
            build(source, &output, &[]);
        }
    }
    folder
}

/// Builds the workload of the source file `name` (`shares.c`) into `output`, with more flags than its own.
pub fn build_with(name: &str, flags: &[&str], output: &Path) {
    build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name), output, flags);
}

fn build(source: &Path, output: &Path, more: &[&str]) {
    let (compiler, flags): (_, &[&str]) = match source.extension().and_then(OsStr::to_str) {
        Some("c") => ("gcc", &["-g", "-pthread"]),
        Some("cpp") => ("g++", &["-g", "-pthread"]),
        Some("rs") => ("rustc", &["--edition=2024", "-g"]),
        Some("go") => ("go", &["build"]),
        _ => return,
    };
    let text = fs::read_to_string(source).expect("a source file");
    let own = text.lines().find_map(|line| line.strip_prefix("// flags:")).unwrap_or_default();
    let mut command = Command::new(compiler);
    command.args(flags).args(own.split_whitespace()).args(more).arg("-o").arg(output).arg(source);
    let result = command.output().unwrap_or_else(|error| {
        panic!("{compiler}: {error}; `cargo xtask test` installs what the tests need")
    });
    assert!(result.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&result.stderr));
}

/// A workload under way. It is killed when this is dropped.
pub struct Workload {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Workload {
    /// Starts the workload `name`.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        Self::start_file(&path(name), arguments)
    }

    /// Starts the program `file`.
    #[must_use]
    pub fn start_file<A: AsRef<OsStr>>(file: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        Self::start_command(Command::new(file).args(arguments))
    }

    /// Starts `command`; it ends with the test, whatever becomes of that.
    #[must_use]
    pub fn start_command(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let end_with_parent = || {
            // SAFETY: a system call without pointers, allowed between fork and exec.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            Ok(())
        };
        // SAFETY: the closure makes one system call and allocates nothing.
        let spawned = unsafe { command.pre_exec(end_with_parent) }.spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdout }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its process as an argument.
    #[must_use]
    pub fn pid_text(&self) -> String {
        self.pid().to_string()
    }

    /// Waits for a line that it prints.
    #[must_use]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// Waits until it says "ready".
    pub fn wait_until_ready(&mut self) {
        assert_eq!(self.line(), "ready");
    }

    /// Lets it go on: sends SIGUSR1.
    pub fn go(&self) {
        self.signal(Signal::USR1);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been waited for");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child of ours")
    }

    /// The processes that it has started and that still run.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// CPU time that it has used, in nanoseconds, by the scheduler's own account.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let used = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        tasks.filter_map(used).sum()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The children of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A copy of a workload under another name, so that nothing else maps the same file.
#[expect(clippy::must_use_candidate, reason = "the caller knows the path")]
pub fn copy(name: &str, to: &Path) -> PathBuf {
    fs::copy(path(name), to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    // Written out: executing a file that is open for writing anywhere fails.
    File::open(to).and_then(|file| file.sync_all()).expect("the copy");
    to.to_path_buf()
}
