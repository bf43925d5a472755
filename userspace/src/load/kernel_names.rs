//! Names of kernel addresses from the kernel itself: 1.4 µs a name, where reading `/proc/kallsyms` costs 30 ms.
//!
//! `bpf_snprintf` with the format `%ps` gives the name of a code address, by a binary search over the table from which
//! `/proc/kallsyms` is made. A program of three lines calls it:
//!
//! ```c
//! struct question { u64 address; char name[248]; };
//! SEC("syscall") int name(struct question *q) {
//!     char name[248] = {};
//!     bpf_snprintf(name, sizeof name, "%ps", &q->address, 8);
//!     memcpy(q->name, name, sizeof name);
//!     return 0;
//! }
//! ```
//!
//! It is attached to nothing and runs when we ask (`BPF_PROG_RUN`). Since aya knows no programs of this type, its
//! instructions stand below and the four commands of bpf(2) go to the kernel directly.
//!
//! # Minimum kernel version
//! 5.14 (`BPF_PROG_TYPE_SYSCALL`, commit 79a7f8bdb159); `bpf_snprintf` is of 5.13 (commit 7b15523a989b).
//! `CAP_BPF` and `CAP_PERFMON` to load, none to ask.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `enum bpf_cmd` and other numbers of include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_RUN: c_long = 10;
const BPF_MAP_FREEZE: c_long = 22;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_RDONLY_PROG: u32 = 1 << 7;
const BPF_PROG_TYPE_SYSCALL: u32 = 31;
const BPF_F_SLEEPABLE: u32 = 1 << 4;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
const BPF_FUNC_SNPRINTF: i32 = 165;

/// How long a name may be, in words of 8 bytes, its final zero byte included. The program keeps it on its stack of 512
/// bytes. The kernel's longest are of 511 bytes since 6.1, those of C code below 70.
const NAME_WORDS: usize = 31;

/// The program, ready to be asked.
#[derive(Debug)]
pub struct KernelLookup {
    program: OwnedFd,
}

/// What goes to the program and comes back.
#[repr(C)]
struct Question {
    address: u64,
    name: [u64; NAME_WORDS],
}

impl KernelLookup {
    /// Loads the program.
    ///
    /// # Errors
    /// What bpf(2) gives: an older kernel, or a missing capability.
    pub fn load() -> io::Result<Self> {
        // A format must lie in memory that nobody can change any more.
        let map = owned(bpf(
            BPF_MAP_CREATE,
            &mut MapCreate {
                kind: BPF_MAP_TYPE_ARRAY,
                key: 4,
                value: 8,
                entries: 1,
                flags: BPF_F_RDONLY_PROG,
            },
        )?);
        let (index, format) = (0_u32, *b"%ps\0\0\0\0\0");
        let map_fd = map.as_raw_fd();
        bpf(
            BPF_MAP_UPDATE_ELEM,
            &mut MapUpdate { map_fd, padding: 0, key: address(&index), value: address(&format), flags: 0 },
        )?;
        bpf(BPF_MAP_FREEZE, &mut MapFreeze { map_fd })?;
        let instructions = instructions(map_fd);
        let program = owned(bpf(
            BPF_PROG_LOAD,
            &mut ProgramLoad {
                kind: BPF_PROG_TYPE_SYSCALL,
                instruction_count: instructions.len() as u32,
                instructions: instructions.as_ptr() as u64,
                // What the kernel lets use its GPL helpers, of which `bpf_snprintf` is one.
                license: c"Dual MIT/GPL".as_ptr() as u64,
                log_level: 0,
                log_size: 0,
                log: 0,
                kernel_version: 0,
                flags: BPF_F_SLEEPABLE,
            },
        )?);
        Ok(Self { program })
    }

    /// What `%ps` writes for `address`: `name` or `name [module]`; for one without a name nothing or its number.
    ///
    /// # Errors
    /// What bpf(2) gives.
    pub fn ask(&self, address: u64) -> io::Result<Vec<u8>> {
        let mut question = Question { address, name: [0; NAME_WORDS] };
        let mut run = ProgramRun {
            program: self.program.as_raw_fd(),
            context_bytes: size_of::<Question>() as u32,
            context: (&raw mut question) as u64,
            ..ProgramRun::default()
        };
        bpf(BPF_PROG_RUN, &mut run)?;
        let bytes = question.name.iter().flat_map(|word| word.to_ne_bytes());
        Ok(bytes.take_while(|&byte| byte != 0).collect())
    }
}

/// One instruction (`struct bpf_insn`): RFC 9669, section 3.
const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// The program; `format` is the map that holds the format.
fn instructions(format: i32) -> Vec<u64> {
    const LOAD: u8 = 0x79;
    const STORE: u8 = 0x7b;
    const STORE_NUMBER: u8 = 0x7a;
    const MOVE: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const ADD_NUMBER: u8 = 0x07;
    const LOAD_MAP: u8 = 0x18;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    // Below the frame pointer (r10): the address, and below that the name.
    let address = -8_i16;
    let name = address - 8 * NAME_WORDS as i16;
    let words = || (0..NAME_WORDS as i16).map(|word| 8 * word);

    let mut program = vec![
        instruction(MOVE, 6, 1, 0, 0),
        instruction(LOAD, 2, 6, 0, 0),
        instruction(STORE, 10, 2, address, 0),
    ];
    program.extend(words().map(|word| instruction(STORE_NUMBER, 10, 0, name + word, 0)));
    program.extend([
        instruction(MOVE, 1, 10, 0, 0),
        instruction(ADD_NUMBER, 1, 0, 0, i32::from(name)),
        instruction(MOVE_NUMBER, 2, 0, 0, 8 * NAME_WORDS as i32),
        instruction(LOAD_MAP, 3, BPF_PSEUDO_MAP_VALUE, 0, format),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, 4, 10, 0, 0),
        instruction(ADD_NUMBER, 4, 0, 0, i32::from(address)),
        instruction(MOVE_NUMBER, 5, 0, 0, 8),
        instruction(CALL, 0, 0, 0, BPF_FUNC_SNPRINTF),
    ]);
    for word in words() {
        program.push(instruction(LOAD, 1, 10, name + word, 0));
        program.push(instruction(STORE, 6, 1, 8 + word, 0));
    }
    program.extend([instruction(MOVE_NUMBER, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// The beginnings of `union bpf_attr` for each command; the kernel takes what it is not given for zero.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: i32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct MapFreeze {
    map_fd: i32,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramRun {
    program: i32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_bytes: u32,
    context_out_bytes: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// A part of `union bpf_attr`.
trait Attribute {}
impl Attribute for MapCreate {}
impl Attribute for MapUpdate {}
impl Attribute for MapFreeze {}
impl Attribute for ProgramLoad {}
impl Attribute for ProgramRun {}

fn bpf<A: Attribute>(command: c_long, attribute: &mut A) -> io::Result<i32> {
    // SAFETY: `attribute` is a live, exclusively borrowed structure laid out as the kernel expects for its command, of
    // the size given. The pointers in it are to live values of this module: a key, a value, instructions, a licence,
    // and the question, which alone is written to and is as long as `context_bytes` says.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<A>() as c_long)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// The descriptor that a command gave us.
fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us (`BPF_MAP_CREATE`, `BPF_PROG_LOAD`) and nothing else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Where `value` lies, for the kernel.
fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}
