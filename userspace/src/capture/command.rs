//! A command that is started stopped: it exists, with its pid, but runs nothing of its own before it is let go, so
//! that nothing of it is missed.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};

/// A command between fork and exec, later running.
pub struct StoppedCommand {
    /// The process.
    pub pid: u32,
    name: String,
    go: Option<PipeWriter>,
    ended: PipeReader,
    waiter: Option<JoinHandle<io::Result<ExitStatus>>>,
    status: Option<ExitStatus>,
}

impl StoppedCommand {
    /// Forks; the child waits before its exec.
    ///
    /// # Errors
    /// No process or file descriptor is left.
    pub fn start(words: &[String]) -> Result<Self> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Error::usage(
                "there is no command after --",
                "name one: hostscope record -- COMMAND",
            ));
        };
        let failed = |error: io::Error| {
            Error::failed(format!("cannot start {program}: {error}"), "raise ulimit -n and ulimit -u")
        };
        let (mut pid_reader, pid_writer) = io::pipe().map_err(failed)?;
        let (go_reader, go) = io::pipe().map_err(failed)?;
        let (ended, ended_writer) = io::pipe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments);
        let (pid_fd, go_fd, go_writer_fd) = (pid_writer.as_raw_fd(), go_reader.as_raw_fd(), go.as_raw_fd());
        // SAFETY: between fork and exec only system calls that are async-signal-safe: getpid, write, close, read.
        unsafe { command.pre_exec(move || wait_to_go(pid_fd, go_fd, go_writer_fd)) };
        // `spawn` returns only after the exec, hence the thread.
        let waiter = thread::Builder::new()
            .name("command".into())
            .spawn(move || {
                let child = command.spawn();
                drop((pid_writer, go_reader));
                let status = child.and_then(|mut child| child.wait());
                drop(ended_writer);
                status
            })
            .map_err(failed)?;
        let mut pid = [0; 4];
        let read = pid_reader.read_exact(&mut pid);
        let mut stopped = Self {
            pid: u32::from_ne_bytes(pid),
            name: program.clone(),
            go: Some(go),
            ended,
            waiter: Some(waiter),
            status: None,
        };
        match read {
            Ok(()) => Ok(stopped),
            Err(_) => {
                Err(stopped.wait().err().unwrap_or_else(|| failed(io::Error::other("the fork failed"))))
            }
        }
    }

    /// Lets it run.
    pub fn go(&mut self) {
        if let Some(mut go) = self.go.take() {
            // A child that has gone already is told of by `wait`.
            let _ = go.write_all(&[1]);
        }
    }

    /// Becomes readable when the command has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It could not be executed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        self.go = None;
        let outcome = match self.waiter.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => Err(io::Error::other("the thread that waits for it has died")),
        };
        let status = outcome.map_err(|error| {
            let mend = match error.kind() {
                io::ErrorKind::NotFound => "check the name, or give its path",
                io::ErrorKind::PermissionDenied => "make the file executable: chmod +x",
                _ => "see that it runs without hostscope",
            };
            let error = error.to_string();
            // Rust puts the number of the error behind its words.
            let why = error.split(" (os error").next().unwrap_or(&error);
            Error::failed(format!("cannot start {}: {why}", self.name), mend)
        })?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for StoppedCommand {
    fn drop(&mut self) {
        // Never let go: the child sees the end of the pipe and leaves without an exec.
        if self.go.take().is_some()
            && let Some(waiter) = self.waiter.take()
        {
            let _ = waiter.join();
        }
    }
}

/// Runs in the child: says its pid, then waits for the byte that lets it run.
fn wait_to_go(pid_fd: RawFd, go_fd: RawFd, go_writer_fd: RawFd) -> io::Result<()> {
    // SAFETY: descriptors that the fork has just copied; the buffers are valid for what is asked.
    unsafe {
        // Its own copy of the writing end would keep the pipe open when hostscope dies.
        libc::close(go_writer_fd);
        let pid = (libc::getpid() as u32).to_ne_bytes();
        if libc::write(pid_fd, pid.as_ptr().cast(), pid.len()) != pid.len() as isize {
            return Err(io::Error::last_os_error());
        }
        let mut byte = 0u8;
        loop {
            match libc::read(go_fd, std::ptr::addr_of_mut!(byte).cast(), 1) {
                1 => return Ok(()),
                0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_runs_only_when_let_go_and_gives_its_status() {
        let words = ["sh".to_owned(), "-c".into(), "exit 7".into()];
        let mut command = StoppedCommand::start(&words).expect("sh");
        let name = std::fs::read_to_string(format!("/proc/{}/stat", command.pid)).expect("it lives");
        assert!(!name.contains("(sh)"), "it has run its exec already: {name}");
        command.go();
        assert_eq!(command.wait().expect("a status").code(), Some(7));
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let mut command = StoppedCommand::start(&["/no/such/program".to_owned()]).expect("the fork");
        command.go();
        let error = command.wait().expect_err("no such program");
        assert_eq!(error.what, "cannot start /no/such/program: No such file or directory");
    }

    #[test]
    fn a_command_never_let_go_leaves() {
        let command = StoppedCommand::start(&["true".to_owned()]).expect("true");
        let pid = command.pid;
        drop(command);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
