//! Offsets of struct members from the running kernel's BTF.
//!
//! One pass over the type section, no table of types but an index of their places: 5.5 MB of BTF in a few
//! milliseconds, where a general reader takes ten times as long. Format: Documentation/bpf/btf.rst of the kernel.

use std::collections::HashMap;
use std::fs::File;
use std::io;

/// Why a struct or member was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF, or cut short.
    Malformed,
    /// No struct of this name.
    NoStruct(String),
    /// The struct has no member of this name.
    NoMember(String),
}

impl std::fmt::Display for BtfError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => write!(formatter, "the kernel's BTF is damaged"),
            Self::NoStruct(name) => write!(formatter, "the kernel's BTF has no struct {name}"),
            Self::NoMember(name) => write!(formatter, "the kernel's BTF has no member {name}"),
        }
    }
}

/// Where the kernel shows its own types; since 5.4 with `CONFIG_DEBUG_INFO_BTF`.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The folder of [`VMLINUX`].
pub const FOLDER: &str = "/sys/kernel/btf";

/// The running kernel's types, mapped or read.
pub enum Vmlinux {
    /// The kernel's own memory.
    Mapped(memmap2::Mmap),
    /// A copy.
    Read(Vec<u8>),
}

impl Vmlinux {
    /// Maps [`VMLINUX`], which kernels allow since 6.16 ("btf: Allow mmap of vmlinux btf"; private mappings only), or
    /// else reads it: 5 ms and 5.5 MB, since sysfs gives out a page a call.
    ///
    /// # Errors
    /// There is no such file.
    pub fn open() -> io::Result<Self> {
        let file = File::open(VMLINUX)?;
        // SAFETY: the file is the kernel's read-only data of its own types, which never change or go.
        match unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) } {
            Ok(mapped) => Ok(Self::Mapped(mapped)),
            Err(_) => std::fs::read(VMLINUX).map(Self::Read),
        }
    }
}

impl std::ops::Deref for Vmlinux {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Read(read) => read,
        }
    }
}

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNCTION_PROTOTYPE: u32 = 13;
/// Anonymous members nest a few levels in the kernel; a limit keeps a damaged file from recursing for ever.
const MAX_NESTING: u32 = 16;

/// BTF in memory, with the place of every type.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offset of type `i + 1` within `types`.
    places: Vec<u32>,
    structs: HashMap<&'a [u8], u32>,
    typedefs: HashMap<&'a [u8], u32>,
    enums: HashMap<&'a [u8], u32>,
}

impl<'a> Btf<'a> {
    /// Indexes `data`; of the named structs, typedefs and enumerations only those in `wanted`.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn parse(data: &'a [u8], wanted: &[&str]) -> Result<Self, BtfError> {
        let word = |at: usize| u32_at(data, at).ok_or(BtfError::Malformed);
        if data.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(BtfError::Malformed);
        }
        let header_bytes = word(4)? as usize;
        let section = |offset: u32, bytes: u32| {
            let start = header_bytes.checked_add(offset as usize)?;
            data.get(start..start.checked_add(bytes as usize)?)
        };
        let types = section(word(8)?, word(12)?).ok_or(BtfError::Malformed)?;
        let strings = section(word(16)?, word(20)?).ok_or(BtfError::Malformed)?;
        let mut btf = Self {
            types,
            strings,
            places: Vec::with_capacity(types.len() / 32),
            structs: HashMap::new(),
            typedefs: HashMap::new(),
            enums: HashMap::new(),
        };
        btf.index(wanted)?;
        Ok(btf)
    }

    fn index(&mut self, wanted: &[&str]) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let (Some(name), Some(info)) = (u32_at(self.types, at), u32_at(self.types, at + 4)) else {
                return Err(BtfError::Malformed);
            };
            self.places.push(at as u32);
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if matches!(kind, KIND_STRUCT | KIND_TYPEDEF | KIND_ENUM)
                && let Some(name) = self.string(name)
                && wanted.iter().any(|wanted| wanted.as_bytes() == name)
            {
                let named = match kind {
                    KIND_STRUCT => &mut self.structs,
                    KIND_TYPEDEF => &mut self.typedefs,
                    _ => &mut self.enums,
                };
                named.entry(name).or_insert(self.places.len() as u32);
            }
            at += 12 + extra_bytes(kind, members).ok_or(BtfError::Malformed)?;
        }
        Ok(())
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.iter().position(|&byte| byte == 0).map(|end| &rest[..end])
    }

    /// The offset in bytes of `member` within `structure`, through anonymous structs and unions; `a.b` is the member `b` of `a`.
    ///
    /// # Errors
    /// Which of both does not exist.
    pub fn member_offset(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        self.member_bit_offset(structure, member).map(|bits| bits / 8)
    }

    /// Likewise in bits, for bit fields.
    ///
    /// # Errors
    /// Which of both does not exist.
    pub fn member_bit_offset(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        let &id =
            self.structs.get(structure.as_bytes()).ok_or_else(|| BtfError::NoStruct(structure.to_owned()))?;
        let missing = || BtfError::NoMember(format!("{structure}.{member}"));
        let step = |(bits, id): (u32, u32), name: &str| {
            let (offset, inner) = self.find(id, name.as_bytes(), 0)?;
            Some((bits.checked_add(offset)?, inner))
        };
        member.split('.').try_fold((0, id), step).map(|(bits, _)| bits).ok_or_else(missing)
    }

    /// The size of `structure` in bytes.
    ///
    /// # Errors
    /// [`BtfError::NoStruct`].
    pub fn size(&self, structure: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoStruct(structure.to_owned());
        let &id = self.structs.get(structure.as_bytes()).ok_or_else(missing)?;
        let place = *self.places.get(id as usize - 1).ok_or_else(missing)? as usize;
        u32_at(self.types, place + 8).ok_or_else(missing)
    }

    /// How many arguments a tracepoint has, told from its `btf_trace_NAME`: a typedef of a pointer to a function that takes one
    /// more before them. `None` where the kernel does not have it.
    #[must_use]
    pub fn tracepoint_arguments(&self, typedef: &str) -> Option<u32> {
        let pointer = self.word(*self.typedefs.get(typedef.as_bytes())?, 8)?;
        let function = self.word(pointer, 8)?;
        let info = self.word(function, 4)?;
        (info >> 24 & 0x1f == KIND_FUNCTION_PROTOTYPE).then_some((info & 0xffff).checked_sub(1)?)
    }

    /// The value of `name` in the enumeration `enumeration`.
    #[must_use]
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let id = *self.enums.get(enumeration.as_bytes())?;
        let count = (self.word(id, 4)? & 0xffff) as usize;
        let at = (0..count)
            .map(|index| 12 + index * 8)
            .find(|&at| self.word(id, at).and_then(|offset| self.string(offset)) == Some(name.as_bytes()))?;
        self.word(id, at + 4)
    }

    /// The 32-bit word at byte `at` of type `id`.
    fn word(&self, id: u32, at: usize) -> Option<u32> {
        let place = *self.places.get((id as usize).checked_sub(1)?)? as usize;
        u32_at(self.types, place + at)
    }

    /// The offset in bits of a member of type `id`, and its own type.
    fn find(&self, id: u32, wanted: &[u8], nesting: u32) -> Option<(u32, u32)> {
        if nesting > MAX_NESTING {
            return None;
        }
        let place = *self.places.get((id as usize).checked_sub(1)?)? as usize;
        let info = u32_at(self.types, place + 4)?;
        if !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let at = place + 12 + index * 12;
            let (name, member_type, offset) =
                (u32_at(self.types, at)?, u32_at(self.types, at + 4)?, u32_at(self.types, at + 8)?);
            // With bit fields in the struct the upper byte of an offset is the field's width.
            let offset = if bitfields { offset & 0x00ff_ffff } else { offset };
            if name == 0 {
                if let Some((inner, found)) = self.find(member_type, wanted, nesting + 1) {
                    return Some((offset.checked_add(inner)?, found));
                }
            } else if self.string(name) == Some(wanted) {
                return Some((offset, member_type));
            }
        }
        None
    }
}

