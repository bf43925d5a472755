//! The kernel's own records of new executable mappings and of execs (`include/uapi/linux/perf_event.h`,
//! `enum perf_event_type`).

use std::ops::Range;

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_MMAP2: u32 = 10;
/// `PERF_RECORD_MISC_COMM_EXEC`: the name changed by an exec, not by the program itself.
const MISC_COMM_EXEC: u16 = 1 << 13;
const PROT_EXEC: u32 = 4;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingEvent<'a> {
    /// A file (or memory) is mapped as code.
    New(NewMapping<'a>),
    /// The process has begun an exec: nothing of its old mappings is left.
    Exec {
        /// The process, in hostscope's own pid namespace.
        pid: u32,
    },
    /// The ring was full: this many records are missing.
    Lost(u64),
}

/// A new executable mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMapping<'a> {
    /// The process, in hostscope's own pid namespace.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// The file's device.
    pub device: (u32, u32),
    /// The file's inode; 0 where it is no file.
    pub inode: u64,
    /// The file's path as the process sees it, or a word in brackets or after `//`.
    pub path: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

/// Finds the records in what was read from rings: their time (the last 8 bytes of each, `PERF_SAMPLE_TIME` with
/// `sample_id_all`) and place.
pub fn split(bytes: &[u8], mut each: impl FnMut(u64, Range<usize>)) {
    let mut start = 0;
    while let Some(size) = u16_at(bytes, start + 6).map(usize::from) {
        let end = start + size;
        if size < 16 || end > bytes.len() {
            return;
        }
        if let Some(time_ns) = u64_at(bytes, end - 8) {
            each(time_ns, start..end);
        }
        start = end;
    }
}

/// The event in one record; `None` where it is of no interest.
#[must_use]
pub fn parse(record: &[u8]) -> Option<MappingEvent<'_>> {
    let (kind, misc) = (u32_at(record, 0)?, u16_at(record, 4)?);
    match kind {
        RECORD_LOST => Some(MappingEvent::Lost(u64_at(record, 16)?)),
        RECORD_COMM if misc & MISC_COMM_EXEC != 0 => Some(MappingEvent::Exec { pid: u32_at(record, 8)? }),
        RECORD_MMAP2 => {
            let (start, length) = (u64_at(record, 16)?, u64_at(record, 24)?);
            if u32_at(record, 64)? & PROT_EXEC == 0 {
                return None;
            }
            let name = record.get(72..record.len() - 8)?;
            let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
            Some(MappingEvent::New(NewMapping {
                pid: u32_at(record, 8)?,
                start,
                end: start.checked_add(length)?,
                file_offset: u64_at(record, 32)?,
                device: (u32_at(record, 40)?, u32_at(record, 44)?),
                inode: u64_at(record, 48)?,
                path: name,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, misc: u16, body: &[u8], time_ns: u64) -> Vec<u8> {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend((8 + body.len() as u16 + 8).to_ne_bytes());
        bytes.extend(body);
        bytes.extend(time_ns.to_ne_bytes());
        bytes
    }

    fn mmap2(path: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(7u32.to_ne_bytes());
        body.extend(7u32.to_ne_bytes());
        body.extend(0x1000u64.to_ne_bytes());
        body.extend(0x2000u64.to_ne_bytes());
        body.extend(0x400u64.to_ne_bytes());
        body.extend(8u32.to_ne_bytes());
        body.extend(1u32.to_ne_bytes());
        body.extend(99u64.to_ne_bytes());
        body.extend(0u64.to_ne_bytes());
        body.extend(5u32.to_ne_bytes());
        body.extend(2u32.to_ne_bytes());
        body.extend(path);
        body
    }

    #[test]
    fn records_are_split_and_read() {
        let mut bytes = record(RECORD_MMAP2, 2, &mmap2(b"/bin/true\0\0\0\0\0\0\0"), 10);
        bytes.extend(record(
            RECORD_COMM,
            MISC_COMM_EXEC,
            &[7, 0, 0, 0, 7, 0, 0, 0, b'x', 0, 0, 0, 0, 0, 0, 0],
            5,
        ));
        let mut seen = Vec::new();
        split(&bytes, |time_ns, range| seen.push((time_ns, parse(&bytes[range]))));
        assert_eq!(seen[1], (5, Some(MappingEvent::Exec { pid: 7 })));
        let Some(MappingEvent::New(mapping)) = seen[0].1 else { panic!("no mapping") };
        assert_eq!((mapping.pid, mapping.start, mapping.end, mapping.inode), (7, 0x1000, 0x3000, 99));
        assert_eq!(mapping.path, b"/bin/true");
    }

    #[test]
    fn garbage_is_passed_over() {
        let bytes = record(RECORD_MMAP2, 2, &mmap2(b"/x\0\0\0\0\0\0"), 10);
        for end in 0..bytes.len() {
            split(&bytes[..end], |_, _| panic!("a record in {end} bytes"));
            let _ = parse(&bytes[..end]);
        }
    }
}
