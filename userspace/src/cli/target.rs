//! The arguments that say whom to watch, the same for every subcommand.

use std::path::PathBuf;

use clap::Args;

use crate::config::Target;
use crate::error::{Error, Result};

/// Whom to watch; nothing is the whole host.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct TargetArguments {
    /// A process, with what it forks from now on. May be repeated
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,

    /// A cgroup (version 2) and everything below it
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// A command to start and watch until it ends, with what it forks
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl TargetArguments {
    /// Whom they mean, for the subcommand of this name.
    ///
    /// # Errors
    /// There is a `--` without a command.
    pub fn chosen(&self, subcommand: &str) -> Result<Target> {
        // The parser takes `--` with nothing after it for no `--`, and this would watch the whole host.
        if self.command.is_empty() && std::env::args_os().next_back().is_some_and(|last| last == "--") {
            return Err(Error::usage(
                "there is no command after --",
                format!("name one: hostscope {subcommand} -- COMMAND"),
            ));
        }
        Ok(if !self.command.is_empty() {
            Target::Command(self.command.clone())
        } else if let Some(path) = &self.cgroup {
            Target::Cgroup(path.clone())
        } else if self.pid.is_empty() {
            Target::Host
        } else {
            let mut pids = self.pid.clone();
            pids.sort_unstable();
            pids.dedup();
            Target::Pids(pids)
        })
    }
}
