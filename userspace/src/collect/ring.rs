//! Records of our programs: bytes to wire types.

use hostscope_wire::event::{EventHeader, EventKind};
use hostscope_wire::limits::COMM_BYTES;
use hostscope_wire::process::ProcessRecord;
use hostscope_wire::stack::StackHeader;

/// A record of the ring buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RingRecord<'a> {
    /// A new stack.
    Stack(StackHeader, StackFrames<'a>),
    /// A new process.
    Fork(ProcessRecord),
    /// A process runs a new program; its mappings have been told before.
    Exec(ProcessRecord),
    /// The last thread of a process has ended.
    Exit(ProcessRecord),
}

/// The frames of a stack, leaf first, where they lie in the buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StackFrames<'a>(&'a [u8]);

impl<'a> StackFrames<'a> {
    /// The addresses.
    pub fn iter(self) -> impl Iterator<Item = u64> + 'a {
        self.0.chunks_exact(8).map(|bytes| u64_at(bytes, 0).unwrap_or(0))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

/// When the record was written, in nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn time_ns(record: &[u8]) -> Option<u64> {
    u64_at(record, 0)
}

/// The record that `bytes` hold; `None` where they hold none that this version knows.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<RingRecord<'_>> {
    let header =
        EventHeader { time_ns: u64_at(bytes, 0)?, kind: u32_at(bytes, 8)?, reserved: u32_at(bytes, 12)? };
    match EventKind::from_number(header.kind)? {
        EventKind::Stack => {
            let stack = StackHeader {
                header,
                stack_id: u64_at(bytes, 16)?,
                start_time_ns: u64_at(bytes, 24)?,
                tgid: u32_at(bytes, 32)?,
                end: u32_at(bytes, 36)?,
                kernel_frames: u32_at(bytes, 40)?,
                user_frames: u32_at(bytes, 44)?,
            };
            let frames = stack.kernel_frames.checked_add(stack.user_frames)? as usize;
            let start = size_of::<StackHeader>();
            Some(RingRecord::Stack(stack, StackFrames(bytes.get(start..start + frames.checked_mul(8)?)?)))
        }
        kind => {
            let record = ProcessRecord {
                header,
                start_time_ns: u64_at(bytes, 16)?,
                tgid: u32_at(bytes, 24)?,
                parent_tgid: u32_at(bytes, 28)?,
                comm: bytes.get(32..32 + COMM_BYTES)?.try_into().ok()?,
                cgroup_id: u64_at(bytes, 48)?,
                cpu_ns: u64_at(bytes, 56)?,
                user_ticks_ns: u64_at(bytes, 64)?,
                system_ticks_ns: u64_at(bytes, 72)?,
            };
            Some(match kind {
                EventKind::Fork => RingRecord::Fork(record),
                EventKind::Exec => RingRecord::Exec(record),
                _ => RingRecord::Exit(record),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack_bytes(frames: &[u64], claimed: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        bytes.extend(88u64.to_ne_bytes());
        bytes.extend(42u32.to_ne_bytes());
        bytes.extend(2u32.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend((claimed - 1).to_ne_bytes());
        bytes.extend(frames.iter().flat_map(|frame| frame.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_stack_is_read_as_it_was_written() {
        let bytes = stack_bytes(&[1, 2, 3], 3);
        let Some(RingRecord::Stack(stack, frames)) = parse(&bytes) else { panic!("not a stack") };
        assert_eq!((stack.tgid, stack.end, stack.kernel_frames, stack.user_frames), (42, 2, 1, 2));
        assert_eq!(frames.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(time_ns(&bytes), Some(5));
    }

    #[test]
    fn what_is_cut_short_or_lies_about_its_length_is_refused() {
        let bytes = stack_bytes(&[1, 2, 3], 3);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), None, "{end} bytes");
        }
        assert_eq!(parse(&stack_bytes(&[1], u32::MAX)), None);
    }
}
