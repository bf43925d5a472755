//! From a window of counts and names to the [`Profile`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostscope_wire::stack::StackEnd;

use super::Summary;
use crate::aggregate::{Place, Window};
use crate::collect::Collector;
use crate::config::{CaptureSettings, Target};
use crate::load::Kernel;
use crate::load::attach::SamplingEvent;
use crate::profile::{
    FrameKind, Function, Line, Location, Loss, Mapping, Process, Profile, Sample, Stack, ValueType,
};
use crate::symbolize::{CodeKind, Options, SymbolLine, Symbolizer, name_window};
use crate::targets::files::{FileId, FileKind};
use crate::targets::{ProcessId, Processes, comm};

/// What is known of a capture beside its window.
pub struct Capture<'a> {
    /// What was asked for.
    pub settings: &'a CaptureSettings,
    /// What took the samples.
    pub event: SamplingEvent,
    /// When sampling began, in nanoseconds since 1970-01-01 UTC.
    pub start_unix_ns: u64,
    /// How long it went on.
    pub duration: Duration,
    /// What was lost.
    pub losses: Losses,
}

/// What was lost, and how much of it are samples.
pub struct Losses {
    /// By reason.
    pub all: Vec<Loss>,
    /// Samples that are therefore missing from the profile.
    pub samples: u64,
}

/// A profile and what can be said about it.
pub struct Assembled {
    /// The profile.
    pub profile: Profile,
    /// Only what the window tells is filled in.
    pub summary: Summary,
}

/// Everything that was lost on the way, on either side.
pub fn losses(kernel: &Kernel, window: &Window, mappings_lost: u64, collector: &Collector) -> Losses {
    let in_kernel = kernel.losses.read();
    let samples: u64 =
        in_kernel.iter().filter(|(reason, _)| reason.loses_sample()).map(|(_, count)| count).sum();
    let without_stack = window.samples_without_stack();
    let mut all: Vec<Loss> = in_kernel
        .iter()
        .map(|(reason, count)| Loss { reason: reason.name().into(), count: *count })
        .collect();
    for (reason, count) in [
        ("stack_not_kept", without_stack),
        ("mapping_records_lost", mappings_lost),
        ("malformed_records", collector.malformed),
    ] {
        if count > 0 {
            all.push(Loss { reason: reason.into(), count });
        }
    }
    Losses { all, samples: samples + without_stack }
}

/// Names the window and puts the tables together.
pub fn profile(capture: &Capture<'_>, window: &Window, processes: &Processes) -> Assembled {
    let settings = capture.settings;
    let mut symbolizer = Symbolizer::new(Options { inlines: settings.inlines, cache_entries: 0 });
    let names = name_window(&mut symbolizer, window, processes);
    let mut tables = Tables::default();
    let mappings = mappings(window, processes);
    let kernel_mapping = mappings.len() as u32 - 1;
    let locations = window.locations.iter().zip(&names.locations).map(|(location, named)| Location {
        address: location.address,
        mapping: match location.place {
            Place::Kernel => Some(kernel_mapping),
            Place::Mapped(mapping) => Some(mapping),
            Place::Unmapped(_) => None,
        },
        lines: named.lines.iter().map(|line| tables.line(line)).collect(),
        kind: match named.kind {
            CodeKind::Kernel => FrameKind::Kernel,
            CodeKind::Native => FrameKind::Native,
            CodeKind::Runtime => FrameKind::Interpreted,
        },
    });
    let locations = locations.collect();
    let mut summary =
        Summary { lost_samples: capture.losses.samples, findings: names.findings, ..Summary::default() };
    let period_ns = 1_000_000_000 / u64::from(settings.frequency_hertz);
    // In an order that does not depend on hashing, so that two runs over the same input give the same file.
    let mut counts: Vec<_> = window.counts.iter().collect();
    counts.sort_unstable_by_key(|(key, _)| (key.tid, key.stack_id, key.comm));
    let mut samples = Vec::with_capacity(counts.len());
    let mut ends = [0; StackEnd::ALL.len()];
    for (key, &count) in counts {
        let Some(stack) = window.stacks.get(&key.stack_id) else { continue };
        summary.samples += count;
        if stack.end != StackEnd::NoUserStack {
            summary.user_samples += count;
            ends[stack.end as usize] += count;
        }
        samples.push(Sample {
            process: tables.process(stack.process, processes),
            thread_id: key.tid,
            thread_name: comm(&key.comm),
            stack: tables.stack(key.stack_id, stack),
            values: vec![count, count * period_ns],
        });
    }
    summary.processes = tables.processes.len();
    summary.complete_samples = ends[StackEnd::Complete as usize];
    let early =
        StackEnd::ALL.into_iter().filter(|end| !matches!(end, StackEnd::Complete | StackEnd::NoUserStack));
    summary.incomplete =
        early.map(|end| (end.name(), ends[end as usize])).filter(|(_, count)| *count > 0).collect();
    summary.incomplete.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let profile = Profile {
        kind: settings.kind,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        target: describe(&settings.target),
        start_unix_ns: capture.start_unix_ns,
        duration_ns: capture.duration.as_nanos() as u64,
        frequency_hertz: settings.frequency_hertz,
        period_ns,
        event: capture.event.name().into(),
        value_types: [("samples", "count"), ("cpu", "nanoseconds")]
            .map(|(name, unit)| ValueType { name: name.into(), unit: unit.into() })
            .into(),
        mappings,
        functions: tables.functions,
        locations,
        stacks: tables.stacks,
        processes: tables.processes,
        samples,
        losses: capture.losses.all.clone(),
    };
    Assembled { profile, summary }
}

