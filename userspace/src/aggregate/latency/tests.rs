//! Storms of services, budgets, expiry: nothing is lost, nothing grows without bound, nothing goes backwards.

use std::collections::BTreeMap;

use hostscope_wire::event::EventHeader;
use hostscope_wire::histogram::{BUCKETS, bucket};
use hostscope_wire::process::ProcessRecord;
use hostscope_wire::row::Wait;

use super::*;
use crate::aggregate::report::SortBy;
use crate::aggregate::snapshot::{FamilySeries, Value};
use crate::aggregate::statistics::MAX_ENTRIES;
use crate::metrics::{METRICS, OFFCPU, RUNQUEUE_LATENCY, SYSCALL_BLOCKED};
use crate::targets::TICK_NS;
use crate::targets::containers::Containers;

const INTERVAL_NS: u64 = 5_000_000_000;

/// A host without a `/proc`: names come from events alone.
struct Rig {
    services: Services,
    aggregator: Aggregator,
    now_ns: u64,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        let services = Services::new("/no/such/folder", Containers::new("/no/such/folder"));
        Self { services, aggregator: Aggregator::new(settings, 0), now_ns: 0 }
    }

    fn record(&self, pid: u32, name: &str) -> ProcessRecord {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        let header = EventHeader { time_ns: self.now_ns, ..EventHeader::default() };
        ProcessRecord {
            header,
            start_time_ns: u64::from(pid) * TICK_NS,
            tgid: pid,
            comm,
            ..ProcessRecord::default()
        }
    }

    fn start(&mut self, pid: u32, name: &str) {
        let record = self.record(pid, name);
        self.services.on_fork(&record);
    }

    fn exit(&mut self, pid: u32) {
        let record = self.record(pid, "");
        self.services.on_exit(&record);
    }

    /// `count` observations of `nanoseconds`; of a counter family, `count` events.
    fn row(&mut self, pid: u32, family: Family, label: u8, detail: u16, count: u64, nanoseconds: u64) {
        let mut buckets = [0; BUCKETS];
        if !family.is_counter() {
            buckets[bucket(nanoseconds)] = count;
        }
        let sum = if family.is_counter() { count } else { count * nanoseconds };
        let start_time_ns = u64::from(pid) * TICK_NS;
        let key = RowKey { start_time_ns, subject: pid, family: family as u8, label, detail };
        self.aggregator.row(&RowDelta { key, sum, max: nanoseconds, buckets }, &mut self.services);
    }

    fn end(&mut self) {
        self.now_ns += INTERVAL_NS;
        self.aggregator.end_interval(self.now_ns, &self.services);
        self.services.expire(self.now_ns);
    }

    fn small() -> Settings {
        Settings { budget: Budget { max_series: 3_000, ..Budget::default() }, ..Settings::default() }
    }
}

fn family(snapshot: &[FamilySeries], metric: &Metric) -> BTreeMap<String, u64> {
    let family = snapshot.iter().find(|family| std::ptr::eq(family.metric, metric));
    let value = |value: &Value| match value {
        Value::Number(number) => *number as u64,
        Value::Histogram(histogram) => histogram.count(),
    };
    let series = family.into_iter().flat_map(|family| &family.series);
    series.map(|series| (series.labels.join(","), value(&series.value))).collect()
}

fn exported(snapshot: &[FamilySeries]) -> usize {
    snapshot.iter().map(|family| family.series.len() * family.metric.series_each()).sum()
}

