//! A table of text: columns that line up, within a width.

/// Between columns.
const GAP: usize = 2;

/// The least that a column of words is cut to.
const LEAST: usize = 6;

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    /// What stands above it.
    pub head: String,
    /// Whether it holds words, which stand on the left and may be cut; figures stand on the right and never are.
    pub is_words: bool,
}

impl Column {
    /// Of words.
    pub fn words(head: impl Into<String>) -> Self {
        Self { head: head.into(), is_words: true }
    }

    /// Of figures.
    pub fn figures(head: impl Into<String>) -> Self {
        Self { head: head.into(), is_words: false }
    }
}

/// Columns and rows; a row has as many cells as there are columns.
pub struct Table {
    /// From the left.
    pub columns: Vec<Column>,
    /// From the top.
    pub rows: Vec<Vec<String>>,
}

fn width_of(text: &str) -> usize {
    text.chars().count()
}

impl Table {
    /// Each line of it, the head first, of at most `width` characters where words can be cut so far.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let widths = self.widths(width);
        let head: Vec<&str> = self.columns.iter().map(|column| column.head.as_str()).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(String::as_str).collect());
        let line = |cells: Vec<&str>| {
            let cells = cells.into_iter().zip(&self.columns).zip(&widths);
            let texts: Vec<String> =
                cells.map(|((cell, column), &width)| fitted(cell, width, column.is_words)).collect();
            texts.join(&" ".repeat(GAP)).trim_end().to_owned()
        };
        std::iter::once(head).chain(rows).map(line).collect()
    }

    /// How wide it is before anything is cut.
    pub fn natural_width(&self) -> usize {
        sum(&self.widths(usize::MAX))
    }

    fn widths(&self, width: usize) -> Vec<usize> {
        let cells = |index: usize| self.rows.iter().filter_map(move |row| row.get(index));
        let heads = self.columns.iter().enumerate();
        let mut widths: Vec<usize> = heads
            .map(|(index, column)| {
                cells(index).map(|cell| width_of(cell)).max().unwrap_or(0).max(width_of(&column.head))
            })
            .collect();
        // The widest words give way first.
        while sum(&widths) > width {
            let words = widths.iter_mut().zip(&self.columns).filter(|(_, column)| column.is_words);
            let Some((widest, _)) =
                words.max_by_key(|(width, _)| **width).filter(|(width, _)| **width > LEAST)
            else {
                break;
            };
            *widest -= 1;
        }
        widths
    }
}

fn sum(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

fn fitted(text: &str, width: usize, is_words: bool) -> String {
    if width_of(text) > width {
        let kept: String = text.chars().take(width.saturating_sub(1)).collect();
        return kept + "…";
    }
    if is_words { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table {
        Table {
            columns: vec![Column::words("name"), Column::figures("p50"), Column::words("bars")],
            rows: vec![
                vec![name.into(), "12 µs".into(), "▁ █".into()],
                vec!["b".into(), "3.4 ms".into(), String::new()],
            ],
        }
    }

    #[test]
    fn columns_line_up() {
        let table = table("first");
        assert_eq!(table.lines(100), ["name      p50  bars", "first   12 µs  ▁ █", "b      3.4 ms"]);
        assert_eq!(table.natural_width(), 19);
    }

    #[test]
    fn words_are_cut_and_figures_are_not() {
        let table = table("a-very-long-name-indeed");
        let lines = table.lines(24);
        assert_eq!(lines[1], "a-very-lo…   12 µs  ▁ █");
        assert!(table.lines(0)[1].starts_with("a-ver… "));
    }
}
