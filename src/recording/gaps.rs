//! How much the gaps between chunks depend on each other.

use super::{RecordedRequest, Recording};
use crate::statistics::Dependence;

impl Recording {
    /// Measures the gaps of some successes.
    #[must_use]
    pub fn gap_dependence<'a, S>(&'a self, successes: impl Fn() -> S, percentiles: &[f64]) -> Dependence
    where
        S: Iterator<Item = &'a RecordedRequest>,
    {
        let each = |take: &mut dyn FnMut(&[f64], &[f64])| {
            let mut ends = Vec::new();
            for request in successes() {
                ends.clear();
                self.extend_gap_ends(request, &mut ends);
                take(&ends, self.gaps_of(request));
            }
        };
        let (mut first, mut last) = (f64::INFINITY, f64::NEG_INFINITY);
        each(&mut |ends, _| {
            // Without a negative gap, these are the least and the most.
            let ends = if ends.is_sorted() && ends.len() > 2 { &[ends[0], ends[ends.len() - 1]] } else { ends };
            (first, last) = ends.iter().fold((first, last), |(first, last), end| (first.min(*end), last.max(*end)));
        });
        Dependence::measure_gaps(&self.gap_slices(successes()), (first, last), percentiles, each)
    }
}
