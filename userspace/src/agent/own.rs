//! What the agent itself takes: CPU time, memory, and how long its collections last.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use hostscope_wire::histogram::{BUCKETS, bucket};
use rustix::time::{ClockId, clock_gettime};

use crate::aggregate::latency::{Aggregator, Whose};
use crate::aggregate::series::Delta;
use crate::metrics;
use crate::serve::Check;

/// Reads the agent's own figures, once a turn.
#[derive(Default)]
pub struct OwnFigures {
    collections: u64,
    began: Option<Instant>,
    /// How long the last turn took, in nanoseconds.
    last_ns: Option<u64>,
}

/// CPU time that this process has used, in seconds, without its eBPF programs.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9
}

impl OwnFigures {
    /// Notes the beginning of a turn.
    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Notes the end of a turn; how long it took is told in the next.
    pub fn end(&mut self) {
        self.last_ns = self.began.take().map(|began| began.elapsed().as_nanos() as u64);
    }

    /// Tells the figures. The check says whether `/proc` gave them.
    pub fn tell(&mut self, to: &mut Aggregator) -> Check {
        self.collections += 1;
        let (cpu_seconds, resident_bytes) = (cpu_seconds(), resident_bytes());
        to.set(&metrics::AGENT_BUILD_INFO, None, &[env!("CARGO_PKG_VERSION")], 1.0);
        to.set(&metrics::AGENT_CPU_SECONDS, None, &[], cpu_seconds);
        to.set(&metrics::AGENT_COLLECTIONS, None, &[], self.collections as f64);
        if let Some(duration_ns) = self.last_ns.take() {
            let mut buckets = [0; BUCKETS];
            buckets[bucket(duration_ns)] = 1;
            let delta = Delta { buckets: Some(&buckets), sum: duration_ns, max_ns: duration_ns, errors: 0 };
            to.observe(&metrics::AGENT_COLLECTION_DURATION, Whose::Host, &[], &delta);
        }
        let detail = if let Some(bytes) = resident_bytes {
            to.set(&metrics::AGENT_RESIDENT_MEMORY, None, &[], bytes as f64);
            format!("{cpu_seconds:.1} s of CPU time, {:.1} MB", bytes as f64 / 1e6)
        } else {
            "/proc/self/statm cannot be read: mount procfs".into()
        };
        Check { name: "own figures", ok: resident_bytes.is_some(), detail }
    }
}

/// The second member of `/proc/self/statm` (`proc_pid_statm(5)`), which is in pages.
fn resident_bytes() -> Option<u64> {
    let mut text = [0; 128];
    let length = File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
    let pages: u64 = std::str::from_utf8(&text[..length]).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_of_this_process() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1_000_000) && cpu_seconds() > 0.0);
    }
}
