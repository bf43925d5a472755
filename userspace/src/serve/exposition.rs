//! Series in Prometheus' text format, by the crate `prometheus`.
//!
//! A registry of our own holds one collector, which turns what was published last into the crate's model at each scrape: the
//! crate's own counters and histograms would hold every figure a second time, and count them for this process alone.

use std::io::{self, Write};

use hostscope_wire::histogram::bound_ns;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily};
use prometheus::{Encoder, Registry, TextEncoder};

use crate::aggregate::snapshot::{FamilySeries, Histogram, Series, Value};
use crate::error::{Error, Result};
use crate::metrics::MetricType;

/// Of text format 0.0.4.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const NANOSECONDS_A_SECOND: f64 = 1e9;

/// Hands every family there is at the moment to its argument.
pub trait Source: Fn(&mut dyn FnMut(&FamilySeries)) + Send + Sync {}

impl<F: Fn(&mut dyn FnMut(&FamilySeries)) + Send + Sync> Source for F {}

/// A source, ready to be scraped.
pub struct Exposition(Registry);

impl Exposition {
    /// Exposes what `source` has at the time of each scrape.
    ///
    /// # Errors
    /// The crate refuses the collector, which it does for names that are registered twice only.
    pub fn new(source: impl Source + 'static) -> Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(Families(source))).map_err(|error| {
            Error::failed(
                format!("cannot register the metrics: {error}"),
                "this is a fault of hostscope: report it",
            )
        })?;
        Ok(Self(registry))
    }

    /// Writes every family that has a series, sorted by name; a histogram without observations is none.
    ///
    /// # Errors
    /// `out` fails, or a family has a name that cannot be.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = out;
        TextEncoder::new().encode(&self.0.gather(), &mut out).map_err(|error| match error {
            prometheus::Error::Io(error) => error,
            error => io::Error::other(error),
        })
    }
}

/// The collector. What it describes changes from scrape to scrape, so it describes nothing beforehand.
struct Families<S>(S);

impl<S: Source> Collector for Families<S> {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        (self.0)(&mut |family| families.push(model(family)));
        families
    }
}

fn model(family: &FamilySeries) -> MetricFamily {
    let metric = family.metric;
    let mut model = MetricFamily::default();
    model.set_name(metric.name.into());
    model.set_help(metric.help.into());
    model.set_field_type(match metric.kind {
        MetricType::Counter => proto::MetricType::COUNTER,
        MetricType::Gauge => proto::MetricType::GAUGE,
        MetricType::Histogram => proto::MetricType::HISTOGRAM,
    });
    let series = family.series.iter();
    model.set_metric(series.filter_map(|series| one(metric.kind, &family.label_names, series)).collect());
    model
}

fn one(kind: MetricType, names: &[&str], series: &Series) -> Option<proto::Metric> {
    let labels = names.iter().zip(&series.labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((**value).into());
        pair
    });
    let mut metric = proto::Metric::from_label(labels.collect());
    match (kind, &series.value) {
        (MetricType::Counter, Value::Number(number)) => {
            let mut counter = proto::Counter::default();
            counter.set_value(*number);
            metric.set_counter(counter);
        }
        (MetricType::Gauge, Value::Number(number)) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*number);
            metric.set_gauge(gauge);
        }
        (MetricType::Histogram, Value::Histogram(histogram)) => metric.set_histogram(cumulative(histogram)?),
        (MetricType::Histogram, Value::Number(_)) | (_, Value::Histogram(_)) => return None,
    }
    Some(metric)
}

