//! What `/proc` tells of a process: its start, its name and its executable mappings.

use std::io::{self, Read};
use std::path::Path;

/// A line of `/proc/PID/maps` that maps code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapsLine<'a> {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// The file's device, major and minor number.
    pub device: (u32, u32),
    /// The file's inode; 0 where it is no file.
    pub inode: u64,
    /// The path, still with ` (deleted)` and octal escapes; empty where there is none.
    pub path: &'a [u8],
}

/// Reads one line of `/proc/PID/maps` (`proc_pid_maps(5)`); `None` where it maps no code or is not such a line.
#[must_use]
pub fn parse_maps_line(line: &[u8]) -> Option<MapsLine<'_>> {
    let mut rest = line;
    let mut word = || {
        let start = rest.iter().position(|&byte| byte != b' ')?;
        let end =
            rest[start..].iter().position(|&byte| byte == b' ').map_or(rest.len(), |length| start + length);
        let word = &rest[start..end];
        rest = &rest[end..];
        Some(word)
    };
    let (range, permissions) = (word()?, word()?);
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let (file_offset, device, inode) = (word()?, word()?, word()?);
    let path_start = rest.iter().position(|&byte| byte != b' ').unwrap_or(rest.len());
    let (start, end) = split_at_byte(range, b'-')?;
    let (major, minor) = split_at_byte(device, b':')?;
    Some(MapsLine {
        start: hex(start)?,
        end: hex(end)?,
        file_offset: hex(file_offset)?,
        device: (hex(major)? as u32, hex(minor)? as u32),
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        path: &rest[path_start..],
    })
}

fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == byte)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The path as the process sees it: without ` (deleted)`, with the kernel's `\012` turned into a line feed again.
#[must_use]
pub fn clean_path(path: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let mut clean = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        if tail.starts_with(b"012") && byte == b'\\' {
            clean.push(b'\n');
            rest = &tail[3..];
        } else {
            clean.push(byte);
            rest = tail;
        }
    }
    clean
}

/// The parts of `/proc/PID/stat` that name a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The main thread's comm.
    pub name: String,
    /// Field 22: ticks of `USER_HZ` since boot.
    pub start_ticks: u64,
    /// By field 9: a thread of the kernel, without a program.
    pub is_kernel_thread: bool,
}

/// `PF_KTHREAD` of `include/linux/sched.h`, the same since Linux 2.6.27.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

/// Reads `/proc/PID/stat` (`proc_pid_stat(5)`). The name stands in parentheses and may hold any byte, parentheses
/// included: the last one ends it.
#[must_use]
pub fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let name = stat.get(open + 1..close)?;
    // Field 3 follows the parenthesis.
    let mut fields = std::str::from_utf8(&stat[close + 1..]).ok()?.split_ascii_whitespace();
    let flags = fields.nth(9 - 3)?.parse::<u64>().ok()?;
    let start_ticks = fields.nth(22 - 10)?.parse().ok()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Stat { name, start_ticks, is_kernel_thread: flags & KERNEL_THREAD_FLAG != 0 })
}

/// The last id in the line `NSpid:` of `/proc/PID/status`: the one the process knows itself by.
#[must_use]
pub fn parse_innermost_pid(status: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()
}

/// Files of `/proc` read with one buffer for all.
pub struct ProcReader {
    buffer: Vec<u8>,
}

/// Mappings of a process that are read at the most: beyond it is no program but an attack or a bug
/// (`vm.max_map_count` is 65,530 by default).
const MAX_MAPS_BYTES: u64 = 32 << 20;

impl ProcReader {
    /// A reader whose buffer grows to the largest file met.
    #[must_use]
    pub fn new() -> Self {
        // Most processes' mappings fit: the kernel gives them out a page at a time, the buffer only saves copies.
        Self { buffer: Vec::with_capacity(16 << 10) }
    }

