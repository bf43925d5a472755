//! Statistics as the JSON API and the terminal have them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::series::at;
use super::statistics::Counts;
use crate::metrics::{Metric, MetricType};

/// What was counted in a stretch of time. Of a counter there are no quantiles; of a counter of time there is a sum and no
/// count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Observations; or what the counter counts, such as bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Of these, or of the seconds, in each second.
    pub rate_per_second: f64,
    /// Observations that were failures.
    pub errors: u64,
    /// Of what was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_seconds: Option<f64>,
    /// The median, by interpolation (see [`super::snapshot::Histogram::quantile_ns`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_seconds: Option<f64>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_seconds: Option<f64>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_seconds: Option<f64>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds: Option<f64>,
    /// The longest; of a window, a bound of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
}

impl Stats {
    /// From what was counted of `metric` in so many seconds.
    #[must_use]
    pub fn new(metric: &Metric, counts: &Counts<'_>, seconds: f64) -> Self {
        let sum_seconds = metric.is_time().then(|| counts.values[at::SUM] as f64 / 1e9);
        let is_histogram = metric.kind == MetricType::Histogram;
        let count = (is_histogram || !metric.is_time()).then(|| counts.count());
        let amount = count.map_or(sum_seconds.unwrap_or(0.0), |count| count as f64);
        let histogram = is_histogram.then(|| counts.histogram());
        let quantile =
            |quantile: f64| histogram.as_ref().map(|histogram| histogram.quantile_ns(quantile) / 1e9);
        Self {
            count,
            rate_per_second: if seconds > 0.0 { amount / seconds } else { 0.0 },
            errors: counts.values[at::ERRORS],
            sum_seconds,
            p50_seconds: quantile(0.5),
            p90_seconds: quantile(0.9),
            p95_seconds: quantile(0.95),
            p99_seconds: quantile(0.99),
            max_seconds: histogram.as_ref().map(|histogram| histogram.max_ns as f64 / 1e9),
        }
    }
}

/// What to sort by; the largest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    /// [`Stats::count`].
    Count,
    /// [`Stats::rate_per_second`].
    Rate,
    /// [`Stats::errors`].
    Errors,
    /// [`Stats::sum_seconds`].
    Sum,
    /// [`Stats::p50_seconds`].
    P50,
    /// [`Stats::p90_seconds`].
    P90,
    /// [`Stats::p95_seconds`].
    P95,
    /// [`Stats::p99_seconds`].
    P99,
    /// [`Stats::max_seconds`].
    Max,
}

impl SortBy {
    fn of(self, stats: &Stats) -> f64 {
        match self {
            Self::Count => stats.count.map_or(0.0, |count| count as f64),
            Self::Rate => stats.rate_per_second,
            Self::Errors => stats.errors as f64,
            Self::Sum => stats.sum_seconds.unwrap_or(0.0),
            Self::P50 => stats.p50_seconds.unwrap_or(0.0),
            Self::P90 => stats.p90_seconds.unwrap_or(0.0),
            Self::P95 => stats.p95_seconds.unwrap_or(0.0),
            Self::P99 => stats.p99_seconds.unwrap_or(0.0),
            Self::Max => stats.max_seconds.unwrap_or(0.0),
        }
    }

    fn compare(self, left: &Stats, right: &Stats) -> Ordering {
        self.of(right).total_cmp(&self.of(left))
    }
}

/// Of the window and since the agent's start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Both {
    /// Of the sliding window.
    pub window: Stats,
    /// Since the start.
    pub total: Stats,
}

/// One label set of a family.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencySeries {
    /// `service` where it has one, and the family's labels.
    pub labels: BTreeMap<&'static str, Arc<str>>,
    /// Its numbers.
    #[serde(flatten)]
    pub stats: Both,
    /// Of a histogram since the start, the buckets that are not empty: the upper bound in seconds, inclusive, or `None` for what
    /// is longer than the last one; and how many observations it has beyond the bound before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(Option<f64>, u64)>,
}

/// A family in detail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyFamily {
    /// The metric's name without prefix and unit.
    pub family: &'static str,
    /// The metric's name.
    pub metric: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its label sets, each with the service, also where `/metrics` does without.
    pub series: Vec<LatencySeries>,
}

/// `/api/v1/latency`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyReport {
    /// What the window spans now; less than what was asked for at the start.
    pub window_seconds: f64,
    /// Since the agent's start.
    pub total_seconds: f64,
    /// In the order of the table of metrics; those without a series are left out.
    pub families: Vec<LatencyFamily>,
}

impl LatencyReport {
    /// Sorts each family's series by what the window has, the largest first.
    pub fn sort(&mut self, by: SortBy) {
        for family in &mut self.families {
            family.series.sort_by(|left, right| by.compare(&left.stats.window, &right.stats.window));
        }
    }
}

/// A process in detail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessStats {
    /// Its id.
    pub pid: u32,
    /// When it started, in seconds since boot, to the hundredth.
    pub start_time_seconds: f64,
    /// Its service.
    pub service: Arc<str>,
    /// The name of its main thread.
    pub name: Arc<str>,
    /// CPU time since the agent's start or its own.
    pub cpu_seconds: f64,
    /// CPUs that it kept busy in the window: 1.0 is one of them.
    pub cpu_ratio: f64,
    /// Resident memory.
    pub resident_memory_bytes: u64,
    /// By family, the labels folded together.
    pub families: BTreeMap<&'static str, Both>,
}

/// `/api/v1/processes`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessReport {
    /// What the window spans now.
    pub window_seconds: f64,
    /// Since the agent's start.
    pub total_seconds: f64,
    /// The busiest first.
    pub processes: Vec<ProcessStats>,
}

impl ProcessReport {
    /// Sorts by what the window has of one family, the largest first; by CPU where `family` is `None`.
    pub fn sort(&mut self, family: Option<&str>, by: SortBy) {
        let value = |process: &ProcessStats| match family {
            Some(family) => process.families.get(family).map_or(0.0, |both| by.of(&both.window)),
            None => process.cpu_ratio,
        };
        self.processes.sort_by(|left, right| value(right).total_cmp(&value(left)));
    }
}
