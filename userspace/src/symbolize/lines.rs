//! The lines of a text that somebody else writes: big reads, no allocation a line, bounded in bytes and line length.

use std::io::{self, Read};
use std::ops::ControlFlow;

use memchr::memchr;

/// How much is read at a time, and the longest line that is seen whole; longer ones are cut to this.
const CHUNK_BYTES: usize = 64 * 1024;

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Every line was seen, or as many as the caller wanted.
    Done,
    /// The text is longer than the limit; the rest was not read.
    Limit,
}

/// Calls `on_line` for each line of `text`, without its line feed, until it breaks off or `limit` bytes are read.
///
/// # Errors
/// What reading `text` gives.
pub(super) fn for_each_line(
    mut text: impl Read,
    limit: u64,
    mut on_line: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<End> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    let mut total = 0;
    // Set while the rest of a line that was cut is skipped.
    let mut skipping = false;
    loop {
        let count = match text.read(&mut buffer[filled..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += count as u64;
        filled += count;
        let mut rest = &buffer[..filled];
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if !std::mem::take(&mut skipping) && on_line(line).is_break() {
                return Ok(End::Done);
            }
        }
        if count == 0 || rest.len() == buffer.len() {
            if !rest.is_empty() && !skipping && on_line(rest).is_break() {
                return Ok(End::Done);
            }
            if count == 0 {
                return Ok(End::Done);
            }
            skipping = true;
            rest = &[];
        }
        if total > limit {
            return Ok(End::Limit);
        }
        let kept = rest.len();
        buffer.copy_within(filled - kept..filled, 0);
        filled = kept;
    }
}

/// The value of each byte as a hexadecimal digit; 0xff is none.
const DIGITS: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// The hexadecimal number with which `text` begins, and what follows it; `None` where there is none or it has more
/// than 16 digits.
#[inline]
pub(super) fn hexadecimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (place, &byte) in text.iter().take(17).enumerate() {
        let digit = DIGITS[usize::from(byte)];
        if digit == 0xff {
            return (place > 0).then(|| (value, &text[place..]));
        }
        value = value << 4 | u64::from(digit);
    }
    (1..=16).contains(&text.len()).then_some((value, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], limit: u64) -> (Vec<Vec<u8>>, End) {
        let mut lines = Vec::new();
        let end = for_each_line(text, limit, |line| {
            lines.push(line.to_vec());
            ControlFlow::Continue(())
        });
        (lines, end.unwrap())
    }

    #[test]
    fn sees_each_line_once_whatever_the_chunks() {
        let text: Vec<u8> = (0..40_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        let (seen, end) = lines(&text, u64::MAX);
        assert_eq!(end, End::Done);
        assert_eq!(seen.len(), 40_000);
        assert_eq!(seen[39_999], b"line 39999");
        assert_eq!(lines(b"a\n\nb", u64::MAX).0, [&b"a"[..], b"", b"b"]);
        assert!(lines(b"", u64::MAX).0.is_empty());
    }

    #[test]
    fn cuts_long_lines_and_long_texts() {
        let mut text = vec![b'x'; 3 * CHUNK_BYTES];
        text.extend_from_slice(b"\nnext\n");
        let (seen, _) = lines(&text, u64::MAX);
        assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [CHUNK_BYTES, 4]);
        assert_eq!(lines(&text, 10).1, End::Limit);
    }

    #[test]
    fn reads_hexadecimal_numbers() {
        assert_eq!(hexadecimal(b"ffffffffffffffff T"), Some((u64::MAX, &b" T"[..])));
        assert_eq!(hexadecimal(b"1Af"), Some((0x1af, &b""[..])));
        assert_eq!(hexadecimal(b"10000000000000000"), None);
        assert_eq!(hexadecimal(b" 1"), None);
    }
}
