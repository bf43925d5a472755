//! What the hostscope binary links with may be shipped with it: every licence is on a list, and none is the GPL.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Finding;
use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// Licences that ask for no more than a notice, and CDDL-1.0, which covers its own files alone.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDDL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `dev`, `build`, or nothing for a dependency that is linked.
    kind: Option<String>,
}

pub(super) fn check() -> Result<Vec<Finding>> {
    let mut command = process::cargo();
    command.current_dir(workspace::root()).args(["metadata", "--format-version", "1", "--locked"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let text = process::capture(&mut command, "mend Cargo.toml, or commit Cargo.lock")?;
    let metadata: Metadata = serde_json::from_str(&text).map_err(|error| {
        Failure::new(format!("cannot understand `cargo metadata`: {error}"), "mend xtask's licences.rs")
    })?;
    Ok(judge(&metadata))
}

fn judge(metadata: &Metadata) -> Vec<Finding> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (&*package.id, package)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| package.name == "hostscope")
        .map(|package| &*package.id)
        .collect();
    let mut findings = Vec::new();
    while let Some(id) = waiting.pop() {
        let (Some(package), Some(node)) = (packages.get(id), nodes.get(id)) else { continue };
        if !seen.insert(id) {
            continue;
        }
        let licence = package.license.as_deref().unwrap_or("none named");
        if !is_allowed(licence) {
            let name = &package.name;
            findings
                .push(format!("{name}: its licence ({licence}) is not on the list in xtask's licences.rs"));
        }
        let linked =
            node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        waiting.extend(linked.map(|dependency| &*dependency.pkg));
    }
    findings
}

/// Whether an SPDX expression (or the older `A/B`) leaves a choice that is on the list.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    any_of(&mut rest) && rest.is_empty()
}

fn any_of(tokens: &mut &[&str]) -> bool {
    let mut allowed = all_of(tokens);
    while let Some((&"OR", rest)) = tokens.split_first() {
        *tokens = rest;
        allowed |= all_of(tokens);
    }
    allowed
}

fn all_of(tokens: &mut &[&str]) -> bool {
    let mut allowed = one(tokens);
    while let Some((&"AND", rest)) = tokens.split_first() {
        *tokens = rest;
        allowed &= one(tokens);
    }
    allowed
}

fn one(tokens: &mut &[&str]) -> bool {
    match **tokens {
        ["(", ref rest @ ..] => {
            *tokens = rest;
            let allowed = any_of(tokens);
            let Some((&")", rest)) = tokens.split_first() else { return false };
            *tokens = rest;
            allowed
        }
        [licence, "WITH", exception, ref rest @ ..] => {
            *tokens = rest;
            ALLOWED.contains(&&*format!("{licence} WITH {exception}"))
        }
        [licence, ref rest @ ..] => {
            *tokens = rest;
            ALLOWED.contains(&licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_licence_expressions() {
        for good in ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(good), "{good}");
        }
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
        for bad in ["GPL-3.0", "MIT AND GPL-2.0", "none named", "", "MIT Apache-2.0", "(MIT"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