#[test]
fn a_storm_of_containers_stays_within_the_budget_and_loses_nothing() {
    let mut rig = Rig::new(Settings::default());
    let (mut observed, mut others) = (0, BTreeMap::new());
    let mut gone_with_their_series = 0;
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..50 {
        for pid in round * 100 + 1..=round * 100 + 100 {
            rig.start(pid, &format!("c{pid}"));
            rig.row(pid, Family::RunQueue, 0, 0, 3, 5_000);
            rig.row(pid, Family::OffCpu, Wait::Interruptible as u8, 1, 2, 7_000);
            rig.exit(pid);
            observed += 3;
        }
        rig.end();
        let snapshot = rig.aggregator.snapshot();
        assert!(exported(&snapshot) <= 20_000 && exported(&snapshot) == rig.aggregator.series());
        let queue = family(&snapshot, &RUNQUEUE_LATENCY);
        gone_with_their_series +=
            before.iter().filter(|(name, _)| !queue.contains_key(*name)).map(|(_, count)| count).sum::<u64>();
        assert_eq!(queue.values().sum::<u64>() + gone_with_their_series, observed);
        before = queue;
        for metric in METRICS {
            for (labels, value) in family(&snapshot, metric) {
                if labels.starts_with(OTHER) {
                    let last = others.insert((metric.name, labels), value).unwrap_or(0);
                    assert!(value >= last, "{}", metric.name);
                }
            }
        }
        assert!(rig.aggregator.details() <= MAX_ENTRIES && rig.aggregator.services() <= 5_000);
    }
    assert!(others[&(RUNQUEUE_LATENCY.name, OTHER.into())] > 0 && rig.aggregator.overflow() > 1_000);
    // Ten quiet minutes later nothing but `~other` and what has no service is left.
    for _ in 0..140 {
        rig.end();
    }
    assert_eq!((rig.aggregator.services(), rig.aggregator.processes(), rig.services.len()), (0, 0, 0));
    let queue = family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY);
    assert_eq!(queue.keys().collect::<Vec<_>>(), [OTHER]);
    assert_eq!(queue[OTHER], others[&(RUNQUEUE_LATENCY.name, OTHER.into())]);
    assert_eq!(
        rig.aggregator.details(),
        rig.aggregator.latency_report().families.iter().map(|f| f.series.len()).sum::<usize>()
    );
}

#[test]
fn the_most_active_services_have_series_of_their_own_and_keep_them() {
    let mut rig = Rig::new(Rig::small());
    for pid in 1..=200 {
        rig.start(pid, &format!("s{pid:03}"));
        rig.row(pid, Family::RunQueue, 0, 0, u64::from(pid), 5_000);
    }
    rig.end();
    let first = family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY);
    assert!(first.contains_key("s200") && !first.contains_key("s001"), "{first:?}");
    assert_eq!(first.values().sum::<u64>(), (1..=200).sum::<u64>());
    // s001 becomes the busiest, but there is no room.
    rig.row(1, Family::RunQueue, 0, 0, 10_000, 5_000);
    rig.end();
    let second = family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY);
    assert!(second.keys().eq(first.keys()) && second[OTHER] == first[OTHER] + 10_000);
    // The detail is still whole elsewhere.
    let mut report = rig.aggregator.latency_report();
    report.sort(SortBy::Count);
    let busiest =
        &report.families.iter().find(|f| f.family == "runqueue_latency").expect("a family").series[0];
    assert_eq!((&*busiest.labels["service"], busiest.stats.total.count), ("s001", Some(10_001)));
}

#[test]
fn a_service_that_is_gone_makes_room() {
    let mut rig = Rig::new(Rig::small());
    for pid in 1..=100 {
        rig.start(pid, &format!("s{pid:03}"));
        rig.row(pid, Family::RunQueue, 0, 0, 100, 5_000);
    }
    rig.end();
    let names = family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY);
    (1..=100).for_each(|pid| rig.exit(pid));
    for _ in 0..119 {
        rig.end();
        assert_eq!(family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY), names);
    }
    (0..3).for_each(|_| rig.end());
    rig.start(500, "late");
    rig.row(500, Family::RunQueue, 0, 0, 1, 5_000);
    rig.end();
    let queue = family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY);
    assert_eq!(queue, [(OTHER.into(), names[OTHER]), ("late".into(), 1)].into());
}

