//! Runs one tool and says what it cost: CPU time and memory by wait4, and the time by the wall clock.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::process;

/// What one run cost, children that it waited for included.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// The most resident memory that it or one of its children had.
    pub(crate) peak_megabytes: f64,
    pub(crate) wall_seconds: f64,
}

impl Cost {
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Runs `command` with both outputs in files, and ends it should it take longer than `limit`.
pub(crate) fn run(command: &mut Command, stdout: &Path, stderr: &Path, limit: Duration) -> Result<Cost> {
    let create = |path: &Path| File::create(path).map_err(|error| Failure::file("create", path, &error));
    command.stdin(Stdio::null()).stdout(create(stdout)?).stderr(create(stderr)?);
    let began = Instant::now();
    let child = command.spawn().map_err(|error| process::cannot_start(command, &error))?;
    let pid = child.id() as libc::pid_t;
    let watchdog = Watchdog::start(pid, limit);
    let waited = wait(pid);
    let wall_seconds = began.elapsed().as_secs_f64();
    let timed_out = watchdog.stop();
    let (status, usage) = waited.map_err(|error| process::cannot_start(command, &error))?;
    if timed_out {
        return Err(failed(command, &format!("was not done after {limit:?} and was ended"), stderr));
    }
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        let how = if libc::WIFSIGNALED(status) {
            format!("was ended by signal {}", libc::WTERMSIG(status))
        } else {
            format!("ended with status {}", libc::WEXITSTATUS(status))
        };
        return Err(failed(command, &how, stderr));
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Cost {
        user_seconds: seconds(usage.ru_utime),
        system_seconds: seconds(usage.ru_stime),
        peak_megabytes: usage.ru_maxrss as f64 * 1024.0 / 1e6,
        wall_seconds,
    })
}

fn failed(command: &Command, how: &str, stderr: &Path) -> Failure {
    let said = std::fs::read(stderr).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let is_error = |line: &&str| line.to_ascii_lowercase().trim_start().starts_with("error");
    let is_text = |line: &&str| !line.trim().is_empty();
    let word = said.lines().find(is_error).or_else(|| said.lines().rev().find(is_text)).unwrap_or("nothing");
    Failure::new(
        format!("{} {how}; it said: {}", command.get_program().display(), word.trim()),
        format!("try by hand: {}", process::shown(command)),
    )
}

fn wait(pid: libc::pid_t) -> io::Result<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types that wait4 fills.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            return Ok((status, usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Ends a process that takes too long.
struct Watchdog {
    done: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(pid: libc::pid_t, limit: Duration) -> Self {
        let (done, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let late = matches!(wait.recv_timeout(limit), Err(mpsc::RecvTimeoutError::Timeout));
            if late {
                // SAFETY: kill touches no memory; the pid is our child's, and nobody has waited for it yet or just now.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            late
        });
        Self { done, thread }
    }

    /// Whether it had to act.
    fn stop(self) -> bool {
        let _ = self.done.send(());
        self.thread.join().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_shell(script: &str, limit: Duration) -> Result<Cost> {
        let folder = std::env::temp_dir().join(format!("hostscope-measure-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let name = script.len();
        run(
            Command::new("sh").args(["-c", script]),
            &folder.join(format!("{name}.out")),
            &folder.join(format!("{name}.err")),
            limit,
        )
    }

    #[test]
    fn counts_children_and_ends_what_hangs() {
        let minute = Duration::from_mins(1);
        let cost =
            run_shell("sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'; true", minute).unwrap();
        assert!(
            cost.cpu_seconds() > 0.01 && cost.wall_seconds > 0.01 && cost.peak_megabytes > 0.1,
            "{cost:?}"
        );
        let failure = run_shell("echo no such luck >&2; exit 3", minute).unwrap_err();
        assert!(failure.what.contains("status 3") && failure.what.contains("no such luck"), "{failure}");
        let failure = run_shell("exec sleep 60", Duration::from_millis(100)).unwrap_err();
        assert!(failure.what.contains("was ended"), "{failure}");
    }
}
