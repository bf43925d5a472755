//! What was found out before, bounded in entries.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of at most a given number of entries that forgets what was not asked for lately.
///
/// Two generations: when the young one holds half the entries it becomes the old one, and the old one is dropped. What
/// is asked for moves to the young one. That is nearly "least recently used" without a list to keep.
pub(super) struct Cache<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Copy, V: Clone> Cache<K, V> {
    /// A cache of at most `entries`; 0 remembers nothing.
    pub(super) fn new(entries: usize) -> Self {
        Self { half: entries / 2, young: HashMap::new(), old: HashMap::new() }
    }

    /// What was remembered for `key`.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value.clone());
        Some(value)
    }

    /// Remembers `value` for `key`.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_not_asked_for() {
        let mut cache = Cache::new(8);
        for key in 0..100 {
            cache.insert(key, key);
            assert_eq!(cache.get(&0), Some(0), "asked for each time");
            assert!(cache.young.len() + cache.old.len() <= 8);
        }
        assert_eq!(cache.get(&50), None);
        assert_eq!(cache.get(&99), Some(99));
    }

    #[test]
    fn may_be_off() {
        let mut cache = Cache::new(0);
        cache.insert(1, 1);
        assert_eq!(cache.get(&1), None);
    }
}
