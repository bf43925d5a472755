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

/// What samples point into and what they add to.
struct Tables {
    locations: Index,
    stacks: Table<Vec<u32>>,
    processes: Table<(u32, String)>,
}

impl<'a> Reader<'a> {
    fn profile(&self) -> Result<Profile, String> {
        let message = self.message;
        let value_types = self.value_types()?;
        let kind = kind_of(&value_types)?;
        let (mappings, mapping_index) = self.mappings()?;
        let (mut functions, function_index) = self.functions()?;
        let locations = self.locations(&mappings, &mapping_index, &mut functions, &function_index)?;
        let mut tables = Tables {
            locations: index(message.location.iter().map(|location| location.id)),
            stacks: Table::default(),
            processes: Table::default(),
        };
        let samples = message.sample.iter().map(|sample| self.sample(sample, &mut tables));
        let samples = samples.collect::<Result<_, _>>()?;
        let stacks = tables.stacks.items.into_iter();
        let processes = tables.processes.items.into_iter();
        let mut profile = Profile {
            kind,
            start_unix_ns: unsigned(message.time_nanos),
            duration_ns: unsigned(message.duration_nanos),
            period_ns: unsigned(message.period),
            value_types,
            mappings,
            functions,
            locations,
            stacks: stacks.map(|locations| Stack { locations, end: String::new() }).collect(),
            processes: processes.map(|(pid, name)| Process { pid, start_time_ns: 0, name }).collect(),
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
        // By their ids, which is the order of our own tables; in the file, the main binary is the first.
        let mut messages: Vec<_> = self.message.mapping.iter().collect();
        messages.sort_by_key(|mapping| mapping.id);
        let index = index(messages.iter().map(|mapping| mapping.id));
        let mappings = messages.iter().map(|mapping| {
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

    fn locations(
        &self,
        mappings: &[Mapping],
        mapping_index: &Index,
        functions: &mut Vec<Function>,
        function_index: &Index,
    ) -> Result<Vec<Location>, String> {
        let mut locations = Vec::with_capacity(self.message.location.len());
        for location in &self.message.location {
            let address = location.address;
            let mapping = lookup(mapping_index, location.mapping_id, "mapping")?;
            let lines = match &location.line[..] {
                [] => vec![unnamed(address, mapping, mappings, functions)],
                lines => {
                    lines.iter().map(|line| read_line(line, function_index)).collect::<Result<_, _>>()?
                }
            };
            let file = mapping.map_or("", |mapping| mappings[mapping as usize].file.as_str());
            locations.push(Location { address, mapping, lines, kind: frame_kind(file, address) });
        }
        Ok(locations)
    }

    fn sample(&self, sample: &protos::Sample, tables: &mut Tables) -> Result<Sample, String> {
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
        let process = match comm {
            Some(comm) => comm,
            None => self.main_binary()?,
        };
        let locations = sample.location_id.iter();
        let locations = locations.map(|&id| {
            tables.locations.get(&id).copied().ok_or_else(|| format!("its location {id} does not exist"))
        });
        let locations = locations.collect::<Result<_, _>>()?;
        Ok(Sample {
            process: tables.processes.id((pid, process.to_owned())),
            thread_id,
            thread_name: thread_name.unwrap_or(process).to_owned(),
            stack: tables.stacks.id(locations),
            values: sample.value.iter().map(|&value| unsigned(value)).collect(),
        })
    }

    /// The name of the program of a profile that says nothing of processes, as those that programs make of
    /// themselves: its first mapping.
    fn main_binary(&self) -> Result<&'a str, String> {
        let Some(first) = self.message.mapping.first() else { return Ok("[unknown]") };
        let file = self.text(first.filename)?;
        Ok(file.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("[unknown]"))
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
            let file = mapping.file.rsplit('/').next().unwrap_or_default().trim_matches(['[', ']']);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A profile as Go's runtime makes it of itself: no labels, its own binary first.
    fn message() -> protos::Profile {
        let strings = ["", "samples", "count", "/usr/bin/app", "main.work", "[vdso]", "comm"];
        protos::Profile {
            string_table: strings.map(str::to_owned).to_vec(),
            sample_type: vec![protos::ValueType { ty: 1, unit: 2 }],
            mapping: vec![
                protos::Mapping { id: 9, memory_start: 0x1000, filename: 3, ..Default::default() },
                protos::Mapping { id: 4, memory_start: 0x9000, filename: 5, ..Default::default() },
            ],
            function: vec![protos::Function { id: 7, name: 4, ..Default::default() }],
            location: vec![
                protos::Location {
                    id: 70,
                    mapping_id: 9,
                    address: 0x1234,
                    line: vec![protos::Line { function_id: 7, line: -3 }],
                    ..Default::default()
                },
                protos::Location { id: 30, mapping_id: 4, address: 0x9010, ..Default::default() },
            ],
            sample: vec![protos::Sample { location_id: vec![30, 70], value: vec![5], ..Default::default() }],
            ..Default::default()
        }
    }

    fn read(message: &protos::Profile) -> Result<Profile, String> {
        let profile = parse(&message.encode_to_vec())?;
        profile.validate()?;
        Ok(profile)
    }

    #[test]
    fn profiles_of_other_programs_are_read() {
        let profile = read(&message()).unwrap();
        assert_eq!(profile.processes[0].name, "app");
        let names: Vec<_> = profile.stacks[0]
            .locations
            .iter()
            .map(|&location| profile.locations[location as usize].lines[0])
            .map(|line| profile.functions[line.function as usize].name.as_str())
            .collect();
        assert_eq!(names, ["[vdso+0x10]", "main.work"]);
        assert_eq!(profile.total(0), 5);
    }

    #[test]
    fn ids_and_indexes_that_point_nowhere_are_told() {
        type Break = fn(&mut protos::Profile);
        let broken: [(Break, &str); 7] = [
            (|m| m.sample[0].location_id[0] = 99, "location 99"),
            (|m| m.location[0].mapping_id = 99, "mapping 99"),
            (|m| m.location[0].line[0].function_id = 99, "function 99"),
            (|m| m.location[0].line[0].function_id = 0, "no function"),
            (|m| m.function[0].name = -1, "string -1"),
            (
                |m| m.sample[0].label = vec![protos::Label { key: 6, str: 99, ..Default::default() }],
                "string 99",
            ),
            (|m| m.sample[0].value.clear(), "0 values of 1"),
        ];
        for (damage, why) in broken {
            let mut message = message();
            damage(&mut message);
            let error = read(&message).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let mut message = message();
        message.string_table[1] = "inuse_space".into();
        assert_eq!(read(&message).unwrap_err(), "it counts inuse_space, not the time on the CPU");
    }
}
