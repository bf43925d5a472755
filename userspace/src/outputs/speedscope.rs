//! speedscope's format (`.speedscope.json`), by <https://www.speedscope.app/file-format-schema.json>: one sampled
//! profile whose stacks begin with the process, then the thread where its name differs.
//!
//! speedscope takes every entry of its frame table for a function of its own, so an entry is a name and a file, and
//! lines are left out: with them, one function would fall apart into as many as it has sampled lines.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::profile::{Location, Profile, ValueType};

use super::table::Table;
use super::{Output, text, title};

/// speedscope's format.
pub(super) struct Speedscope;

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: String,
    exporter: &'static str,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: usize,
    shared: Shared<'a>,
    profiles: [Sampled<'a>; 1],
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<Frame<'a>>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Hash)]
struct Frame<'a> {
    name: &'a str,
    /// The source file, else the file that the code was mapped from: speedscope colours by it.
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled<'a> {
    r#type: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    /// Indexes of frames, the root first.
    samples: Vec<&'a [u32]>,
    weights: Vec<u64>,
}

impl Output for Speedscope {
    fn extension(&self) -> &'static str {
        ".speedscope.json"
    }

    fn describe(&self) -> &'static str {
        "for speedscope.app"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn write(&self, profile: &Profile, to: &mut dyn io::Write) -> io::Result<()> {
        let (value_index, unit) = weight(profile);
        let mut frames = Table::default();
        let stacks = stacks(profile, value_index, &mut frames);
        let title = title(profile);
        let date = text::date(profile.start_unix_ns, "%Y-%m-%d %H:%M:%S UTC");
        let file = File {
            schema: "https://www.speedscope.app/file-format-schema.json",
            name: format!("{title} ({}, {date})", text::clean(&profile.host)),
            exporter: "hostscope",
            active_profile_index: 0,
            shared: Shared { frames: frames.items },
            profiles: [Sampled {
                r#type: "sampled",
                name: title,
                unit,
                start_value: 0,
                end_value: stacks.values().fold(0, |sum, &weight| sum.saturating_add(weight)),
                samples: stacks.keys().map(Vec::as_slice).collect(),
                weights: stacks.values().copied().collect(),
            }],
        };
        serde_json::to_writer(&mut *to, &file)?;
        to.write_all(b"\n")
    }
}

/// The value to weigh stacks by, and its unit in speedscope's words: a time where there is one, since speedscope
/// then shows seconds and not bare numbers.
fn weight(profile: &Profile) -> (usize, &'static str) {
    let unit = |value_type: &ValueType| match value_type.unit.as_str() {
        "nanoseconds" => "nanoseconds",
        "bytes" => "bytes",
        _ => "none",
    };
    let timed = profile.value_types.iter().position(|value_type| value_type.unit == "nanoseconds");
    let index = timed.unwrap_or_else(|| profile.count_index());
    (index, profile.value_types.get(index).map_or("none", unit))
}

/// Every distinct stack, the root first, with the sum of its values.
fn stacks<'a>(
    profile: &'a Profile,
    value_index: usize,
    frames: &mut Table<Frame<'a>>,
) -> BTreeMap<Vec<u32>, u64> {
    let of_location: Vec<Vec<u32>> =
        profile.locations.iter().map(|location| location_frames(profile, location, frames)).collect();
    let mut stacks = BTreeMap::new();
    for sample in &profile.samples {
        let process = &profile.processes[sample.process as usize].name;
        let mut stack = vec![frames.id(Frame { name: process, file: "" })];
        if sample.thread_name != *process {
            stack.push(frames.id(Frame { name: &sample.thread_name, file: "" }));
        }
        for &location in profile.stacks[sample.stack as usize].locations.iter().rev() {
            stack.extend_from_slice(&of_location[location as usize]);
        }
        let sum: &mut u64 = stacks.entry(stack).or_default();
        *sum = sum.saturating_add(sample.values.get(value_index).copied().unwrap_or(0));
    }
    stacks
}

/// The frames of one location, the outermost function first.
fn location_frames<'a>(profile: &'a Profile, location: &Location, frames: &mut Table<Frame<'a>>) -> Vec<u32> {
    let mapped = location.mapping.map_or("", |mapping| profile.mappings[mapping as usize].file.as_str());
    let functions = location.lines.iter().rev().map(|line| &profile.functions[line.function as usize]);
    functions
        .map(|function| {
            let file = if function.file.is_empty() { mapped } else { &function.file };
            frames.id(Frame { name: &function.name, file })
        })
        .collect()
}
