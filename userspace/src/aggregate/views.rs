//! What the aggregator knows, as others want it: series for `/metrics`, statistics for the JSON API.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hostscope_wire::histogram::bound_ns;

use super::latency::{Aggregator, Process, carries_service};
use super::report::{Both, LatencyFamily, LatencyReport, LatencySeries, ProcessReport, ProcessStats, Stats};
use super::series::{Key, MetricRef, Owner, at};
use super::snapshot::{FamilySeries, Series, Value};
use super::statistics::Entry;
use crate::metrics::{CPU_SECONDS, METRICS, MetricType, OTHER};
use crate::targets::TICK_NS;

impl Aggregator {
    /// The exported series as of the end of the last interval, in the order of the table of metrics.
    #[must_use]
    pub fn snapshot(&self) -> Vec<FamilySeries> {
        let mut families: HashMap<MetricRef, Vec<Series>> = HashMap::new();
        for (key, counts) in self.exports.series() {
            let metric = key.metric.0;
            let sum = counts.values[at::SUM] as f64;
            let value = match metric.kind {
                MetricType::Histogram => Value::Histogram(Box::new(counts.histogram())),
                MetricType::Counter | MetricType::Gauge if metric.is_time() => Value::Number(sum / 1e9),
                MetricType::Counter | MetricType::Gauge => Value::Number(sum),
            };
            let labels = self.label_values(key);
            families.entry(key.metric).or_default().push(Series { labels, value });
        }
        for (key, value) in self.exports.gauges() {
            let (labels, value) = (self.label_values(key), Value::Number(value));
            families.entry(key.metric).or_default().push(Series { labels, value });
        }
        let in_order = METRICS.iter().filter_map(|&metric| {
            let mut series = families.remove(&MetricRef(metric))?;
            series.sort_unstable_by(|left, right| left.labels.cmp(&right.labels));
            let service = carries_service(metric, &self.settings).then_some("service");
            let label_names = service.into_iter().chain(metric.labels.iter().copied()).collect();
            Some(FamilySeries { metric, label_names, series })
        });
        in_order.collect()
    }

    /// Everything by label set and service, sorted by labels.
    #[must_use]
    pub fn latency_report(&self) -> LatencyReport {
        let mut families: HashMap<MetricRef, Vec<LatencySeries>> = HashMap::new();
        for entry in self.statistics.entries() {
            let key = &entry.key;
            if matches!(key.owner, Owner::Process(_)) {
                continue;
            }
            let mut labels: BTreeMap<&'static str, Arc<str>> = self.label_pairs(key).collect();
            labels.extend(self.service_name(key.owner).map(|service| ("service", service)));
            let series = LatencySeries { labels, stats: self.both(entry), buckets: filled_buckets(entry) };
            families.entry(key.metric).or_default().push(series);
        }
        let in_order = METRICS.iter().filter_map(|&metric| {
            let mut series = families.remove(&MetricRef(metric))?;
            series.sort_unstable_by(|left, right| left.labels.cmp(&right.labels));
            Some(LatencyFamily {
                family: metric.short_name(),
                metric: metric.name,
                help: metric.help,
                series,
            })
        });
        LatencyReport {
            window_seconds: self.statistics.window_seconds(),
            total_seconds: self.total_seconds(),
            families: in_order.collect(),
        }
    }

    /// Every process of which something was measured, those with the most CPU time in the window first.
    #[must_use]
    pub fn process_report(&self) -> ProcessReport {
        let mut processes: HashMap<u32, ProcessStats> =
            self.processes.iter().map(|(index, process)| (index, blank(process))).collect();
        for entry in self.statistics.entries() {
            let Owner::Process(index) = entry.key.owner else { continue };
            let Some(process) = processes.get_mut(&index) else { continue };
            let both = self.both(entry);
            if entry.key.metric == MetricRef(&CPU_SECONDS) {
                process.cpu_seconds = both.total.sum_seconds.unwrap_or(0.0);
                process.cpu_ratio = both.window.rate_per_second;
            }
            process.families.insert(entry.key.metric.0.short_name(), both);
        }
        let mut report = ProcessReport {
            window_seconds: self.statistics.window_seconds(),
            total_seconds: self.total_seconds(),
            processes: processes.into_values().collect(),
        };
        report.processes.sort_unstable_by_key(|process| process.pid);
        report.sort(None, super::report::SortBy::Rate);
        report
    }

    /// What the window spans now, and how long it is since the start, in seconds.
    #[must_use]
    pub fn seconds(&self) -> (f64, f64) {
        (self.statistics.window_seconds(), self.total_seconds())
    }

    fn total_seconds(&self) -> f64 {
        self.now_ns.saturating_sub(self.began_ns) as f64 / 1e9
    }

    fn both(&self, entry: &Entry) -> Both {
        let metric = entry.key.metric.0;
        Both {
            window: Stats::new(metric, &entry.window(), self.statistics.window_seconds()),
            total: Stats::new(metric, &entry.total(), self.total_seconds()),
        }
    }

    fn service_name(&self, owner: Owner) -> Option<Arc<str>> {
        match owner {
            Owner::Service(index) => Some(self.services.get(index)?.name.clone()),
            Owner::Other => Some(OTHER.into()),
            Owner::Host | Owner::Process(_) => None,
        }
    }

    /// Names and values of the labels beside `service`.
    fn label_pairs(&self, key: &Key) -> impl Iterator<Item = (&'static str, Arc<str>)> {
        let names = key.metric.0.labels.iter().copied();
        names.zip(key.labels).map(|(name, label)| (name, self.projector.symbols.text(label)))
    }

    fn label_values(&self, key: &Key) -> Vec<Arc<str>> {
        self.service_name(key.owner)
            .into_iter()
            .chain(self.label_pairs(key).map(|(_, value)| value))
            .collect()
    }
}

fn filled_buckets(entry: &Entry) -> Vec<(Option<f64>, u64)> {
    let counts = entry.total().values.iter().skip(at::BUCKETS).enumerate();
    let seconds = |bucket| bound_ns(bucket).map(|bound_ns| bound_ns as f64 / 1e9);
    counts.filter(|&(_, &count)| count > 0).map(|(bucket, &count)| (seconds(bucket), count)).collect()
}

fn blank(process: &Process) -> ProcessStats {
    ProcessStats {
        pid: process.key.pid,
        start_time_seconds: (process.key.start_ticks * TICK_NS) as f64 / 1e9,
        service: process.service.clone(),
        name: process.name.clone(),
        cpu_seconds: 0.0,
        cpu_ratio: 0.0,
        resident_memory_bytes: process.resident_bytes,
        families: BTreeMap::new(),
    }
}
