//! Chains of callers as a test demands them, and how many stacks have them.
//!
//! A pattern is written as chains are shown, leaf first: `burn < step? < run+ < main < ~ < _start`. A name stands for one
//! frame; with `?` for one or none, with `+` for one or more; `a|b` is either. `~` is one or more frames that are not the
//! workload's own: libraries, the loader, the vDSO, a language's runtime. `@plt` is a stub of the
//! workload's procedure linkage table, which has a name (`malloc@plt`) or none.

use hostscope::profile::FrameKind;

use crate::stacks::{Frame, Stack, percent, text};

/// Frames that are not the workload's own.
const FOREIGN: &str = "~";
/// A stub of the workload's procedure linkage table.
const STUB: &str = "@plt";

/// A part of a pattern.
#[derive(Debug)]
struct Part<'a> {
    names: Vec<&'a str>,
    may_be_absent: bool,
    may_repeat: bool,
}

impl<'a> Part<'a> {
    fn new(word: &'a str) -> Self {
        let (word, may_be_absent) = word.strip_suffix('?').map_or((word, false), |word| (word, true));
        let (word, may_repeat) = word.strip_suffix('+').map_or((word, false), |word| (word, true));
        Self { names: word.split('|').collect(), may_be_absent, may_repeat }
    }
}

/// The chains that a workload's stacks may have.
pub struct Chains<'a> {
    /// The file names of the workload and of libraries of its own.
    files: &'a [&'a str],
    /// Each with the least share of the samples, in percent, that has the whole of it.
    patterns: Vec<(f64, &'a str, Vec<Part<'a>>)>,
    /// Whether a function in the workload's file is its language's and not its own.
    is_runtime: fn(&str) -> bool,
    /// The share of the samples, in percent, that may have frames of which the patterns know nothing.
    strangers: f64,
}

