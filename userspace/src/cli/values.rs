//! Values on the command line: durations and frequencies.

use std::time::Duration;

use crate::config::{FREQUENCY_HERTZ_RANGE, duration};

/// The longest capture: a week. Longer is what the agent's history is for.
const MAX_DURATION: Duration = Duration::from_hours(7 * 24);

/// `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text)?;
    if duration.is_zero() {
        return Err("it must be longer than zero".into());
    }
    if duration > MAX_DURATION {
        return Err("at most 7 days (168h) in one capture".into());
    }
    Ok(duration)
}

/// Samples a second.
pub fn frequency(text: &str) -> Result<u32, String> {
    let (low, high) = (FREQUENCY_HERTZ_RANGE.start(), FREQUENCY_HERTZ_RANGE.end());
    let number = text.trim_end_matches("Hz").trim_end();
    match number.parse() {
        Ok(hertz) if FREQUENCY_HERTZ_RANGE.contains(&hertz) => Ok(hertz),
        _ => Err(format!("it must be a number from {low} to {high}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, milliseconds) in
            [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("3", 3000), ("1.5", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "0", "0s", "-1", "1d", "1e9", "ten", "1.2.3", "9999999999h", "200h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn frequencies_have_bounds() {
        assert_eq!(frequency("99"), Ok(99));
        assert_eq!(frequency("99Hz"), Ok(99));
        for text in ["0", "10001", "-1", "x", ""] {
            assert!(frequency(text).is_err(), "{text}");
        }
    }
}
