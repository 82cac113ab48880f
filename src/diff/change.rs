//! From one side to the other: how large the change is, how sure that is, and what to call it.

use statrs::distribution::{ContinuousCDF, Normal};

use super::estimate::{Estimate, Spread, normal_tail};
use crate::stats::interval::{Interval, TAIL};

/// How sure a difference must be: it is by chance in at most this share of comparisons of equals.
pub const ALPHA: f64 = 0.05;

/// The share of true changes that the requests needed are planned to find: a little more than the 80 % that is promised,
/// because a run knows its own error only roughly.
const POWER: f64 = 0.85;

/// A smaller p-value is not told from this one (2·10⁻⁹).
const FARTHEST: f64 = 6.0;

/// A number of both sides.
#[derive(Debug, Clone)]
pub struct Change {
    /// The number of A.
    pub a: Estimate,
    /// The number of B.
    pub b: Estimate,
}

/// What is measured: the difference, or the difference of the logarithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.ln(),
        }
    }
}

impl Change {
    /// B − A with its 95 % interval.
    #[must_use]
    pub fn difference(&self) -> (f64, Interval) {
        (self.b.value - self.a.value, self.interval(Scale::Linear))
    }

    /// B / A − 1 with its 95 % interval; `None` where a number is 0.
    #[must_use]
    pub fn relative(&self) -> Option<(f64, Interval)> {
        let told = self.interval(Scale::Log);
        let ends = Interval { low: told.low.map(f64::exp_m1), high: told.high.map(f64::exp_m1) };
        self.positive().then(|| (self.b.value / self.a.value - 1.0, ends))
    }

    /// How probable so large a difference is between equals: the smallest probability with which 0 is outside of the
    /// interval. `None`: there are too few values for any interval.
    #[must_use]
    pub fn p_value(&self) -> Option<f64> {
        let scale = self.scale();
        let now = self.interval(scale);
        if now.low.is_none() || now.high.is_none() {
            return None;
        }
        let up = self.b.value >= self.a.value;
        let outside = |z: f64| {
            let tail = Normal::standard().cdf(-z);
            if up {
                self.low(scale, tail).is_some_and(|low| low > 0.0)
            } else {
                self.high(scale, tail).is_some_and(|high| high < 0.0)
            }
        };
        let (mut inside_from, mut outside_to) = (FARTHEST, 0.0);
        for _ in 0..16 {
            let middle = f64::midpoint(inside_from, outside_to);
            if outside(middle) { outside_to = middle } else { inside_from = middle }
        }
        Some((2.0 * Normal::standard().cdf(-outside_to)).min(1.0))
    }

    /// How many times as many requests a change of `margin` needs to be found with the power, when a difference must be as
    /// sure as `alpha`. `None`: there are too few values to tell.
    #[must_use]
    pub fn times_needed(&self, margin: f64, alpha: f64) -> Option<f64> {
        let scale = self.scale();
        let told = self.interval(scale);
        let error = (told.high? - told.low?) / (2.0 * normal_tail(TAIL));
        let sure = normal_tail(alpha / 2.0) + normal_tail(1.0 - POWER);
        let least = if scale == Scale::Log { margin.ln_1p() } else { margin };
        let times = |change: f64| (error * sure / change).powi(2);
        if times(least) > 1.0 {
            return Some(times(least));
        }
        // A change of the margin would have been seen. What remains is to tell this one from none, or from the margin.
        let change = (scale.of(self.b.value) - scale.of(self.a.value)).abs();
        Some(times(change.max(least - change)).max(1.0))
    }

    /// Whether the change is surely within the margin on both sides.
    #[must_use]
    pub fn within(&self, margin: f64) -> bool {
        let told = match self.scale() {
            Scale::Log => self.relative().map(|(_, told)| told),
            Scale::Linear if self.is_share() => Some(self.difference().1),
            Scale::Linear => None,
        };
        told.is_some_and(|told| {
            told.low.is_some_and(|low| low >= -margin) && told.high.is_some_and(|high| high <= margin)
        })
    }

    fn is_share(&self) -> bool {
        matches!(self.a.spread, Spread::Share)
    }

    fn positive(&self) -> bool {
        self.a.value > 0.0 && self.b.value > 0.0
    }

    /// Of shares the difference matters, of all else the ratio.
    fn scale(&self) -> Scale {
        if self.is_share() || !self.positive() { Scale::Linear } else { Scale::Log }
    }

    fn interval(&self, scale: Scale) -> Interval {
        Interval { low: self.low(scale, TAIL), high: self.high(scale, TAIL) }
    }

    /// The lower end of the difference, by the ends of both numbers that lie towards each other (MOVER).
    fn low(&self, scale: Scale, tail: f64) -> Option<f64> {
        let (a, b) = (scale.of(self.a.value), scale.of(self.b.value));
        let (a_high, b_low) = (scale.of(self.a.high(tail)?), scale.of(self.b.low(tail)?));
        Some(b - a - (b - b_low).hypot(a_high - a)).filter(|end| end.is_finite())
    }

    /// The upper end likewise.
    fn high(&self, scale: Scale, tail: f64) -> Option<f64> {
        let (a, b) = (scale.of(self.a.value), scale.of(self.b.value));
        let (a_low, b_high) = (scale.of(self.a.low(tail)?), scale.of(self.b.high(tail)?));
        Some(b - a + (b_high - b).hypot(a - a_low)).filter(|end| end.is_finite())
    }
}

/// Holm's correction: p-values so that the smallest of `m` is below 5 % in 5 % of comparisons of equals only.
#[must_use]
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = p_values.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut corrected = vec![None; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, (i, p)) in order.iter().enumerate() {
        largest = largest.max(p * (order.len() - rank) as f64).min(1.0);
        corrected[*i] = Some(largest);
    }
    corrected
}