/// With the counts up to each bound; the encoder adds that of +Inf. Nothing where nothing was observed.
fn cumulative(histogram: &Histogram) -> Option<proto::Histogram> {
    let mut count = 0;
    let mut buckets = Vec::with_capacity(histogram.buckets.len());
    for (index, observed) in histogram.buckets.iter().enumerate() {
        count += observed;
        let Some(bound_ns) = bound_ns(index) else { continue };
        let mut bucket = proto::Bucket::default();
        bucket.set_cumulative_count(count);
        bucket.set_upper_bound(bound_ns as f64 / NANOSECONDS_A_SECOND);
        buckets.push(bucket);
    }
    let mut model = proto::Histogram::default();
    model.set_sample_count(count);
    model.set_sample_sum(histogram.sum_ns as f64 / NANOSECONDS_A_SECOND);
    model.set_bucket(buckets);
    (count > 0).then_some(model)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hostscope_wire::histogram::BUCKETS;

    use super::*;
    use crate::metrics::{Metric, SYSCALL_BLOCKED, Scope};

    static UP: Metric = Metric {
        name: "hostscope_up",
        kind: MetricType::Gauge,
        scope: Scope::Host,
        labels: &[],
        help: "A \\ and\na line",
    };

    fn histogram(observations: &[(usize, u64)], sum_ns: u64) -> Value {
        let mut buckets = [0; BUCKETS];
        for (bucket, count) in observations {
            buckets[*bucket] = *count;
        }
        Value::Histogram(Box::new(Histogram { buckets, sum_ns, max_ns: 0 }))
    }

    fn blocked(series: Vec<(&str, Value)>) -> FamilySeries {
        let one = |(label, value)| Series { labels: vec![Arc::from(label)], value };
        let series = series.into_iter().map(one).collect();
        FamilySeries { metric: &SYSCALL_BLOCKED, label_names: vec!["syscall"], series }
    }

    fn text(families: &[FamilySeries]) -> String {
        let families = families.to_vec();
        let exposition =
            Exposition::new(move |each: &mut dyn FnMut(&FamilySeries)| families.iter().for_each(each));
        let mut out = Vec::new();
        exposition.expect("a collector").write(&mut out).expect("memory does not fail");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_small_set_is_as_prometheus_wants_it() {
        let observed = histogram(&[(0, 1), (10, 2), (BUCKETS - 1, 3)], 61_500_000_000);
        let up = Series { labels: Vec::new(), value: Value::Number(0.5) };
        let up = FamilySeries { metric: &UP, label_names: Vec::new(), series: vec![up] };
        let text = text(&[blocked(vec![("a\"b\\c\nd", observed), ("none", histogram(&[], 0))]), up]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + BUCKETS + 2 + 3);
        let label = "syscall=\"a\\\"b\\\\c\\nd\"";
        let family = "hostscope_syscall_blocked_seconds";
        for (line, expected) in [
            (0, format!("# HELP {family} {}", SYSCALL_BLOCKED.help)),
            (1, format!("# TYPE {family} histogram")),
            (2, format!("{family}_bucket{{{label},le=\"0.000001024\"}} 1")),
            (11, format!("{family}_bucket{{{label},le=\"0.000524288\"}} 1")),
            (12, format!("{family}_bucket{{{label},le=\"0.001048576\"}} 3")),
            (26, format!("{family}_bucket{{{label},le=\"17.179869184\"}} 3")),
            (27, format!("{family}_bucket{{{label},le=\"+Inf\"}} 6")),
            (28, format!("{family}_sum{{{label}}} 61.5")),
            (29, format!("{family}_count{{{label}}} 6")),
            (30, "# HELP hostscope_up A \\\\ and\\na line".into()),
            (31, "# TYPE hostscope_up gauge".into()),
            (32, "hostscope_up 0.5".into()),
        ] {
            assert_eq!(lines[line], expected);
        }
    }

    #[test]
    fn what_has_nothing_to_say_is_left_out() {
        assert_eq!(text(&[blocked(vec![("read", histogram(&[], 0))]), blocked(Vec::new())]), "");
        // A value of another type than its metric's is a fault of ours, and no reason to give nothing.
        assert_eq!(text(&[blocked(vec![("read", Value::Number(1.0))])]), "");
    }
}
