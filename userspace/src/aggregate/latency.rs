//! Latency and counts by service and by process: what goes to `/metrics` within a budget, and in detail to whoever asks.
//!
//! An interval at a time: rows, counts and gauges are told, then [`Aggregator::end_interval`] gives the most active services
//! series of their own while there is room, and folds the rest into `~other`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hostscope_wire::row::{Family, RowKey};

use super::exports::{Budget, Exports};
use super::projections::Projector;
use super::series::{Delta, Key, Labels, MetricRef, Owner, Symbol};
use super::slab::Slab;
use super::statistics::Statistics;
use crate::collect::rows::RowDelta;
use crate::metrics::{self, Metric, MetricType, OTHER, Scope};
use crate::targets::services::{MAX_PROCESSES, MAX_SERVICES, ProcessKey, Services};

/// How the aggregator is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many series.
    pub budget: Budget,
    /// What the sliding window spans, in nanoseconds.
    pub window_ns: u64,
    /// How long the series of a service stay that has neither a process nor activity, in nanoseconds.
    pub service_grace_ns: u64,
    /// Names of metrics that carry `service` although the table says otherwise.
    pub by_service: HashSet<String>,
}

impl Default for Settings {
    /// A window of a minute, ten minutes of grace.
    fn default() -> Self {
        let minute_ns = 60_000_000_000;
        Self {
            budget: Budget::default(),
            window_ns: minute_ns,
            service_grace_ns: 10 * minute_ns,
            by_service: HashSet::new(),
        }
    }
}

/// A service that is known.
pub(super) struct Service {
    pub(super) name: Arc<str>,
    /// Whether it has series of its own.
    is_own: bool,
    seen_ns: u64,
}

/// A process that is known.
pub(super) struct Process {
    pub(super) key: ProcessKey,
    pub(super) service: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) resident_bytes: u64,
    seen_ns: u64,
}

/// Whose an amount is.
#[derive(Clone, Copy)]
pub enum Whose<'a> {
    /// Nobody's in particular.
    Host,
    /// A service's.
    Service(&'a Arc<str>),
    /// A process's, and that of the service it belongs to.
    Process(ProcessKey, &'a Arc<str>, &'a Services),
}

/// Takes in what was measured and knows it by series.
pub struct Aggregator {
    pub(super) settings: Settings,
    pub(super) projector: Projector,
    pub(super) statistics: Statistics,
    pub(super) exports: Exports,
    pub(super) services: Slab<Service>,
    service_index: HashMap<Arc<str>, u32>,
    pub(super) processes: Slab<Process>,
    process_index: HashMap<ProcessKey, u32>,
    gauges: HashMap<Key, f64>,
    pub(super) began_ns: u64,
    pub(super) now_ns: u64,
    overflow: u64,
}

