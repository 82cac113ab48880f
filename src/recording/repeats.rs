//! Finds runs that are in the input twice: their throughput would be doubled.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::record::EndRecord;

/// What has been read of each run.
#[derive(Debug, Default)]
pub struct RepeatFinder {
    /// Outputs by run.
    outputs: HashMap<String, u64>,
    /// Hashes of the first output after each run record, and of each input. Their instants make them unique.
    first_outputs: HashSet<u64>,
    /// Whether the next output is such a first one.
    expects_first: bool,
    /// Whether a first output was read twice.
    found: bool,
}

impl RepeatFinder {
    /// Notes that a run, or an input, begins here.
    pub fn begin_run(&mut self) {
        self.expects_first = true;
    }

    /// Counts an output of a run.
    pub fn count_output(&mut self, run_id: &str, line: &[u8]) {
        if run_id.is_empty() {
            return;
        }
        match self.outputs.get_mut(run_id) {
            Some(count) => *count += 1,
            None => drop(self.outputs.insert(run_id.to_owned(), 1)),
        }
        if std::mem::take(&mut self.expects_first) {
            let mut hasher = DefaultHasher::new();
            line.hash(&mut hasher);
            self.found |= !self.first_outputs.insert(hasher.finish());
        }
    }

    /// Whether the outputs that were read last had been read before.
    #[must_use]
    pub fn has_found(&self) -> bool {
        self.found
    }

    /// A run with more outputs than its ends offered requests, and both numbers: it was read twice, in any order.
    #[must_use]
    pub fn find_excess(&self, ends: &[EndRecord]) -> Option<(&str, u64, u64)> {
        self.outputs.iter().find_map(|(id, outputs)| {
            let of_run = || ends.iter().filter(|end| end.run_id == *id);
            let offered: u64 = of_run().map(|end| end.offered).fold(0, u64::saturating_add);
            (of_run().next().is_some() && *outputs > offered).then_some((id.as_str(), *outputs, offered))
        })
    }
}
