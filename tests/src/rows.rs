//! The kernel side of latency, alone: its rows of one process, added up.

use hostscope::load::latency::{Latency, LatencySettings};
use hostscope::load::preflight::State;
use hostscope_wire::histogram::{BUCKETS, bucket};
use hostscope_wire::row::{Family, Row, RowKey};

/// Latency, loaded and measuring.
pub struct Measured {
    latency: Latency,
}

/// Rows added up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Observations; 0 for counters.
    pub count: u64,
    /// Nanoseconds, or what was counted.
    pub sum: u64,
    /// The longest, in nanoseconds.
    pub max: u64,
    /// Observations by bucket.
    pub buckets: [u64; BUCKETS],
}

impl Sum {
    /// The lower of the two in the middle, as a bucket.
    #[must_use]
    pub fn median_bucket(&self) -> usize {
        let mut seen = 0;
        self.buckets
            .iter()
            .position(|count| {
                seen += count;
                seen * 2 >= self.count
            })
            .unwrap_or(BUCKETS)
    }

    /// Whether the median is where `nanoseconds` would be, or one bucket off.
    #[must_use]
    pub fn median_is_near(&self, nanoseconds: u64) -> bool {
        self.median_bucket().abs_diff(bucket(nanoseconds)) <= 1
    }
}

impl Measured {
    /// Loads and attaches.
    ///
    /// Panics where nothing can be loaded.
    #[must_use]
    pub fn begin() -> Self {
        let latency = Latency::load(&LatencySettings::default());
        Self { latency: latency.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Why a probe is off, if it is.
    #[must_use]
    pub fn off(&self, probe: &str) -> Option<&str> {
        let state = self.latency.probes.iter().find(|state| state.spec.name == probe);
        let state = state.expect("a probe of that name");
        (state.state == State::Off).then_some(state.reason.as_str())
    }

    /// The sum of the rows of `family` whose keys are chosen.
    pub fn sum_where(&self, family: Family, chosen: impl Fn(&RowKey) -> bool) -> Sum {
        let mut all = Sum::default();
        for index in 1..self.latency.rows.len() {
            let Row { key, sum, max, buckets } = self.latency.rows.read(index);
            if key.family == family as u8 && chosen(&key) {
                all.sum += sum;
                all.max = all.max.max(max);
                for (total, count) in all.buckets.iter_mut().zip(buckets) {
                    *total += count;
                    all.count += count;
                }
            }
        }
        all
    }

    /// The sum of this process's rows of `family` with this label.
    #[must_use]
    pub fn own(&self, family: Family, label: u8) -> Sum {
        self.sum_where(family, |key| key.subject == std::process::id() && key.label == label)
    }

    /// Likewise with this detail.
    #[must_use]
    pub fn own_detail(&self, family: Family, label: u8, detail: u16) -> Sum {
        let own = std::process::id();
        self.sum_where(family, |key| key.subject == own && key.label == label && key.detail == detail)
    }

    /// What was lost, by name.
    #[must_use]
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        self.latency.losses.read().into_iter().map(|(loss, count)| (loss.name(), count)).collect()
    }
}
