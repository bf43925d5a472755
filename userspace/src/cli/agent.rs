//! `hostscope agent`: the host's metrics and API, for as long as the host runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::agent;
use crate::config::agent::{SETTINGS, Sources};
use crate::error::Result;

/// Serve the host's metrics to Prometheus, and statistics as JSON
///
/// A setting comes from its flag, else from its variable, else from the file, else it is the default. SIGHUP reads the file
/// again; SIGTERM and SIGINT end the agent.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A TOML file of settings: KEY = VALUE, the keys being the flags' names with _ for - [env: HOSTSCOPE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    flags: Flags,
}

/// The flags that the table of settings makes: key and text of those that were given.
#[derive(Debug)]
struct Flags(Vec<(&'static str, String)>);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(|setting| {
            let default = if setting.default.is_empty() { "none" } else { setting.default };
            let help = format!(
                "{}; {} [default: {default}] [env: {}]",
                setting.help,
                setting.allowed(),
                setting.variable()
            );
            Arg::new(setting.key).long(setting.flag()).value_name("VALUE").action(ArgAction::Set).help(help)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let given = |key: &'static str| Some((key, matches.get_one::<String>(key)?.clone()));
        Ok(Self(SETTINGS.iter().filter_map(|setting| given(setting.key)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs it.
pub fn run(arguments: Arguments, quiet: bool) -> Result<ExitCode> {
    let sources = Sources::new(arguments.flags.0, arguments.config)?;
    agent::run(&sources, |address| {
        if !quiet {
            eprintln!("hostscope: metrics at http://{address}/metrics");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::agent::FILE_VARIABLE;

    #[test]
    fn the_help_names_the_variable_of_the_file() {
        let help = Arguments::augment_args(Command::new("agent")).render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(&format!("[env: {FILE_VARIABLE}]")), "{help}");
        for setting in SETTINGS {
            assert!(help.contains(&format!("--{} <", setting.flag())), "{help}");
        }
    }
}
