//! One capture from start to [`Profile`]: joins the stages. The command line and the server call this, and nothing
//! below it.

mod assemble;
mod cgroup;
mod command;
mod session;

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::CaptureSettings;
use crate::error::{Error, Result};
use crate::profile::Profile;
use crate::targets::tables::TableFigures;
pub use cgroup::members as members_of_cgroup;
pub use command::StoppedCommand;
pub use session::check_exists;

/// Tells a capture to end early, from another thread or a signal handler.
#[derive(Debug)]
pub struct Stop {
    reader: UnixStream,
    writer: UnixStream,
}

impl Stop {
    /// A capture with this goes on until [`Stop::handle`] is written to.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> Result<Self> {
        UnixStream::pair()
            .and_then(|(reader, writer)| {
                reader.set_nonblocking(true)?;
                writer.set_nonblocking(true)?;
                Ok(Self { reader, writer })
            })
            .map_err(|error| Error::failed(format!("cannot make a socket pair: {error}"), "raise ulimit -n"))
    }

    /// The end to write one byte to.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn handle(&self) -> Result<UnixStream> {
        let failed = |error| Error::failed(format!("cannot copy a socket: {error}"), "raise ulimit -n");
        self.writer.try_clone().map_err(failed)
    }

    /// Ends the capture now.
    pub fn now(&self) {
        let _ = (&self.writer).write(&[1]);
    }

    /// Becomes readable when it is told to end.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// How far a capture is, told about once a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Time since sampling began.
    pub elapsed: Duration,
    /// Samples so far.
    pub samples: u64,
}

/// What a capture cost and how good it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Samples in the profile.
    pub samples: u64,
    /// Processes with a sample.
    pub processes: usize,
    /// Samples that have a user stack.
    pub user_samples: u64,
    /// Of those, samples whose user stack reached the entry of its thread.
    pub complete_samples: u64,
    /// Why the other user stacks ended early: the reason's name, and samples, most first.
    pub incomplete: Vec<(&'static str, u64)>,
    /// The unwind tables at the end.
    pub tables: TableFigures,
    /// Samples taken but not in the profile, for whatever reason.
    pub lost_samples: u64,
    /// How long sampling went on.
    pub duration: Duration,
    /// From the call of [`run`] to the moment when every CPU was being sampled.
    pub startup: Duration,
    /// From the start of sampling to the first sample; `None` where there was none.
    pub first_sample: Option<Duration>,
    /// From the end of sampling to the finished profile.
    pub finish: Duration,
    /// Processes whose code could not be looked at, files without names, and the like: what a user may wonder about.
    pub findings: Vec<String>,
}

impl Summary {
    /// Why user stacks ended early, in brackets and with a space before; empty where none did.
    #[must_use]
    pub fn early_ends(&self) -> String {
        if self.incomplete.is_empty() {
            return String::new();
        }
        let words: Vec<String> =
            self.incomplete.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        format!(" ({})", words.join(", "))
    }
}

/// A finished capture.
pub struct Captured {
    /// What was captured.
    pub profile: Profile,
    /// How it went.
    pub summary: Summary,
    /// The command, where the target was one: ended, or running on where the capture ended before it.
    pub command: Option<StoppedCommand>,
}

/// Makes one capture. It ends after the settings' duration, with the targets, or when `stop` says so, whichever comes
/// first.
///
/// # Errors
/// The privilege or the kernel does not suffice, a target does not exist, or the command cannot be executed.
pub fn run(settings: &CaptureSettings, stop: &Stop, progress: &mut dyn FnMut(Progress)) -> Result<Captured> {
    let mut session = session::Session::begin(settings)?;
    session.sample(stop, progress)?;
    session.finish(settings)
}
