//! One measurement of latency from the kernel's rows to statistics: joins the stages, for the agent and the command line alike.

mod chosen;
pub mod run;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hostscope_wire::process::ProcessRecord;
use hostscope_wire::row::{Family, Row, RowKey, UNKNOWN_PROCESS};

use crate::aggregate::latency::{Aggregator, Settings, Whose};
use crate::collect::ring::{self, RingRecord};
use crate::collect::rows::{RowDelta, RowReader, RowSource};
use crate::error::Result;
use crate::load::latency::{Latency, LatencySettings, SystemCalls, now_ns};
use crate::load::preflight::State;
use crate::load::rows::Rows;
use crate::metrics::{self, Metric};
use crate::targets::accounts::{Accounts, Usage};
use crate::targets::host::Host;
use crate::targets::services::{ProcessKey, Services};
use chosen::Chosen;
pub use view::View;

/// How often `/proc/PID/stat` of every process is read (13 µs each), and the host's own accounts.
const ACCOUNTS_EVERY: Duration = Duration::from_secs(5);

/// How often memory is read with them (25 µs each), in readings.
const MEMORY_EVERY: u32 = 3;

/// How often those processes are read, too, of which no row has changed, in readings.
const ALL_EVERY: u32 = 6;

/// How often all of `/proc` is looked through for what no event told, and rows of ended processes are given back. What ended in
/// between keeps its rows for so long, and what is counted late finds them.
const SCAN_EVERY: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Debug, Clone, Default)]
pub struct MeasureSettings {
    /// How to fold it into series.
    pub series: Settings,
    /// Probes to leave out.
    pub disabled_probes: Vec<String>,
    /// Processes that it is about, each a service by its own name, with what they fork; `None` for the whole host.
    pub only: Option<Vec<u32>>,
    /// Whether every system call of those is timed from the start, and not only those that wait.
    pub every_system_call: bool,
}

/// A measurement under way. What it has in the kernel goes with it.
pub struct Measurement {
    /// The kernel side.
    pub kernel: Latency,
    reader: RowReader,
    /// What the reader found, kept for its room.
    changed: Vec<RowDelta>,
    chosen: Chosen,
    services: Services,
    accounts: Accounts,
    host: Host,
    aggregator: Arc<Mutex<Aggregator>>,
    /// Records that were not what they should be.
    malformed: u64,
    next_accounts: Instant,
    accounts_read: u32,
    /// Processes that did something since memory was last read.
    active: HashSet<ProcessKey>,
    next_scan: Instant,
    /// Processes whose end was told since the last turn, and before it.
    ended: [HashSet<ProcessKey>; 2],
    /// Rows whose process was not there at the last look.
    orphans: HashSet<(usize, RowKey)>,
    /// Gauges of the last reading of accounts, told again each interval until the next.
    gauges: Vec<Gauge>,
    /// Why there is no account of pressure; told once.
    pressure_missing: Option<String>,
}

struct Gauge {
    metric: &'static Metric,
    service: Option<Arc<str>>,
    labels: [&'static str; 2],
    value: f64,
}

impl RowSource for Rows {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn read(&self, index: usize) -> Row {
        Self::read(self, index)
    }
}

impl Measurement {
    /// Loads the kernel side and looks who is there.
    ///
    /// # Errors
    /// Nothing at all can be measured, or not every system call where that is asked for.
    pub fn begin(settings: MeasureSettings) -> Result<Self> {
        let mut kernel = Latency::load(&LatencySettings { disabled_probes: settings.disabled_probes })?;
        let mut services = Services::default();
        if settings.only.is_some() {
            services = services.by_process_name();
        }
        if let Err(error) = services.scan(now_ns()) {
            tracing::warn!("cannot look through /proc, services are named by what the kernel tells: {error}");
        }
        let chosen = Chosen::new(settings.only.as_deref(), &services);
        if settings.every_system_call {
            kernel.time_system_calls(&settings.only.map_or(SystemCalls::All, SystemCalls::Of))?;
        }
        let now = Instant::now();
        Ok(Self {
            kernel,
            reader: RowReader::default(),
            changed: Vec::new(),
            chosen,
            services,
            accounts: Accounts::from_now(),
            host: Host::new("/proc"),
            aggregator: Arc::new(Mutex::new(Aggregator::new(settings.series, now_ns()))),
            malformed: 0,
            next_accounts: now,
            accounts_read: 0,
            active: HashSet::new(),
            next_scan: now + SCAN_EVERY,
            ended: [HashSet::new(), HashSet::new()],
            orphans: HashSet::new(),
            gauges: Vec::new(),
            pressure_missing: None,
        })
    }

