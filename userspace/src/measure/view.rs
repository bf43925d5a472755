//! What a measurement knows, for whoever asks, whenever they ask.

use std::sync::{Arc, Mutex};

use super::lock;
use crate::aggregate::latency::Aggregator;
use crate::aggregate::report::{LatencyReport, ProcessReport};
use crate::aggregate::snapshot::FamilySeries;

/// A look at what was measured until the last turn. Nothing is formatted before somebody asks; the collection waits for at most as long as
/// the copy of the figures takes (some milliseconds for 20,000 series), not for their encoding.
#[derive(Clone)]
pub struct View(Arc<Mutex<Aggregator>>);

impl View {
    pub(super) fn new(aggregator: Arc<Mutex<Aggregator>>) -> Self {
        Self(aggregator)
    }

    /// The series of `/metrics`.
    #[must_use]
    pub fn series(&self) -> Vec<FamilySeries> {
        lock(&self.0).snapshot()
    }

    /// How long the window is now, and how long it is since the start, in seconds.
    #[must_use]
    pub fn seconds(&self) -> (f64, f64) {
        lock(&self.0).seconds()
    }

    /// What found no room of its own (see [`Aggregator::overflow`]).
    #[must_use]
    pub fn overflow(&self) -> u64 {
        lock(&self.0).overflow()
    }

    /// Everything by label set and service.
    #[must_use]
    pub fn latency(&self) -> LatencyReport {
        lock(&self.0).latency_report()
    }

    /// Every process.
    #[must_use]
    pub fn processes(&self) -> ProcessReport {
        lock(&self.0).process_report()
    }
}
