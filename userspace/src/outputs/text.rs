//! Text for people: names made harmless, long ones shortened, numbers and times written out.

use std::borrow::Cow;

use jiff::Timestamp;

/// `name` without what breaks line-based formats and XML: control characters, line ends and noncharacters. Spaces at
/// its ends go too; what is then empty becomes `[unknown]`.
pub(super) fn clean(name: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}');
    let harmless: Cow<'_, str> = if name.contains(harmful) {
        let swap = |c| match c {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            c if harmful(c) => '?',
            c => c,
        };
        Cow::Owned(name.chars().map(swap).collect())
    } else {
        Cow::Borrowed(name)
    };
    let trimmed = harmless.trim_matches(' ');
    if trimmed.is_empty() {
        Cow::Borrowed("[unknown]")
    } else if trimmed.len() == harmless.len() {
        harmless
    } else {
        Cow::Owned(trimmed.to_owned())
    }
}

/// The first `max_chars` characters, the last of them an ellipsis where something was cut.
pub(super) fn shorten(text: &str, max_chars: usize) -> Cow<'_, str> {
    if text.chars().count() <= max_chars {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect())
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration in the unit that fits: `500 ms`, `9.5 s`, `10 min 5 s`.
pub(super) fn duration(duration_ns: u64) -> String {
    let milliseconds = duration_ns.saturating_add(500_000) / 1_000_000;
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => match (milliseconds + 50) / 100 {
            tenths if tenths % 10 == 0 => format!("{} s", tenths / 10),
            tenths => format!("{}.{} s", tenths / 10, tenths % 10),
        },
        _ => match (milliseconds + 500) / 1_000 {
            seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
            seconds => format!("{} min {} s", seconds / 60, seconds % 60),
        },
    }
}

/// A moment, given in nanoseconds since 1970, in UTC by a `strftime` format.
pub(super) fn date(unix_ns: u64, format: &str) -> String {
    // No u64 of nanoseconds (up to the year 2554) is outside of jiff's range.
    Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default().strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_harmless() {
        assert!(matches!(clean("std::vec<int>"), Cow::Borrowed("std::vec<int>")));
        assert_eq!(clean("a\nb\tc\u{7}\u{1b}[31m\0"), "a b c??[31m?");
        assert_eq!(clean("\u{85}x\u{2028}y\u{ffff}"), "?x y?");
        assert_eq!(clean("  padded "), "padded");
        assert_eq!(clean(""), "[unknown]");
        assert_eq!(clean(" \n "), "[unknown]");
        assert_eq!(clean("größe 漢字"), "größe 漢字");
    }

    #[test]
    fn numbers_and_times_are_written_out() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        for (ns, text) in [
            (0, "0 ms"),
            (499_600_000, "500 ms"),
            (1_000_000_000, "1 s"),
            (9_512_000_000, "9.5 s"),
            (30_003_000_000, "30 s"),
            (60_000_000_000, "1 min"),
            (605_000_000_000, "10 min 5 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(date(0, "%Y-%m-%d"), "1970-01-01");
        assert!(date(u64::MAX, "%Y").starts_with("2554"));
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("äbcd", 4), "äbcd");
    }
}
