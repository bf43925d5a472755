//! What failed, why, and the mend: the one error type that a user meets.

use std::fmt;

/// The class of a failure; it decides the exit status and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Something that should have worked did not: exit status 1.
    Failed,
    /// The command line asks for what cannot be: exit status 2.
    Usage,
    /// A capability is missing: exit status 3.
    Privilege,
    /// The kernel lacks what is needed: exit status 4.
    Kernel,
}

impl Class {
    /// The exit status of the process, as the command line's contract fixes it.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Privilege => 3,
            Self::Kernel => 4,
        }
    }
}

/// A failure as the user sees it: one line with what failed and why, one line with the mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What decides the exit status.
    pub class: Class,
    /// What failed and why, in one line without a final full stop; names the path or pid.
    pub what: String,
    /// What the user can do about it, in one line.
    pub mend: String,
}

impl Error {
    /// An error of `class` that says `what` failed and why, and how to `mend` it.
    pub fn new(class: Class, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { class, what: what.into(), mend: mend.into() }
    }

    /// A failure at run time (exit status 1).
    pub fn failed(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Class::Failed, what, mend)
    }

    /// Wrong usage (exit status 2).
    pub fn usage(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Class::Usage, what, mend)
    }

    /// A missing privilege (exit status 3).
    pub fn privilege(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Class::Privilege, what, mend)
    }

    /// A kernel that lacks what is needed (exit status 4).
    pub fn kernel(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Class::Kernel, what, mend)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n  mend: {}", self.what, self.mend)
    }
}

impl std::error::Error for Error {}

/// The result of everything that can fail in front of the user.
pub type Result<T> = std::result::Result<T, Error>;
