//! Randomness with a seed and a name: drawing more of one thing never moves another.
//!
//! `ChaCha8` and the pure-Rust logarithm give the same bits on every machine.

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};

/// The stream of random numbers for one `purpose` under one `seed`, and one `item` within it.
///
/// Items have streams of their own so that they can be made in any order, or side by side.
///
/// ```
/// use rand::Rng;
/// let first = vb::rng::stream(42, "arrivals", 0).next_u64();
/// assert_eq!(first, vb::rng::stream(42, "arrivals", 0).next_u64());
/// assert_ne!(first, vb::rng::stream(42, "arrivals", 1).next_u64());
/// assert_ne!(first, vb::rng::stream(42, "prompts", 0).next_u64());
/// ```
#[must_use]
pub fn stream(seed: u64, purpose: &str, item: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    let (head, name) = key.split_at_mut(8);
    head.copy_from_slice(&seed.to_le_bytes());
    for (i, byte) in purpose.bytes().enumerate() {
        // Longer names than the key has room for wrap round and are mixed in.
        let place = i % name.len();
        name[place] = name[place].rotate_left(3) ^ byte;
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(item);
    rng
}

/// Uniform in [0, 1), with all 53 bits of a double.
pub fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A whole number from `low` to `high`, both included.
pub fn between(rng: &mut impl Rng, low: u64, high: u64) -> u64 {
    rng.random_range(low..=high.max(low))
}

/// Any place in a list of `len` things; 0 for an empty one.
pub fn index(rng: &mut impl Rng, len: usize) -> usize {
    usize::try_from(between(rng, 0, (len as u64).saturating_sub(1))).unwrap_or_default()
}

/// Places in a list, each drawn in proportion to a weight of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// The sum of the weights up to each place.
    sums: Vec<f64>,
}

impl Weighted {
    /// With these weights, which are not negative; at the least one is more than 0.
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let add = |sum: &mut f64, weight| {
            *sum += weight;
            Some(*sum)
        };
        Weighted { sums: weights.into_iter().scan(0.0, add).collect() }
    }

    /// Zipf's law for the numbers `low` to `high`: k comes in proportion to 1/k to the power of `alpha`. Place 0 is `low`.
    #[must_use]
    pub fn zipf(low: u32, high: u32, alpha: f64) -> Self {
        // Counted from the first, which is the weight of 1 however large the exponent is.
        Self::new((low..=high).map(|k| libm::pow(f64::from(k) / f64::from(low), -alpha)))
    }

    /// A place.
    pub fn draw(&self, rng: &mut impl Rng) -> usize {
        let point = unit(rng) * self.sums.last().copied().unwrap_or_default();
        // Rounding may leave a crumb behind the last.
        self.sums.partition_point(|sum| *sum <= point).min(self.sums.len().saturating_sub(1))
    }
}

/// Fisher and Yates's shuffle. Written out, since that of a library may change from one version to the next.
pub fn shuffle<T>(list: &mut [T], rng: &mut impl Rng) {
    for i in (1..list.len()).rev() {
        list.swap(i, index(rng, i + 1));
    }
}

/// The standard normal distribution, by Marsaglia's polar method.
pub fn normal(rng: &mut impl Rng) -> f64 {
    loop {
        let (u, v) = (2.0 * unit(rng) - 1.0, 2.0 * unit(rng) - 1.0);
        let s = u * u + v * v;
        if s > 0.0 && s < 1.0 {
            return u * libm::sqrt(-2.0 * libm::log(s) / s);
        }
    }
}

/// The exponential distribution with mean 1, by inversion.
pub fn exponential(rng: &mut impl Rng) -> f64 {
    -libm::log(1.0 - unit(rng))
}

/// The gamma distribution with this shape and scale 1 (so its mean is `shape`): Marsaglia and Tsang,
/// "A simple method for generating gamma variables", ACM TOMS 26(3), 2000, with their boost for shapes under 1.
pub fn gamma(rng: &mut impl Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let boost = libm::pow(1.0 - unit(rng), 1.0 / shape);
        return gamma(rng, shape + 1.0) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && libm::log(1.0 - unit(rng)) < 0.5 * x * x + d - d * v + d * libm::log(v) {
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
        let mut rng = stream(42, "arrivals", 0);
        let got = (rng.next_u64(), exponential(&mut rng), gamma(&mut rng, 0.5), gamma(&mut rng, 4.0));
        assert_eq!(got, PINNED, "{got:?}");
    }
    const PINNED: (u64, f64, f64, f64) =
        (12_727_778_365_246_221_138, 0.547_656_425_714_899_5, 0.117_491_648_093_707_66, 2.173_564_590_598_831_4);

    #[test]
    fn a_shuffle_keeps_everything() {
        let mut list: Vec<u32> = (0..1000).collect();
        shuffle(&mut list, &mut stream(1, "test", 0));
        assert_ne!(list, (0..1000).collect::<Vec<u32>>());
        list.sort_unstable();
        assert_eq!(list, (0..1000).collect::<Vec<u32>>());
    }

    fn moments(draw: impl Fn(&mut ChaCha8Rng) -> f64) -> (f64, f64) {
        let mut rng = stream(1, "moments", 0);
        let n = 200_000;
        let values: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n))
    }

    #[test]
    fn the_distributions_have_their_moments() {
        for (name, (mean, var), (want_mean, want_var)) in [
            ("exponential", moments(exponential), (1.0, 1.0)),
            ("normal", moments(normal), (0.0, 1.0)),
            ("gamma 0.25", moments(|r| gamma(r, 0.25)), (0.25, 0.25)),
            ("gamma 3", moments(|r| gamma(r, 3.0)), (3.0, 3.0)),
        ] {
            assert!((mean - want_mean).abs() < 0.02 && (var - want_var).abs() < 0.05, "{name}: {mean} {var}");
        }
    }
}
