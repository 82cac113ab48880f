//! Random streams with a seed and a name: drawing more from one stream never changes another.
//!
//! `ChaCha8` and the pure-Rust logarithm give the same bits on every machine.

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};

/// Creates the stream of random numbers for one `item` of one `purpose` under a `seed`.
///
/// Each item has its own stream, so items can be made in any order, or in parallel.
///
/// ```
/// use rand::Rng;
/// let first = vb::rng::random_stream(42, "arrivals", 0).next_u64();
/// assert_eq!(first, vb::rng::random_stream(42, "arrivals", 0).next_u64());
/// assert_ne!(first, vb::rng::random_stream(42, "arrivals", 1).next_u64());
/// assert_ne!(first, vb::rng::random_stream(42, "prompts", 0).next_u64());
/// ```
#[must_use]
pub fn random_stream(seed: u64, purpose: &str, item: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    let (head, name) = key.split_at_mut(8);
    head.copy_from_slice(&seed.to_le_bytes());
    for (i, byte) in purpose.bytes().enumerate() {
        // Names longer than the key wrap to its start and are mixed in.
        let place = i % name.len();
        name[place] = name[place].rotate_left(3) ^ byte;
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(item);
    rng
}

/// Samples uniformly from [0, 1), with all 53 bits of a double.
pub fn sample_unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Samples a whole number from `low` to `high`, both included.
pub fn sample_between(rng: &mut impl Rng, low: u64, high: u64) -> u64 {
    rng.random_range(low..=high.max(low))
}

/// Samples an index into a list of `len` items; 0 for an empty list.
pub fn sample_index(rng: &mut impl Rng, len: usize) -> usize {
    usize::try_from(sample_between(rng, 0, (len as u64).saturating_sub(1))).unwrap_or_default()
}

/// Indices of a list, each sampled in proportion to its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedIndex {
    /// The sum of the weights up to and including each index.
    sums: Vec<f64>,
}

impl WeightedIndex {
    /// Takes weights that are not negative; at least one must be more than 0.
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let add = |sum: &mut f64, weight| {
            *sum += weight;
            Some(*sum)
        };
        WeightedIndex { sums: weights.into_iter().scan(0.0, add).collect() }
    }

    /// Zipf's law for the numbers `low` to `high`: the weight of k is k to the power of −`alpha`. Index 0 is `low`.
    #[must_use]
    pub fn from_zipf(low: u32, high: u32, alpha: f64) -> Self {
        // Relative to `low`, so that the first weight is 1 however large the exponent is.
        Self::new((low..=high).map(|k| libm::pow(f64::from(k) / f64::from(low), -alpha)))
    }

    /// Samples an index.
    pub fn draw_index(&self, rng: &mut impl Rng) -> usize {
        let point = sample_unit(rng) * self.sums.last().copied().unwrap_or_default();
        // Rounding may put the point after the last sum.
        self.sums.partition_point(|sum| *sum <= point).min(self.sums.len().saturating_sub(1))
    }
}

/// Shuffles with Fisher and Yates's algorithm. Written here, because a library's shuffle may change between versions.
pub fn shuffle_list<T>(list: &mut [T], rng: &mut impl Rng) {
    for i in (1..list.len()).rev() {
        list.swap(i, sample_index(rng, i + 1));
    }
}

/// Samples the standard normal distribution, by Marsaglia's polar method.
pub fn sample_normal(rng: &mut impl Rng) -> f64 {
    loop {
        let (u, v) = (2.0 * sample_unit(rng) - 1.0, 2.0 * sample_unit(rng) - 1.0);
        let s = u * u + v * v;
        if s > 0.0 && s < 1.0 {
            return u * libm::sqrt(-2.0 * libm::log(s) / s);
        }
    }
}

/// Samples the exponential distribution with mean 1, by inversion.
pub fn sample_exponential(rng: &mut impl Rng) -> f64 {
    -libm::log(1.0 - sample_unit(rng))
}

/// Samples the gamma distribution with this shape and scale 1 (so its mean is `shape`): Marsaglia and Tsang,
/// "A simple method for generating gamma variables", ACM TOMS 26(3), 2000, with their boost for shapes under 1.
pub fn sample_gamma(rng: &mut impl Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = libm::pow(1.0 - sample_unit(rng), 1.0 / shape);
        return sample_gamma(rng, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = sample_normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && libm::log(1.0 - sample_unit(rng)) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values are part of the promise "same seed, same bytes, on every machine".
    #[test]
    fn the_streams_never_change() {
        let mut rng = random_stream(42, "arrivals", 0);
        let got =
            (rng.next_u64(), sample_exponential(&mut rng), sample_gamma(&mut rng, 0.5), sample_gamma(&mut rng, 4.0));
        assert_eq!(got, PINNED, "{got:?}");
    }
    const PINNED: (u64, f64, f64, f64) =
        (12_727_778_365_246_221_138, 0.547_656_425_714_899_5, 0.117_491_648_093_707_66, 2.173_564_590_598_831_4);

    #[test]
    fn a_shuffle_keeps_everything() {
        let mut list: Vec<u32> = (0..1000).collect();
        shuffle_list(&mut list, &mut random_stream(1, "test", 0));
        assert_ne!(list, (0..1000).collect::<Vec<u32>>());
        list.sort_unstable();
        assert_eq!(list, (0..1000).collect::<Vec<u32>>());
    }

    fn moments(draw: impl Fn(&mut ChaCha8Rng) -> f64) -> (f64, f64) {
        let mut rng = random_stream(1, "moments", 0);
        let n = 200_000;
        let values: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n))
    }

    #[test]
    fn the_distributions_have_their_moments() {
        for (name, (mean, var), (want_mean, want_var)) in [
            ("exponential", moments(sample_exponential), (1.0, 1.0)),
            ("normal", moments(sample_normal), (0.0, 1.0)),
            ("gamma 0.25", moments(|r| sample_gamma(r, 0.25)), (0.25, 0.25)),
            ("gamma 3", moments(|r| sample_gamma(r, 3.0)), (3.0, 3.0)),
        ] {
            assert!((mean - want_mean).abs() < 0.02 && (var - want_var).abs() < 0.05, "{name}: {mean} {var}");
        }
    }
}
