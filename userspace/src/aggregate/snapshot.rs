//! What the agent knows at one instant: immutable, shared with whoever answers a request.

use std::sync::Arc;

use hostscope_wire::histogram::{BUCKETS, bound_ns};

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

impl Histogram {
    /// How many observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |count, &bucket| count.saturating_add(bucket))
    }

    /// A bound of the longest, in nanoseconds: that of the highest bucket in use, or [`Self::max_ns`] where that is less.
    #[must_use]
    pub fn max_bound_ns(&self) -> u64 {
        let Some(highest) = self.buckets.iter().rposition(|&count| count != 0) else { return 0 };
        bound_ns(highest).map_or(self.max_ns, |bound| bound.min(self.max_ns))
    }

    /// The value in nanoseconds that a share of `quantile` (0 to 1) of the observations do not exceed, 0 where there is
    /// none.
    ///
    /// As `histogram_quantile` of Prometheus does it: by linear interpolation within the bucket, the first of which begins
    /// at 0. Other than there, what lies beyond the last bound is interpolated up to the longest, and no result is above
    /// that.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> f64 {
        let rank = quantile.clamp(0.0, 1.0) * self.count() as f64;
        let (mut below, mut lower_ns) = (0.0, 0.0);
        for (bucket, &count) in self.buckets.iter().enumerate() {
            let upper_ns = bound_ns(bucket).map_or((self.max_ns as f64).max(lower_ns), |bound| bound as f64);
            if count != 0 && below + count as f64 >= rank {
                let share = (rank - below).max(0.0) / count as f64;
                return (lower_ns + (upper_ns - lower_ns) * share).min(self.max_ns as f64);
            }
            below += count as f64;
            lower_ns = upper_ns;
        }
        0.0
    }
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

#[cfg(test)]
mod tests {
    use hostscope_wire::histogram::bucket;

    use super::*;

    fn of(values_ns: &[u64]) -> Histogram {
        let mut histogram = Histogram { buckets: [0; BUCKETS], sum_ns: 0, max_ns: 0 };
        for &value_ns in values_ns {
            histogram.buckets[bucket(value_ns)] += 1;
            histogram.max_ns = histogram.max_ns.max(value_ns);
        }
        histogram
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        // histogram_quantile(0.5) of {le=1.024us: 1, 2.048us: 3, 4.096us: 4}: rank 2, the second bucket's first half.
        let histogram = of(&[1000, 2000, 2000, 4096]);
        assert!((histogram.quantile_ns(0.5) - 1536.0).abs() < 1e-9);
        assert!((histogram.quantile_ns(0.25) - 1024.0).abs() < 1e-9);
        assert!((histogram.quantile_ns(1.0) - 4096.0).abs() < 1e-9);
        assert!(histogram.quantile_ns(0.0).abs() < 1e-9);
    }

    #[test]
    fn no_quantile_is_above_the_longest() {
        let histogram = of(&[1100, 1100, 1100]);
        assert!((histogram.quantile_ns(0.99) - 1100.0).abs() < 1e-9);
        let long = of(&[60_000_000_000, 40_000_000_000]);
        let p50 = long.quantile_ns(0.5);
        assert!(p50 > 17e9 && p50 < 60e9 && (long.quantile_ns(1.0) - 6e10).abs() < 1.0, "{p50}");
        assert!(of(&[]).quantile_ns(0.99).abs() < 1e-9);
        assert_eq!(
            (of(&[]).max_bound_ns(), of(&[5]).max_bound_ns(), long.max_bound_ns()),
            (0, 5, 60_000_000_000)
        );
    }
}