    /// What was measured, for whoever asks, as of the last turn.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(self.aggregator.clone())
    }

    /// Folds into series by other settings from now on.
    pub fn apply(&mut self, settings: &Settings) {
        lock(&self.aggregator).apply(settings);
    }

    /// Chooses services whose system calls are all timed: those of their processes that live now.
    ///
    /// # Errors
    /// See [`Latency::time_system_calls`].
    pub fn time_system_calls_of(&mut self, names: &[String]) -> Result<()> {
        let named =
            self.services.living().filter(|(_, process)| names.iter().any(|name| **name == *process.service));
        let pids = named.map(|(key, _)| key.pid).collect();
        self.kernel.time_system_calls(&SystemCalls::Of(pids))
    }

    /// Reads everything once. `own` adds figures of the caller's to those of this interval.
    pub fn turn(&mut self, own: impl FnOnce(&mut Aggregator)) {
        let now = Instant::now();
        let aggregator = self.aggregator.clone();
        // Rows before events: of every process that a row names, the birth is among what was told by then.
        let Self { reader, kernel, changed, .. } = self;
        reader.read(&kernel.rows, |_, delta| changed.push(*delta));
        kernel.rows.recycle();
        self.release_ended();
        self.process_events(&aggregator);
        // Held while rows are added up: well under a millisecond for a thousand of them.
        let mut aggregator = lock(&aggregator);
        for delta in self.changed.drain(..).filter(|delta| self.chosen.has_row(&delta.key)) {
            aggregator.row(&delta, &mut self.services);
            self.active.extend(process_of(&delta.key));
        }
        if now >= self.next_accounts {
            self.next_accounts = now + ACCOUNTS_EVERY;
            self.read_accounts(&mut aggregator);
        }
        for Gauge { metric, service, labels, value } in &self.gauges {
            aggregator.set(metric, service.as_ref(), &labels[..metric.labels.len()], *value);
        }
        self.tell_kernel_side(&mut aggregator);
        own(&mut aggregator);
        aggregator.end_interval(now_ns(), &self.services);
        drop(aggregator);
        if now >= self.next_scan {
            self.next_scan = now + SCAN_EVERY;
            self.scan();
        }
        self.services.expire(now_ns());
    }

    /// The last turn: with what processes have used until now.
    pub fn finish(&mut self) {
        self.next_accounts = Instant::now();
        // Of every process, once more.
        self.accounts_read = 0;
        self.turn(|_| {});
    }

    /// Whether what it is about has ended; never where it is about the whole host.
    #[must_use]
    pub fn targets_have_ended(&self) -> bool {
        self.chosen.have_ended(&self.services)
    }