/// Bytes behind the 12 common ones of a type, by kind.
fn extra_bytes(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // int, var, decl tag
        1 | 14 | 17 => 4,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => members * 12,
        // enum, function prototype
        6 | 13 => members * 8,
        _ => return None,
    })
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_members_of_the_running_kernel() {
        let data = std::fs::read(VMLINUX).expect("a kernel with BTF");
        let btf = Btf::parse(&data, &["task_struct", "upid", "pid"]).expect("valid BTF");
        let tgid = btf.member_offset("task_struct", "tgid").expect("tgid");
        assert_eq!(btf.member_offset("task_struct", "pid").expect("pid") + 4, tgid);
        assert_eq!(btf.size("upid").expect("upid"), 16);
        assert_eq!(btf.member_offset("upid", "nr").expect("nr"), 0);
        let (inner, outer) = ("sched_info.run_delay", "sched_info");
        let place = |member| btf.member_offset("task_struct", member).expect(member);
        assert!(place(inner) > place(outer));
        assert_eq!(
            btf.member_offset("task_struct", "nonsense"),
            Err(BtfError::NoMember("task_struct.nonsense".into()))
        );
        assert!(matches!(btf.member_offset("no_such", "nr"), Err(BtfError::NoStruct(_))));
    }

    #[test]
    fn counts_the_arguments_of_tracepoints() {
        let data = std::fs::read(VMLINUX).expect("a kernel with BTF");
        let btf = Btf::parse(&data, &["btf_trace_softirq_entry", "btf_trace_inet_sock_set_state", "upid"])
            .expect("valid BTF");
        assert_eq!(btf.tracepoint_arguments("btf_trace_softirq_entry"), Some(1));
        assert_eq!(btf.tracepoint_arguments("btf_trace_inet_sock_set_state"), Some(3));
        assert_eq!(btf.tracepoint_arguments("btf_trace_nonsense"), None);
        assert_eq!(btf.tracepoint_arguments("upid"), None);
    }

    #[test]
    fn finds_enumerators() {
        let data = std::fs::read(VMLINUX).expect("a kernel with BTF");
        let btf = Btf::parse(&data, &["bpf_map_type"]).expect("valid BTF");
        assert_eq!(btf.enumerator("bpf_map_type", "BPF_MAP_TYPE_RINGBUF"), Some(27));
        assert_eq!(btf.enumerator("bpf_map_type", "nonsense"), None);
    }

    #[test]
    fn truncated_data_is_refused_without_a_panic() {
        let data = std::fs::read(VMLINUX).expect("a kernel with BTF");
        for bytes in (0..4096).chain([data.len() - 1, data.len() / 2]) {
            let _ = Btf::parse(&data[..bytes], &["task_struct"]);
        }
    }
}
