//! What was measured as text: a table a family, the counters in one, and what is missing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use hostscope_wire::histogram::{BUCKETS, bucket};

use super::figures;
use super::table::{Column, Table};
use crate::aggregate::report::{LatencyFamily, LatencySeries, Stats};
use crate::load::is_no_fault;
use crate::load::preflight::State;
use crate::measure::run::{Measured, ProbeReport};
use crate::metrics::METRICS;

/// Width where nobody knows a better one.
pub const WIDTH: usize = 100;

/// Rows of a family.
pub const ROWS: usize = 15;

/// How it is to look.
pub struct Layout {
    /// Characters of a line.
    pub width: usize,
    /// Most rows of a family.
    pub rows: usize,
    /// What the label `service` stands for here.
    pub subject: &'static str,
}

/// All of it.
pub fn text(measured: &Measured, layout: &Layout) -> String {
    let families = &measured.latency.families;
    let is_histogram =
        |family: &&LatencyFamily| family.series.iter().any(|series| !series.buckets.is_empty());
    let mut text = String::new();
    for family in families.iter().filter(is_histogram) {
        write_family(&mut text, family, layout);
    }
    let counters: Vec<&LatencyFamily> = families.iter().filter(|family| !is_histogram(family)).collect();
    write_counters(&mut text, &counters, layout);
    if text.is_empty() {
        text.push_str("Nothing was counted: what was watched slept, or ended too soon.\n");
    }
    write_missing(&mut text, &measured.probes, &measured.lost);
    text
}

/// The largest of a family's series, by what `value` says; and how many are left out.
fn largest(
    family: &LatencyFamily,
    rows: usize,
    value: impl Fn(&Stats) -> f64,
) -> (Vec<&LatencySeries>, usize) {
    let mut series: Vec<&LatencySeries> =
        family.series.iter().filter(|series| value(&series.stats.total) > 0.0).collect();
    series.sort_by(|left, right| value(&right.stats.total).total_cmp(&value(&left.stats.total)));
    let left_out = series.len().saturating_sub(rows);
    series.truncate(rows);
    (series, left_out)
}

fn label(series: &LatencySeries, name: &str) -> String {
    series.labels.get(name).map(Arc::to_string).unwrap_or_default()
}

/// Names of the labels beside `service`, in the order of the table of metrics.
fn label_names(family: &LatencyFamily) -> &'static [&'static str] {
    METRICS.iter().find(|metric| metric.name == family.metric).map_or(&[], |metric| metric.labels)
}

fn buckets(series: &LatencySeries) -> [u64; BUCKETS] {
    let mut buckets = [0; BUCKETS];
    for &(bound_seconds, count) in &series.buckets {
        // A bound is inclusive, so it names its own bucket.
        let index = bound_seconds.map_or(BUCKETS - 1, |seconds| bucket((seconds * 1e9).round() as u64));
        buckets[index] += count;
    }
    buckets
}

fn write_family(text: &mut String, family: &LatencyFamily, layout: &Layout) {
    let (series, left_out) = largest(family, layout.rows, |stats| stats.sum_seconds.unwrap_or(0.0));
    if series.is_empty() {
        return;
    }
    let has_errors = series.iter().any(|series| series.stats.total.errors > 0);
    let has_service = series.iter().any(|series| series.labels.contains_key("service"));
    let names = label_names(family);
    let mut columns = Vec::new();
    columns.extend(has_service.then(|| Column::words(layout.subject)));
    columns.extend(names.iter().map(|&name| Column::words(name)));
    columns.extend(["count", "rate/s"].map(Column::figures));
    columns.extend(has_errors.then(|| Column::figures("errors")));
    columns.extend(["p50", "p90", "p99", "max"].map(Column::figures));
    let row = |series: &&LatencySeries| {
        let stats = &series.stats.total;
        let duration = |seconds: Option<f64>| figures::duration(seconds.unwrap_or(0.0));
        let mut cells = Vec::new();
        cells.extend(has_service.then(|| label(series, "service")));
        cells.extend(names.iter().map(|name| label(series, name)));
        cells.extend([figures::count(stats.count.unwrap_or(0)), figures::rate(stats.rate_per_second)]);
        cells.extend(has_errors.then(|| figures::count(stats.errors)));
        cells.extend(
            [stats.p50_seconds, stats.p90_seconds, stats.p99_seconds, stats.max_seconds].map(duration),
        );
        cells
    };
    let mut table = Table { columns, rows: series.iter().map(row).collect() };
    add_bars(&mut table, &series, layout.width);
    let _ = writeln!(text, "{}: {}", family.family, family.help);
    write_table(text, &table, layout.width);
    if left_out > 0 {
        let _ = writeln!(text, "and {left_out} more (--all shows them)");
    }
    text.push('\n');
}