impl<'a> Chains<'a> {
    /// Chains in the workload's own `files`, each with the least share of the samples, in percent, that has the whole of it.
    #[must_use]
    pub fn new(files: &'a [&'a str], patterns: &'a [(f64, &'a str)]) -> Self {
        let parts = |pattern: &'a str| pattern.split(" < ").map(Part::new).collect();
        let patterns = patterns.iter().map(|(share, pattern)| (*share, *pattern, parts(pattern))).collect();
        Self { files, patterns, is_runtime: |_| false, strangers: 0.0 }
    }

    /// The same where the file holds functions that are not the workload's own.
    #[must_use]
    pub fn with_runtime(self, is_runtime: fn(&str) -> bool) -> Self {
        Self { is_runtime, ..self }
    }

    /// The same where so large a share of the samples, in percent, cannot be right for a reason outside hostscope.
    #[must_use]
    pub fn with_strangers(self, strangers: f64) -> Self {
        Self { strangers, ..self }
    }

    /// The frames outside the kernel, leaf first, foreign ones that follow each other as one `~`.
    #[must_use]
    pub fn of(&self, stack: &Stack<'a>) -> Vec<&'a str> {
        let user = stack.frames.iter().filter(|frame| frame.kind != FrameKind::Kernel);
        let mut names: Vec<&str> = user.map(|frame| self.shown(frame)).collect();
        names.dedup_by(|second, first| *second == FOREIGN && *first == FOREIGN);
        names
    }

    fn shown(&self, frame: &Frame<'a>) -> &'a str {
        let in_patterns = |name: &str| {
            self.patterns.iter().flat_map(|(.., parts)| parts).any(|part| part.names.contains(&name))
        };
        let is_own = frame.file.rsplit('/').next().is_some_and(|file| self.files.contains(&file));
        if in_patterns(frame.name) && (is_own || frame.name == "[anon]") {
            frame.name
        } else if is_own && (frame.name.starts_with('[') || frame.name.ends_with(STUB)) {
            STUB
        } else if (is_own && (self.is_runtime)(frame.name)) || (!is_own && is_library(frame.file)) {
            FOREIGN
        } else {
            frame.name
        }
    }

    /// Whether a stack was taken somewhere in one of the chains, with all of the callers from there on.
    #[must_use]
    pub fn fit(&self, stack: &Stack<'a>) -> bool {
        let names = self.of(stack);
        self.patterns.iter().any(|(_, _, parts)| (0..parts.len()).any(|from| fits(&names, &parts[from..])))
    }

    /// Asserts that nearly all samples, the `least` share of them in percent, were taken somewhere in one of the chains,
    /// with all of the callers from there on; that each chain is met in its whole length; and that no other function of
    /// the workload, and no code without a file, is in any stack.
    #[track_caller]
    pub fn assert(&self, stacks: &[Stack<'a>], least: f64) {
        let exact = percent(stacks, |stack| self.fit(stack));
        assert!(exact >= least, "{exact:.2}% have an exact chain:\n{}", self.text(stacks));
        for (share, pattern, parts) in &self.patterns {
            let whole = percent(stacks, |stack| fits(&self.of(stack), parts));
            assert!(whole >= *share, "{whole:.2}% have the chain {pattern}:\n{}", self.text(stacks));
        }
        let is_known = |name: &&str| {
            [FOREIGN, STUB].contains(name)
                || self.patterns.iter().flat_map(|(.., parts)| parts).any(|part| part.names.contains(name))
        };
        let strange = percent(stacks, |stack| !self.of(stack).iter().all(is_known));
        assert!(
            strange <= self.strangers,
            "{strange:.2}% have a frame that cannot be:\n{}",
            self.text(stacks)
        );
    }

    /// The heaviest stacks that have none of the chains, as text.
    fn text(&self, stacks: &[Stack<'a>]) -> String {
        let (exact, other): (Vec<_>, Vec<_>) = stacks.iter().cloned().partition(|stack| self.fit(stack));
        format!("without an exact chain:\n{}\nwith one:\n{}", text(&other), text(&exact))
    }
}

/// Whether code may be expected there: in a file, or in what the kernel maps into every process.
fn is_library(file: &str) -> bool {
    file.starts_with('/') || file == "[vdso]"
}

/// Whether `names` are a pattern's from its first part to its last.
fn fits(names: &[&str], parts: &[Part<'_>]) -> bool {
    let Some((part, rest)) = parts.split_first() else { return names.is_empty() };
    if part.may_be_absent && fits(names, rest) {
        return true;
    }
    let Some((name, others)) = names.split_first() else { return false };
    part.names.contains(name) && (fits(others, rest) || (part.may_repeat && fits(others, parts)))
}

/// Asserts that the `least` share of the samples, in percent, ended for this reason. Samples without a user stack, taken
/// of processes on their way out, are left out.
#[track_caller]
pub fn assert_end(stacks: &[Stack<'_>], end: &str, least: f64) {
    let with_stack: Vec<Stack<'_>> =
        stacks.iter().filter(|stack| stack.end != "no_user_stack").cloned().collect();
    let share = percent(&with_stack, |stack| stack.end == end);
    let other: Vec<Stack<'_>> = with_stack.iter().filter(|stack| stack.end != end).cloned().collect();
    assert!(share >= least, "{share:.2}% are {end}, the others:\n{}", text(&other));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_one(chain: &str, pattern: &str) -> bool {
        let parts: Vec<Part<'_>> = pattern.split(" < ").map(Part::new).collect();
        fits(&chain.split(" < ").collect::<Vec<_>>(), &parts)
    }

    #[test]
    fn patterns_fit_what_they_say() {
        let pattern = "leaf? < step+ < run|go < ~ < _start";
        for chain in ["leaf < step < run < ~ < _start", "step < step < go < ~ < _start"] {
            assert!(is_one(chain, pattern), "{chain}");
        }
        for chain in ["leaf < run < ~ < _start", "step < run < ~", "step < run < ~ < _start < main", "leaf"] {
            assert!(!is_one(chain, pattern), "{chain}");
        }
    }
}
