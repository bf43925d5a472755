//! The measurement's reports in the form in which the API gives them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::report::{Both, Stats};
use crate::aggregate::snapshot::FamilySeries;
use crate::measure::View;
use crate::metrics::METRICS;
use crate::serve::{FamilyStatistics, ProcessName, Statistics, Subject, TimeSpan};

/// Whose figures those are that belong to no service: devices, soft interrupts, the agent.
const HOST: &str = "~host";

impl Statistics for View {
    fn series(&self) -> Vec<FamilySeries> {
        Self::series(self)
    }

    fn families(&self) -> Vec<&'static str> {
        METRICS.iter().map(|metric| metric.short_name()).collect()
    }

    fn duration(&self, span: TimeSpan) -> Duration {
        let (window_seconds, total_seconds) = self.seconds();
        let seconds = if span == TimeSpan::Window { window_seconds } else { total_seconds };
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    fn services(&self, span: TimeSpan) -> Vec<Subject> {
        let mut subjects: BTreeMap<Arc<str>, Vec<FamilyStatistics>> = BTreeMap::new();
        for family in self.latency().families {
            for mut series in family.series {
                let service = series.labels.remove("service").unwrap_or_else(|| HOST.into());
                let labels = series.labels.into_iter().collect();
                subjects.entry(service).or_default().push(figures(
                    family.family,
                    labels,
                    &series.stats,
                    span,
                ));
            }
        }
        subjects.into_iter().map(|(service, families)| Subject { service, process: None, families }).collect()
    }

    fn processes(&self, span: TimeSpan) -> Vec<Subject> {
        let one = |process: crate::aggregate::report::ProcessStats| Subject {
            service: process.service,
            process: Some(ProcessName {
                pid: process.pid,
                start_time_seconds: process.start_time_seconds,
                name: process.name,
                cpu_seconds: process.cpu_seconds,
                cpu_ratio: process.cpu_ratio,
                resident_memory_bytes: process.resident_memory_bytes,
            }),
            families: process
                .families
                .iter()
                .map(|(family, stats)| figures(family, Vec::new(), stats, span))
                .collect(),
        };
        Self::processes(self).processes.into_iter().map(one).collect()
    }
}

fn figures(
    family: &'static str,
    labels: Vec<(&'static str, Arc<str>)>,
    stats: &Both,
    span: TimeSpan,
) -> FamilyStatistics {
    let stats: &Stats = if span == TimeSpan::Window { &stats.window } else { &stats.total };
    FamilyStatistics {
        family,
        labels,
        count: stats.count,
        rate: stats.rate_per_second,
        errors: stats.errors,
        sum: stats.sum_seconds,
        p50: stats.p50_seconds,
        p90: stats.p90_seconds,
        p95: stats.p95_seconds,
        p99: stats.p99_seconds,
        max: stats.max_seconds,
    }
}
