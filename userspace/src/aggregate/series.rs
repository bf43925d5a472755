//! What tells series apart: metric, owner and label values, each as a number.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hostscope_wire::histogram::BUCKETS;

use crate::metrics::{Metric, MetricType, OTHER};

/// A metric by its address: there is one static of each.
#[derive(Debug, Clone, Copy)]
pub struct MetricRef(pub &'static Metric);

impl PartialEq for MetricRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for MetricRef {}

impl Hash for MetricRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self.0).hash(state);
    }
}

/// Whose a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Nobody's in particular.
    Host,
    /// Of the services that have no series of their own.
    Other,
    /// A service's.
    Service(u32),
    /// A process's.
    Process(u32),
}

/// The value of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol(u32);

impl Symbol {
    /// No label at all.
    pub const NONE: Self = Self(0);
    /// All values that have no series of their own.
    pub const OTHER: Self = Self(1);
}

/// The values of a metric's labels, in the order of [`Metric::labels`].
pub type Labels = [Symbol; 2];

/// A series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which metric.
    pub metric: MetricRef,
    /// Whose.
    pub owner: Owner,
    /// Labels beside `service`.
    pub labels: Labels,
}

impl Key {
    /// The same with every label that the metric has folded away.
    #[must_use]
    pub fn without_details(self) -> Self {
        let labels = self.labels.map(|label| if label == Symbol::NONE { label } else { Symbol::OTHER });
        Self { labels, ..self }
    }
}

/// Values of labels that are remembered. System calls (400), errors (140), devices, probes and states are far below it
/// together; ports may come to 65,536, most of them of no interest.
const MAX_SYMBOLS: usize = 8_192;

/// Every label value once.
pub struct Symbols {
    texts: Vec<Arc<str>>,
    index: HashMap<Arc<str>, Symbol>,
    numbers: HashMap<u16, Symbol>,
    /// Values that found no room and count for `~other`.
    pub overflow: u64,
}

impl Symbols {
    /// [`Symbol::NONE`] and [`Symbol::OTHER`].
    #[must_use]
    pub fn new() -> Self {
        let texts: Vec<Arc<str>> = vec!["".into(), OTHER.into()];
        let index = texts.iter().cloned().zip([Symbol::NONE, Symbol::OTHER]).collect();
        Self { texts, index, numbers: HashMap::new(), overflow: 0 }
    }

    /// The symbol of a text.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(&known) = self.index.get(text) {
            return known;
        }
        if self.texts.len() >= MAX_SYMBOLS {
            self.overflow += 1;
            return Symbol::OTHER;
        }
        let (text, symbol) = (Arc::<str>::from(text), Symbol(self.texts.len() as u32));
        self.texts.push(text.clone());
        self.index.insert(text, symbol);
        symbol
    }

    /// The symbol of a number, without writing it out each time.
    pub fn number(&mut self, number: u16) -> Symbol {
        if let Some(&known) = self.numbers.get(&number) {
            return known;
        }
        let symbol = self.intern(&number.to_string());
        if symbol != Symbol::OTHER {
            self.numbers.insert(number, symbol);
        }
        symbol
    }

    /// The text of a symbol.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> Arc<str> {
        self.texts[symbol.0 as usize].clone()
    }
}

impl Default for Symbols {
    fn default() -> Self {
        Self::new()
    }
}

/// What is added to a series.
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a> {
    /// Nanoseconds, or what was counted.
    pub sum: u64,
    /// Observations that were failures.
    pub errors: u64,
    /// The longest since the agent's start or later, in nanoseconds.
    pub max_ns: u64,
    /// Of a histogram.
    pub buckets: Option<&'a [u64; BUCKETS]>,
}

impl Delta<'_> {
    /// Of a counter.
    #[must_use]
    pub const fn count(sum: u64) -> Self {
        Self { sum, errors: 0, max_ns: 0, buckets: None }
    }
}

/// Where the members of a [`Delta`] stand among the numbers that a series is kept as.
pub mod at {
    /// The sum.
    pub const SUM: usize = 0;
    /// The failures.
    pub const ERRORS: usize = 1;
    /// The first bucket; a counter has none.
    pub const BUCKETS: usize = 2;
}

/// How many numbers a series of this metric is kept as.
#[must_use]
pub fn width(metric: &Metric) -> usize {
    match metric.kind {
        MetricType::Histogram => at::BUCKETS + BUCKETS,
        MetricType::Counter | MetricType::Gauge => at::BUCKETS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_bounded_and_stable() {
        let mut symbols = Symbols::new();
        assert_eq!((symbols.intern(""), symbols.intern(OTHER)), (Symbol::NONE, Symbol::OTHER));
        let http = symbols.number(80);
        for number in 0..=u16::MAX {
            symbols.number(number);
        }
        assert_eq!((symbols.number(80), &*symbols.text(http)), (http, "80"));
        assert_eq!((symbols.number(65_000), symbols.texts.len()), (Symbol::OTHER, MAX_SYMBOLS));
        assert!(symbols.overflow > 0);
    }
}
