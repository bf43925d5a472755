//! The difference of two profiles as a flame graph: frames that take more of the time than before are red, those
//! that take less are blue.
//!
//! The widths are those of the later profile. The earlier one's numbers are scaled to the same total, so that
//! captures of different lengths compare. As in every differential flame graph, a frame's colour is about its own
//! samples, not those of what it calls, and stacks that have vanished have no width: the subtitle says how much they were.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use inferno::flamegraph::color::Color;

use crate::error::{Error, Result};
use crate::profile::Profile;

use super::frames::Folding;
use super::svg::{FlameGraph, Graph, too_many};
use super::{Output, file, kind_title, read_file, text};

/// Reads the profiles `before` and `after` and writes their difference to `to`, which must end in `.svg`.
///
/// # Errors
/// Wrong usage for another extension; a file that cannot be read or written; profiles that count different things
/// or nothing.
pub fn write_diff_file(before: &Path, after: &Path, to: &Path) -> Result<()> {
    if !to.as_os_str().as_encoded_bytes().ends_with(FlameGraph.extension().as_bytes()) {
        return Err(Error::usage(
            format!("a difference cannot be written to {}", to.display()),
            format!("end the file name in {}", FlameGraph.extension()),
        ));
    }
    let profiles = (read_file(before)?, read_file(after)?);
    let indexes = comparable(&profiles.0, &profiles.1).map_err(|why| {
        Error::failed(
            format!("{} and {} cannot be compared: {why}", before.display(), after.display()),
            "give two captures of the same kind that hold samples",
        )
    })?;
    let names = names(before, after);
    file::write_whole(to, &mut |out| write(&profiles.0, &profiles.1, indexes, (&names.0, &names.1), out))
}

/// The index of the value to compare in each profile.
fn comparable(before: &Profile, after: &Profile) -> std::result::Result<(usize, usize), String> {
    if before.kind != after.kind {
        return Err(format!("one is a {}, the other a {}", kind_title(before.kind), kind_title(after.kind)));
    }
    // What people count by first, then whatever both have.
    let candidates = std::iter::once(before.count_index()).chain(0..before.value_types.len());
    let found = candidates.filter_map(|index| {
        let wanted = before.value_types.get(index)?;
        Some((index, after.value_types.iter().position(|value_type| value_type == wanted)?))
    });
    let (one, other) = found
        .into_iter()
        .next()
        .ok_or_else(|| format!("one counts {}, the other {}", value_names(before), value_names(after)))?;
    for (profile, index, which) in [(before, one, "first"), (after, other, "second")] {
        if profile.total(index) == 0 {
            return Err(format!("the {which} holds no samples"));
        }
    }
    Ok((one, other))
}

fn value_names(profile: &Profile) -> String {
    let names =
        profile.value_types.iter().map(|t| format!("{} in {}", text::clean(&t.name), text::clean(&t.unit)));
    names.collect::<Vec<_>>().join(" and ")
}

/// What to call the two files in a title: their names, with their folders only where the names are the same.
fn names(before: &Path, after: &Path) -> (String, String) {
    let whole = before.file_name() == after.file_name();
    let name = |path: &Path| {
        let shown = if whole { path.as_os_str() } else { path.file_name().unwrap_or(OsStr::new("")) };
        text::shorten(&text::clean(&shown.to_string_lossy()), 40).into_owned()
    };
    (name(before), name(after))
}

