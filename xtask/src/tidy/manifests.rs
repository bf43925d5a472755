//! Versions of dependencies stand once, in the workspace's root, none brings its default features, and locks are kept.

use std::path::Path;

use super::Finding;
use crate::failure::Result;
use crate::{process, workspace};

/// Members take every version from the root.
const MEMBERS: &[&str] = &["ebpf/wire", "userspace", "xtask", "tests"];

/// Workspaces of their own carry versions of their own.
const ROOTS: &[&str] = &[".", "ebpf/programs", "tests/fuzz"];

pub(super) fn check() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (folders, rule) in [(MEMBERS, check_member as fn(&str, &str) -> Vec<Finding>), (ROOTS, check_root)] {
        for folder in folders {
            let file = workspace::root().join(folder).join("Cargo.toml");
            if file.is_file() {
                findings.extend(rule(&workspace::relative(&file), &workspace::read(&file)?));
            }
        }
    }
    for folder in ROOTS {
        let manifest = workspace::root().join(folder).join("Cargo.toml");
        if manifest.is_file() {
            findings.extend(check_lock(&manifest));
        }
    }
    Ok(findings)
}

/// A dependency that moves in one workspace moves the locks of those that build on it.
fn check_lock(manifest: &Path) -> Option<Finding> {
    let mut command = process::cargo();
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let path = workspace::relative(manifest);
    let failure = process::capture(&mut command, "").err()?;
    Some(format!(
        "{path}: its Cargo.lock is not up to date; run `cargo metadata --manifest-path {path}`: {}",
        failure.what
    ))
}

fn check_member(path: &str, text: &str) -> Vec<Finding> {
    let wrong = |(_, value): &(String, String)| !value.contains("workspace = true");
    dependencies(text)
        .into_iter()
        .filter(wrong)
        .map(|(name, _)| {
            format!("{path}: `{name}` has to be `workspace = true`, its version in the root's Cargo.toml")
        })
        .collect()
}

fn check_root(path: &str, text: &str) -> Vec<Finding> {
    let wrong = |(_, value): &(String, String)| {
        !value.contains("path =") && !value.contains("default-features = false")
    };
    dependencies(text)
        .into_iter()
        .filter(wrong)
        .map(|(name, _)| {
            format!("{path}: `{name}` wants `default-features = false` and the features it is used for")
        })
        .collect()
}

/// Name and value of each dependency. Understands what this repository writes: one entry a key, in a table of
/// dependencies or, for one with many settings, in a table of its own.
fn dependencies(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut table = String::new();
    for entry in entries(text) {
        if let Some(header) = entry.strip_prefix('[') {
            header.trim_end_matches(']').clone_into(&mut table);
            if let Some((_, name)) = table.rsplit_once("dependencies.") {
                found.push((name.to_owned(), String::new()));
            }
        } else if table.ends_with("dependencies") {
            if let Some((key, value)) = entry.split_once('=') {
                let (name, setting) = key.trim().split_once('.').unwrap_or((key.trim(), ""));
                found.push((name.to_owned(), format!("{setting} ={value}").trim_start().to_owned()));
            }
        } else if table.contains("dependencies.")
            && let Some((_, value)) = found.last_mut()
        {
            value.push_str(&entry);
            value.push(' ');
        }
    }
    found
}

/// Lines without comments; an array or table over several lines counts as one.
fn entries(text: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let mut open = 0_usize;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match entries.last_mut() {
            Some(last) if open > 0 => last.push_str(line),
            _ => entries.push(line.to_owned()),
        }
        open += line.matches(['[', '{']).count();
        open = open.saturating_sub(line.matches([']', '}']).count());
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_name_no_version() {
        let text = "[dependencies]\na.workspace = true\nb = { workspace = true, features = [\n \"x\" ] }\nc = \"1\"\n\
                    [dev-dependencies.d]\nworkspace = true\n[lints]\nworkspace = true";
        let findings = check_member("m", text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("`c`"));
    }

    #[test]
    fn roots_turn_default_features_off() {
        let text = "[workspace.dependencies]\na = { path = \"a\" }\nb = { version = \"1\", default-features = false }\n\
                    c = { version = \"1\" } # default-features = false\n[dependencies.d]\nversion = \"1\"\ndefault-features = false";
        let findings = check_root("r", text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("`c`"));
    }
}
