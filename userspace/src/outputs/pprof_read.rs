//! Reads pprof, ours or any other program's: the way back from what `pprof` writes.
//!
//! What the format does not hold stays empty: when processes started and why walks ended. Every id and index in the
//! file is checked before it is followed.

use std::collections::HashMap;

use ::pprof::protos::{self, Message};

use crate::config::Kind;
use crate::profile::{
    FrameKind, Function, Line, Location, Loss, Mapping, Process, Profile, Sample, Stack, ValueType,
};

use super::pprof::key;
use super::table::Table;

/// Addresses from here on are the kernel's on every 64-bit architecture that Linux has eBPF for.
const FIRST_KERNEL_ADDRESS: u64 = 1 << 63;

/// Reads an unzipped message.
pub(super) fn parse(bytes: &[u8]) -> Result<Profile, String> {
    let message =
        protos::Profile::decode(bytes).map_err(|error| format!("it is no pprof profile: {error}"))?;
    // Few bytes are no valid protocol buffer at all: these two tell whether it is a profile.
    if message.string_table.first().is_none_or(|first| !first.is_empty()) || message.sample_type.is_empty() {
        return Err("it is no pprof profile: it has no types of values".into());
    }
    Reader { message: &message }.profile()
}

struct Reader<'a> {
    message: &'a protos::Profile,
}

impl<'a> Reader<'a> {
    fn profile(&self) -> Result<Profile, String> {
        let message = self.message;
        let value_types = self.value_types()?;
        let kind = kind_of(&value_types)?;
        let (mappings, mapping_index) = self.mappings()?;
        let (mut functions, function_index) = self.functions()?;
        let mut location_index = HashMap::with_capacity(message.location.len());
        let mut locations = Vec::with_capacity(message.location.len());
        for location in &message.location {
            location_index.insert(location.id, locations.len() as u32);
            let mapping = lookup(&mapping_index, location.mapping_id, "mapping")?;
            let lines = match &location.line[..] {
                [] => vec![unnamed(location.address, mapping, &mappings, &mut functions)],
                lines => {
                    lines.iter().map(|line| read_line(line, &function_index)).collect::<Result<_, _>>()?
                }
            };
            let file = mapping.map_or("", |mapping| mappings[mapping as usize].file.as_str());
            locations.push(Location {
                address: location.address,
                mapping,
                lines,
                kind: frame_kind(file, location.address),
            });
        }
        let mut stacks = Table::default();
        let mut processes = Table::default();
        let samples = message
            .sample
            .iter()
            .map(|s| self.sample(s, &location_index, &mut stacks, &mut processes, &mappings));
        let samples = samples.collect::<Result<_, _>>()?;
        let stacks = stacks.items.into_iter().map(|locations| Stack { locations, end: String::new() });
        let processes =
            processes.items.into_iter().map(|(pid, name)| Process { pid, start_time_ns: 0, name });
        let mut profile = Profile {
            kind,
            start_unix_ns: unsigned(message.time_nanos),
            duration_ns: unsigned(message.duration_nanos),
            period_ns: unsigned(message.period),
            value_types,
            stacks: stacks.collect(),
            processes: processes.collect(),
            mappings,
            functions,
            locations,
            samples,
            ..Profile::empty()
        };
        self.comments(&mut profile)?;
        Ok(profile)
    }

