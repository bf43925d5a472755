//! Distinct items by number: the tables that formats point into by index.

use std::collections::HashMap;
use std::hash::Hash;

/// Items in the order in which they first came, each once.
pub(super) struct Table<T> {
    pub(super) items: Vec<T>,
    ids: HashMap<T, u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { items: Vec::new(), ids: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Table<T> {
    /// The index of `item`, which is added where it is new.
    pub(super) fn id(&mut self, item: T) -> u32 {
        if let Some(&id) = self.ids.get(&item) {
            return id;
        }
        let id = self.items.len() as u32;
        self.items.push(item.clone());
        self.ids.insert(item, id);
        id
    }
}
