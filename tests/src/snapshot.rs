//! A thread stopped at some instant: its registers, its stack and its mappings of code, as a file keeps them.
//!
//! A walk over a snapshot needs no kernel side, and one that went wrong can be repeated as often as it takes.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Most bytes kept of a stack, from the stack pointer on, and of each mapping of code that is no file.
const MAX_REGION_BYTES: u64 = 64 * 1024;

/// What a function without calls may use below the stack pointer (System V ABI for x86-64, 3.2.2).
const RED_ZONE_BYTES: u64 = 128;

/// A thread at some instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip: the order of the kernel's `struct sigcontext`.
    pub registers: [u64; 17],
    /// Memory by its first address: the stack, and code that lies in no file.
    pub memory: Vec<(u64, Vec<u8>)>,
    /// The mappings of code, in the order of their addresses.
    pub mappings: Vec<Mapping>,
}

/// An executable mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file; a name in brackets, or nothing, where there is none.
    pub path: String,
}

impl Snapshot {
    /// The bytes at `address`, as many as `buffer` holds; false where they are not kept.
    #[must_use]
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.memory.iter().any(|(start, bytes)| {
            let from = address.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
            let kept = from.and_then(|from| bytes.get(from..)?.get(..buffer.len()));
            kept.map(|kept| buffer.copy_from_slice(kept)).is_some()
        })
    }

    /// Writes it to a file: a line for the registers, for each mapping and for each range of memory, all in hexadecimal.
    pub fn save(&self, path: &Path) {
        let mut text = String::from("registers");
        for register in &self.registers {
            write!(text, " {register:x}").unwrap();
        }
        for Mapping { start, end, offset, path } in &self.mappings {
            write!(text, "\nmapping {start:x} {end:x} {offset:x} {path}").unwrap();
        }
        for (start, bytes) in &self.memory {
            write!(text, "\nmemory {start:x} ").unwrap();
            for byte in bytes {
                write!(text, "{byte:02x}").unwrap();
            }
        }
        fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Reads what [`Snapshot::save`] wrote.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut snapshot = Self { registers: [0; 17], memory: Vec::new(), mappings: Vec::new() };
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ').expect("a word at the beginning of a line");
            match kind {
                "registers" => {
                    let numbers: Vec<u64> = rest.split(' ').map(number).collect();
                    snapshot.registers = numbers.try_into().expect("17 registers");
                }
                "mapping" => {
                    let mut words = rest.splitn(4, ' ');
                    let mut next = || words.next().expect("four words of a mapping");
                    let (start, end, offset) = (number(next()), number(next()), number(next()));
                    snapshot.mappings.push(Mapping { start, end, offset, path: next().to_owned() });
                }
                _ => {
                    let (start, hex) = rest.split_once(' ').expect("an address and bytes");
                    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
                    snapshot.memory.push((number(start), digits.map(|pair| number(pair) as u8).collect()));
                }
            }
        }
        snapshot
    }
}

fn number(hex: &str) -> u64 {
    u64::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{hex} is no hexadecimal number"))
}

/// A child of ours whose first thread is stopped again and again. Only the thread that seized it may use it.
pub struct Traced {
    pid: i32,
    memory: File,
    /// A signal that it was stopped for and is still to get.
    signal: i32,
}

impl Traced {
    /// Seizes and stops a process.
    #[must_use]
    pub fn seize(pid: u32) -> Self {
        let memory = File::open(format!("/proc/{pid}/mem")).expect("a child of ours");
        let mut traced = Self { pid: pid as i32, memory, signal: 0 };
        traced.ask(libc::PTRACE_SEIZE, 0);
        traced.interrupt();
        traced
    }

    /// Lets it run for a while.
    pub fn run_for(&mut self, duration: Duration) {
        let signal = std::mem::take(&mut self.signal);
        self.ask(libc::PTRACE_CONT, signal);
        std::thread::sleep(duration);
        self.interrupt();
    }

    /// Lets it execute one instruction.
    pub fn step(&mut self) {
        let signal = std::mem::take(&mut self.signal);
        self.ask(libc::PTRACE_SINGLESTEP, signal);
        self.wait(0);
    }

    /// Any stop will do: one for a signal takes the interruption's place (ptrace(2), `PTRACE_INTERRUPT`), and one that
    /// was there before must not be interrupted, or the next one is at the same instruction.
    fn interrupt(&mut self) {
        if !self.wait(libc::WNOHANG) {
            self.ask(libc::PTRACE_INTERRUPT, 0);
            self.wait(0);
        }
    }

    /// Waits for a stop, or asks whether there is one.
    fn wait(&mut self, options: i32) -> bool {
        let mut status = 0;
        // SAFETY: the status is ours to write to.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL | options) };
        if waited == 0 {
            return false;
        }
        assert!(waited == self.pid && libc::WIFSTOPPED(status), "it has ended: {status:#x}");
        let signal = libc::WSTOPSIG(status);
        self.signal = if signal == libc::SIGTRAP { 0 } else { signal };
        true
    }

    fn ask(&self, request: libc::c_uint, data: i32) {
        // SAFETY: these requests read and write no memory of ours.
        let asked = unsafe { libc::ptrace(request, self.pid, 0, i64::from(data)) };
        assert_eq!(asked, 0, "ptrace request {request:#x}: {}", io::Error::last_os_error());
    }

    /// Its mappings of code, as they are now.
    #[must_use]
    pub fn mappings(&self) -> Vec<Mapping> {
        let maps = self.maps();
        let code = maps.iter().filter(|(_, flags)| flags.contains('x') && flags.contains('r'));
        code.map(|(mapping, _)| mapping.clone()).collect()
    }

    fn maps(&self) -> Vec<(Mapping, String)> {
        let text = fs::read_to_string(format!("/proc/{}/maps", self.pid)).expect("it is stopped");
        let lines = text.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = words[0].split_once('-').expect("a range");
            let path = words.get(5..).unwrap_or_default().join(" ");
            (
                Mapping { start: number(start), end: number(end), offset: number(words[2]), path },
                words[1].to_owned(),
            )
        });
        lines.collect()
    }

    /// Where it is now, with the mappings that it had when they were asked for.
    #[must_use]
    pub fn snapshot(&self, mappings: &[Mapping]) -> Snapshot {
        // SAFETY: all zeros is a valid `user_regs_struct`.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is as large as the kernel writes.
        let asked = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0, &raw mut registers) };
        assert_eq!(asked, 0, "the registers: {}", io::Error::last_os_error());
        let r = registers;
        let registers = [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
            r.rcx, r.rsp, r.rip,
        ];
        let mut memory = vec![self.bytes(r.rsp - RED_ZONE_BYTES, MAX_REGION_BYTES)];
        for Mapping { start, end, path, .. } in
            mappings.iter().filter(|mapping| !mapping.path.starts_with('/'))
        {
            if path != "[vsyscall]" {
                memory.push(self.bytes(*start, (end - start).min(MAX_REGION_BYTES)));
            }
        }
        Snapshot { registers, memory, mappings: mappings.to_vec() }
    }

    /// As many bytes from `start` on as can be read, at most `length`.
    fn bytes(&self, start: u64, length: u64) -> (u64, Vec<u8>) {
        let mut bytes = vec![0; length as usize];
        let mut read = 0;
        while read < bytes.len() {
            match self.memory.read_at(&mut bytes[read..], start + read as u64) {
                Ok(0) | Err(_) => break,
                Ok(more) => read += more,
            }
        }
        bytes.truncate(read);
        (start, bytes)
    }
}
