//! Names of code that a runtime made: the perf map a JIT writes to `/tmp/perf-PID.map`.
//!
//! One line a function, `START SIZE NAME` with hexadecimal numbers, in the order in which code was made: memory is
//! used again, so a later line overrides an earlier one. Format: tools/perf/Documentation/jit-interface.txt in the
//! kernel's sources.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::lines::{End, for_each_line, hexadecimal};
use super::sorted::Sorted;

/// How much of a map is read: any program may write one, and a JIT that has made a million functions is at 100 MB.
const MAX_TEXT_BYTES: u64 = 128 * 1024 * 1024;
/// How many lines may cover one address on average. Code memory is reused some tens of times in a long life.
const MAX_COVERS_PER_ADDRESS: usize = 4096;
/// The longest name that is kept, in bytes; longer ones are cut. Those of JavaScript hold the file's path.
const MAX_NAME_BYTES: usize = 1024;

/// Names by a perf map.
#[derive(Debug)]
pub struct PerfMapNames {
    /// One entry for each address asked for, in the same order.
    pub names: Vec<Option<Arc<str>>>,
    /// Why a part of the map was not read.
    pub shortfall: Option<&'static str>,
}

/// The names of `addresses`, as the process sees them, by the perf map `text`.
///
/// # Errors
/// What reading `text` gives.
pub fn perf_map(text: impl Read, addresses: &[u64]) -> io::Result<PerfMapNames> {
    let sorted = Sorted::new(addresses.iter().copied().map(Some));
    let wanted = sorted.addresses();
    let mut names: Vec<Option<Arc<str>>> = vec![None; wanted.len()];
    let mut covers_left = wanted.len().saturating_mul(MAX_COVERS_PER_ADDRESS);
    let mut shortfall = None;
    let end = for_each_line(text, MAX_TEXT_BYTES, |line| {
        let Some((start, size, name)) = entry(line) else { return ControlFlow::Continue(()) };
        let first = wanted.partition_point(|&address| address < start);
        let count = wanted[first..].partition_point(|&address| address - start < size);
        if count == 0 {
            return ControlFlow::Continue(());
        }
        let Some(left) = covers_left.checked_sub(count) else {
            shortfall = Some("its functions overlap without end");
            return ControlFlow::Break(());
        };
        covers_left = left;
        let name: Arc<str> = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME_BYTES)]).into();
        names[first..first + count].fill(Some(name));
        ControlFlow::Continue(())
    })?;
    if end == End::Limit {
        shortfall = Some("it has more than 128 MiB");
    }
    Ok(PerfMapNames { names: sorted.restore(names), shortfall })
}

/// Start, size in bytes and name of the function that `line` describes.
fn entry(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    // Some writers print numbers with `%#lx`.
    let number = |text| {
        let (value, rest) = hexadecimal(<[u8]>::strip_prefix(text, b"0x").unwrap_or(text))?;
        Some((value, rest.strip_prefix(b" ")?))
    };
    let (start, rest) = number(line)?;
    let (size, name) = number(rest)?;
    let name = name.trim_ascii();
    (!name.is_empty()).then_some((start, size, name))
}
