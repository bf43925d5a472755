//! Google's pprof format (`.pb.gz`): what `go tool pprof`, Grafana Pyroscope and Polar Signals read.
//!
//! Samples carry the labels `comm` (the process's name) and `thread` (the thread's) as text, `pid` and `tid` as
//! numbers, so `-tagroot comm,thread` gives a tree by process and `-tagfocus pid=42` one process. Comments
//! (`-comments`) hold what the format has no field for, as `key: value`. `pprof_read` is the way back.
//!
//! The messages come from the crate `pprof`; <https://github.com/google/pprof/blob/main/proto/profile.proto> defines them.

use std::collections::HashMap;
use std::io;

use ::pprof::protos::{self, Message};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::profile::{FrameKind, Profile, Sample};

use super::Output;

/// Keys of labels and comments, for both directions.
pub(super) mod key {
    /// Label: the process's name.
    pub(in super::super) const COMM: &str = "comm";
    /// Label: the thread's name.
    pub(in super::super) const THREAD: &str = "thread";
    /// Label: the process's id, a number.
    pub(in super::super) const PID: &str = "pid";
    /// Label: the thread's id, a number.
    pub(in super::super) const TID: &str = "tid";
    /// Comment: the host's name.
    pub(in super::super) const HOST: &str = "host";
    /// Comment: who was watched.
    pub(in super::super) const TARGET: &str = "target";
    /// Comment: the event that took the samples.
    pub(in super::super) const EVENT: &str = "event";
    /// Comment: samples a second and CPU.
    pub(in super::super) const HERTZ: &str = "frequency_hertz";
    /// Comment: a reason and how much was lost for it.
    pub(in super::super) const LOST: &str = "lost";
}

/// pprof, gzipped.
pub(super) struct Pprof;

impl Output for Pprof {
    fn extension(&self) -> &'static str {
        ".pb.gz"
    }

    fn describe(&self) -> &'static str {
        "pprof, for `go tool pprof` and Pyroscope"
    }

    fn content_type(&self) -> &'static str {
        "application/gzip"
    }

    fn write(&self, profile: &Profile, to: &mut dyn io::Write) -> io::Result<()> {
        let mut gzip = GzEncoder::new(to, Compression::default());
        io::Write::write_all(&mut gzip, &message(profile).encode_to_vec())?;
        gzip.finish()?;
        Ok(())
    }
}

/// The table of strings as it grows; the first is empty, as the format demands.
struct Strings(HashMap<String, i64>);

impl Strings {
    fn id(&mut self, text: &str) -> i64 {
        if let Some(&id) = self.0.get(text) {
            return id;
        }
        let id = self.0.len() as i64;
        self.0.insert(text.to_owned(), id);
        id
    }

    fn value_type(&mut self, name: &str, unit: &str) -> protos::ValueType {
        protos::ValueType { ty: self.id(name), unit: self.id(unit) }
    }

    fn into_table(self) -> Vec<String> {
        let mut table = vec![String::new(); self.0.len()];
        for (text, id) in self.0 {
            table[id as usize] = text;
        }
        table
    }
}

/// The whole profile as a message. Ids are indexes plus one, since zero means none.
fn message(profile: &Profile) -> protos::Profile {
    let mut strings = Strings(HashMap::from([(String::new(), 0)]));
    let value_types = profile.value_types.iter();
    let sample_type: Vec<_> = value_types.map(|t| strings.value_type(&t.name, &t.unit)).collect();
    let mut message = protos::Profile {
        // What people look at first: for a CPU profile the time, the last of its values.
        default_sample_type: sample_type.last().map_or(0, |last| last.ty),
        sample_type,
        sample: profile.samples.iter().map(|sample| sample_message(profile, sample, &mut strings)).collect(),
        mapping: mappings(profile, &mut strings),
        location: locations(profile),
        function: functions(profile, &mut strings),
        time_nanos: signed(profile.start_unix_ns),
        duration_nanos: signed(profile.duration_ns),
        period_type: Some(strings.value_type("cpu", "nanoseconds")),
        period: signed(profile.period_ns),
        comment: comments(profile).iter().map(|comment| strings.id(comment)).collect(),
        ..protos::Profile::default()
    };
    message.string_table = strings.into_table();
    message
}