impl Aggregator {
    /// Knows nothing yet; time begins at `now_ns` of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn new(mut settings: Settings, now_ns: u64) -> Self {
        // What the window still has cannot be forgotten.
        settings.service_grace_ns = settings.service_grace_ns.max(settings.window_ns);
        Self {
            projector: Projector::default(),
            statistics: Statistics::new(now_ns),
            exports: Exports::new(settings.budget),
            services: Slab::new(),
            service_index: HashMap::new(),
            processes: Slab::new(),
            process_index: HashMap::new(),
            gauges: HashMap::new(),
            began_ns: now_ns,
            now_ns,
            overflow: 0,
            settings,
        }
    }

    /// Goes on with these settings. Series that exist stay, also where there are now more than there may be: none is added then.
    pub fn apply(&mut self, settings: &Settings) {
        self.settings = settings.clone();
        self.settings.service_grace_ns = settings.service_grace_ns.max(settings.window_ns);
        self.exports.set_budget(settings.budget);
    }

    /// Takes in what was added to a row.
    pub fn row(&mut self, row: &RowDelta, services: &mut Services) {
        let RowKey { subject, start_time_ns, family, .. } = row.key;
        let of_device = Family::from_number(family)
            .is_some_and(|family| family.is_of_device() || family == Family::SoftIrq);
        let (owner, process) = if of_device {
            (Owner::Host, None)
        } else {
            let service = services.service_of(subject, start_time_ns);
            let key = ProcessKey::new(subject, start_time_ns);
            let process = if subject == 0 { None } else { self.process(key, &service, services) };
            (self.owner(&service), process)
        };
        let statistics = &mut self.statistics;
        self.projector
            .project(row, |metric, labels, delta| add(statistics, metric, owner, process, labels, delta));
    }

    /// Adds to a counter: nanoseconds where it counts time. `process` says whose it is, and with it of which service;
    /// `service` does where no single process is meant.
    pub fn count(&mut self, metric: &'static Metric, whose: Whose<'_>, labels: &[&str], amount: u64) {
        let labels = self.labels(labels);
        let (owner, process) = self.whose(whose);
        add(&mut self.statistics, metric, owner, process, labels, &Delta::count(amount));
    }

    /// Adds observations to a histogram, as [`Self::count`] to a counter.
    pub fn observe(&mut self, metric: &'static Metric, whose: Whose<'_>, labels: &[&str], delta: &Delta<'_>) {
        let labels = self.labels(labels);
        let (owner, process) = self.whose(whose);
        add(&mut self.statistics, metric, owner, process, labels, delta);
    }

    /// Sets a gauge, or a counter that is counted elsewhere, for the interval that runs: in the metric's own unit. One that
    /// is not set again in the next interval is gone then.
    pub fn set(&mut self, metric: &'static Metric, service: Option<&Arc<str>>, labels: &[&str], value: f64) {
        let labels = self.labels(labels);
        let owner = service.map_or(Owner::Host, |service| self.owner(service));
        self.gauges.insert(Key { metric: MetricRef(metric), owner, labels }, value);
    }

    /// Adds to a gauge of the interval that runs: the sum over a service's processes, told one by one.
    pub fn add_to_gauge(&mut self, metric: &'static Metric, service: &Arc<str>, labels: &[&str], value: f64) {
        let labels = self.labels(labels);
        let key = Key { metric: MetricRef(metric), owner: self.owner(service), labels };
        *self.gauges.entry(key).or_default() += value;
    }

    /// Notes what a process has resident, in bytes.
    pub fn set_resident(&mut self, key: ProcessKey, service: &Arc<str>, services: &Services, bytes: u64) {
        let index = self.process(key, service, services);
        if let Some(process) = index.and_then(|index| self.processes.get_mut(index)) {
            process.resident_bytes = bytes;
        }
    }

    /// Ends the interval at `now_ns`: what was told since the last end becomes visible in [`Self::snapshot`] and the reports.
    pub fn end_interval(&mut self, now_ns: u64, services: &Services) {
        self.now_ns = now_ns;
        let living = self.note_living(services);
        self.exports.begin_interval();
        self.admit();
        let Self { statistics, exports, services, settings, overflow, .. } = self;
        let exported = |key: Key| exported_key(key, services, settings);
        statistics.end_interval(now_ns, settings.window_ns, |entry| {
            if matches!(entry.key.owner, Owner::Process(_)) {
                return;
            }
            let (key, has_own) = exported(entry.key);
            let is_own = exports.add(key, &entry.current()) && has_own;
            *overflow += u64::from(!is_own && !entry.is_folded);
            entry.is_folded = !is_own;
        });
        for (key, value) in std::mem::take(&mut self.gauges) {
            let (place, _) = exported_key(key, &self.services, &self.settings);
            self.exports.set(place, value);
        }
        self.expire();
        for (metric, value) in [
            (&metrics::AGENT_SERVICES, self.services() as f64),
            (&metrics::AGENT_PROCESSES, living as f64),
            (&metrics::AGENT_SERIES_OVERFLOW, self.overflow() as f64),
            (&metrics::AGENT_SERIES, self.series() as f64),
        ] {
            let key = Key { metric: MetricRef(metric), owner: Owner::Host, labels: [Symbol::NONE; 2] };
            self.exports.set(key, value);
        }
    }

    /// Label sets that have no series of their own, each once; and additions for which there was no room in detail either.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow + self.projector.symbols.overflow + self.statistics.overflow
    }

    /// Exported series, a histogram being 28.
    #[must_use]
    pub fn series(&self) -> usize {
        self.exports.used()
    }

    /// Services known.
    #[must_use]
    pub fn services(&self) -> usize {
        self.service_index.len()
    }

    /// Processes of which something was measured.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.process_index.len()
    }

    /// Series in detail, bounded by [`super::statistics::MAX_ENTRIES`].
    #[must_use]
    pub fn details(&self) -> usize {
        self.statistics.len()
    }

    fn labels(&mut self, texts: &[&str]) -> Labels {
        let mut labels = [Symbol::NONE; 2];
        for (label, text) in labels.iter_mut().zip(texts) {
            *label = self.projector.symbols.intern(text);
        }
        labels
    }

    fn whose(&mut self, whose: Whose<'_>) -> (Owner, Option<u32>) {
        match whose {
            Whose::Host => (Owner::Host, None),
            Whose::Service(service) => (self.owner(service), None),
            Whose::Process(key, service, services) => {
                let process = self.process(key, service, services);
                (self.owner(service), process)
            }
        }
    }

    fn owner(&mut self, name: &Arc<str>) -> Owner {
        let now_ns = self.now_ns;
        if let Some(&index) = self.service_index.get(name) {
            if let Some(service) = self.services.get_mut(index) {
                service.seen_ns = now_ns;
            }
            return Owner::Service(index);
        }
        if &**name == OTHER || self.service_index.len() > MAX_SERVICES {
            return Owner::Other;
        }
        let index = self.services.insert(Service { name: name.clone(), is_own: false, seen_ns: now_ns });
        self.service_index.insert(name.clone(), index);
        Owner::Service(index)
    }

    /// The number of a process; `None` where there is no room for one more than the table of processes knows, which is counted: its
    /// service has what it measures.
    fn process(&mut self, key: ProcessKey, service: &Arc<str>, services: &Services) -> Option<u32> {
        let now_ns = self.now_ns;
        if let Some(&index) = self.process_index.get(&key) {
            if let Some(process) = self.processes.get_mut(index) {
                process.seen_ns = now_ns;
            }
            return Some(index);
        }
        if self.process_index.len() >= MAX_PROCESSES {
            self.overflow += 1;
            return None;
        }
        let name = services.get(key).map_or_else(|| service.clone(), |process| process.name.clone());
        let process = Process { key, service: service.clone(), name, resident_bytes: 0, seen_ns: now_ns };
        let index = self.processes.insert(process);
        self.process_index.insert(key, index);
        Some(index)
    }

    /// What lives is not gone, active or not; and a process's service and name may be others since it ran a program, also where it
    /// has ended since.
    /// Returns how many live.
    fn note_living(&mut self, services: &Services) -> usize {
        let (now_ns, mut count) = (self.now_ns, 0);
        for (_, living) in services.living() {
            count += 1;
            let service = self.service_index.get(&living.service).copied();
            if let Some(service) = service.and_then(|index| self.services.get_mut(index)) {
                service.seen_ns = now_ns;
            }
        }
        for (&key, &index) in &self.process_index {
            let Some((known, process)) = services.get(key).zip(self.processes.get_mut(index)) else {
                continue;
            };
            if known.ended_at_ns.is_none() {
                process.seen_ns = now_ns;
            }
            process.service.clone_from(&known.service);
            process.name.clone_from(&known.name);
        }
        count
    }

    /// Gives services series of their own, the most active of this interval first, while there is room for those that they
    /// need now.
    fn admit(&mut self) {
        // By service: activity and series.
        let mut needs: HashMap<u32, (u64, usize)> = HashMap::new();
        let mut need = |key: &Key, activity: u64| {
            if let Owner::Service(service) = key.owner
                && self.services.get(service).is_some_and(|service| !service.is_own)
                && carries_service(key.metric.0, &self.settings)
            {
                let (sum, series) = needs.entry(service).or_default();
                *sum = sum.saturating_add(activity);
                *series += key.metric.0.series_each();
            }
        };
        for entry in self.statistics.changed() {
            let is_histogram = entry.key.metric.0.kind == MetricType::Histogram;
            need(&entry.key, if is_histogram { entry.current().count() } else { 1 });
        }
        for key in self.gauges.keys() {
            need(key, 0);
        }
        let mut needs: Vec<_> = needs.into_iter().collect();
        needs.sort_unstable_by_key(|&(service, (activity, _))| (std::cmp::Reverse(activity), service));
        let mut room = self.exports.room_for_services();
        for (service, (_, series)) in needs {
            if series <= room
                && let Some(service) = self.services.get_mut(service)
            {
                service.is_own = true;
                room -= series;
            }
        }
    }

    /// Forgets services and processes that are gone. One that has only been folded leaves nothing behind, so that it goes as
    /// soon as the window has forgotten it.
    fn expire(&mut self) {
        let (now_ns, &Settings { window_ns, service_grace_ns, .. }) = (self.now_ns, &self.settings);
        let grace_ns = |service: &Service| if service.is_own { service_grace_ns } else { window_ns };
        let services = self.services.iter().filter(|(_, s)| s.seen_ns.saturating_add(grace_ns(s)) <= now_ns);
        let processes = self.processes.iter().filter(|(_, p)| p.seen_ns.saturating_add(window_ns) <= now_ns);
        let mut gone: HashSet<_> = services.map(|(index, _)| Owner::Service(index)).collect();
        gone.extend(processes.map(|(index, _)| Owner::Process(index)));
        if gone.is_empty() {
            return;
        }
        self.statistics.forget(|owner| gone.contains(&owner));
        // Their numbers are given to others, so nothing may be left of them.
        for entry in self.statistics.entries() {
            gone.remove(&entry.key.owner);
        }
        self.exports.forget(|service| gone.contains(&Owner::Service(service)));
        for owner in gone {
            match owner {
                Owner::Service(index) => {
                    if let Some(service) = self.services.remove(index) {
                        self.service_index.remove(&service.name);
                    }
                }
                Owner::Process(index) => {
                    if let Some(process) = self.processes.remove(index) {
                        self.process_index.remove(&process.key);
                    }
                }
                Owner::Host | Owner::Other => {}
            }
        }
    }
}

