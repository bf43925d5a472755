//! What the agent's collection publishes each interval: immutable, and cheap to make where nobody asks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use crate::aggregate::snapshot::FamilySeries;

/// What was known at the end of one interval.
pub struct Published {
    /// What `/metrics` and the API give.
    pub statistics: Box<dyn Statistics>,
    /// What works and what does not, for the health routes.
    pub health: Vec<Check>,
    /// How often the collection has turned before.
    pub turns: u64,
    /// The time from one turn to the next, as it is set.
    pub interval: Duration,
    /// When the turn ended, to measure its age.
    pub taken: Instant,
    /// The same, for people.
    pub taken_at: SystemTime,
}

impl Published {
    /// What is known before the first turn.
    #[must_use]
    pub fn nothing(interval: Duration) -> Self {
        Self {
            statistics: Box::new(NoStatistics),
            health: Vec::new(),
            turns: 0,
            interval,
            taken: Instant::now(),
            taken_at: SystemTime::now(),
        }
    }
}

/// One thing that works or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// What is known of it; where it does not work, the mend too.
    pub detail: String,
}

/// Which time statistics are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSpan {
    /// The last window of the settings.
    Window,
    /// Since the agent's start.
    Total,
}

/// Statistics, made only when somebody asks: a host may have thousands of processes, and an agent whom nobody asks should
/// not format them each second.
pub trait Statistics: Send + Sync {
    /// What `/metrics` gives.
    fn series(&self) -> Vec<FamilySeries>;

    /// The names of the families there are, whether or not they have counted yet.
    fn families(&self) -> Vec<&'static str>;

    /// How long the span is.
    fn duration(&self, span: TimeSpan) -> Duration;

    /// One subject a service.
    fn services(&self, span: TimeSpan) -> Vec<Subject>;

    /// One subject a process.
    fn processes(&self, span: TimeSpan) -> Vec<Subject>;
}

/// Where nothing is measured.
pub struct NoStatistics;

impl Statistics for NoStatistics {
    fn series(&self) -> Vec<FamilySeries> {
        Vec::new()
    }

    fn families(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn duration(&self, _: TimeSpan) -> Duration {
        Duration::ZERO
    }

    fn services(&self, _: TimeSpan) -> Vec<Subject> {
        Vec::new()
    }

    fn processes(&self, _: TimeSpan) -> Vec<Subject> {
        Vec::new()
    }
}

/// A service or a process with its figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subject {
    /// The service, or that of the process.
    #[serde(serialize_with = "text")]
    pub service: Arc<str>,
    /// Which process; none for a service.
    #[serde(flatten)]
    pub process: Option<ProcessName>,
    /// Its figures.
    pub families: Vec<FamilyStatistics>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessName {
    /// Its id in the host's pid namespace.
    pub pid: u32,
    /// When it started, in seconds since boot, to the hundredth: with the pid it names a process for ever.
    pub start_time_seconds: f64,
    /// Its name.
    #[serde(serialize_with = "text")]
    pub name: Arc<str>,
    /// CPU time since the agent's start or its own.
    pub cpu_seconds: f64,
    /// CPUs that it kept busy in the window: 1.0 is one of them.
    pub cpu_ratio: f64,
    /// Memory that is resident.
    pub resident_memory_bytes: u64,
}

/// What one family says of a subject, for one set of labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FamilyStatistics {
    /// The family.
    pub family: &'static str,
    /// Labels beside the service.
    #[serde(serialize_with = "labels", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(&'static str, Arc<str>)>,
    /// Observations; of a counter, what it counted; of a counter of time, nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The same a second; of a counter of time, seconds in each second.
    #[serde(rename = "rate_per_second")]
    pub rate: f64,
    /// Those that failed.
    pub errors: u64,
    /// The sum of what was observed, in seconds; nothing where no time is counted.
    #[serde(rename = "sum_seconds", skip_serializing_if = "Option::is_none")]
    pub sum: Option<f64>,
    /// Half of the observations were not longer, in seconds; nothing where the family only counts.
    #[serde(rename = "p50_seconds", skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// The same of 90%.
    #[serde(rename = "p90_seconds", skip_serializing_if = "Option::is_none")]
    pub p90: Option<f64>,
    /// The same of 95%.
    #[serde(rename = "p95_seconds", skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// The same of 99%.
    #[serde(rename = "p99_seconds", skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The longest, in seconds.
    #[serde(rename = "max_seconds", skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn labels<S: Serializer>(labels: &Vec<(&'static str, Arc<str>)>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(name, value)| (name, &**value)))
}
