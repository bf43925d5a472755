//! What failed, why, and the mend: the one error type of these commands.

use std::fmt;
use std::io;
use std::path::Path;

/// A failure as the caller of a command sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed and why, without a final full stop; names the path or program.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) mend: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }

    /// A file operation that failed: `verb` as in "cannot VERB PATH".
    pub(crate) fn file(verb: &str, path: &Path, error: &io::Error) -> Self {
        let mend = match error.kind() {
            io::ErrorKind::NotFound => {
                "the path has to exist: check the checkout, or the command that makes it"
            }
            io::ErrorKind::PermissionDenied => {
                "make it yours (a run as root may have left it behind): chown or delete it"
            }
            io::ErrorKind::StorageFull => "free some disk space; `cargo clean` frees what builds have left",
            _ => "mend the path or the disk and run the command again",
        };
        Self::new(format!("cannot {verb} {}: {error}", path.display()), mend)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n  mend: {}", self.what, self.mend)
    }
}

/// The result of everything here that can fail.
pub(crate) type Result<T> = std::result::Result<T, Failure>;
