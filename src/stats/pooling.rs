//! Pooling: one result from several. Each type of a result pools itself ([`Pooled`]) with the helpers of [`Pooling`].

use crate::{
    record::Object,
    statistics::{PoolMode, Summary, SummaryOptions, Unit},
};

/// How results are pooled.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// How they relate in time.
    pub together: PoolMode,
    /// Whether the pooled distributions keep their histograms.
    pub histograms: bool,
}

/// A part of a result that can be computed from the same part of several results.
pub trait Pooled: Sized {
    /// The pooled value; `None` if the values cannot be pooled, because a distribution has no histogram.
    fn pool(all: &Pooling<Self>) -> Option<Self>;
}

/// Several values of one type, to be pooled.
#[derive(Debug)]
pub struct Pooling<'a, T> {
    /// The values, at least one.
    pub all: Vec<&'a T>,
    /// How to pool them.
    pub options: PoolOptions,
}

impl<'a, T> Pooling<'a, T> {
    /// The same field of each value.
    pub fn map_fields<U>(&self, field: impl Fn(&'a T) -> &'a U) -> Pooling<'a, U> {
        Pooling { all: self.all.iter().map(|one| field(one)).collect(), options: self.options }
    }

    /// A field, pooled by its own type.
    pub fn pool_field<U: Pooled + 'a>(&self, field: impl Fn(&'a T) -> &'a U) -> Option<U> {
        U::pool(&self.map_fields(field))
    }

    /// An optional field, pooled over the values that have it.
    pub fn pool_known<U: Pooled + 'a>(&self, field: impl Fn(&'a T) -> Option<&'a U>) -> Option<U> {
        let all: Vec<&U> = self.all.iter().filter_map(|one| field(one)).collect();
        if all.is_empty() { None } else { U::pool(&Pooling { all, options: self.options }) }
    }

    /// A distribution in `unit`.
    pub fn pool_summary(&self, unit: Unit, field: impl Fn(&'a T) -> &'a Summary) -> Option<Summary> {
        let PoolOptions { together, histograms } = self.options;
        let parts = self.map_fields(field).all;
        let wanted = SummaryOptions { percentiles: Summary::percentiles_of_any(&parts), histograms };
        Some(Summary::from_stats(&Summary::pool_parts(&parts, unit, together, &wanted)?))
    }

    /// A distribution of times.
    pub fn pool_times(&self, field: impl Fn(&'a T) -> &'a Summary) -> Option<Summary> {
        self.pool_summary(Unit::Seconds, field)
    }

    /// The sum of a count.
    pub fn sum(&self, count: impl Fn(&'a T) -> u64) -> u64 {
        // A file may have any numbers.
        self.all.iter().map(|one| count(one)).fold(0, u64::saturating_add)
    }

    /// The sum of a count over the values that have it; `None` if none has.
    pub fn sum_known(&self, count: impl Fn(&'a T) -> Option<u64>) -> Option<u64> {
        self.all.iter().filter_map(|one| count(one)).reduce(u64::saturating_add)
    }

    /// A peak: hosts of one load add up, runs one after the other do not.
    pub fn pool_peak(&self, peak: impl Fn(&'a T) -> u64) -> u64 {
        match self.options.together {
            PoolMode::Concurrent => self.sum(peak),
            PoolMode::Sequential => self.all.iter().map(|one| peak(one)).max().unwrap_or_default(),
        }
    }

    /// The mean of `(weight, value)` over the values that have one; `None` if none has.
    pub fn weighted_mean(&self, entry: impl Fn(&'a T) -> (f64, Option<f64>)) -> Option<f64> {
        let known = self.all.iter().filter_map(|one| Some((entry(one).0, entry(one).1?)));
        let (weights, sum) =
            known.fold((0.0, 0.0), |(weights, sum), (weight, value)| (weights + weight, sum + weight * value));
        (weights > 0.0).then(|| sum / weights)
    }

    /// Counts by name, added up.
    pub fn sum_counts(&self, counts: impl Fn(&'a T) -> &'a Object) -> Object {
        let mut sums = Object::new();
        for (key, n) in self.all.iter().flat_map(|one| counts(one)) {
            let before = sums.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
            sums.insert(key.clone(), before.saturating_add(n.as_u64().unwrap_or_default()).into());
        }
        sums
    }

    /// All names, each once, in the order of their first appearance.
    pub fn collect_names(&self, names: impl Fn(&'a T) -> &'a Vec<String>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for name in self.all.iter().flat_map(|one| names(one)) {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        all
    }
}
