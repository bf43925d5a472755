//! Counts the samples of a hostscope profile that have no name because a table came too late.

use serde::Deserialize;

use crate::failure::{Failure, Result};

/// How many samples lack what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nameless {
    pub(crate) samples: u64,
    /// Whose leaf lies in no mapping that is known.
    pub(crate) unmapped: u64,
    /// Whose process has no name.
    pub(crate) unknown_process: u64,
}

impl Nameless {
    pub(crate) fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.unmapped += other.unmapped;
        self.unknown_process += other.unknown_process;
    }
}

/// The part of `.json` that is looked at here.
#[derive(Deserialize)]
struct Profile {
    functions: Vec<Function>,
    locations: Vec<Location>,
    stacks: Vec<Stack>,
    processes: Vec<Process>,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Function {
    name: String,
}

#[derive(Deserialize)]
struct Location {
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    function: usize,
}

#[derive(Deserialize)]
struct Stack {
    /// Leaf first.
    locations: Vec<usize>,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
    name: String,
}

#[derive(Deserialize)]
struct Sample {
    process: usize,
    stack: usize,
    values: Vec<u64>,
}

/// Counts them in the text of a `.json` profile.
pub(crate) fn nameless(json: &str) -> Result<Nameless> {
    let profile: Profile = serde_json::from_str(json).map_err(|error| {
        Failure::new(format!("hostscope's JSON is not what it was: {error}"), "mend xtask/src/bench/names.rs")
    })?;
    let mut counted = Nameless::default();
    for sample in &profile.samples {
        let count = sample.values.first().copied().unwrap_or(0);
        counted.samples += count;
        let leaf = profile
            .stacks
            .get(sample.stack)
            .and_then(|stack| stack.locations.first())
            .and_then(|&leaf| profile.locations.get(leaf))
            .and_then(|location| location.lines.first())
            .and_then(|line| profile.functions.get(line.function));
        if leaf.is_none_or(|function| function.name == "[unmapped]") {
            counted.unmapped += count;
        }
        let process = profile.processes.get(sample.process);
        if process.is_none_or(|process| process.name == format!("pid {}", process.pid)) {
            counted.unknown_process += count;
        }
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_has_no_name() {
        let json = r#"{
            "functions": [{"name": "main"}, {"name": "[unmapped]"}],
            "locations": [{"lines": [{"function": 0}]}, {"lines": [{"function": 1}]}],
            "stacks": [{"locations": [0, 1]}, {"locations": [1, 0]}, {"locations": []}],
            "processes": [{"pid": 7, "name": "seven"}, {"pid": 8, "name": "pid 8"}],
            "samples": [
                {"process": 0, "stack": 0, "values": [10, 1]},
                {"process": 0, "stack": 1, "values": [3, 1]},
                {"process": 1, "stack": 0, "values": [2, 1]},
                {"process": 1, "stack": 2, "values": [1, 1]}
            ]
        }"#;
        assert_eq!(nameless(json).unwrap(), Nameless { samples: 16, unmapped: 4, unknown_process: 3 });
        assert!(nameless("{}").is_err());
    }
}
