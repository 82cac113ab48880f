//! Distributions of lengths in tokens: integers within limits, with the same draws on every machine.

use rand::Rng;

use crate::{
    rng::{self, WeightedIndex},
    units::{MAX_TOKENS, parse_tokens},
};

/// A distribution of lengths of at least 1 token.
///
/// Written as `128`, `uniform:100,200`, `normal:MEAN,SD`, `lognormal:MEAN,SD` (mean and standard deviation of the
/// lengths themselves) or `zipf:ALPHA,MAX`, optionally with `,min=…` and `,max=…`. Values outside the limits are drawn
/// again, not moved to the limit, where they would accumulate: the distribution is truncated, and its mean may differ
/// slightly.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthDistribution {
    shape: DistributionShape,
    low: u32,
    high: u32,
    /// For zipf: the weight of each length from `low` on.
    weighted: Option<WeightedIndex>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum DistributionShape {
    Uniform,
    /// Mean and standard deviation before rounding to integers.
    Normal(f64, f64),
    /// Mean and standard deviation of the logarithm.
    LogNormal(f64, f64),
    /// The probability of k is proportional to k to the power of minus this.
    Zipf(f64),
}

/// Longest length of zipf, which needs a table.
const MAX_ZIPF_LENGTH: u32 = 1 << 20;
/// Draws outside the limits that are repeated. At least 1 in 100 is within the limits, so this never ends.
const TRIES: usize = 100_000;

const SYNTAX: &str = "write 128, uniform:100,200, normal:480,240, lognormal:2000,1500 or zipf:1.2,4096, \
                   optionally with ,min=N and ,max=N";

impl LengthDistribution {
    /// All integers from `low` to `high` with equal probability.
    pub fn new_uniform(low: u32, high: u32) -> Result<Self, String> {
        Self::new(DistributionShape::Uniform, low, high)
    }

    /// The normal distribution, rounded to integers.
    pub fn new_normal(mean: f64, sd: f64, low: u32, high: u32) -> Result<Self, String> {
        if !(mean > 0.0 && sd >= 0.0 && mean + sd < f64::from(MAX_TOKENS)) {
            return Err(format!("a mean of {mean} and a standard deviation of {sd} are not lengths"));
        }
        Self::new(DistributionShape::Normal(mean, sd), low, high)
    }

    /// The log-normal distribution with this mean and standard deviation, rounded: σ² = ln(1 + sd²/mean²), µ = ln mean
    /// − σ²/2.
    fn new_log_normal(mean: f64, sd: f64, low: u32, high: u32) -> Result<Self, String> {
        // The same check.
        Self::new_normal(mean, sd, 1, MAX_TOKENS)?;
        let variance = libm::log1p(sd * sd / (mean * mean));
        Self::new(DistributionShape::LogNormal(libm::log(mean) - variance / 2.0, libm::sqrt(variance)), low, high)
    }

    /// Zipf's law, from `low` to `high`.
    fn new_zipf(alpha: f64, low: u32, high: u32) -> Result<Self, String> {
        if !(alpha >= 0.0 && alpha.is_finite()) {
            return Err(format!("zipf's exponent {alpha} is not a number of at least 0"));
        }
        if high > MAX_ZIPF_LENGTH {
            return Err(format!("zipf's longest length is at most {MAX_ZIPF_LENGTH}"));
        }
        Self::new(DistributionShape::Zipf(alpha), low, high)
    }

    fn new(shape: DistributionShape, low: u32, high: u32) -> Result<Self, String> {
        let low = low.max(1);
        if low > high {
            return Err(format!("no length is at least {low} and at most {high}"));
        }
        if high > MAX_TOKENS {
            return Err(format!("{high} is too large: at most {MAX_TOKENS} tokens"));
        }
        let mut distribution = LengthDistribution { shape, low, high, weighted: None };
        match shape {
            DistributionShape::Zipf(alpha) => distribution.weighted = Some(WeightedIndex::from_zipf(low, high, alpha)),
            DistributionShape::Normal(..) | DistributionShape::LogNormal(..) => {
                let mut rng = rng::random_stream(0, "limits", 0);
                let within = (0..2000).filter(|_| distribution.try_draw(&mut rng).is_some()).count();
                if within < 20 {
                    return Err(format!("fewer than 1 in 100 of its lengths are at least {low} and at most {high}"));
                }
            }
            DistributionShape::Uniform => {}
        }
        Ok(distribution)
    }

    /// The same distribution without lengths below `floor`.
    pub fn at_least(&self, floor: u32) -> Result<Self, String> {
        Self::new(self.shape, self.low.max(floor), self.high)
    }

    /// Draws a length.
    pub fn draw_length(&self, rng: &mut impl Rng) -> u32 {
        (0..TRIES).find_map(|_| self.try_draw(rng)).unwrap_or(self.low)
    }

    /// Draws a length; `None` if it is outside the limits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, and the limits are checked
    fn try_draw(&self, rng: &mut impl Rng) -> Option<u32> {
        let length = match self.shape {
            DistributionShape::Uniform => rng::sample_between(rng, self.low.into(), self.high.into()) as f64,
            DistributionShape::Normal(mean, sd) => mean + sd * rng::sample_normal(rng),
            DistributionShape::LogNormal(mu, sigma) => libm::exp(mu + sigma * rng::sample_normal(rng)),
            DistributionShape::Zipf(_) => {
                let place = self.weighted.as_ref().map_or(0, |weighted| weighted.draw_index(rng));
                f64::from(self.low) + place as f64
            }
        };
        let whole = (length + 0.5).floor();
        (whole >= f64::from(self.low) && whole <= f64::from(self.high)).then_some(whole as u32)
    }
}

