//! The only table of metric names: type, labels, help.

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A classic histogram in seconds, with the bounds of `hostscope_wire::histogram`.
    Histogram,
}

/// Which of the labels of a family its series carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `service`, and those of [`Metric::labels`].
    Service,
    /// Those of [`Metric::labels`] only: one of them has too many values to be multiplied with services.
    Host,
}

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with prefix and unit.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricType,
    /// Whether its series carry `service` where the configuration says nothing.
    pub scope: Scope,
    /// Its labels beside `service`, in order.
    pub labels: &'static [&'static str],
    /// What it means, in one line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident = $kind:ident $scope:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $($(#[$doc])* pub static $id: Metric = Metric {
            name: $name, kind: MetricType::$kind, scope: Scope::$scope, labels: &[$($label),*], help: $help,
        };)*
        /// Every metric there is, in the order in which they are exported.
        pub static METRICS: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    /// From off-CPU rows within a system call.
    SYSCALL_BLOCKED = Histogram Host "hostscope_syscall_blocked_seconds" ["syscall"] "Time off the CPU within a system call, waiting";
}
