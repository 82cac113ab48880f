//! The values at some ranks of a sample, without sorting or moving it: it may be all gaps of a run, which others read too.

use std::ops::RangeInclusive;

use super::numpy;

/// Samples of at most this size are copied and sorted in part.
const SMALL: usize = 1 << 12;

/// The most buckets that values are counted in.
const BUCKET_BITS: u32 = 15;

/// Values of a bucket are collected if they are at most this part of all; else the bucket is divided.
const COLLECTED_PART: usize = 32;

/// The values that some percentiles of a sample refer to.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedValues {
    n: usize,
    /// Ranks in order, each with its value.
    found: Vec<(usize, f64)>,
}

impl RankedValues {
    /// Finds the values that `percentiles`, the median, the extremes and `places` refer to.
    #[must_use]
    pub fn select(slices: &[&[f64]], percentiles: &[f64], places: &[f64]) -> Self {
        let n = slices.iter().map(|slice| slice.len()).sum();
        let ranks = numpy::needed_ranks(n, percentiles, places);
        let mut found: Vec<(usize, f64)> = ranks.iter().map(|rank| (*rank, 0.0)).collect();
        if n <= SMALL {
            let mut values = slices.concat();
            numpy::partially_sort_ranks(&mut values, &ranks);
            for (rank, value) in &mut found {
                *value = values[*rank];
            }
            return RankedValues { n, found };
        }
        let [inner @ .., _] = &ranks[1..] else { return RankedValues { n, found } };
        let range = likely_keys(slices, n, inner);
        let keys = select_between(slices, n / COLLECTED_PART, range, &mut found[1..=inner.len()]);
        if let [least, .., most] = &mut found[..] {
            (least.1, most.1) = (value_of_key(*keys.start()), value_of_key(*keys.end()));
        }
        RankedValues { n, found }
    }

    fn value_of_rank(&self, rank: usize) -> f64 {
        let place = self.found.binary_search_by_key(&rank, |(rank, _)| *rank);
        place.map(|place| self.found[place].1).unwrap_or_default()
    }

    /// The number of values in the sample.
    #[must_use]
    pub fn sample_size(&self) -> usize {
        self.n
    }

    /// The median; 0 for an empty sample.
    #[must_use]
    pub fn median(&self) -> f64 {
        numpy::median_by_rank(self.n, |rank| self.value_of_rank(rank))
    }

    /// A percentile that was asked for; 0 for an empty sample.
    #[must_use]
    pub fn percentile(&self, p: f64) -> f64 {
        numpy::percentile_by_rank(self.n, p, |rank| self.value_of_rank(rank))
    }

    /// The value at a place that was asked for, counted from 0; interpolated between two values.
    #[must_use]
    pub fn value_at(&self, place: f64) -> f64 {
        numpy::value_at_by_rank(self.n, place, |rank| self.value_of_rank(rank))
    }

    /// The smallest value; 0 for an empty sample.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.found.first().map(|(_, value)| *value).unwrap_or_default()
    }

    /// The largest value; 0 for an empty sample.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.found.last().map(|(_, value)| *value).unwrap_or_default()
    }
}

/// The percentiles of all values of several slices, as NumPy computes them; 0 without values.
#[must_use]
pub fn percentiles_of_slices(slices: &[&[f64]], percentiles: &[f64]) -> Vec<f64> {
    let values = RankedValues::select(slices, percentiles, &[]);
    percentiles.iter().map(|p| values.percentile(*p)).collect()
}

/// A number that orders as the value does by `f64::total_cmp`.
fn order_key(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn value_of_key(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}

/// Keys between which these ranks of `n` values probably lie, from a part of the values.
fn likely_keys(slices: &[&[f64]], n: usize, ranks: &[usize]) -> RangeInclusive<u64> {
    const SAMPLE: usize = 1 << 14;
    /// Four standard deviations of a rank in the sample.
    const MARGIN: usize = 256;
    let some = slices.iter().copied().flatten().step_by(n.div_ceil(SAMPLE));
    let mut keys: Vec<u64> = some.map(|value| order_key(*value)).collect();
    keys.sort_unstable();
    let place = |rank: Option<&usize>| rank.map_or(0, |rank| rank / n.div_ceil(SAMPLE));
    let (low, high) = (place(ranks.first()).saturating_sub(MARGIN), place(ranks.last()) + MARGIN);
    keys[low.min(keys.len() - 1)]..=keys[high.min(keys.len() - 1)]
}

/// A bucket that has wanted ranks.
struct WantedBucket<'f> {
    place: usize,
    keys: RangeInclusive<u64>,
    /// The number of values below it, and in it.
    below: usize,
    count: usize,
    found: &'f mut [(usize, f64)],
}

/// Where a key is counted: the first bucket has all that are below a range, the last one all that are above it.
#[derive(Clone, Copy)]
struct Buckets {
    low: u64,
    span: u64,
    shift: u32,
}

impl Buckets {
    fn new(range: &RangeInclusive<u64>) -> Self {
        let (low, span) = (*range.start(), range.end() - range.start());
        Buckets { low, span, shift: (u64::BITS - span.leading_zeros()).saturating_sub(BUCKET_BITS) }
    }

    fn count(self) -> usize {
        self.place_inside(self.span) + 2
    }

    fn place_inside(self, offset: u64) -> usize {
        usize::try_from(offset >> self.shift).unwrap_or(usize::MAX - 2) + 1
    }

    #[inline]
    fn place(self, key: u64) -> usize {
        let offset = key.wrapping_sub(self.low);
        match offset <= self.span {
            true => self.place_inside(offset),
            false if key < self.low => 0,
            false => self.count() - 1,
        }
    }