/// Draws the difference of the values at `indexes`.
fn write(
    before: &Profile,
    after: &Profile,
    indexes: (usize, usize),
    names: (&str, &str),
    to: &mut dyn io::Write,
) -> io::Result<()> {
    let folding = Folding::new([(before, indexes.0), (after, indexes.1)]);
    let totals = (folding.total(0).ok_or_else(too_many)?, folding.total(1).ok_or_else(too_many)?);
    let scaled = |value: u64| {
        // Rounded; the total is not zero, or nothing would be comparable.
        let (value, total) = (u128::from(value), u128::from(totals.0.max(1)));
        ((value * u128::from(totals.1) + total / 2) / total) as u64
    };
    let mut lines = String::new();
    let mut gone = 0;
    for line in &folding.lines {
        let [before, after] = line.values;
        if after == 0 {
            gone += before;
        }
        folding.push_stack(line, &mut lines);
        let _ = writeln!(lines, " {} {after}", scaled(before));
    }
    let value_type = &after.value_types[indexes.1];
    let mut graph = Graph {
        title: format!("Difference of {}s: {} → {}", kind_title(after.kind), names.0, names.1),
        subtitle: subtitle(totals, gone, &value_type.name),
        count_name: value_type.name.clone(),
        legend: &LEGEND,
        colors: None,
    };
    graph.draw(&lines, to)
}

/// The legend, in the colours of inferno's scale.
const LEGEND: [(Color, &str); 2] =
    [(Color { r: 255, g: 150, b: 150 }, "more than before"), (Color { r: 150, g: 150, b: 255 }, "less")];

fn subtitle(totals: (u64, u64), gone: u64, count_name: &str) -> String {
    let (before, after) = (text::grouped(totals.0), text::grouped(totals.1));
    let mut subtitle = format!("{before} → {after} {}, compared as shares", text::clean(count_name));
    if gone > 0 {
        let share = 100.0 * gone as f64 / totals.0.max(1) as f64;
        let _ = write!(subtitle, " · {share:.1}% of the first in stacks that the second lacks");
    }
    subtitle
}

#[cfg(test)]
mod tests {
    use super::super::folded;
    use super::*;

    fn drawn(before: &str, after: &str) -> String {
        let (before, after) = (folded::parse(before).unwrap(), folded::parse(after).unwrap());
        let mut svg = Vec::new();
        let indexes = comparable(&before, &after).unwrap();
        write(&before, &after, indexes, ("b.json", "a.json"), &mut svg).unwrap();
        String::from_utf8(svg).unwrap()
    }

    #[test]
    fn different_lengths_compare_as_shares() {
        // The same shares in a capture ten times as long: nothing has changed.
        let svg = drawn("p;a 3\np;b 1\n", "p;a 30\np;b 10\n");
        assert!(svg.contains("a (30 samples, 75.00%; 0.00%)"), "{svg}");
        assert!(svg.contains("b.json → a.json"));
        let svg = drawn("p;a 3\np;b 1\n", "p;a 10\np;b 30\n");
        assert!(svg.contains("a (10 samples, 25.00%; -50.00%)"), "{svg}");
        assert!(svg.contains("b (30 samples, 75.00%; +50.00%)"), "{svg}");
    }

    #[test]
    fn what_has_gone_is_told() {
        assert!(
            drawn("p;a 3\np;b 1\n", "p;b 4\n").contains("75.0% of the first in stacks that the second lacks")
        );
    }

    #[test]
    fn what_cannot_be_compared_says_why() {
        let samples = folded::parse("p;a 1\n").unwrap();
        let mut bytes = samples.clone();
        bytes.value_types[0] = crate::profile::ValueType { name: "space".into(), unit: "bytes".into() };
        let why = comparable(&samples, &bytes).unwrap_err();
        assert_eq!(why, "one counts samples in count, the other space in bytes");
        let none = folded::parse("").unwrap();
        assert_eq!(comparable(&samples, &none).unwrap_err(), "the second holds no samples");
    }

    #[test]
    fn huge_numbers_are_refused_and_large_ones_drawn() {
        let large = folded::parse(&format!("p;a {}\np;b 1\n", (1_u64 << 53) - 1)).unwrap();
        write(&large, &large, (0, 0), ("a", "b"), &mut Vec::new()).unwrap();
        let huge = folded::parse(&format!("p;a {}\n", u64::MAX)).unwrap();
        assert!(write(&huge, &large, (0, 0), ("a", "b"), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_difference_is_drawn_only_as_a_flame_graph() {
        let error = write_diff_file(Path::new("a"), Path::new("b"), Path::new("d.json")).unwrap_err();
        assert_eq!(error.class.exit_status(), 2);
    }
}