impl std::str::FromStr for LengthDistribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a distribution of lengths: {SYNTAX}");
        let (name, rest) = text.trim().split_once(':').unwrap_or(("constant", text.trim()));
        let (mut numbers, mut min, mut max) = (Vec::new(), 1, None);
        for part in rest.split(',').map(str::trim) {
            match part.split_once('=') {
                Some(("min", n)) => min = parse_tokens(n)?,
                Some(("max", n)) => max = Some(parse_tokens(n)?),
                Some(_) => return Err(wrong()),
                None => numbers.push(part),
            }
        }
        let count = |text: &str| parse_tokens(text).map_err(|_| wrong());
        let real = |text: &str| text.parse::<f64>().map_err(|_| wrong());
        let high = max.unwrap_or(MAX_TOKENS);
        let made = match (name, &numbers[..]) {
            ("constant", [n]) => count(n).and_then(|n| Self::new_uniform(n.max(min), n.min(high))),
            ("uniform", [a, b]) => Self::new_uniform(count(a)?.max(min), count(b)?.min(high)),
            ("normal", [mean, sd]) => Self::new_normal(real(mean)?, real(sd)?, min, high),
            ("lognormal", [mean, sd]) => Self::new_log_normal(real(mean)?, real(sd)?, min, high),
            ("zipf", [alpha, longest]) => Self::new_zipf(real(alpha)?, min, count(longest)?.min(high)),
            _ => return Err(wrong()),
        };
        made.map_err(|what| if what.contains("not a distribution") { what } else { format!("`{text}`: {what}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(text: &str, n: u64) -> Vec<u32> {
        let distribution: LengthDistribution = text.parse().unwrap();
        let mut rng = rng::random_stream(1, "test", 0);
        (0..n).map(|_| distribution.draw_length(&mut rng)).collect()
    }

    fn mean_sd(values: &[u32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn means_and_deviations_are_those_asked_for() {
        for (text, mean, sd) in [
            ("128", 128.0, 0.0),
            ("constant:1k", 1000.0, 0.0),
            ("uniform:100,200", 150.0, 29.15),
            ("normal:480,80", 480.0, 80.0),
            ("lognormal:2000,1500", 2000.0, 1500.0),
        ] {
            let (got_mean, got_sd) = mean_sd(&drawn(text, 40_000));
            assert!((got_mean / mean - 1.0).abs() < 0.01, "{text}: mean {got_mean}");
            assert!((got_sd - sd).abs() <= sd * 0.03, "{text}: sd {got_sd}");
        }
    }

    #[test]
    fn zipf_has_its_frequencies() {
        let values = drawn("zipf:1,4", 24_000);
        // 1, 1/2, 1/3, 1/4 divided by their sum, 25/12.
        for (k, share) in [(1, 0.48), (2, 0.24), (3, 0.16), (4, 0.12)] {
            let got = values.iter().filter(|v| **v == k).count() as f64 / 24_000.0;
            assert!((got - share).abs() < 0.01, "{k}: {got}");
        }
        assert_eq!(drawn("zipf:1,9,min=9", 5), [9; 5]);
        // 10 to the power of -400 is not a double, but 1 to any power is.
        assert_eq!(drawn("zipf:400,4096,min=10", 5), [10; 5]);
    }

    #[test]
    fn what_lies_outside_the_limits_is_drawn_again_and_does_not_pile_up() {
        let values = drawn("normal:100,100,min=50,max=150", 20_000);
        assert!(values.iter().all(|v| (50..=150).contains(v)));
        let at_limits = values.iter().filter(|v| **v == 50 || **v == 150).count();
        // About 1 in 100 each; moving them to the limits would give 3 in 10 each.
        assert!(at_limits < 800, "{at_limits}");
        // φ and Φ at ±½: the standard deviation of the truncated distribution is 100·√(1 − φ(½)/(Φ(½) − ½)) = 28.4.
        let (mean, sd) = mean_sd(&values);
        assert!((mean - 100.0).abs() < 1.0 && (sd - 28.4).abs() < 0.8, "{mean} {sd}");
    }

    #[test]
    fn the_draws_are_pinned() {
        let pinned = ["normal:480,240", "lognormal:480,240", "zipf:1.2,4096"].map(|text| drawn(text, 4));
        assert_eq!(pinned, [[512, 433, 889, 916], [458, 392, 960, 1013], [335, 206, 1, 1]]);
    }

    #[test]
    fn mistakes_are_reported() {
        for (text, want) in [
            ("", "is not a distribution of lengths: write 128"),
            ("gauss:1,2", "is not a distribution"),
            ("normal:1", "is not a distribution"),
            ("uniform:9,5", "no length is at least 9 and at most 5"),
            ("normal:10,1,min=500", "fewer than 1 in 100 of its lengths are at least 500"),
            ("normal:-3,1", "are not lengths"),
            ("zipf:-1,5", "zipf's exponent"),
            ("zipf:1,2m", "zipf's longest length"),
            ("0", "no length is at least 1 and at most 0"),
        ] {
            let error = text.parse::<LengthDistribution>().unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
