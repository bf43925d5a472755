//! `cargo xtask tidy`: checks the rules that no compiler checks.

mod files;
mod imports;
mod licences;
mod manifests;
mod readme;

use std::process::ExitCode;

use crate::failure::{Failure, Result};

/// A breach of a rule: where, which, and the mend, in one line.
type Finding = String;

pub(crate) fn main() -> Result<ExitCode> {
    check()?;
    println!("tidy");
    Ok(ExitCode::SUCCESS)
}

/// Fails where a rule is broken, naming every place.
pub(crate) fn check() -> Result<()> {
    let mut findings = Vec::new();
    for rule in [files::check, imports::check, manifests::check, licences::check, readme::check] {
        findings.extend(rule()?);
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        format!("{} broken rules:\n  {}", findings.len(), findings.join("\n  ")),
        "each line says what is wanted instead",
    ))
}
