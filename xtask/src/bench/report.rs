//! What the parts of the benchmark hand in, and how it is written: the tables, then all bars.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use super::Plan;
use super::figures::Bar;
use crate::failure::Failure;

/// What one part has measured.
pub(crate) struct Section {
    /// Tables and what could not run.
    pub(crate) text: String,
    pub(crate) bars: Vec<Bar>,
    /// Whether hostscope itself could be measured.
    pub(crate) measured: bool,
}

impl Section {
    /// That of a part which could not be measured at all.
    pub(crate) fn failed(part: &str, failure: &Failure) -> Self {
        Self { text: format!("{part}: not measured: {failure}\n"), bars: Vec::new(), measured: false }
    }
}

/// What the machine did before the benchmark.
pub(crate) struct Quiet {
    load_average: String,
}

impl Quiet {
    pub(crate) fn begin() -> Self {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { load_average: text.split(' ').next().unwrap_or_default().to_owned() }
    }
}

/// Writes all of it to standard output.
pub(crate) fn print(sections: &[Section], plan: &Plan, quiet: &Quiet) {
    // Writing to a String cannot fail.
    let mut text = String::new();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let _ = writeln!(
        text,
        "\n{cpus} CPUs, everything at priority {}, the load average was {} at the beginning; × is the multiple of hostscope's\n",
        plan.nice, quiet.load_average
    );
    for section in sections {
        text.push_str(&section.text);
        text.push('\n');
    }
    for bar in sections.iter().flat_map(|section| &section.bars) {
        let _ = writeln!(text, "{bar}");
    }
    print!("{text}");
}

/// Success where hostscope itself could be measured, whatever the figures: this is no timed test.
pub(crate) fn exit_code(sections: &[Section]) -> ExitCode {
    if sections.iter().all(|section| section.measured) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
