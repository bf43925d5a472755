//! The commands that the README shows exist.

use clap::CommandFactory as _;

use super::Finding;
use crate::failure::Result;
use crate::{Cli, workspace};

pub(super) fn check() -> Result<Vec<Finding>> {
    let readme = workspace::root().join("README.md");
    if !readme.is_file() {
        return Ok(vec!["README.md: is missing".to_owned()]);
    }
    let text = workspace::read(&readme)?;
    let own = Cli::command();
    let own: Vec<String> = own.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    // One file a subcommand: the files are the list.
    let cli = workspace::root().join("userspace/src/cli");
    let files = if cli.is_dir() { workspace::files(&cli)? } else { Vec::new() };
    let theirs: Vec<String> = files
        .iter()
        .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
        .filter(|name| name != "mod")
        .collect();
    let mut findings = wrong(&text, "cargo xtask", &own);
    if !theirs.is_empty() {
        findings.extend(wrong(&text, "hostscope", &theirs));
    }
    Ok(findings)
}

/// A finding for each shown `program word` whose word is none of `known`.
fn wrong(text: &str, program: &str, known: &[String]) -> Vec<Finding> {
    shown(text)
        .filter_map(|(line, command)| {
            let rest =
                command.strip_prefix("sudo ").unwrap_or(command).strip_prefix(program)?.strip_prefix(' ')?;
            let word =
                rest.split(|character: char| !character.is_alphanumeric() && character != '-').next()?;
            let is_subcommand = word.starts_with(|character: char| character.is_ascii_lowercase());
            (is_subcommand && !known.iter().any(|name| name == word))
                .then(|| format!("README.md:{line}: there is no `{program} {word}`"))
        })
        .collect()
}

/// The README's code with line numbers: lines of fenced blocks and what stands between backticks.
fn shown(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().flat_map(move |(index, line)| {
        if line.starts_with("```") {
            fenced = !fenced;
            Vec::new()
        } else if fenced {
            let line = line.trim();
            vec![(index + 1, line.strip_prefix("$ ").unwrap_or(line))]
        } else {
            line.split('`').skip(1).step_by(2).map(|code| (index + 1, code)).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_commands_that_are_not_there() {
        let text = "Run `cargo xtask test` or `cargo xtask tset`.\n```\n$ cargo xtask nothing -- x\ncargo xtask COMMAND\n```\n\
                    hostscope records";
        let findings = wrong(text, "cargo xtask", &["test".to_owned()]);
        assert_eq!(
            findings,
            ["README.md:1: there is no `cargo xtask tset`", "README.md:3: there is no `cargo xtask nothing`"]
        );
        assert!(wrong(text, "hostscope", &["record".to_owned()]).is_empty());
    }
}
