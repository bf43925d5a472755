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

/// Reads the output of test programs line by line.
///
/// A result line (`test result: …`) settles what a program came to. Where it is missing, since the program died, the
/// lines of the single tests count.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    outcome: Outcome,
    /// What the lines of single tests say since the last result line: passed, failed.
    unsettled: (u64, u64),
    /// The test that has begun and not ended; known where tests run one after the other.
    running: Option<String>,
    /// How many failures were known when the last program ended.
    failed_before: u64,
}

impl Reader {
    /// Takes one line into account.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(counts) = line.trim_end().strip_prefix("test result: ") {
            self.outcome.passed += count_before(counts, " passed");
            self.outcome.failed += count_before(counts, " failed");
            self.unsettled = (0, 0);
            self.running = None;
        } else if let Some((name, result)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
        {
            self.read_test(name, result.trim_end());
        }
    }

    fn read_test(&mut self, name: &str, result: &str) {
        self.running = None;
        if let Some(reason) = result.strip_prefix("ignored") {
            let reason = reason.strip_prefix(", ").unwrap_or("marked #[ignore] without a reason");
            self.outcome.skipped.push(format!("{name}: {reason}"));
        } else if result.ends_with("FAILED") {
            self.unsettled.1 += 1;
            self.outcome.failures.push(name.to_owned());
        } else if result.ends_with("ok") {
            self.unsettled.0 += 1;
        } else {
            // Nothing yet, or words of the test's own where the result should stand: the result line will count it.
            self.running = Some(name.to_owned());
        }
    }

    /// Takes `name: reason` lines into account, by which tests leave themselves out: libtest counts them as passed.
    pub(crate) fn read_skipped(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.outcome.passed = self.outcome.passed.saturating_sub(1);
            self.outcome.skipped.push(line.to_owned());
        }
    }

    /// The end of a program: one that says failure without a failed test has died, or was never built.
    pub(crate) fn program_ended(&mut self, success: bool, what: &str) {
        self.settle();
        if !success && self.outcome.failed == self.failed_before {
            self.outcome.fail(what);
        }
        self.failed_before = self.outcome.failed;
    }

    /// What it all came to.
    pub(crate) fn finish(mut self) -> Outcome {
        self.settle();
        self.outcome
    }

    fn settle(&mut self) {
        let (passed, failed) = std::mem::take(&mut self.unsettled);
        self.outcome.passed += passed;
        self.outcome.failed += failed;
        if let Some(name) = self.running.take() {
            self.outcome.fail(format!("{name}: did not end"));
        }
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

    fn read(lines: &[&str]) -> Reader {
        let mut reader = Reader::default();
        for line in lines {
            reader.read_line(line);
        }
        reader
    }

    #[test]
    fn counts_libtest_output() {
        let mut reader = read(&[
            "running 4 tests",
            "test a ... ok",
            "test b ... ignored, needs a PMU",
            "test c ... ignored",
            "test d ... FAILED",
            "test f ... words of a program that f has started",
            "ok",
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        reader.program_ended(false, "status 101");
        reader.read_skipped("e: no cgroup2\n\n");
        let outcome = reader.finish();
        assert_eq!(outcome.to_string(), "11 passed, 1 failed, 3 skipped");
        assert_eq!(outcome.failures, ["d"]);
        assert_eq!(
            outcome.skipped,
            ["b: needs a PMU", "c: marked #[ignore] without a reason", "e: no cgroup2"]
        );
    }

    #[test]
    fn counts_what_was_done_when_a_program_dies() {
        let outcome = read(&["test a ... ok", "test b ... FAILED", "test c ... "]).finish();
        assert_eq!(outcome.to_string(), "1 passed, 2 failed, 0 skipped");
        assert_eq!(outcome.failures, ["b", "c: did not end"]);
        let mut reader = read(&[]);
        reader.program_ended(false, "signal: 11");
        assert_eq!(reader.finish().failures, ["signal: 11"]);
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