#[test]
fn open_ended_labels_have_a_cap_of_their_own() {
    let mut rig = Rig::new(Settings::default());
    rig.start(1, "proxy");
    for port in 0..5_000 {
        rig.row(1, Family::TcpAcceptQueue, 0, port, 2, 5_000);
    }
    rig.row(1, Family::RunQueue, 0, 0, 1, 5_000);
    rig.end();
    let snapshot = rig.aggregator.snapshot();
    let ports = family(&snapshot, &metrics::TCP_ACCEPT_QUEUE);
    assert_eq!((ports.len(), ports.values().sum::<u64>()), (2_000 / 28 + 1, 10_000));
    assert!(ports.contains_key(OTHER) && family(&snapshot, &RUNQUEUE_LATENCY).contains_key("proxy"));
}

#[test]
fn host_families_carry_services_where_asked() {
    let by_service = HashSet::from([SYSCALL_BLOCKED.name.to_owned()]);
    for (settings, expected) in
        [(Settings::default(), "read"), (Settings { by_service, ..Settings::default() }, "db,read")]
    {
        let mut rig = Rig::new(settings);
        rig.start(1, "db");
        rig.row(1, Family::OffCpu, Wait::Interruptible as u8, 1, 2, 5_000);
        rig.end();
        let blocked = family(&rig.aggregator.snapshot(), &SYSCALL_BLOCKED);
        assert_eq!(blocked, [(expected.to_owned(), 2)].into());
    }
}

#[test]
fn every_family_of_200_services_fits() {
    let mut rig = Rig::new(Settings::default());
    for pid in 1..=200 {
        rig.start(pid, &format!("s{pid}"));
        for family in Family::ALL {
            for label in 0..4 {
                rig.row(pid, family, label, 46, 1, 1 << (10 + label));
            }
        }
        let (service, key) = (
            rig.services.service_of(pid, u64::from(pid) * TICK_NS),
            ProcessKey { pid, start_ticks: pid.into() },
        );
        rig.aggregator.set(&metrics::MEMORY, Some(&service), &["rss"], 1e6);
        let whose = Whose::Process(key, &service, &rig.services);
        rig.aggregator.count(&metrics::CPU_SECONDS, whose, &["user"], 2_000_000_000);
        rig.aggregator.set_resident(key, &service, &rig.services, 4096);
    }
    let begin = std::time::Instant::now();
    rig.end();
    let (of_end, begin) = (begin.elapsed(), std::time::Instant::now());
    let snapshot = rig.aggregator.snapshot();
    println!("end {of_end:?}, snapshot {:?}, details {}", begin.elapsed(), rig.aggregator.details());
    assert!(exported(&snapshot) <= 20_000);
    assert_eq!(family(&snapshot, &OFFCPU).values().sum::<u64>(), 800);
    assert_eq!(family(&snapshot, &metrics::TCP_CONNECT).values().sum::<u64>(), 800);
    assert_eq!(family(&snapshot, &metrics::BLOCK_IO).values().sum::<u64>(), 800);
    assert_eq!(family(&snapshot, &metrics::MEMORY).values().sum::<u64>(), 200_000_000);
    assert_eq!(family(&snapshot, &metrics::CPU_SECONDS).values().sum::<u64>(), 400);
    for family in &snapshot {
        assert!(
            family.series.windows(2).all(|pair| pair[0].labels < pair[1].labels),
            "{}",
            family.metric.name
        );
        assert!(family.series.iter().all(|series| series.labels.len() == family.label_names.len()));
    }
    let report = rig.aggregator.process_report();
    assert_eq!((report.processes.len(), report.processes[0].resident_memory_bytes), (200, 4096));
    let process = &report.processes[0];
    assert!((process.cpu_ratio - 0.4).abs() < 1e-9 && (process.cpu_seconds - 2.0).abs() < 1e-9);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["processes"][0]["families"]["offcpu"]["window"]["count"], 4);
    assert!(json["processes"][0]["families"]["offcpu"]["window"]["p99_seconds"].is_number());
    let json = serde_json::to_value(rig.aggregator.latency_report()).expect("JSON");
    assert_eq!(json["window_seconds"], 5.0);
    assert!(json["families"][0]["series"][0]["total"]["count"].is_number());
}