/// The histograms as the last column: one bucket to a character where there is room, else two.
fn add_bars(table: &mut Table, series: &[&LatencySeries], width: usize) {
    let is_wide = table.natural_width() + 2 + BUCKETS <= width;
    let each = if is_wide { 1 } else { 2 };
    let all: Vec<[u64; BUCKETS]> = series.iter().map(|series| buckets(series)).collect();
    let groups = all.iter().flat_map(|buckets| buckets.chunks(each).map(|group| group.iter().sum()));
    let most: u64 = groups.max().unwrap_or(0);
    // Figures are never cut, and bars must not be.
    table.columns.push(Column::figures(figures::bars_header(each)));
    for (row, buckets) in table.rows.iter_mut().zip(&all) {
        row.push(figures::bars(buckets, most, each));
    }
}

fn write_table(text: &mut String, table: &Table, width: usize) {
    for line in table.lines(width) {
        text.push_str(&line);
        text.push('\n');
    }
}

/// What a counter's figures are: its sum, and what it is in a second.
fn counter_figures(family: &LatencyFamily, stats: &Stats) -> [String; 2] {
    let count = stats.count.unwrap_or(0);
    if let Some(seconds) = stats.sum_seconds {
        [figures::duration(seconds), figures::share(stats.rate_per_second)]
    } else if family.family.ends_with("_bytes") {
        [figures::bytes(count as f64), figures::bytes(stats.rate_per_second) + "/s"]
    } else {
        [figures::count(count), figures::rate(stats.rate_per_second) + "/s"]
    }
}

fn write_counters(text: &mut String, families: &[&LatencyFamily], layout: &Layout) {
    let mut rows = Vec::new();
    let mut left_out = Vec::new();
    for family in families {
        let amount = |stats: &Stats| {
            stats.sum_seconds.unwrap_or(0.0).max(stats.count.map_or(0.0, |count| count as f64))
        };
        let (series, more) = largest(family, layout.rows, amount);
        if more > 0 {
            left_out.push(format!("{more} of {}", family.family));
        }
        let names = label_names(family);
        rows.extend(series.into_iter().enumerate().map(|(index, series)| {
            let name = if index == 0 { family.family.to_owned() } else { String::new() };
            let labels: Vec<String> = names.iter().map(|name| label(series, name)).collect();
            let [total, rate] = counter_figures(family, &series.stats.total);
            vec![name, label(series, "service"), labels.join(" "), total, rate]
        }));
    }
    if rows.is_empty() {
        return;
    }
    let columns = vec![
        Column::words("counter"),
        Column::words(layout.subject),
        Column::words(""),
        Column::figures("total"),
        Column::figures("rate"),
    ];
    write_table(text, &Table { columns, rows }, layout.width);
    if !left_out.is_empty() {
        let _ = writeln!(text, "and {} (--all shows them)", left_out.join(", "));
    }
    text.push('\n');
}

