//! Each Rust file says its one job in its first line and stays short.

use super::Finding;
use crate::failure::Result;
use crate::workspace;

/// Above this many lines a file has more than one job.
const LINES_MAX: usize = 600;

/// Files that may be longer, with the reason of each.
const LONG_FILES: &[(&str, &str)] = &[];

pub(super) fn check() -> Result<Vec<Finding>> {
    let root = workspace::root();
    let mut findings = Vec::new();
    for folder in ["ebpf", "userspace", "xtask", "tests"] {
        for file in workspace::files(&root.join(folder))? {
            if file.extension().is_some_and(|extension| extension == "rs") {
                findings.extend(check_file(&workspace::relative(&file), &workspace::read(&file)?));
            }
        }
    }
    Ok(findings)
}

fn check_file(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//! ") {
        findings.push(format!("{path}: the first line has to say the file's one job: `//! …`"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !is_test(path) && LONG_FILES.iter().all(|(long, _)| *long != path) {
        findings.push(format!("{path}: {lines} lines; split it by jobs to at most {LINES_MAX}"));
    }
    findings
}

/// Tables of cases are long by nature.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_a_first_line_and_few_lines() {
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
        assert!(check_file("userspace/src/a.rs", "//! One job.\n").is_empty());
        assert_eq!(check_file("userspace/src/a.rs", "use std;\n").len(), 1);
        assert_eq!(check_file("userspace/src/a.rs", &long).len(), 1);
        assert!(check_file("tests/a.rs", &long).is_empty());
    }
}