/// The format's numbers are signed; what is beyond them stays at their end.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn sample_message(profile: &Profile, sample: &Sample, strings: &mut Strings) -> protos::Sample {
    let process = &profile.processes[sample.process as usize];
    let text = |key: i64, str: i64| protos::Label { key, str, ..protos::Label::default() };
    let number = |key: i64, num: u32| protos::Label { key, num: i64::from(num), ..protos::Label::default() };
    protos::Sample {
        location_id: id_list(&profile.stacks[sample.stack as usize].locations),
        value: sample.values.iter().map(|&value| signed(value)).collect(),
        label: vec![
            text(strings.id(key::COMM), strings.id(&process.name)),
            text(strings.id(key::THREAD), strings.id(&sample.thread_name)),
            number(strings.id(key::PID), process.pid),
            number(strings.id(key::TID), sample.thread_id),
        ],
    }
}

fn id_list(indexes: &[u32]) -> Vec<u64> {
    indexes.iter().map(|&index| u64::from(index) + 1).collect()
}

/// What is known about the names in a mapping: all of them, or readers will look for more.
#[derive(Clone, Copy)]
struct Known {
    functions: bool,
    files: bool,
    lines: bool,
    inlines: bool,
}

/// What is known, a mapping each.
fn known(profile: &Profile) -> Vec<Known> {
    let nothing_seen = Known { functions: false, files: false, lines: false, inlines: false };
    let mut known: Vec<Option<Known>> = vec![None; profile.mappings.len()];
    for location in &profile.locations {
        let Some(mapping) = location.mapping else { continue };
        let all = Known { functions: true, files: true, lines: true, inlines: false };
        let mapping = known[mapping as usize].get_or_insert(all);
        for line in &location.lines {
            let function = &profile.functions[line.function as usize];
            // A name without a symbol is our own `[file+0xoffset]`, which a reader that has the file can better;
            // inlined functions and interpreted ones have no symbol but their name is the right one.
            mapping.functions &= !function.system_name.is_empty()
                || location.lines.len() > 1
                || location.kind == FrameKind::Interpreted;
            mapping.files &= !function.file.is_empty();
            mapping.lines &= line.line > 0;
        }
        mapping.inlines |= location.lines.len() > 1;
    }
    known.into_iter().map(|known| known.unwrap_or(nothing_seen)).collect()
}

fn mappings(profile: &Profile, strings: &mut Strings) -> Vec<protos::Mapping> {
    let mappings = profile.mappings.iter().zip(known(profile)).zip(1..);
    let mut messages: Vec<_> = mappings
        .map(|((mapping, known), id)| protos::Mapping {
            id,
            memory_start: mapping.start,
            memory_limit: mapping.end,
            file_offset: mapping.file_offset,
            filename: strings.id(&mapping.file),
            build_id: strings.id(&mapping.build_id),
            has_functions: known.functions,
            has_filenames: known.files,
            has_line_numbers: known.lines,
            has_inline_frames: known.inlines,
        })
        .collect();
    // Readers take the first for the main binary and show it in titles: not `[kernel]`, where there is a file.
    messages.sort_by_key(|message| profile.mappings[message.id as usize - 1].file.starts_with('['));
    messages
}

fn locations(profile: &Profile) -> Vec<protos::Location> {
    let locations = profile.locations.iter().zip(1..);
    locations
        .map(|(location, id)| {
            let lines = location.lines.iter();
            protos::Location {
                id,
                mapping_id: location.mapping.map_or(0, |mapping| u64::from(mapping) + 1),
                address: location.address,
                line: lines
                    .map(|line| protos::Line {
                        function_id: u64::from(line.function) + 1,
                        line: i64::from(line.line),
                    })
                    .collect(),
                is_folded: false,
            }
        })
        .collect()
}

fn functions(profile: &Profile, strings: &mut Strings) -> Vec<protos::Function> {
    let functions = profile.functions.iter().zip(1..);
    functions
        .map(|(function, id)| protos::Function {
            id,
            name: strings.id(&function.name),
            system_name: strings.id(&function.system_name),
            filename: strings.id(&function.file),
            start_line: 0,
        })
        .collect()
}

fn comments(profile: &Profile) -> Vec<String> {
    let mut comments = vec![
        format!("{}: {}", key::HOST, profile.host),
        format!("{}: {}", key::TARGET, profile.target),
        format!("{}: {}", key::EVENT, profile.event),
        format!("{}: {}", key::HERTZ, profile.frequency_hertz),
    ];
    comments
        .extend(profile.losses.iter().map(|loss| format!("{}: {} {}", key::LOST, loss.count, loss.reason)));
    comments
}