    /// The keys of a bucket; `all`: of the whole sample.
    fn keys(self, place: usize, all: &RangeInclusive<u64>) -> RangeInclusive<u64> {
        let high = self.low + self.span;
        match place.checked_sub(1) {
            None => *all.start()..=self.low - 1,
            Some(_) if place == self.count() - 1 => high + 1..=*all.end(),
            Some(inside) => {
                let begin = self.low + ((inside as u64) << self.shift);
                begin..=begin.saturating_add((1 << self.shift) - 1).min(high)
            }
        }
    }
}

/// Finds the values of ranks, and the range of all keys: counts the values in buckets, collects the values of the
/// buckets that matter, and divides buckets with more than `most` values. Buckets are finest in `range`.
fn select_between(
    slices: &[&[f64]],
    most: usize,
    range: RangeInclusive<u64>,
    found: &mut [(usize, f64)],
) -> RangeInclusive<u64> {
    let buckets = Buckets::new(&range);
    let mut counts = vec![0_usize; buckets.count()];
    let (mut low, mut high) = (u64::MAX, 0);
    for value in slices.iter().copied().flatten() {
        let key = order_key(*value);
        (low, high) = (low.min(key), high.max(key));
        counts[buckets.place(key)] += 1;
    }
    let all = low..=high;
    let mut collected: Vec<(WantedBucket, Vec<f64>)> = Vec::new();
    for bucket in wanted_buckets(&counts, buckets, &all, found) {
        if bucket.keys.start() == bucket.keys.end() {
            bucket.found.iter_mut().for_each(|(_, value)| *value = value_of_key(*bucket.keys.start()));
        } else if bucket.count > most {
            select_between(slices, most, bucket.keys, bucket.found);
        } else {
            let values = Vec::with_capacity(bucket.count);
            collected.push((bucket, values));
        }
    }
    if collected.is_empty() {
        return all;
    }
    let mut collector = vec![u16::MAX; counts.len()];
    for (i, (bucket, _)) in (0..u16::MAX).zip(&collected) {
        collector[bucket.place] = i;
    }
    for value in slices.iter().copied().flatten() {
        let collector = collector[buckets.place(order_key(*value))];
        if collector != u16::MAX {
            collected[usize::from(collector)].1.push(*value);
        }
    }
    for (bucket, mut values) in collected {
        let ranks: Vec<usize> = bucket.found.iter().map(|(rank, _)| rank - bucket.below).collect();
        numpy::partially_sort_ranks(&mut values, &ranks);
        bucket.found.iter_mut().zip(ranks).for_each(|((_, value), rank)| *value = values[rank]);
    }
    all
}

/// The buckets that have some of the ranks.
fn wanted_buckets<'f>(
    counts: &[usize],
    buckets: Buckets,
    all: &RangeInclusive<u64>,
    mut found: &'f mut [(usize, f64)],
) -> Vec<WantedBucket<'f>> {
    let (mut wanted, mut below) = (Vec::new(), 0);
    for (place, count) in counts.iter().copied().enumerate() {
        let inside = found.partition_point(|(rank, _)| *rank < below + count);
        if inside > 0 {
            let (own, others) = std::mem::take(&mut found).split_at_mut(inside);
            found = others;
            wanted.push(WantedBucket { place, keys: buckets.keys(place, all), below, count, found: own });
        }
        below += count;
    }
    wanted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[f64], percentiles: &[f64], cut: usize) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (a, b) = values.split_at(cut.min(values.len()));
        let place = values.len() as f64 * 0.3;
        let ranked = RankedValues::select(&[a, &[], b], percentiles, &[place]);
        for p in percentiles {
            assert_eq!(ranked.percentile(*p).to_bits(), numpy::percentile(&sorted, *p).to_bits(), "p{p}");
        }
        assert_eq!(ranked.median().to_bits(), numpy::median(&sorted).to_bits());
        assert_eq!(ranked.value_at(place).to_bits(), numpy::value_at(&sorted, place).to_bits());
        assert_eq!(
            (ranked.least().to_bits(), ranked.most().to_bits()),
            (sorted[0].to_bits(), sorted[sorted.len() - 1].to_bits())
        );
    }

    /// Values of every kind, and samples in which most values are equal or lie close together.
    #[test]
    fn sorting_gives_the_same_values() {
        let percentiles = [0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0];
        let noise = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / 1e9;
        for n in [1, 2, 4096, 4097, 50_000] {
            let all: [Box<dyn Fn(u32) -> f64>; 6] = [
                Box::new(noise),
                Box::new(|i| 0.002 + noise(i) * 1e-7),
                Box::new(|i| if i % 50 == 0 { noise(i) } else { 0.002 }),
                Box::new(|_| 0.0),
                Box::new(|i| if i % 3 == 0 { -noise(i) } else { 1e300 * noise(i) }),
                Box::new(|i| [0.0, -0.0, f64::INFINITY, 1e-320][i as usize % 4]),
            ];
            for value in all {
                let values: Vec<f64> = (0..n).map(value).collect();
                check(&values, &percentiles, n as usize / 3);
            }
        }
        assert_eq!(RankedValues::select(&[], &[50.0], &[]).median().to_bits(), 0);
    }

    proptest! {
        #[test]
        fn any_values_may_be_selected(
            values in prop::collection::vec(any::<f64>(), 1..50), repeats in 1..300_usize, p in 0.0..=100.0, cut in 0..9000_usize
        ) {
            check(&values.repeat(repeats), &[p], cut);
        }
    }
}
