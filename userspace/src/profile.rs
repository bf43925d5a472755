//! `Profile`: the immutable input of every output.
//!
//! Tables that point at each other by index, as in pprof and Firefox's format: a stack, a location or a function that
//! occurs a thousand times is stored once. It knows nothing of how it was captured; it is also what hostscope's own
//! JSON format holds, so a field added here is a field added there.

use serde::{Deserialize, Serialize};

use crate::config::Kind;

/// One captured profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// What was counted.
    pub kind: Kind,
    /// The name of the host (`uname -n`).
    pub host: String,
    /// Who was watched, in words for a title: `whole host`, `pid 42`, `cgroup /system.slice`, `make -j2`.
    pub target: String,
    /// When sampling began, in nanoseconds since 1970-01-01 UTC.
    pub start_unix_ns: u64,
    /// How long sampling went on, in nanoseconds.
    pub duration_ns: u64,
    /// Samples a second and CPU.
    pub frequency_hertz: u32,
    /// What one sample stands for, in nanoseconds of CPU time.
    pub period_ns: u64,
    /// The event that took the samples: `cpu-clock` or `cycles`.
    pub event: String,
    /// What the numbers of each sample mean, in the order of [`Sample::values`].
    pub value_types: Vec<ValueType>,
    /// The files that code was mapped from; one entry a file and mapped range of a process.
    pub mappings: Vec<Mapping>,
    /// Every function that a location names.
    pub functions: Vec<Function>,
    /// Every distinct code address that occurs in a stack.
    pub locations: Vec<Location>,
    /// Every distinct stack.
    pub stacks: Vec<Stack>,
    /// Every process that has a sample.
    pub processes: Vec<Process>,
    /// The samples: one entry a thread and stack.
    pub samples: Vec<Sample>,
    /// What was lost on the way, by reason; reasons with a count of zero are left out.
    pub losses: Vec<Loss>,
}

/// The meaning and unit of one of a sample's numbers, in pprof's words (`samples`/`count`, `cpu`/`nanoseconds`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueType {
    /// What is counted.
    pub name: String,
    /// Its unit.
    pub unit: String,
}

/// A file range mapped as code into a process's address space, or the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Where in the file `start` lies, in bytes.
    pub file_offset: u64,
    /// The path as the process saw it, or a name in brackets (`[kernel]`, `[vdso]`, `[anon]`).
    pub file: String,
    /// The GNU build id in lowercase hexadecimal digits, empty where the file has none.
    pub build_id: String,
}

/// A function, after demangling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Function {
    /// The name to show: demangled, or `[file+0xoffset]` where no symbol covers the address.
    pub name: String,
    /// The name as the symbol table has it; empty where there is none.
    pub system_name: String,
    /// The source file, empty where unknown.
    pub file: String,
}

/// A code address and what it stands for in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The address in the process (or kernel); for a caller, an address within its call instruction.
    pub address: u64,
    /// Index into [`Profile::mappings`]; `None` where the address lies in no known mapping.
    pub mapping: Option<u32>,
    /// Never empty; the innermost inlined function first, the function that the symbol table names last.
    pub lines: Vec<Line>,
    /// What sort of code this is.
    pub kind: FrameKind,
}

/// A function and the line in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Index into [`Profile::functions`].
    pub function: u32,
    /// The source line, from 1; 0 where unknown.
    pub line: u32,
}

/// What sort of code a frame runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// The kernel and its modules.
    Kernel,
    /// Compiled code from a file.
    Native,
    /// Code made at run time (a JIT) or named by a perf map: interpreted languages.
    Interpreted,
}

/// One distinct stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stack {
    /// Indexes into [`Profile::locations`], the leaf (where the CPU was) first; kernel frames before user frames.
    pub locations: Vec<u32>,
    /// Why the walk of the user stack ended, in a word of `hostscope_wire::stack::StackEnd`.
    pub end: String,
}

/// A process: (pid, start time), since pids are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in nanoseconds since boot.
    pub start_time_ns: u64,
    /// Its name (the main thread's comm).
    pub name: String,
}

/// What one thread did in one stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Index into [`Profile::processes`].
    pub process: u32,
    /// The thread's id.
    pub thread_id: u32,
    /// The thread's name (comm).
    pub thread_name: String,
    /// Index into [`Profile::stacks`].
    pub stack: u32,
    /// One number for each of [`Profile::value_types`].
    pub values: Vec<u64>,
}

/// How much was lost for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The reason, in a word of `hostscope_wire::loss::Loss`.
    pub reason: String,
    /// How many samples or records.
    pub count: u64,
}

impl Profile {
    /// The sum over all samples of the value at `index` of [`Profile::value_types`].
    #[must_use]
    pub fn total(&self, index: usize) -> u64 {
        self.samples
            .iter()
            .filter_map(|sample| sample.values.get(index))
            .fold(0, |sum, &v| sum.saturating_add(v))
    }

    /// Checks that every index points into its table, so that outputs may index without asking. Profiles read from
    /// files come through here.
    ///
    /// # Errors
    /// The first index that points nowhere, in words.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let within = |what: &str, index: u32, len: usize| {
            if (index as usize) < len {
                Ok(())
            } else {
                Err(format!("{what} {index} of {len} does not exist"))
            }
        };
        for location in &self.locations {
            if let Some(mapping) = location.mapping {
                within("mapping", mapping, self.mappings.len())?;
            }
            if location.lines.is_empty() {
                return Err(format!("the location at {:#x} has no line", location.address));
            }
            for line in &location.lines {
                within("function", line.function, self.functions.len())?;
            }
        }
        for stack in &self.stacks {
            for &location in &stack.locations {
                within("location", location, self.locations.len())?;
            }
        }
        for sample in &self.samples {
            within("process", sample.process, self.processes.len())?;
            within("stack", sample.stack, self.stacks.len())?;
            if sample.values.len() != self.value_types.len() {
                return Err(format!(
                    "a sample has {} values of {}",
                    sample.values.len(),
                    self.value_types.len()
                ));
            }
        }
        Ok(())
    }
}