/// Probes that do not work, by reason, and what was lost.
fn write_missing(text: &mut String, probes: &[ProbeReport], lost: &BTreeMap<&'static str, u64>) {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for probe in probes.iter().filter(|probe| probe.state == State::Off && !is_no_fault(&probe.reason)) {
        reasons.entry(&probe.reason).or_default().push(probe.name);
    }
    if !reasons.is_empty() {
        let off: Vec<String> =
            reasons.iter().map(|(reason, names)| format!("{} ({reason})", names.join(", "))).collect();
        let _ = writeln!(text, "off: {}", off.join("; "));
    }
    if !lost.is_empty() {
        let lost: Vec<String> = lost.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let _ = writeln!(text, "lost: {}", lost.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::latency::{Aggregator, Settings, Whose};
    use crate::aggregate::report::{LatencyReport, ProcessReport};
    use crate::aggregate::series::Delta;
    use crate::metrics::{
        CONTEXT_SWITCHES, CPU_SECONDS, METRICS, MetricType, NETWORK_BYTES, SYSCALL_BLOCKED,
    };
    use crate::targets::services::Services;

    fn measured(latency: LatencyReport) -> Measured {
        let processes = ProcessReport { window_seconds: 2.0, total_seconds: 2.0, processes: Vec::new() };
        let probe = |name, state, reason: &str| ProbeReport { name, state, reason: reason.into() };
        Measured {
            latency,
            processes,
            every_system_call: false,
            probes: vec![
                probe("sched_switch", State::On, ""),
                probe("tcp_rtt", State::Off, "it needs Linux 6.3 or newer"),
                probe("tcp_resets", State::Off, "it needs Linux 6.3 or newer"),
            ],
            lost: [("rows_full", 7)].into(),
            command: None,
        }
    }

    fn layout(width: usize, rows: usize) -> Layout {
        Layout { width, rows, subject: "service" }
    }

    fn observed(aggregator: &mut Aggregator, service: &str, call: &str, count: u64, nanoseconds: u64) {
        let mut buckets = [0; BUCKETS];
        buckets[bucket(nanoseconds)] = count;
        let delta =
            Delta { sum: count * nanoseconds, errors: 0, max_ns: nanoseconds, buckets: Some(&buckets) };
        aggregator.observe(&SYSCALL_BLOCKED, Whose::Service(&service.into()), &[call], &delta);
    }

    fn report(fill: impl FnOnce(&mut Aggregator)) -> Measured {
        let mut aggregator = Aggregator::new(Settings::default(), 0);
        fill(&mut aggregator);
        aggregator.end_interval(2_000_000_000, &Services::default());
        measured(aggregator.latency_report())
    }

    #[test]
    fn the_most_time_comes_first_and_what_is_left_out_is_said() {
        let measured = report(|aggregator| {
            observed(aggregator, "db", "fsync", 100, 3_000_000);
            observed(aggregator, "db", "read", 1_000_000, 2_000);
            observed(aggregator, "web", "epoll_wait", 3, 900_000_000);
            let service = "db".into();
            aggregator.count(&CONTEXT_SWITCHES, Whose::Service(&service), &["voluntary"], 23);
            aggregator.count(&CPU_SECONDS, Whose::Service(&service), &["user"], 500_000_000);
            aggregator.count(&NETWORK_BYTES, Whose::Service(&service), &["sent", "tcp"], 3_000_000);
        });
        let text = text(&measured, &layout(100, 2));
        let firsts: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(firsts[2..4], ["epoll_wait", "read"], "{text}");
        assert!(text.contains("\nand 1 more (--all shows them)\n"), "{text}");
        for row in ["3.0 MB  1.5 MB/s", "23      12/s", "500 ms       25%"] {
            assert!(text.contains(row), "{row}: {text}");
        }
        let end = "off: tcp_rtt, tcp_resets (it needs Linux 6.3 or newer)\nlost: 7 rows_full\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn every_family_fits_whatever_its_names_are() {
        let long = "a-service-with-a-name-of-sixty-four-characters-that-nobody-reads";
        let measured = report(|aggregator| {
            let mut buckets = [0; BUCKETS];
            // A million a second for a week, one of which took all of it.
            let week_ns = 604_800_000_000_000;
            (buckets[3], buckets[BUCKETS - 1]) = (604_800_000_000, 1);
            for metric in METRICS.iter().filter(|metric| metric.kind != MetricType::Gauge) {
                let labels: Vec<&str> = metric.labels.iter().map(|_| long).collect();
                let is_histogram = metric.kind == MetricType::Histogram;
                let delta = Delta {
                    sum: week_ns,
                    errors: 604_800_000_000,
                    max_ns: week_ns,
                    buckets: is_histogram.then_some(&buckets),
                };
                aggregator.observe(metric, Whose::Service(&long.into()), &labels, &delta);
            }
        });
        for width in [WIDTH, 120, 200] {
            let text = text(&measured, &layout(width, ROWS));
            for line in text.lines() {
                assert!(line.chars().count() <= width && !line.contains("NaN"), "{line}");
            }
        }
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let text = text(&report(|_| {}), &layout(WIDTH, ROWS));
        assert!(text.starts_with("Nothing was counted"), "{text}");
    }
}