/// Adds to the series of the owner and, its labels folded together, to that of the process.
fn add(
    statistics: &mut Statistics,
    metric: &'static Metric,
    owner: Owner,
    process: Option<u32>,
    labels: Labels,
    delta: &Delta<'_>,
) {
    statistics.add(Key { metric: MetricRef(metric), owner, labels }, delta);
    if let Some(process) = process {
        let labels = [Symbol::NONE; 2];
        statistics.add(Key { metric: MetricRef(metric), owner: Owner::Process(process), labels }, delta);
    }
}

/// Whether the series of a metric carry `service`.
pub(super) fn carries_service(metric: &Metric, settings: &Settings) -> bool {
    metric.scope == Scope::Service || settings.by_service.contains(metric.name)
}

/// The exported series that a series in detail wants to count for, and whether it is folded into no other.
fn exported_key(key: Key, services: &Slab<Service>, settings: &Settings) -> (Key, bool) {
    if !carries_service(key.metric.0, settings) {
        return (Key { owner: Owner::Host, ..key }, true);
    }
    match key.owner {
        Owner::Service(service) if services.get(service).is_some_and(|service| service.is_own) => (key, true),
        owner => (Key { owner: Owner::Other, ..key }, owner == Owner::Host),
    }
}

#[cfg(test)]
mod tests;
