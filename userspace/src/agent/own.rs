//! What the agent itself takes: CPU time, memory, and which build it is.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use crate::aggregate::snapshot::{FamilySeries, Series, Value};
use crate::metrics::{Metric, MetricType, Scope};
use crate::serve::Check;

macro_rules! own_metrics {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(static $id: Metric = Metric {
            name: $name, kind: MetricType::$kind, scope: Scope::Host, labels: &[$($label),*], help: $help,
        };)*
    };
}

own_metrics! {
    BUILD_INFO = Gauge "hostscope_agent_build_info" ["version"] "1, with the build in its labels";
    CPU_SECONDS = Counter "hostscope_agent_cpu_seconds_total" [] "CPU time that the agent has used, without its eBPF programs";
    RESIDENT_BYTES = Gauge "hostscope_agent_resident_bytes" [] "Memory of the agent that is resident";
    COLLECTIONS = Counter "hostscope_agent_collections_total" [] "Times the kernel's figures were read";
    COLLECTION_SECONDS = Counter "hostscope_agent_collection_seconds_total" [] "Time that this took, without the one under way";
}

/// Reads the agent's own figures, once a turn.
pub struct OwnFigures {
    collections: u64,
    last_began: Option<Instant>,
    seconds: f64,
}

impl OwnFigures {
    /// Nothing has been collected yet.
    #[must_use]
    pub fn new() -> Self {
        Self { collections: 0, last_began: None, seconds: 0.0 }
    }

    /// Notes the beginning of a turn, so that the time it takes is known.
    pub fn begin(&mut self) {
        self.last_began = Some(Instant::now());
    }

    /// Notes the end of a turn and appends the figures. The check says whether `/proc` gave them.
    pub fn read(&mut self, families: &mut Vec<FamilySeries>) -> Check {
        self.collections += 1;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let resident_bytes = resident_bytes();
        if let Some(began) = self.last_began.take() {
            self.seconds += began.elapsed().as_secs_f64();
        }
        let build = Series { labels: vec![env!("CARGO_PKG_VERSION").into()], value: Value::Number(1.0) };
        families.push(FamilySeries {
            metric: &BUILD_INFO,
            label_names: BUILD_INFO.labels.to_vec(),
            series: vec![build],
        });
        for (metric, number) in [
            (&CPU_SECONDS, Some(cpu_seconds)),
            (&RESIDENT_BYTES, resident_bytes.map(|bytes| bytes as f64)),
            (&COLLECTIONS, Some(self.collections as f64)),
            (&COLLECTION_SECONDS, Some(self.seconds)),
        ] {
            let one = |number| Series { labels: Vec::new(), value: Value::Number(number) };
            families.push(FamilySeries {
                metric,
                label_names: Vec::new(),
                series: number.map(one).into_iter().collect(),
            });
        }
        let detail = match resident_bytes {
            Some(bytes) => format!("{cpu_seconds:.1} s of CPU time, {:.1} MB", bytes as f64 / 1e6),
            None => "/proc/self/statm cannot be read: mount procfs".into(),
        };
        Check { name: "own figures", ok: resident_bytes.is_some(), detail }
    }
}

impl Default for OwnFigures {
    fn default() -> Self {
        Self::new()
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
        let mut own = OwnFigures::new();
        let mut families = Vec::new();
        own.begin();
        assert!(own.read(&mut families).ok);
        let value = |metric: &Metric| {
            let family = families.iter().find(|family| family.metric == metric).expect("the family");
            let Value::Number(number) = family.series[0].value else { panic!("no number") };
            number
        };
        assert!(
            value(&RESIDENT_BYTES) > 1e6 && value(&CPU_SECONDS) > 0.0 && value(&COLLECTION_SECONDS) > 0.0
        );
        assert!((value(&COLLECTIONS) - 1.0).abs() < f64::EPSILON);
    }
}
