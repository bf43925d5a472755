//! What test runs came to: counts read from libtest's lines, what was left out and why, and the closing line.

use std::fmt;

/// The sum of one or more test runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// `name: reason` of every test that was left out.
    pub(crate) skipped: Vec<String>,
    /// What failed: names of tests, or words where a run had none.
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    /// Takes one line of a test program's output into account.
    pub(crate) fn read_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
        } else if let Some(test) = line.strip_prefix("test ") {
            let Some((name, result)) = test.split_once(" ... ") else { return };
            if let Some(reason) = result.strip_prefix("ignored") {
                let reason = reason.strip_prefix(", ").unwrap_or("marked #[ignore] without a reason");
                self.skipped.push(format!("{name}: {reason}"));
            } else if result.ends_with("FAILED") {
                self.failures.push(name.to_owned());
            }
        }
    }

    /// Takes the file into account to which tests write `name: reason` when they leave themselves out: libtest has
    /// counted them as passed.
    pub(crate) fn read_skipped_file(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.passed = self.passed.saturating_sub(1);
            self.skipped.push(line.to_owned());
        }
    }

    /// Counts a failure that no test reported.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        self.failures.push(what.into());
    }

    /// Adds another run, its names led by `prefix`.
    pub(crate) fn add(&mut self, other: Self, prefix: &str) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped.into_iter().map(|name| format!("{prefix}{name}")));
        self.failures.extend(other.failures.into_iter().map(|name| format!("{prefix}{name}")));
    }

    /// Prints what failed, what was left out and why, and the closing line; the exit status follows from it.
    pub(crate) fn report(&self) -> std::process::ExitCode {
        println!();
        for name in &self.failures {
            println!("failed: {name}");
        }
        for name in &self.skipped {
            println!("left out: {name}");
        }
        println!("{self}");
        std::process::ExitCode::from(u8::from(self.failed > 0))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len())
    }
}

/// The number that stands before `word`, as in `ok. 3 passed; 0 failed`.
fn count_before(text: &str, word: &str) -> u64 {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(|character: char| !character.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_libtest_output() {
        let mut outcome = Outcome::default();
        for line in [
            "running 4 tests",
            "test a ... ok",
            "test b ... ignored, needs a PMU",
            "test c ... ignored",
            "test d ... FAILED",
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            outcome.read_line(line);
        }
        outcome.read_skipped_file("e: no cgroup2\n\n");
        assert_eq!(outcome.to_string(), "11 passed, 1 failed, 3 skipped");
        assert_eq!(outcome.failures, ["d"]);
        assert_eq!(
            outcome.skipped,
            ["b: needs a PMU", "c: marked #[ignore] without a reason", "e: no cgroup2"]
        );
    }

    #[test]
    fn adds_runs_under_a_prefix() {
        let mut sum = Outcome { passed: 1, ..Outcome::default() };
        let mut other = Outcome { passed: 2, ..Outcome::default() };
        other.fail("boot");
        sum.add(other, "6.1: ");
        assert_eq!(sum.to_string(), "3 passed, 1 failed, 0 skipped");
        assert_eq!(sum.failures, ["6.1: boot"]);
    }
}