#[test]
fn a_reused_pid_is_another_service() {
    let mut rig = Rig::new(Settings::default());
    rig.start(7, "first");
    rig.row(7, Family::RunQueue, 0, 0, 2, 5_000);
    let mut second = rig.record(7, "second");
    second.start_time_ns = 100 * TICK_NS;
    rig.services.on_fork(&second);
    let mut buckets = [0; BUCKETS];
    buckets[0] = 5;
    let key = RowKey {
        start_time_ns: 100 * TICK_NS,
        subject: 7,
        family: Family::RunQueue as u8,
        ..RowKey::default()
    };
    rig.aggregator.row(&RowDelta { key, sum: 5, max: 1, buckets }, &mut rig.services);
    // A late row of the first.
    rig.row(7, Family::RunQueue, 0, 0, 1, 5_000);
    rig.end();
    let queue = family(&rig.aggregator.snapshot(), &RUNQUEUE_LATENCY);
    assert_eq!(queue, [("first".into(), 3), ("second".into(), 5)].into());
    assert_eq!(rig.aggregator.processes(), 2);
}

#[test]
fn gauges_are_gone_where_nobody_sets_them_and_add_up_where_they_are_folded() {
    let mut rig = Rig::new(Rig::small());
    for round in 0..3_u32 {
        for pid in 1..=3_000 {
            let service: Arc<str> = format!("s{pid}").into();
            rig.aggregator.add_to_gauge(&metrics::MEMORY, &service, &["rss"], 4.0);
            rig.aggregator.add_to_gauge(&metrics::MEMORY, &service, &["rss"], 6.0);
        }
        rig.aggregator.set(&metrics::TCP_CONNECTIONS, None, &["established"], f64::from(round));
        rig.end();
        let snapshot = rig.aggregator.snapshot();
        assert_eq!(family(&snapshot, &metrics::MEMORY).values().sum::<u64>(), 30_000);
        assert_eq!(family(&snapshot, &metrics::TCP_CONNECTIONS)["established"], u64::from(round));
        assert!(exported(&snapshot) <= 3_000);
    }
    rig.end();
    assert!(family(&rig.aggregator.snapshot(), &metrics::MEMORY).values().sum::<u64>() <= 30_000);
    rig.end();
    assert!(family(&rig.aggregator.snapshot(), &metrics::MEMORY).is_empty());
}

#[test]
#[ignore = "measures; with optimisation 3 ms for the rows, 0.4 ms for the end, 0.07 ms for the snapshot on 2 virtual cores"]
fn taking_in_rows_is_cheap() {
    let mut rig = Rig::new(Settings::default());
    for pid in 1..=500 {
        rig.start(pid, &format!("s{}", pid % 50));
    }
    for _ in 0..4 {
        let begin = std::time::Instant::now();
        for pid in 1..=500 {
            for call in 1..=7 {
                rig.row(pid, Family::OffCpu, Wait::Interruptible as u8, call, 3, 5_000);
            }
            rig.row(pid, Family::RunQueue, 0, 0, 3, 5_000);
        }
        let (of_rows, begin) = (begin.elapsed(), std::time::Instant::now());
        rig.end();
        let (of_end, begin) = (begin.elapsed(), std::time::Instant::now());
        let snapshot = rig.aggregator.snapshot();
        let (of_snapshot, begin) = (begin.elapsed(), std::time::Instant::now());
        let processes = rig.aggregator.process_report().processes.len();
        println!(
            "4,000 rows {of_rows:?}, end {of_end:?}, snapshot of {} {of_snapshot:?}, report of {processes} {:?}",
            exported(&snapshot),
            begin.elapsed()
        );
    }
}