    fn text(&self, index: i64) -> Result<&'a str, String> {
        let found = usize::try_from(index).ok().and_then(|index| self.message.string_table.get(index));
        found.map(String::as_str).ok_or_else(|| format!("its string {index} does not exist"))
    }

    fn value_types(&self) -> Result<Vec<ValueType>, String> {
        let types = self.message.sample_type.iter();
        types
            .map(|t| Ok(ValueType { name: self.text(t.ty)?.into(), unit: self.text(t.unit)?.into() }))
            .collect()
    }

    fn mappings(&self) -> Result<(Vec<Mapping>, Index), String> {
        let index = index(self.message.mapping.iter().map(|mapping| mapping.id));
        let mappings = self.message.mapping.iter().map(|mapping| {
            Ok(Mapping {
                start: mapping.memory_start,
                end: mapping.memory_limit,
                file_offset: mapping.file_offset,
                file: self.text(mapping.filename)?.into(),
                build_id: self.text(mapping.build_id)?.into(),
            })
        });
        Ok((mappings.collect::<Result<_, String>>()?, index))
    }

    fn functions(&self) -> Result<(Vec<Function>, Index), String> {
        let index = index(self.message.function.iter().map(|function| function.id));
        let functions = self.message.function.iter().map(|function| {
            Ok(Function {
                name: self.text(function.name)?.into(),
                system_name: self.text(function.system_name)?.into(),
                file: self.text(function.filename)?.into(),
            })
        });
        Ok((functions.collect::<Result<_, String>>()?, index))
    }

    fn sample(
        &self,
        sample: &protos::Sample,
        location_index: &Index,
        stacks: &mut Table<Vec<u32>>,
        processes: &mut Table<(u32, String)>,
        mappings: &[Mapping],
    ) -> Result<Sample, String> {
        let (mut pid, mut thread_id, mut comm, mut thread_name) = (0, 0, None, None);
        for label in &sample.label {
            match self.text(label.key)? {
                key::PID => pid = u32::try_from(label.num).unwrap_or(0),
                key::TID => thread_id = u32::try_from(label.num).unwrap_or(0),
                key::COMM => comm = Some(self.text(label.str)?),
                key::THREAD => thread_name = Some(self.text(label.str)?),
                _ => {}
            }
        }
        // A program that profiles itself says nothing of processes: its first mapping is its main binary.
        let binary = || mappings.first().and_then(|mapping| mapping.file.rsplit('/').next());
        let process = comm.or_else(binary).filter(|name| !name.is_empty()).unwrap_or("[unknown]");
        let locations = sample.location_id.iter();
        let locations = locations.map(|&id| {
            location_index.get(&id).copied().ok_or_else(|| format!("its location {id} does not exist"))
        });
        Ok(Sample {
            process: processes.id((pid, process.to_owned())),
            thread_id,
            thread_name: thread_name.unwrap_or(process).to_owned(),
            stack: stacks.id(locations.collect::<Result<_, _>>()?),
            values: sample.value.iter().map(|&value| unsigned(value)).collect(),
        })
    }

    /// What hostscope puts into comments; those of other programs fit none of it and are left out.
    fn comments(&self, profile: &mut Profile) -> Result<(), String> {
        for &comment in &self.message.comment {
            let Some((word, value)) = self.text(comment)?.split_once(": ") else { continue };
            match word {
                key::HOST => profile.host = value.into(),
                key::TARGET => profile.target = value.into(),
                key::EVENT => profile.event = value.into(),
                key::HERTZ => profile.frequency_hertz = value.parse().unwrap_or(0),
                key::LOST => {
                    if let Some((count, reason)) = value.split_once(' ')
                        && let Ok(count) = count.parse()
                    {
                        profile.losses.push(Loss { reason: reason.into(), count });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// From ids in the file to indexes in our tables.
type Index = HashMap<u64, u32>;

fn index(ids: impl Iterator<Item = u64>) -> Index {
    ids.zip(0..).collect()
}

/// The index of an id; zero means none.
fn lookup(index: &Index, id: u64, what: &str) -> Result<Option<u32>, String> {
    match (id, index.get(&id)) {
        (0, _) => Ok(None),
        (_, Some(&index)) => Ok(Some(index)),
        (_, None) => Err(format!("its {what} {id} does not exist")),
    }
}

fn read_line(line: &protos::Line, function_index: &Index) -> Result<Line, String> {
    let function = lookup(function_index, line.function_id, "function")?;
    let function = function.ok_or("a line of it has no function")?;
    Ok(Line { function, line: u32::try_from(line.line).unwrap_or(0) })
}

/// The line of a location that nothing has named: `[file+0xoffset]`, as our own symbolizer has it.
fn unnamed(address: u64, mapping: Option<u32>, mappings: &[Mapping], functions: &mut Vec<Function>) -> Line {
    let name = match mapping.map(|mapping| &mappings[mapping as usize]) {
        Some(mapping) => {
            let file = mapping.file.rsplit('/').next().unwrap_or_default();
            let offset = address.wrapping_sub(mapping.start).wrapping_add(mapping.file_offset);
            format!("[{file}+{offset:#x}]")
        }
        None => format!("[{address:#x}]"),
    };
    functions.push(Function { name, system_name: String::new(), file: String::new() });
    Line { function: functions.len() as u32 - 1, line: 0 }
}

/// The format has no field for it; the mapping and the address tell.
fn frame_kind(file: &str, address: u64) -> FrameKind {
    if address >= FIRST_KERNEL_ADDRESS || file.starts_with("[kernel") {
        FrameKind::Kernel
    } else if file.starts_with("[anon") || file.starts_with("//anon") || file.starts_with("[jit") {
        FrameKind::Interpreted
    } else {
        FrameKind::Native
    }
}

/// Numbers of a profile are never negative; those of a difference may be, which is not a profile of its own.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// What a profile of these values counts.
fn kind_of(value_types: &[ValueType]) -> Result<Kind, String> {
    let cpu = |t: &ValueType| t.name == "cpu" || t.name == "samples" || t.name.contains("cycles");
    if value_types.iter().any(cpu) {
        return Ok(Kind::Cpu);
    }
    let names = value_types.iter().map(|t| t.name.escape_debug().to_string());
    Err(format!("it counts {}, not the time on the CPU", names.collect::<Vec<_>>().join(", ")))
}
