//! Data flows one way through `userspace/src`: a stage imports only the stages before it.

use std::path::Path;

use super::Finding;
use crate::failure::Result;
use crate::workspace;

/// The stages in the order of flow.
const STAGES: &[&str] = &[
    "load",
    "collect",
    "targets",
    "protocols",
    "aggregate",
    "symbolize",
    "profile",
    "outputs",
    "store",
    "capture",
    "measure",
    "serve",
    "agent",
    "cli",
];

/// What every stage may use, and what may use no stage.
const BASE: &[&str] = &["wire", "config", "error", "metrics"];

pub(super) fn check() -> Result<Vec<Finding>> {
    let source = workspace::root().join("userspace/src");
    let mut findings = Vec::new();
    for file in workspace::files(&source)? {
        let Ok(inner) = file.strip_prefix(&source) else { continue };
        let module = module_of(inner);
        if file.extension().is_some_and(|extension| extension == "rs")
            && !["main", "lib"].contains(&module.as_str())
        {
            findings.extend(check_file(&workspace::relative(&file), &module, &workspace::read(&file)?));
        }
    }
    Ok(findings)
}

/// The top-level module that a file belongs to.
fn module_of(inner: &Path) -> String {
    let first = inner.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    first.unwrap_or_default().trim_end_matches(".rs").to_owned()
}

fn check_file(path: &str, module: &str, text: &str) -> Vec<Finding> {
    let stage = STAGES.iter().position(|stage| *stage == module);
    if stage.is_none() && !BASE.contains(&module) {
        return vec![format!(
            "{path}: `{module}` has no place in the order of stages; give it one in xtask's imports.rs"
        )];
    }
    let allowed = |import: &str| {
        BASE.contains(&import)
            || import == module
            || stage.is_some_and(|stage| STAGES.iter().take(stage).any(|earlier| *earlier == import))
    };
    imports(text)
        .into_iter()
        .filter(|(_, import)| !allowed(import))
        .map(|(line, import)| {
            format!("{path}:{line}: `{module}` comes before `{import}` and must not use it")
        })
        .collect()
}

/// The first name of every `crate::…` path, with its line; comments are left out.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code: String = text.lines().map(|line| without_comment(line).to_owned() + "\n").collect();
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before == '$' || is_name(before)) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + word.len()..];
        let names = if rest.starts_with('{') { group(rest) } else { vec![name(rest)] };
        found.extend(names.into_iter().filter(|name| !name.is_empty()).map(|name| (line, name)));
    }
    found
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line.split(" //").next().unwrap_or_default() }
}

/// The first names of the paths in `{a, b::{c, d}, e}`.
fn group(text: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut names = Vec::new();
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(character, '{' | ',') {
            names.push(name(text[at + 1..].trim_start()));
        }
    }
    names
}

fn name(text: &str) -> String {
    text.chars().take_while(|character| is_name(*character)).collect()
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        imports(text).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn finds_paths_and_groups_but_no_comments() {
        assert_eq!(names("use crate::load::maps;\nlet x = crate::targets::f();"), ["load", "targets"]);
        assert_eq!(names("use crate::{\n    config::{A, B},\n    serve,\n};"), ["config", "serve"]);
        assert!(names("//! [`crate::serve`]\nlet x = 1; // crate::serve\n$crate::serve!()").is_empty());
        assert!(names("use krate::serve; pub(crate) fn f() {}").is_empty());
    }

    #[test]
    fn a_stage_uses_only_what_comes_before() {
        let check = |module, text| check_file("f.rs", module, text).len();
        assert_eq!(check("collect", "use crate::load::maps;"), 0);
        assert_eq!(check("load", "use crate::collect::read;"), 1);
        assert_eq!(check("cli", "use crate::{capture, agent, error};"), 0);
        assert_eq!(check("config", "use crate::load;"), 1);
        assert_eq!(check("helpers", ""), 1);
    }

    #[test]
    fn knows_the_module_of_a_file() {
        assert_eq!(module_of(Path::new("load/maps.rs")), "load");
        assert_eq!(module_of(Path::new("profile.rs")), "profile");
    }
}
