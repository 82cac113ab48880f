//! A queue that knows how many bytes are in it.

use std::collections::VecDeque;

/// Items in order, each with its weight in bytes.
#[derive(Debug)]
pub struct WeighedQueue<T> {
    items: VecDeque<(T, u64)>,
    weight: u64,
}

impl<T> WeighedQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        WeighedQueue { items: VecDeque::new(), weight: 0 }
    }

    /// Appends an item.
    pub fn push_back(&mut self, item: T, weight: u64) {
        self.weight = self.weight.saturating_add(weight);
        self.items.push_back((item, weight));
    }

    /// Takes the first item.
    pub fn pop_front(&mut self) -> Option<T> {
        let (item, weight) = self.items.pop_front()?;
        self.weight = self.weight.saturating_sub(weight);
        Some(item)
    }

    /// The first item.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.items.front().map(|(item, _)| item)
    }

    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The weight of all items.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }
}
