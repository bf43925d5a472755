//! Durations as people write them.

use std::time::Duration;

/// `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// It is none; the text says what is wanted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_a_unit = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| "write a number and a unit, such as 10s or 500ms".to_owned())?;
    Duration::try_from_secs_f64(number * seconds_a_unit).map_err(|error| error.to_string())
}

/// The shortest text that [`parse`] reads back, for whole milliseconds.
#[must_use]
pub fn text(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, milliseconds) => format!("{milliseconds}ms"),
        (seconds, 0) if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds % 60 == 0 && seconds > 60 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back() {
        for written in ["100ms", "1s", "60s", "10m", "24h", "1500ms"] {
            assert_eq!(parse(written).map(text).as_deref(), Ok(written));
        }
    }
}