    /// The file at `path`, which need not be a process's.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, path: &Path) -> io::Result<&[u8]> {
        self.buffer.clear();
        // Not `read_to_end` on the file itself: it would ask for the size of a file that has none.
        std::fs::File::open(path)?.take(MAX_MAPS_BYTES).read_to_end(&mut self.buffer)?;
        Ok(&self.buffer)
    }

    /// Name and start of process `pid`.
    ///
    /// # Errors
    /// It has gone, or `/proc` hides it.
    pub fn stat(&mut self, pid: u32) -> io::Result<Stat> {
        let stat = self.read(Path::new(&format!("/proc/{pid}/stat")))?;
        parse_stat(stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is odd")))
    }

    /// Hands every executable mapping of process `pid` to `each`, in the order of addresses.
    ///
    /// # Errors
    /// It has gone, or the right to look is missing (`CAP_SYS_PTRACE`).
    pub fn executable_mappings(&mut self, pid: u32, mut each: impl FnMut(MapsLine<'_>)) -> io::Result<()> {
        let maps = self.read(Path::new(&format!("/proc/{pid}/maps")))?;
        maps.split(|&byte| byte == b'\n').filter_map(parse_maps_line).for_each(&mut each);
        Ok(())
    }

    /// The id by which process `pid` knows itself, in its own pid namespace.
    pub fn innermost_pid(&mut self, pid: u32) -> Option<u32> {
        let status = self.read(Path::new(&format!("/proc/{pid}/status"))).ok()?;
        parse_innermost_pid(&String::from_utf8_lossy(status))
    }
}

impl Default for ProcReader {
    fn default() -> Self {
        Self::new()
    }
}

/// The id of every process there is.
///
/// # Errors
/// `/proc` is not mounted.
pub fn process_ids() -> io::Result<Vec<u32>> {
    Ok(std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read() {
        let line = b"7f0c1e228000-7f0c1e37d000 r-xp 00028000 fe:00 1311 /usr/lib/a b.so (deleted)";
        let line = parse_maps_line(line).expect("a line");
        assert_eq!((line.start, line.end, line.file_offset), (0x7f0c_1e22_8000, 0x7f0c_1e37_d000, 0x28000));
        assert_eq!((line.device, line.inode), ((0xfe, 0), 1311));
        assert_eq!(clean_path(line.path), b"/usr/lib/a b.so");
        let anonymous = parse_maps_line(b"1000-2000 rwxp 00000000 00:00 0 ").expect("a line");
        assert_eq!((anonymous.path, anonymous.inode), (&b""[..], 0));
        assert_eq!(parse_maps_line(b"1000-2000 rw-p 00000000 00:00 0 [heap]"), None);
        assert_eq!(clean_path(b"/a\\012b\\01"), b"/a\nb\\01");
        for line in [&b""[..], b"1000", b"1000-2000 r-xp", b"x-y r-xp 0 0:0 0", b"1-2 r-xp 0 0 0"] {
            assert_eq!(parse_maps_line(line), None);
        }
    }

    #[test]
    fn names_with_parentheses_do_not_confuse_stat() {
        let stat = b"42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3";
        let expected = Stat { name: "a) b (c".into(), start_ticks: 12345, is_kernel_thread: false };
        assert_eq!(parse_stat(stat), Some(expected));
        let kernel = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 4 0 0";
        assert_eq!(parse_stat(kernel).map(|stat| stat.is_kernel_thread), Some(true));
        assert_eq!(parse_stat(b"42 )x( S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_is_found() {
        let mut reader = ProcReader::new();
        let pid = std::process::id();
        let mut mappings = 0;
        reader.executable_mappings(pid, |_| mappings += 1).expect("own mappings");
        assert!(mappings > 1);
        assert!(reader.stat(pid).expect("own stat").start_ticks > 0);
        assert!(process_ids().expect("proc").contains(&pid));
        assert_eq!(parse_innermost_pid("Name:\tx\nNSpid:\t70\t3\n"), Some(3));
    }
}
