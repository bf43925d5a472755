//! Repeated measurements, and how they are written: median, range, ratio, and whether a bar is met.

use std::fmt;

/// The same quantity measured several times.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one, or the mean of the two in the middle; not a number where there is none.
    pub(crate) fn median(&self) -> f64 {
        let count = self.0.len();
        if count == 0 {
            return f64::NAN;
        }
        f64::midpoint(self.0[(count - 1) / 2], self.0[count / 2])
    }

    pub(crate) fn smallest(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn largest(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// How far the median may be off by chance: two medians differ where these do not overlap, 19 times of 20.
    /// 1.57 interquartile ranges by the root of the count ("Variations of Box Plots", The American
    /// Statistician 32, 1978).
    pub(crate) fn error_of_median(&self) -> f64 {
        let count = self.0.len();
        if count < 4 {
            return f64::NAN;
        }
        let range = self.0[count - 1 - count / 4] - self.0[count / 4];
        1.57 * range / (count as f64).sqrt()
    }

    /// That as `± error` with so many decimals; a dash where there are too few figures to tell.
    pub(crate) fn shown_error(&self, decimals: usize) -> String {
        let error = self.error_of_median();
        if error.is_finite() { format!("± {error:.decimals$}") } else { "–".into() }
    }

    /// `median (smallest–largest)` with so many decimals; a dash where nothing was measured.
    pub(crate) fn shown(&self, decimals: usize) -> String {
        if self.is_empty() {
            return "–".into();
        }
        let (median, smallest, largest) = (self.median(), self.smallest(), self.largest());
        format!("{median:.decimals$} ({smallest:.decimals$}–{largest:.decimals$})")
    }

    /// This median as a multiple of `base`'s.
    pub(crate) fn ratio_to(&self, base: &Self) -> String {
        let ratio = self.median() / base.median();
        if ratio.is_finite() { format!("{ratio:.1}×") } else { String::new() }
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut figures = Self::default();
        values.into_iter().for_each(|value| figures.push(value));
        figures
    }
}

/// A promise, and what was measured of it.
pub(crate) struct Bar {
    pub(crate) what: String,
    /// What was measured, as text.
    pub(crate) measured: String,
    /// Unknown where the peer that it compares with did not run.
    pub(crate) met: Option<bool>,
}

impl Bar {
    /// `measured` is to be at most `limit`; judged by the median.
    pub(crate) fn at_most(what: impl Into<String>, measured: &Figures, limit: f64, decimals: usize) -> Self {
        let median = measured.median();
        let met = (median.is_finite() && limit.is_finite()).then_some(median <= limit);
        Self {
            what: what.into(),
            measured: format!("{} to {limit:.decimals$}", measured.shown(decimals)),
            met,
        }
    }

    /// Likewise, but not judged where the median is no farther from the limit than chance alone can take it.
    pub(crate) fn at_most_beyond_noise(
        what: impl Into<String>,
        measured: &Figures,
        limit: f64,
        decimals: usize,
    ) -> Self {
        let mut bar = Self::at_most(what, measured, limit, decimals);
        if (measured.median() - limit).abs() < measured.error_of_median() {
            bar.met = None;
            let error = measured.shown_error(decimals);
            bar.measured = format!("{}, {error}: take more rounds, in a quieter moment", bar.measured);
        }
        bar
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "unknown",
        };
        write!(formatter, "{verdict:<8} {}: {}", self.what, self.measured)
    }
}

/// Columns of text, each as wide as its widest cell; the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if column == 0 { ("", padding.as_str()) } else { (padding.as_str(), "") };
            line.extend([before, cell.as_str(), after, "  "]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ranges_and_ratios() {
        let figures: Figures = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!(figures.shown(1), "2.0 (1.0–3.0)");
        assert_eq!([1.0, 2.0].into_iter().collect::<Figures>().shown(2), "1.50 (1.00–2.00)");
        assert_eq!(Figures::default().shown(1), "–");
        assert_eq!([5.0].into_iter().collect::<Figures>().ratio_to(&figures), "2.5×");
        assert_eq!(Figures::default().ratio_to(&figures), "");
    }

    #[test]
    fn the_error_of_a_median_grows_less_with_more_figures() {
        let of = |count: u32| (0..count).map(|value| f64::from(value % 4)).collect::<Figures>();
        assert_eq!((of(16).shown_error(2), of(3).shown_error(2)), ("± 0.39".into(), "–".into()));
        assert!((of(64).error_of_median() * 2.0 - of(16).error_of_median()).abs() < 1e-9);
    }

    #[test]
    fn a_bar_within_the_noise_is_unknown() {
        let figures: Figures = [1.0, 2.0, 3.0, 4.0].into_iter().collect();
        let met = |limit| Bar::at_most_beyond_noise("x", &figures, limit, 1).met;
        assert_eq!([met(1.0), met(2.0), met(3.0), met(4.5)], [Some(false), None, None, Some(true)]);
    }

    #[test]
    fn a_bar_without_its_peer_is_unknown() {
        let figures: Figures = [2.0].into_iter().collect();
        assert_eq!(Bar::at_most("x", &figures, 2.0, 0).to_string(), "met      x: 2 (2–2) to 2");
        assert_eq!(Bar::at_most("x", &figures, 1.0, 0).met, Some(false));
        assert_eq!(Bar::at_most("x", &figures, f64::NAN, 0).met, None);
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(table(&[row(["tool", "s"]), row(["a", "0.15×"])]), "tool      s\na     0.15×\n");
    }
}
