//! Folded stacks (`.folded`): one line a stack, root first, frames joined by `;`, then a space and the count of
//! samples. flamegraph.pl, inferno and speedscope read it; [`super::frames`] says what the lines hold.

use std::io;

use crate::config::Kind;
use crate::profile::{FrameKind, Function, Line, Location, Process, Profile, Sample, Stack, ValueType};

use super::Output;
use super::frames::{Folding, Role};
use super::table::Table;

/// Folded stacks.
pub(super) struct Folded;

impl Output for Folded {
    fn extension(&self) -> &'static str {
        ".folded"
    }

    fn describe(&self) -> &'static str {
        "folded stacks, a line each"
    }

    fn content_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }

    fn write(&self, profile: &Profile, to: &mut dyn io::Write) -> io::Result<()> {
        let folding = Folding::new([(profile, profile.count_index())]);
        let mut text = String::new();
        for line in &folding.lines {
            text.clear();
            folding.push_stack(line, &mut text);
            writeln!(to, "{text} {}", line.values[0])?;
        }
        Ok(())
    }
}

/// Reads folded stacks, ours or another tool's. The first frame of a line becomes the process; what the format does
/// not tell (pids, times, addresses) is zero or empty.
pub(super) fn parse(text: &str) -> Result<Profile, String> {
    let mut tables = Tables::default();
    let mut samples = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with("# ") {
            continue;
        }
        let malformed = || format!("line {} is not \"frame;frame;... COUNT\"", number + 1);
        let (stack, count) = line.rsplit_once(' ').ok_or_else(malformed)?;
        let count: u64 = count.parse().map_err(|_| malformed())?;
        samples.push(tables.sample(stack, count));
    }
    let value_types = vec![ValueType { name: "samples".into(), unit: "count".into() }];
    Ok(Profile {
        kind: Kind::Cpu,
        value_types,
        functions: tables.functions.items,
        locations: tables.locations.items.into_iter().map(|(lines, kind)| location(lines, kind)).collect(),
        stacks: tables
            .stacks
            .items
            .into_iter()
            .map(|locations| Stack { locations, end: String::new() })
            .collect(),
        processes: tables.processes.items.into_iter().map(process).collect(),
        samples,
        ..Profile::empty()
    })
}

fn location(lines: Vec<u32>, kind: FrameKind) -> Location {
    let lines = lines.into_iter().map(|function| Line { function, line: 0 }).collect();
    Location { address: 0, mapping: None, lines, kind }
}

fn process(name: String) -> Process {
    Process { pid: 0, start_time_ns: 0, name }
}

/// The tables of a profile as they grow.
#[derive(Default)]
struct Tables {
    processes: Table<String>,
    functions: Table<Function>,
    locations: Table<(Vec<u32>, FrameKind)>,
    stacks: Table<Vec<u32>>,
}

impl Tables {
    fn sample(&mut self, stack: &str, count: u64) -> Sample {
        let (process, frames) =
            stack.split_once(';').map_or((stack, None), |(root, rest)| (root, Some(rest)));
        // Functions of each location, the outermost first: an inlined one joins the location before it.
        let mut locations: Vec<(Vec<u32>, FrameKind)> = Vec::new();
        for frame in frames.into_iter().flat_map(|frames| frames.split(';')) {
            let (name, role) = unsuffixed(frame);
            let function =
                Function { name: name.to_owned(), system_name: String::new(), file: String::new() };
            let function = self.functions.id(function);
            match (role, locations.last_mut()) {
                (Role::Inlined, Some((functions, _))) => functions.push(function),
                (Role::Kernel, _) => locations.push((vec![function], FrameKind::Kernel)),
                (Role::Interpreted, _) => locations.push((vec![function], FrameKind::Interpreted)),
                _ => locations.push((vec![function], FrameKind::Native)),
            }
        }
        let leaf_first = locations.into_iter().rev().map(|(mut functions, kind)| {
            functions.reverse();
            self.locations.id((functions, kind))
        });
        let stack = leaf_first.collect();
        Sample {
            process: self.processes.id(process.to_owned()),
            thread_id: 0,
            thread_name: process.to_owned(),
            stack: self.stacks.id(stack),
            values: vec![count],
        }
    }
}

/// A frame's name without its suffix, and what the suffix says.
fn unsuffixed(frame: &str) -> (&str, Role) {
    [Role::Inlined, Role::Interpreted, Role::Kernel]
        .into_iter()
        .find_map(|role| frame.strip_suffix(role.suffix()).map(|name| (name, role)))
        .unwrap_or((frame, Role::Native))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> String {
        let mut out = Vec::new();
        Folded.write(&parse(text).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        let text = "a 1\na;main;f_[i];g_[i];read_[k];copy_[i] 7\na;py_[j] 2\nb x;th read;main 18446744073709551615\n";
        assert_eq!(again(text), text);
    }

    #[test]
    fn equal_stacks_are_added_and_sorted_frame_by_frame() {
        // By bytes of the whole line, `a.b` would come between `a` and `a;f` and cut a flame graph's `a` in two.
        assert_eq!(again("a;f 1\r\na.b 1\n\n# comment\na 1\na;f 2\n"), "a 1\na;f 3\na.b 1\n");
    }

    #[test]
    fn malformed_lines_are_named() {
        for text in ["nothing", "a;b x", "a;b -1", "a;b 1.5", "a 99999999999999999999", "ok 1\n;"] {
            assert!(parse(text).unwrap_err().starts_with("line "), "{text}");
        }
    }

    #[test]
    fn odd_lines_do_no_harm() {
        for text in ["; 1", ";; 1", " 1", "_[i];_[i] 1", "a;_[k] 1", "a;; 0"] {
            parse(text).unwrap().validate().unwrap();
            again(text);
        }
    }
}
