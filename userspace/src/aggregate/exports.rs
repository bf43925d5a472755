//! The series of `/metrics`, within their budget.
//!
//! A label set has a series of its own while there is room. Else it counts for the same labels under `service="~other"`, or,
//! where it has no service or that has no room either, for the series whose every label is `~other`. For those there is
//! always room, so that the sum over a family's series is all that was counted, and what `~other` has counted stays.

use std::collections::HashMap;

use super::series::{Key, MetricRef, Owner, at, width};
use super::statistics::Counts;
use crate::metrics::{METRICS, Scope};

/// Series that only `~other` may take with the labels of a family: 23 histograms and some counters, in practice half.
const RESERVED_FOR_OTHER: usize = 1_000;

/// The least budget.
pub const LEAST_MAX_SERIES: usize = crate::config::agent::LEAST_MAX_SERIES as usize;

/// How many series are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Of all families together, a histogram being 28; at least [`LEAST_MAX_SERIES`].
    pub max_series: usize,
    /// Of one family whose labels are open-ended (ports, devices, calls), counted in the same way.
    pub max_series_per_family: usize,
}

impl Default for Budget {
    /// 20,000 a host and 2,000 a family: 71 histograms, more than the calls that an ordinary host waits in.
    fn default() -> Self {
        Self { max_series: 20_000, max_series_per_family: 2_000 }
    }
}

/// The numbers of an exported series.
pub struct Export {
    /// In the order of [`at`].
    values: Box<[u64]>,
    max_ns: u64,
}

impl Export {
    /// What was counted since the series began.
    #[must_use]
    pub fn counts(&self) -> Counts<'_> {
        Counts { values: &self.values, max_ns: self.max_ns }
    }
}

/// Exported series.
pub struct Exports {
    budget: Budget,
    series: HashMap<Key, Export>,
    /// Gauges, and the interval in which each was last set.
    gauges: HashMap<Key, (f64, u64)>,
    used: usize,
    used_by_family: HashMap<MetricRef, usize>,
    interval: u64,
    /// Series that there is always room for: one of each family, all of whose labels are folded.
    least: usize,
}

impl Exports {
    /// None yet.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        let budget = Budget { max_series: budget.max_series.max(LEAST_MAX_SERIES), ..budget };
        Self {
            budget,
            series: HashMap::new(),
            gauges: HashMap::new(),
            used: 0,
            used_by_family: HashMap::new(),
            interval: 0,
            least: METRICS.iter().map(|metric| metric.series_each()).sum(),
        }
    }

    /// Goes on with another budget. What there is stays.
    pub fn set_budget(&mut self, budget: Budget) {
        self.budget = Budget { max_series: budget.max_series.max(LEAST_MAX_SERIES), ..budget };
    }

    /// Series in use, a histogram being 28.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many more series may be given to services, some being kept for those that have series already: a service's
    /// first interval rarely shows all of its labels.
    #[must_use]
    pub fn room_for_services(&self) -> usize {
        (self.limit_of_own() - self.limit_of_own() / 10).saturating_sub(self.used)
    }

    fn limit_of_own(&self) -> usize {
        self.budget.max_series - RESERVED_FOR_OTHER - self.least
    }

    /// Adds to the series of `key`. False where that is folded into another.
    pub fn add(&mut self, key: Key, counts: &Counts<'_>) -> bool {
        let has_count = counts.values[at::SUM] != 0 || counts.count() != 0;
        if !has_count {
            return true;
        }
        let (place, is_own) = self.place(key, |exports, key| exports.series.contains_key(key));
        let export = self
            .series
            .entry(place)
            .or_insert_with(|| Export { values: vec![0; width(place.metric.0)].into(), max_ns: 0 });
        for (sum, &amount) in export.values.iter_mut().zip(counts.values) {
            *sum = sum.saturating_add(amount);
        }
        export.max_ns = export.max_ns.max(counts.max_ns);
        is_own
    }

    /// Sets a gauge for this interval; those that fold into one are added, so each may be set once. False where it was folded.
    pub fn set(&mut self, key: Key, value: f64) -> bool {
        let (place, is_own) = self.place(key, |exports, key| exports.gauges.contains_key(key));
        let interval = self.interval;
        let (sum, set_in) = self.gauges.entry(place).or_insert((0.0, interval));
        *sum = if *set_in == interval { *sum + value } else { value };
        *set_in = interval;
        is_own
    }

    /// A new interval begins. Gauges that were not set in the last one are gone.
    pub fn begin_interval(&mut self) {
        let interval = self.interval;
        self.remove(|_, set_in| set_in.is_some_and(|set_in| set_in != interval));
        self.interval += 1;
    }

    /// Drops the series of the services that are gone.
    pub fn forget(&mut self, is_gone: impl Fn(u32) -> bool) {
        self.remove(|key, _| matches!(key.owner, Owner::Service(service) if is_gone(service)));
    }

    fn remove(&mut self, is_gone: impl Fn(&Key, Option<u64>) -> bool) {
        let (used, by_family) = (&mut self.used, &mut self.used_by_family);
        let mut release = |key: &Key, goes: bool| {
            if goes {
                *used -= key.metric.0.series_each();
                if let Some(of_family) = by_family.get_mut(&key.metric) {
                    *of_family -= key.metric.0.series_each();
                }
            }
            !goes
        };
        self.series.retain(|key, _| release(key, is_gone(key, None)));
        self.gauges.retain(|key, (_, set_in)| release(key, is_gone(key, Some(*set_in))));
    }

    /// Where `key` counts, room being taken for it, and whether that is its own series.
    fn place(&mut self, key: Key, is_there: impl Fn(&Self, &Key) -> bool) -> (Key, bool) {
        let other = (key.owner != Owner::Host).then_some(Key { owner: Owner::Other, ..key });
        let last = other.unwrap_or(key).without_details();
        for place in [Some(key), other].into_iter().flatten() {
            let limit = match place.owner {
                Owner::Other => self.budget.max_series - self.least,
                _ => self.limit_of_own(),
            };
            if is_there(self, &place) {
                return (place, place == key);
            }
            if place != last && self.fits(&place, limit) {
                self.take(&place);
                return (place, place == key);
            }
        }
        if !is_there(self, &last) {
            self.take(&last);
        }
        (last, last == key)
    }

    fn fits(&self, key: &Key, limit: usize) -> bool {
        let (metric, each) = (key.metric.0, key.metric.0.series_each());
        let is_open_ended = metric.scope == Scope::Host && !metric.labels.is_empty();
        let of_family = self.used_by_family.get(&key.metric).copied().unwrap_or(0);
        self.used + each <= limit && !(is_open_ended && of_family + each > self.budget.max_series_per_family)
    }

    fn take(&mut self, key: &Key) {
        let each = key.metric.0.series_each();
        self.used += each;
        *self.used_by_family.entry(key.metric).or_default() += each;
    }

    /// Every series of a metric that is no gauge: owner, labels, numbers.
    pub fn series(&self) -> impl Iterator<Item = (&Key, Counts<'_>)> {
        self.series.iter().map(|(key, export)| (key, export.counts()))
    }

    /// Every gauge.
    pub fn gauges(&self) -> impl Iterator<Item = (&Key, f64)> {
        self.gauges.iter().map(|(key, (value, _))| (key, *value))
    }
}
