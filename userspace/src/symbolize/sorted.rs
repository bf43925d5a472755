//! Wanted addresses in ascending order, and the way back to the order in which they were asked for.

/// Addresses sorted, with the place of each in the question.
pub(super) struct Sorted {
    addresses: Vec<u64>,
    places: Vec<u32>,
    asked: usize,
}

impl Sorted {
    /// Sorts `addresses`, which usually are sorted already; what is `None` has no answer.
    pub(super) fn new(addresses: impl ExactSizeIterator<Item = Option<u64>>) -> Self {
        let asked = addresses.len();
        let mut pairs: Vec<(u64, u32)> =
            addresses.zip(0..).filter_map(|(address, place)| Some((address?, place))).collect();
        pairs.sort_unstable();
        let (addresses, places) = pairs.into_iter().unzip();
        Self { addresses, places, asked }
    }

    /// In ascending order; an address may occur more than once.
    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// The answers to [`Self::addresses`] in the order of the question.
    pub(super) fn restore<T>(&self, answers: Vec<Option<T>>) -> Vec<Option<T>> {
        let mut restored: Vec<Option<T>> = (0..self.asked).map(|_| None).collect();
        for (&place, answer) in self.places.iter().zip(answers) {
            restored[place as usize] = answer;
        }
        restored
    }
}
