//! What the agent knows at one instant: immutable, shared with whoever answers a request.

use std::sync::Arc;

use hostscope_wire::histogram::BUCKETS;

use crate::metrics::Metric;

/// A histogram of nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// Observations by `hostscope_wire::histogram::bucket`, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// The longest, in nanoseconds; of a window, an upper bound of it.
    pub max_ns: u64,
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Counter or gauge, in the unit that the metric's name says.
    Number(f64),
    /// Of a metric of type histogram.
    Histogram(Box<Histogram>),
}

/// One series: the values of its labels, and its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the order of the names in [`FamilySeries::label_names`].
    pub labels: Vec<Arc<str>>,
    /// Since the agent's start.
    pub value: Value,
}

/// The series of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilySeries {
    /// Which one.
    pub metric: &'static Metric,
    /// Names of the labels, `service` first where it is there.
    pub label_names: Vec<&'static str>,
    /// Sorted by labels.
    pub series: Vec<Series>,
}
