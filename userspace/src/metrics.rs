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
///
/// There is one static of each, and it stands for itself: two are the same where their addresses are.
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

/// The value of a label that stands for all those that have no series of their own.
pub const OTHER: &str = "~other";

impl Metric {
    /// Series that Prometheus keeps for one set of label values: a histogram's buckets, its sum and its count.
    #[must_use]
    pub const fn series_each(&self) -> usize {
        match self.kind {
            MetricType::Histogram => hostscope_wire::histogram::BUCKETS + 2,
            MetricType::Counter | MetricType::Gauge => 1,
        }
    }

    /// Whether hostscope counts it in nanoseconds and exports seconds.
    #[must_use]
    pub fn is_time(&self) -> bool {
        self.name.ends_with("_seconds") || self.name.ends_with("_seconds_total")
    }

    /// Its name without the prefix and the unit's ending: what it is called in tables and in the JSON API.
    #[must_use]
    pub fn short_name(&self) -> &'static str {
        let name = self.name.strip_prefix("hostscope_").unwrap_or(self.name);
        let name = name.strip_suffix("_total").unwrap_or(name);
        name.strip_suffix("_seconds").unwrap_or(name)
    }
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
    /// From off-CPU rows within a system call that were no preemption.
    SYSCALL_BLOCKED = Histogram Host "hostscope_syscall_blocked_seconds" ["syscall"]
        "Time off the CPU within a system call, waiting";
    /// From syscall rows, where system calls are timed.
    SYSCALL_DURATION = Histogram Host "hostscope_syscall_duration_seconds" ["syscall"]
        "Time in a system call, from its entry to its return";
    /// From rows of failed calls.
    SYSCALL_ERRORS = Counter Host "hostscope_syscall_errors_total" ["syscall", "error"]
        "System calls that failed";
    /// From run queue rows.
    RUNQUEUE_LATENCY = Histogram Service "hostscope_runqueue_latency_seconds" []
        "Time that threads were ready to run and waited for a CPU";
    /// From off-CPU rows.
    OFFCPU = Histogram Service "hostscope_offcpu_seconds" ["reason"]
        "Time off the CPU by reason: io, lock, sleep, preempted, other";
    /// From `/proc/PID/stat`.
    CPU_SECONDS = Counter Service "hostscope_cpu_seconds_total" ["mode"]
        "CPU time of the processes";
    /// The counts of off-CPU rows.
    CONTEXT_SWITCHES = Counter Service "hostscope_context_switches_total" ["kind"]
        "Times that a thread left the CPU: voluntary to wait, involuntary by preemption";
    /// From connect rows.
    TCP_CONNECT = Histogram Service "hostscope_tcp_connect_duration_seconds" ["outcome"]
        "Time from a TCP connect to its outcome";
    /// From accept queue rows.
    TCP_ACCEPT_QUEUE = Histogram Host "hostscope_tcp_accept_queue_seconds" ["port"]
        "Time that established TCP connections waited for accept";
    /// From first byte rows.
    TCP_FIRST_BYTE = Histogram Host "hostscope_tcp_first_byte_seconds" ["role", "port"]
        "Time from the first byte of a request to the first byte of its response";
    /// From round trip rows.
    TCP_RTT = Histogram Service "hostscope_tcp_rtt_seconds" ["role"]
        "Smoothed round trip times of TCP connections, as sampled";
    /// From lifetime rows.
    TCP_LIFETIME = Histogram Service "hostscope_tcp_connection_lifetime_seconds" ["role"]
        "How long TCP connections were established";
    /// From retransmit rows.
    TCP_RETRANSMITS = Counter Service "hostscope_tcp_retransmits_total" []
        "TCP segments sent again";
    /// From reset rows.
    TCP_RESETS = Counter Service "hostscope_tcp_resets_total" ["direction"]
        "TCP resets";
    /// The counts of connect rows with an errno.
    TCP_CONNECT_FAILURES = Counter Service "hostscope_tcp_connect_failures_total" ["error"]
        "TCP connects that failed";
    /// From `/proc/net`.
    TCP_CONNECTIONS = Gauge Host "hostscope_tcp_connections" ["state"]
        "TCP sockets by state";
    /// From network rows.
    NETWORK_BYTES = Counter Service "hostscope_network_bytes_total" ["direction", "transport"]
        "Bytes through sockets";
    /// From off-CPU rows within the calls of sockets.
    SOCKET_IO = Histogram Service "hostscope_socket_io_duration_seconds" ["operation"]
        "Time that threads waited in the system calls of sockets";
    /// From block rows.
    BLOCK_IO = Histogram Host "hostscope_block_io_duration_seconds" ["device", "operation"]
        "Time of block requests at the device";
    /// From block queue rows.
    BLOCK_IO_QUEUE = Histogram Host "hostscope_block_io_queue_seconds" ["device", "operation"]
        "Time of block requests in the queue before the device";
    /// From block error rows.
    BLOCK_IO_ERRORS = Counter Host "hostscope_block_io_errors_total" ["device", "operation"]
        "Block requests that failed";
    /// From block byte rows.
    BLOCK_IO_BYTES = Counter Host "hostscope_block_io_bytes_total" ["device", "operation"]
        "Bytes that block requests asked for";
    /// From sync rows.
    FILE_SYNC = Histogram Host "hostscope_file_sync_duration_seconds" ["fstype"]
        "Time of fsync and its like in the file system";
    /// From page cache rows.
    PAGE_CACHE_ACCESSES = Counter Service "hostscope_page_cache_accesses_total" ["result"]
        "Accesses to the page cache: hit or miss";
    /// From `/proc/PID/stat`.
    PAGE_FAULTS = Counter Service "hostscope_page_faults_total" ["type"]
        "Page faults: major ones read from a device";
    /// From rows of kills.
    OOM_KILLS = Counter Service "hostscope_oom_kills_total" []
        "Processes that the kernel killed for want of memory";
    /// From reclaim rows.
    DIRECT_RECLAIM = Histogram Service "hostscope_direct_reclaim_seconds" []
        "Time in which an allocation had to free memory first";
    /// From `/proc/PID/status`.
    MEMORY = Gauge Service "hostscope_memory_bytes" ["type"]
        "Memory of the processes: rss is anonymous, file and shared together";
    /// From `/proc/pressure`.
    PRESSURE_STALL = Counter Host "hostscope_pressure_stall_seconds_total" ["resource", "kind"]
        "Time in which some, or all (full), tasks stalled for a resource, since boot";
    /// From the `cpu.stat` of cgroups.
    CPU_THROTTLED = Counter Service "hostscope_cpu_throttled_seconds_total" []
        "Time in which the CPU quota held a service back";
    /// From rows of soft interrupts.
    SOFTIRQ = Histogram Host "hostscope_softirq_duration_seconds" ["vector"]
        "Time of soft interrupt handlers";
    /// Always 1.
    AGENT_BUILD_INFO = Gauge Host "hostscope_agent_build_info" ["version"]
        "The version of hostscope, as a label";
    /// 1 for the state that the probe is in, 0 for the others.
    AGENT_PROBE_STATE = Gauge Host "hostscope_agent_probe_state" ["probe", "state"]
        "1 for the state that a probe is in: on, degraded or off";
    /// By the kernel's own account of run time.
    AGENT_PROBE_RUN_SECONDS = Counter Host "hostscope_agent_probe_run_seconds_total" ["probe"]
        "Time in a probe's programs";
    /// By the kernel's own account of runs.
    AGENT_PROBE_RUNS = Counter Host "hostscope_agent_probe_runs_total" ["probe"]
        "Runs of a probe's programs";
    /// From every stage that loses something.
    AGENT_LOST = Counter Host "hostscope_agent_lost_total" ["reason"]
        "Events and samples that were lost";
    /// Of the maps in the kernel.
    AGENT_MAP_ENTRIES = Gauge Host "hostscope_agent_map_entries" ["map"]
        "Entries in use of a map in the kernel";
    /// Of the maps in the kernel.
    AGENT_MAP_CAPACITY = Gauge Host "hostscope_agent_map_capacity" ["map"]
        "Entries that a map in the kernel has room for";
    /// Of the aggregator.
    AGENT_SERIES = Gauge Host "hostscope_agent_series" []
        "Series exported, each bucket of a histogram being one";
    /// Of the aggregator.
    AGENT_SERIES_OVERFLOW = Counter Host "hostscope_agent_series_overflow_total" []
        "Label sets that found no room among the series and were folded into ~other";
    /// Of the process itself.
    AGENT_CPU_SECONDS = Counter Host "hostscope_agent_cpu_seconds_total" []
        "CPU time of the agent";
    /// Of the process itself.
    AGENT_RESIDENT_MEMORY = Gauge Host "hostscope_agent_resident_memory_bytes" []
        "Resident memory of the agent";
    /// Of the budget.
    AGENT_BUDGET_RATIO = Gauge Host "hostscope_agent_budget_ratio" []
        "CPU time of the agent and its probes over what it may take";
    /// Of the budget.
    AGENT_BUDGET_LEVEL = Gauge Host "hostscope_agent_budget_level" []
        "How far the agent has cut down to stay within its budget: 0 is not at all";
    /// Of the loop that collects.
    AGENT_COLLECTIONS = Counter Host "hostscope_agent_collections_total" []
        "Collections from the kernel";
    /// Of the loop that collects.
    AGENT_COLLECTION_DURATION = Histogram Host "hostscope_agent_collection_duration_seconds" []
        "Time of a collection from the kernel";
    /// Of the HTTP side.
    AGENT_HTTP_REQUESTS = Counter Host "hostscope_agent_http_requests_total" ["route", "code"]
        "HTTP requests that the agent has answered";
    /// Of the aggregator.
    AGENT_SERVICES = Gauge Host "hostscope_agent_services" []
        "Services known";
    /// Of the table of processes.
    AGENT_PROCESSES = Gauge Host "hostscope_agent_processes" []
        "Processes known";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The rules of `promtool check metrics` that concern names: help on each, `_total` on counters and on nothing else,
    /// base units, no type in the name.
    #[test]
    fn names_follow_prometheus() {
        let mut names = HashSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} stands twice");
            assert!(
                name.starts_with("hostscope_") && !metric.help.is_empty() && !metric.help.ends_with('.'),
                "{name}"
            );
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == MetricType::Counter, "{name}");
            assert!(metric.kind != MetricType::Histogram || name.ends_with("_seconds"), "{name}");
            for wrong in
                ["_count", "_sum", "_bucket", "_ms", "_milliseconds", "_kilobytes", "_percent", "histogram"]
            {
                assert!(!name.ends_with(wrong), "{name}");
            }
            assert!(metric.labels.len() <= 2 && !metric.labels.contains(&"service"), "{name}");
        }
    }

    #[test]
    fn short_names_are_unique() {
        let agent = |metric: &&&Metric| !metric.name.starts_with("hostscope_agent_");
        let short: HashSet<_> = METRICS.iter().filter(agent).map(|metric| metric.short_name()).collect();
        assert_eq!(short.len(), METRICS.iter().filter(agent).count());
        assert_eq!(TCP_RTT.short_name(), "tcp_rtt");
        assert_eq!((TCP_RTT.series_each(), CPU_SECONDS.series_each()), (28, 1));
    }
}