    /// What was lost since the start, by reason, also where it is nothing.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let kernel = self.kernel.losses.read().into_iter().map(|(loss, count)| (loss.name(), count));
        kernel
            .chain([
                ("malformed_record", self.malformed),
                ("row_restart", self.reader.restarts),
                ("process_unknown", self.services.overflow),
            ])
            .collect()
    }

    /// Gives back the rows of those that ended an interval ago and that nobody can count for any more: programs that are started all
    /// the time would soon take every row there is.
    fn release_ended(&mut self) {
        let gone = std::mem::take(&mut self.ended[1]);
        self.ended.swap(0, 1);
        if gone.is_empty() {
            return;
        }
        for index in 1..self.kernel.rows.len() {
            if process_of(&self.kernel.rows.key(index)).is_some_and(|key| gone.contains(&key)) {
                self.kernel.rows.release(index);
            }
        }
    }

    fn process_events(&mut self, aggregator: &Arc<Mutex<Aggregator>>) {
        let Self { kernel, services, accounts, malformed, chosen, ended, .. } = self;
        kernel.events.drain(|bytes| match ring::parse(bytes) {
            Some(RingRecord::Fork(record)) => {
                chosen.on_fork(&record, services);
                services.on_fork(&record);
            }
            Some(RingRecord::Exec(record)) => services.on_exec(&record),
            Some(RingRecord::Exit(record)) => {
                let key = ProcessKey::new(record.tgid, record.start_time_ns);
                let (user_ns, system_ns) = cpu_time(&record);
                let last = accounts.ended(key, user_ns, system_ns);
                ended[0].insert(key);
                if chosen.has(key)
                    && let Some(process) = services.get(key)
                {
                    count_usage(&mut lock(aggregator), key, &process.service, services, &last);
                }
                services.on_exit(&record);
            }
            Some(RingRecord::Stack(..)) | None => *malformed += 1,
        });
    }

    fn read_accounts(&mut self, aggregator: &mut Aggregator) {
        let with_memory = self.accounts_read.is_multiple_of(MEMORY_EVERY);
        // A process alone on its CPU may not be switched for long, and so have no row that changes.
        let with_all = self.accounts_read.is_multiple_of(ALL_EVERY);
        self.accounts_read = self.accounts_read.wrapping_add(1);
        let Self { services, gauges, chosen, active, .. } = self;
        gauges.retain(|gauge| gauge.metric == &metrics::MEMORY && !with_memory);
        let mut memory_of: BTreeMap<(Arc<str>, &'static str), u64> = BTreeMap::new();
        let services = &*services;
        let has_run = |key| with_all || active.contains(&key);
        self.accounts.collect(services, with_memory, has_run, |key, process, usage, memory| {
            if !chosen.has(key) {
                return;
            }
            count_usage(aggregator, key, &process.service, services, &usage);
            if let Some(memory) = memory {
                aggregator.set_resident(key, &process.service, services, memory.resident());
                for (kind, bytes) in memory.by_type() {
                    *memory_of.entry((process.service.clone(), kind)).or_default() += bytes;
                }
            }
        });
        if with_memory {
            active.clear();
        }
        gauges.extend(memory_of.into_iter().map(|((service, kind), bytes)| Gauge {
            metric: &metrics::MEMORY,
            service: Some(service),
            labels: [kind, ""],
            value: bytes as f64,
        }));
        if !chosen.is_everybody() {
            return;
        }
        self.host.throttled(services, |service, nanoseconds| {
            aggregator.count(&metrics::CPU_THROTTLED, Whose::Service(service), &[], nanoseconds);
        });
        self.host.tcp_sockets(|state, count| {
            let (metric, labels) = (&metrics::TCP_CONNECTIONS, [state, ""]);
            gauges.push(Gauge { metric, service: None, labels, value: count as f64 });
        });
        let pressure = self.host.pressure(|resource, kind, seconds| {
            let (metric, labels) = (&metrics::PRESSURE_STALL, [resource, kind]);
            gauges.push(Gauge { metric, service: None, labels, value: seconds });
        });
        if let Err(error) = pressure
            && self.pressure_missing.is_none()
        {
            tracing::info!("no pressure figures: {}", error.what);
            self.pressure_missing = Some(error.what);
        }
    }

    /// The states of the probes, and what was lost.
    fn tell_kernel_side(&self, aggregator: &mut Aggregator) {
        for probe in &self.kernel.probes {
            for state in [State::On, State::Degraded, State::Off] {
                let labels = [probe.spec.name, state.name()];
                let value = f64::from(u8::from(probe.state == state));
                aggregator.set(&metrics::AGENT_PROBE_STATE, None, &labels, value);
            }
        }
        for (reason, count) in self.lost() {
            aggregator.set(&metrics::AGENT_LOST, None, &[reason], count as f64);
        }
        aggregator.set(&metrics::AGENT_MAP_ENTRIES, None, &["ROWS"], self.reader.used as f64);
        aggregator.set(&metrics::AGENT_MAP_CAPACITY, None, &["ROWS"], self.kernel.rows.len() as f64);
    }

    /// Finds the processes that nobody told of, and gives back the rows of those that are gone: of a process that was not there
    /// at the last look either, so that what comes late is still counted.
    fn scan(&mut self) {
        if let Err(error) = self.services.scan(now_ns()) {
            tracing::debug!("cannot look through /proc: {error}");
            return;
        }
        self.chosen.forget(&self.services);
        let living: HashSet<ProcessKey> = self.services.living().map(|(key, _)| key).collect();
        let before = std::mem::take(&mut self.orphans);
        for index in 1..self.kernel.rows.len() {
            let key = self.kernel.rows.key(index);
            if process_of(&key).is_none_or(|process| living.contains(&process)) {
                continue;
            }
            if before.contains(&(index, key)) {
                self.kernel.rows.release(index);
            } else {
                self.orphans.insert((index, key));
            }
        }
    }
}

