//! Numbers as people read them, in at most seven columns, and bars.

use hostscope_wire::histogram::BUCKETS;

/// A number with three digits and the unit's prefix that suits it, the first of which stands for `base`.
fn scaled(value: f64, units: &[&str], step: f64) -> String {
    let mut value = if value.is_finite() { value.max(0.0) } else { 0.0 };
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or("");
    // 999.5 would be written as 1000.
    while value >= step - 0.5
        && let Some(next) = units.next()
    {
        value /= step;
        unit = next;
    }
    let is_short = value < 9.95 && value > 0.0;
    if is_short { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A duration: `850 ns`, `12 µs`, `3.4 ms`, `17 s`, and nothing longer than seconds.
pub fn duration(seconds: f64) -> String {
    let nanoseconds = (seconds * 1e9).round();
    if nanoseconds < 1000.0 {
        format!("{nanoseconds:.0} ns")
    } else {
        scaled(nanoseconds, &[" ns", " µs", " ms", " s"], 1000.0)
    }
}

/// Bytes, in powers of 1000.
pub fn bytes(count: f64) -> String {
    if count < 999.5 {
        format!("{count:.0} B")
    } else {
        scaled(count, &[" B", " kB", " MB", " GB", " TB", " PB"], 1000.0)
    }
}

/// How many, exact up to six digits.
pub fn count(count: u64) -> String {
    if count < 1_000_000 {
        count.to_string()
    } else {
        scaled(count as f64, &["", "k", "M", "G", "T", "P"], 1000.0)
    }
}

/// How many a second.
pub fn rate(per_second: f64) -> String {
    match per_second {
        small if small > 0.0 && small < 0.05 => "<0.1".into(),
        rate => scaled(rate, &["", "k", "M", "G", "T"], 1000.0),
    }
}

/// CPUs kept busy, as a percentage of one.
pub fn share(ratio: f64) -> String {
    format!("{}%", rate(ratio * 100.0))
}

/// Bars of a histogram, `each` buckets (1 or 2) to a column. Heights are logarithmic, so that a few slow ones are seen beside a
/// million fast ones; the highest stands for `most`, a count of one is the lowest.
pub fn bars(buckets: &[u64; BUCKETS], most: u64, each: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |group: &[u64]| {
        let count: u64 = group.iter().sum();
        if count == 0 {
            return ' ';
        }
        let height = (count as f64).ln() / (most.max(2) as f64).ln() * 7.0;
        BARS[(height.round() as usize).min(7)]
    };
    buckets.chunks(each).map(bar).collect()
}

/// The line above bars: where 1 µs, 1 ms and 1 s are (2^10, 2^20 and 2^30 ns, the upper bounds of buckets 0, 10 and 20).
pub fn bars_header(each: usize) -> String {
    let place = |bucket: usize, text: &str| format!("{text:<width$}", width = bucket / each);
    format!(
        "{}{}{:<width$}",
        place(10, "1µs"),
        place(10, "1ms"),
        "1s",
        width = BUCKETS.div_ceil(each) - 20 / each
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_not_rounded_to_another_unit() {
        let durations = [0.0, 850e-9, 12e-6, 999.4e-6, 999.6e-6, 0.003_44, 9.96e-3, 0.999_9, 17.18, 3600.0];
        assert_eq!(
            durations.map(duration),
            ["0 ns", "850 ns", "12 µs", "999 µs", "1.0 ms", "3.4 ms", "10 ms", "1.0 s", "17 s", "3600 s"]
        );
        assert_eq!([0, 999_999, 1_000_000, 12_345_678].map(count), ["0", "999999", "1.0M", "12M"]);
        assert_eq!([0.0, 0.01, 0.5, 23.2, 4_321.0].map(rate), ["0", "<0.1", "0.5", "23", "4.3k"]);
        assert_eq!([12.0, 1500.0, 23e6].map(bytes), ["12 B", "1.5 kB", "23 MB"]);
        assert_eq!([0.123, 2.0, 0.0].map(share), ["12%", "200%", "0%"]);
        assert_eq!((duration(f64::NAN), rate(f64::INFINITY)), ("0 ns".into(), "0".into()));
    }

    #[test]
    fn bars_stand_under_their_marks() {
        let mut buckets = [0; BUCKETS];
        (buckets[0], buckets[10], buckets[20], buckets[25]) = (1_000_000, 1_000, 1, 1);
        assert_eq!(bars(&buckets, 1_000_000, 1), "█         ▅         ▁    ▁");
        assert_eq!(bars_header(1), "1µs       1ms       1s    ");
        assert_eq!(bars(&buckets, 1_000_000, 2), "█    ▅    ▁ ▁");
        assert_eq!(bars_header(2), "1µs  1ms  1s ");
        assert_eq!(bars(&[0; BUCKETS], 0, 1).trim(), "");
        let mut one = [0; BUCKETS];
        one[3] = 1;
        assert_eq!(bars(&one, 1, 1).trim(), "▁");
    }
}
