//! Names for every location of a window: groups them by file, asks each file once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ElfSource, Symbol, SymbolLine, Symbolizer, perf_map};
use crate::aggregate::{Place, Window};
use crate::targets::files::{FileId, FileKind};
use crate::targets::{ProcessId, Processes};

/// What sort of code a location is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeKind {
    /// The kernel or a module of it.
    Kernel,
    /// A file, or the vDSO.
    Native,
    /// Memory without a file: made at run time.
    Runtime,
}

/// The names of one location.
#[derive(Debug, Clone)]
pub struct NamedLocation {
    /// Never empty; the innermost inlined function first.
    pub lines: Vec<SymbolLine>,
    /// What sort of code it is.
    pub kind: CodeKind,
}

/// The names of a window, and what kept others from being found.
pub struct WindowNames {
    /// One entry for each of [`Window::locations`].
    pub locations: Vec<NamedLocation>,
    /// Files and tables that gave no or not all names, each with its reason.
    pub findings: Vec<String>,
}

/// Findings kept: the rest of a thousand damaged files says nothing new.
const MAX_FINDINGS: usize = 50;

/// Names every location of `window`.
pub fn name_window(symbolizer: &mut Symbolizer, window: &Window, processes: &Processes) -> WindowNames {
    let mut by_file: BTreeMap<FileId, Vec<(u64, usize)>> = BTreeMap::new();
    let mut by_process: BTreeMap<ProcessId, Vec<(u64, usize)>> = BTreeMap::new();
    let mut in_kernel = Vec::new();
    let mut naming = Naming { names: Vec::new(), findings: Vec::new() };
    for (index, location) in window.locations.iter().enumerate() {
        let kind = match location.place {
            Place::Kernel => {
                in_kernel.push((location.address, index));
                CodeKind::Kernel
            }
            Place::Unmapped(_) => CodeKind::Native,
            Place::Mapped(mapping) => {
                let (process, mapping) = &window.mappings[mapping as usize];
                if processes.files.get(mapping.file).kind == FileKind::Anonymous {
                    by_process.entry(*process).or_default().push((location.address, index));
                    CodeKind::Runtime
                } else {
                    let offset = location.address - mapping.start + mapping.file_offset;
                    by_file.entry(mapping.file).or_default().push((offset, index));
                    CodeKind::Native
                }
            }
        };
        naming.names.push((None, kind));
    }
    naming.kernel(symbolizer, in_kernel);
    for (file, wanted) in by_file {
        naming.file(symbolizer, processes, file, wanted);
    }
    for (process, wanted) in by_process {
        naming.perf_map(processes, process, wanted);
    }
    let locations =
        window.locations.iter().zip(naming.names).map(|(location, (lines, kind))| NamedLocation {
            lines: lines
                .unwrap_or_else(|| vec![nameless(window, processes, location.address, location.place)]),
            kind,
        });
    WindowNames { locations: locations.collect(), findings: naming.findings }
}

struct Naming {
    names: Vec<(Option<Vec<SymbolLine>>, CodeKind)>,
    findings: Vec<String>,
}

impl Naming {
    fn found(&mut self, wanted: &[(u64, usize)], symbols: Vec<Option<Symbol>>) {
        for (&(_, index), symbol) in wanted.iter().zip(symbols) {
            self.names[index].0 = symbol.map(|symbol| symbol.lines);
        }
    }

    fn finding(&mut self, finding: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    fn kernel(&mut self, symbolizer: &Symbolizer, mut wanted: Vec<(u64, usize)>) {
        let addresses = sorted_addresses(&mut wanted);
        let names = symbolizer.kernel(&addresses);
        if let Some(shortfall) = names.shortfall {
            self.finding(format!("{}; {}", shortfall.what, shortfall.mend));
        }
        for (&(_, index), symbol) in wanted.iter().zip(names.symbols) {
            let Some(symbol) = symbol else { continue };
            let shown: Arc<str> = match &symbol.module {
                Some(module) => format!("{} [{module}]", symbol.name).into(),
                None => Arc::clone(&symbol.name),
            };
            self.names[index].0 = Some(vec![plain_line(shown, symbol.name)]);
        }
    }

    fn file(
        &mut self,
        symbolizer: &mut Symbolizer,
        processes: &Processes,
        id: FileId,
        mut wanted: Vec<(u64, usize)>,
    ) {
        let offsets = sorted_addresses(&mut wanted);
        let file = processes.files.get(id);
        if file.kind == FileKind::Vdso {
            match symbolizer.vdso(&offsets) {
                Ok(symbols) => self.found(&wanted, symbols),
                Err(error) => self.finding(format!("[vdso]: {error}")),
            }
            return;
        }
        let Some(handle) = &file.handle else {
            self.finding(format!("{}: the file could not be opened", file.path.display()));
            return;
        };
        let root = PathBuf::from(format!("/proc/{}/root", file.pid));
        let source = ElfSource { file: handle, path: &file.path, root: Some(Path::new(&root)) };
        match symbolizer.elf(&source, file.build_id().as_ref(), &offsets) {
            Ok(names) => {
                if let Some(shortfall) = names.shortfall {
                    self.finding(format!("{}: {shortfall}", file.path.display()));
                }
                self.found(&wanted, names.symbols);
            }
            Err(error) => self.finding(format!("{}: {error}", file.path.display())),
        }
    }

    fn perf_map(&mut self, processes: &Processes, id: ProcessId, mut wanted: Vec<(u64, usize)>) {
        let process = processes.get(id);
        let Some(file) = &process.perf_map else { return };
        let addresses = sorted_addresses(&mut wanted);
        match perf_map(file, &addresses) {
            Ok(names) => {
                if let Some(shortfall) = names.shortfall {
                    self.finding(format!("perf map of process {}: {shortfall}", process.pid));
                }
                for (&(_, index), name) in wanted.iter().zip(names.names) {
                    self.names[index].0 = name.map(|name| vec![plain_line(Arc::clone(&name), name)]);
                }
            }
            Err(error) => self.finding(format!("perf map of process {}: {error}", process.pid)),
        }
    }
}

fn sorted_addresses(wanted: &mut [(u64, usize)]) -> Vec<u64> {
    wanted.sort_unstable();
    wanted.iter().map(|(address, _)| *address).collect()
}

fn plain_line(name: Arc<str>, system_name: Arc<str>) -> SymbolLine {
    SymbolLine { name, system_name, file: Arc::default(), line: 0 }
}

/// What a frame without a name shows: enough to find it with a disassembler.
fn nameless(window: &Window, processes: &Processes, address: u64, place: Place) -> SymbolLine {
    let shown = match place {
        Place::Kernel => format!("[kernel+{address:#x}]"),
        // Not the address: it would make a frame of its own of every one, and there is no file to look it up in.
        Place::Unmapped(_) => "[unmapped]".to_owned(),
        Place::Mapped(mapping) => {
            let (_, mapping) = &window.mappings[mapping as usize];
            let file = processes.files.get(mapping.file);
            if file.kind == FileKind::Anonymous {
                "[anon]".to_owned()
            } else {
                let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
                let offset = address - mapping.start + mapping.file_offset;
                format!("[{}+{offset:#x}]", name.trim_matches(['[', ']']))
            }
        }
    };
    plain_line(shown.into(), Arc::default())
}