/// The process that a row is of; `None` of a device's, a vector's and the kernel's own.
fn process_of(key: &RowKey) -> Option<ProcessKey> {
    let family = Family::from_number(key.family)?;
    let is_of_process =
        !matches!(key.subject, 0 | UNKNOWN_PROCESS) && !family.is_of_device() && family != Family::SoftIrq;
    is_of_process.then(|| ProcessKey::new(key.subject, key.start_time_ns))
}

fn lock(aggregator: &Mutex<Aggregator>) -> MutexGuard<'_, Aggregator> {
    // A panic of another thread leaves numbers behind that are as good as they were.
    aggregator.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_usage(
    aggregator: &mut Aggregator,
    key: ProcessKey,
    service: &Arc<str>,
    services: &Services,
    usage: &Usage,
) {
    for (metric, label, amount) in [
        (&metrics::CPU_SECONDS, "user", usage.user_ns),
        (&metrics::CPU_SECONDS, "system", usage.system_ns),
        (&metrics::PAGE_FAULTS, "minor", usage.minor_faults),
        (&metrics::PAGE_FAULTS, "major", usage.major_faults),
    ] {
        if amount > 0 {
            aggregator.count(metric, Whose::Process(key, service, services), &[label], amount);
        }
    }
}

/// CPU time of a process that has ended, in user mode and in the kernel, in nanoseconds: the scheduler's total in the
/// proportion that ticks found, as the kernel does for `/proc` (`cputime_adjust`, kernel/sched/cputime.c).
fn cpu_time(record: &ProcessRecord) -> (u64, u64) {
    let ProcessRecord { cpu_ns, user_ticks_ns, system_ticks_ns, .. } = *record;
    let ticks_ns = u128::from(user_ticks_ns) + u128::from(system_ticks_ns);
    if ticks_ns == 0 {
        return (cpu_ns, 0);
    }
    // The quotient is at most `cpu_ns`.
    let system_ns = (u128::from(cpu_ns) * u128::from(system_ticks_ns) / ticks_ns) as u64;
    (cpu_ns - system_ns, system_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_the_schedulers_in_the_proportion_of_ticks() {
        let record = |cpu_ns, user_ticks_ns, system_ticks_ns| ProcessRecord {
            cpu_ns,
            user_ticks_ns,
            system_ticks_ns,
            ..ProcessRecord::default()
        };
        assert_eq!(cpu_time(&record(1000, 30, 10)), (750, 250));
        assert_eq!(cpu_time(&record(1000, 0, 0)), (1000, 0), "ended before any tick");
        assert_eq!(cpu_time(&record(u64::MAX, 0, u64::MAX)), (0, u64::MAX));
    }
}
