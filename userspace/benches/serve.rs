//! What a scrape costs with 200 services and 20,000 series: CPU time and bytes, plain and compressed.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;

use hostscope::aggregate::snapshot::{FamilySeries, Histogram, Series, Value};
use hostscope::metrics::{Metric, MetricType, Scope};
use hostscope::serve::{Exposition, compress};
use hostscope_wire::histogram::BUCKETS;
use rustix::time::{ClockId, clock_gettime};

const SERVICES: u64 = 200;
const RUNS: u32 = 10;

/// Series of a histogram as Prometheus counts them: buckets, that of +Inf among them, sum and count.
const A_HISTOGRAM: u64 = BUCKETS as u64 + 2;

static HISTOGRAMS: [Metric; 3] = [
    metric("hostscope_run_queue_seconds", MetricType::Histogram, &[]),
    metric("hostscope_tcp_first_byte_seconds", MetricType::Histogram, &["role"]),
    metric("hostscope_file_sync_seconds", MetricType::Histogram, &["filesystem"]),
];
static COUNTERS: [Metric; 2] = [
    metric("hostscope_network_bytes_total", MetricType::Counter, &["direction", "transport"]),
    metric("hostscope_off_cpu_seconds_total", MetricType::Counter, &["wait", "in"]),
];

const fn metric(name: &'static str, kind: MetricType, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind, scope: Scope::Service, labels, help: "Time that somebody waits for something" }
}

/// 16 series a service of counters and three histograms: 20,000 series in all.
fn families() -> Vec<FamilySeries> {
    let family = |metric: &'static Metric, a_service: u64| {
        let label_names: Vec<_> = std::iter::once("service").chain(metric.labels.iter().copied()).collect();
        let one = |number: u64| {
            let mut labels: Vec<Arc<str>> =
                vec![format!("some-service-{:03}.service", number / a_service).into()];
            labels
                .extend(metric.labels.iter().map(|name| Arc::from(format!("{name}-{}", number % a_service))));
            let value = if metric.kind == MetricType::Histogram {
                let mut buckets = [0; BUCKETS];
                // As latencies are spread: many buckets in use, with counts of 1 to 6 digits.
                for (index, bucket) in buckets.iter_mut().enumerate().skip(2).take(16) {
                    *bucket = ((number + 1) * 7919 % 100_003) >> (index / 2);
                }
                Value::Histogram(Box::new(Histogram {
                    buckets,
                    sum_ns: number * 1_234_567_891,
                    max_ns: 1 << 30,
                }))
            } else {
                Value::Number((number * 12_345_679) as f64)
            };
            Series { labels, value }
        };
        FamilySeries { metric, label_names, series: (0..SERVICES * a_service).map(one).collect() }
    };
    let histograms = HISTOGRAMS.iter().map(|metric| family(metric, 1));
    histograms.chain(COUNTERS.iter().map(|metric| family(metric, 8))).collect()
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn measure(name: &str, mut run: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    let mut best = f64::MAX;
    let mut bytes = 0;
    for _ in 0..RUNS {
        let began = cpu_ms();
        bytes = run()?;
        best = best.min(cpu_ms() - began);
    }
    println!("{name:24} {best:7.2} ms of CPU {bytes:9} bytes");
    Ok(())
}

/// Counts what is written and forgets it.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

fn main() -> io::Result<()> {
    let families = families();
    let series: u64 = families
        .iter()
        .map(|family| {
            let of_each = if family.metric.kind == MetricType::Histogram { A_HISTOGRAM } else { 1 };
            family.series.len() as u64 * of_each
        })
        .sum();
    println!("{SERVICES} services, {series} series");
    let exposition =
        Exposition::new(move |each: &mut dyn FnMut(&FamilySeries)| families.iter().for_each(each));
    let exposition = exposition.map_err(io::Error::other)?;
    let before = peak_bytes();
    measure("encode, forget", || {
        let mut out = Counter(0);
        black_box(&exposition).write(&mut out)?;
        Ok(out.0)
    })?;
    println!("{:24} {:7.1} MB more at the peak", "", (peak_bytes() - before) as f64 / 1e6);
    measure("encode to memory", || {
        let mut out = Vec::new();
        black_box(&exposition).write(&mut out)?;
        Ok(out.len())
    })?;
    measure("encode and compress", || {
        compress(|out| black_box(&exposition).write(out)).map(|bytes| bytes.len())
    })?;
    println!("{:24} {:7.1} MB more at the peak", "", (peak_bytes() - before) as f64 / 1e6);
    Ok(())
}