/// Shown name, raw name, source file.
type FunctionKey = (Arc<str>, Arc<str>, Arc<str>);

/// The tables that grow as samples name their entries.
#[derive(Default)]
struct Tables {
    functions: Vec<Function>,
    function_index: HashMap<FunctionKey, u32>,
    stacks: Vec<Stack>,
    stack_index: HashMap<u64, u32>,
    processes: Vec<Process>,
    process_index: HashMap<ProcessId, u32>,
}

impl Tables {
    fn line(&mut self, line: &SymbolLine) -> Line {
        let key = (Arc::clone(&line.name), Arc::clone(&line.system_name), Arc::clone(&line.file));
        let function = *self.function_index.entry(key).or_insert_with(|| {
            self.functions.push(Function {
                name: line.name.to_string(),
                system_name: line.system_name.to_string(),
                file: line.file.to_string(),
            });
            self.functions.len() as u32 - 1
        });
        Line { function, line: line.line }
    }

    fn stack(&mut self, id: u64, stack: &crate::aggregate::Stack) -> u32 {
        *self.stack_index.entry(id).or_insert_with(|| {
            self.stacks.push(Stack { locations: stack.locations.to_vec(), end: stack.end.name().into() });
            self.stacks.len() as u32 - 1
        })
    }

    fn process(&mut self, id: ProcessId, processes: &Processes) -> u32 {
        *self.process_index.entry(id).or_insert_with(|| {
            let process = processes.get(id);
            self.processes.push(Process {
                pid: process.pid,
                start_time_ns: process.start_time_ns,
                name: process.name.clone(),
            });
            self.processes.len() as u32 - 1
        })
    }
}

/// The window's mappings in their order, and the kernel behind them.
fn mappings(window: &Window, processes: &Processes) -> Vec<Mapping> {
    let mut build_ids: HashMap<FileId, String> = HashMap::new();
    let mapped = window.mappings.iter().map(|(_, mapping)| {
        let file = processes.files.get(mapping.file);
        let build_id = build_ids.entry(mapping.file).or_insert_with(|| match file.kind {
            FileKind::File => file.build_id().map_or_else(String::new, |id| id.to_string()),
            FileKind::Vdso | FileKind::Anonymous => String::new(),
        });
        Mapping {
            start: mapping.start,
            end: mapping.end,
            file_offset: mapping.file_offset,
            file: file.path.to_string_lossy().into_owned(),
            build_id: build_id.clone(),
        }
    });
    let kernel = Mapping {
        start: 1 << 63,
        end: u64::MAX,
        file_offset: 0,
        file: "[kernel]".into(),
        build_id: String::new(),
    };
    mapped.chain([kernel]).collect()
}

fn describe(target: &Target) -> String {
    match target {
        Target::Host => "whole host".into(),
        Target::Pids(pids) if pids.len() == 1 => format!("pid {}", pids[0]),
        Target::Pids(pids) => {
            format!("pids {}", pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        Target::Cgroup(path) => format!("cgroup {}", path.display()),
        Target::Command(words) => words.join(" "),
    }
}
