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
    let cli = workspace::root().join("userspace/src/cli/mod.rs");
    let theirs = if cli.is_file() { subcommands(&workspace::read(&cli)?) } else { Vec::new() };
    let mut findings = wrong(&text, "cargo xtask", &own);
    findings.extend(wrong(&text, "hostscope", &theirs));
    Ok(findings)
}

/// The variants of `enum Command` as clap names them. Reading them here spares building the program for this check.
fn subcommands(source: &str) -> Vec<String> {
    let body =
        source.split("enum Command {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
    let variant = |line: &str| line.trim().split(['(', ',', ' ', '{']).next().map(str::to_lowercase);
    let is_variant = |line: &&str| line.trim().starts_with(|first: char| first.is_ascii_uppercase());
    body.lines().filter(is_variant).filter_map(variant).collect()
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
    fn reads_subcommands() {
        let source =
            "enum Command {\n    /// Record.\n    Record(record::Arguments),\n    Man,\n}\nstruct Other {";
        assert_eq!(subcommands(source), ["record", "man"]);
    }

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
