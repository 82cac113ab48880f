//! The change from one side to the other: how large it is, how certain that is, and whether it is significant.

use statrs::distribution::{ContinuousCDF, Normal};

use super::estimate::{RunSpread, SideEstimate, Spread};
use crate::statistics::{
    Doubt, MIN_CORRELATION_TIMES,
    interval::{self, Interval, TAIL, normal_tail},
    numpy,
};

/// The significance level: equal servers differ by chance in at most this share of comparisons.
pub const ALPHA: f64 = 0.05;

/// The power for which the number of requests needed is planned: a little more than the promised 80 %, because a run knows its
/// own error only roughly.
const POWER: f64 = 0.85;

/// Beyond this factor the requests needed are not reported: such a run is not in a steady state, and more requests do not help.
const MAX_TIMES_NEEDED: f64 = 1000.0;

/// The most runs that are asked for.
const MAX_RUNS: u64 = 1000;

/// The largest z that is searched: smaller p-values are reported as its p-value (2·10⁻⁹).
const MAX_Z: f64 = 6.0;

/// A number measured on both sides.
#[derive(Debug, Clone)]
pub struct Change {
    /// The number of A.
    pub a: SideEstimate,
    /// The number of B.
    pub b: SideEstimate,
    /// The degrees of freedom of the difference; `None`: each side has its own.
    freedom: Option<f64>,
    /// Whether its values are the numbers of runs.
    of_runs: bool,
}

/// What is compared: the difference, or the difference of the logarithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

impl Scale {
    fn apply(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.ln(),
        }
    }
}

impl Change {
    /// Puts two numbers side by side. How much runs differ is known of a side with repeats, and taken to be the same on the other.
    #[must_use]
    pub fn new(a: SideEstimate, b: SideEstimate) -> Self {
        let spread = RunSpread::pool(a.repeats.spread, b.repeats.spread);
        Change { a: a.widen_by_runs(spread), b: b.widen_by_runs(spread), freedom: None, of_runs: false }
    }

    /// Puts numbers of runs side by side, for Welch's test: each side varies as its own runs do, and the difference has the degrees of
    /// freedom of Welch and Satterthwaite.
    #[must_use]
    pub fn between_runs(a: SideEstimate, b: SideEstimate) -> Self {
        let freedom = a.variance().zip(b.variance()).map(|((of_a, freedom_a), (of_b, freedom_b))| {
            (of_a + of_b).powi(2) / (of_a.powi(2) / freedom_a + of_b.powi(2) / freedom_b)
        });
        // Numbers that never vary have no degrees of freedom: the fewest that are possible.
        let fewest = a.variance().zip(b.variance()).map(|((_, one), (_, other))| one.min(other));
        Change { a, b, freedom: freedom.filter(|freedom| freedom.is_finite()).or(fewest), of_runs: true }
    }

    /// What each side has that there may be more of: requests, or runs.
    #[must_use]
    pub fn unit_of_size(&self) -> &'static str {
        if self.of_runs { "runs" } else { "requests" }
    }

    /// How many more runs each side needs, so that Welch's test finds a change of `margin` with the planned power at the significance
    /// level `alpha`; for changes between runs. If a change of the margin would have been found, as for [`Change::times_needed`].
    #[must_use]
    pub fn more_runs_needed(&self, margin: f64, alpha: f64) -> Option<u64> {
        let change = (self.b.value.ln() - self.a.value.ln()).abs();
        let least = margin.ln_1p();
        self.more_runs(least, alpha / 2.0)
            .filter(|more| *more > 0)
            .or_else(|| self.more_runs(change.max(least - change), alpha / 2.0))
    }

    /// The same for [`Change::times_to_decide`].
    #[must_use]
    pub fn more_runs_to_decide(&self, limit: f64, tail: f64) -> Option<u64> {
        self.more_runs((self.b.value.ln() - self.a.value.ln() - limit.ln_1p()).abs(), tail)
    }

    /// How many more runs each side needs until a difference of logarithms of `distance` is beyond its interval, with the planned power. `None`
    /// if that is unknown, or too many.
    fn more_runs(&self, distance: f64, tail: f64) -> Option<u64> {
        let ((of_a, freedom_a), (of_b, freedom_b)) = self.a.variance().zip(self.b.variance())?;
        // The variances of single runs.
        let (of_a, of_b) = (of_a * (freedom_a + 1.0), of_b * (freedom_b + 1.0));
        let runs = numpy::truncate_to_usize(freedom_a.min(freedom_b)) as u64 + 1;
        let is_enough = |n: u64| {
            let freedom = (n - 1) as f64 * (of_a + of_b).powi(2) / (of_a.powi(2) + of_b.powi(2));
            let error = ((of_a + of_b) / n as f64).sqrt();
            interval::student_quantile(freedom, tail)
                .is_some_and(|t| error * (t + normal_tail(1.0 - POWER)) <= distance)
        };
        (runs..MAX_RUNS).find(|n| is_enough(*n)).map(|n| n - runs)
    }

    /// Why its uncertainty is not certain either: the doubt of the worse side.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        let (of_a, of_b) = (self.a.doubt(), self.b.doubt());
        [of_a, of_b].into_iter().find(|doubt| *doubt == Some(Doubt::TooShort)).unwrap_or(of_a.or(of_b))
    }

    /// How many times as many requests are needed until both sides last as many correlation times as an interval needs. `None` if a side
    /// has waves as long as itself: a longer run knows little more of such a server.
    #[must_use]
    pub fn times_to_know(&self) -> Option<f64> {
        let times = |side: &SideEstimate| match side.doubt() {
            Some(_) if side.evidence.long_memory => None,
            Some(Doubt::TooShort) => Some(MIN_CORRELATION_TIMES / side.evidence.effective),
            _ => Some(1.0),
        };
        Some(times(&self.a)?.max(times(&self.b)?))
    }

    /// B − A with its 95 % interval.
    #[must_use]
    pub fn difference(&self) -> (f64, Interval) {
        (self.b.value - self.a.value, self.interval_on(Scale::Linear))
    }

    /// B / A − 1 with its 95 % interval; `None` if a number is 0.
    #[must_use]
    pub fn relative_change(&self) -> Option<(f64, Interval)> {
        let interval = self.interval_on(Scale::Log);
        let ends = Interval { low: interval.low.map(f64::exp_m1), high: interval.high.map(f64::exp_m1) };
        self.both_positive().then(|| (self.b.value / self.a.value - 1.0, ends))
    }

    /// The probability of a difference this large between equal servers: the smallest probability with which 0 is outside of the
    /// interval. `None` if there are too few values for an interval.
    #[must_use]
    pub fn p_value(&self) -> Option<f64> {
        let scale = self.natural_scale();
        let now = self.interval_on(scale);
        if now.low.is_none() || now.high.is_none() {
            return None;
        }
        let up = self.b.value >= self.a.value;
        let outside = |z: f64| {
            let tail = Normal::standard().cdf(-z);
            if up {
                self.low_end(scale, tail).is_some_and(|low| low > 0.0)
            } else {
                self.high_end(scale, tail).is_some_and(|high| high < 0.0)
            }
        };
        let (mut inside_from, mut outside_to) = (MAX_Z, 0.0);
        for _ in 0..16 {
            let middle = f64::midpoint(inside_from, outside_to);
            if outside(middle) { outside_to = middle } else { inside_from = middle }
        }
        Some((2.0 * Normal::standard().cdf(-outside_to)).min(1.0))
    }

    /// How many times as many requests are needed to find a change of `margin` with the planned power at the significance level
    /// `alpha`. `None` if there are too few values to estimate it, or if more would not help.
    #[must_use]
    pub fn times_needed(&self, margin: f64, alpha: f64) -> Option<f64> {
        let known = self.times_to_know()?;
        let scale = self.natural_scale();
        let half = |tail: f64| Some((self.high_end(scale, tail)? - self.low_end(scale, tail)?) / 2.0);
        let error = half(TAIL)? / normal_tail(TAIL);
        // A few batches or runs have longer tails than the normal distribution.
        let sure = half(alpha / 2.0).unwrap_or(error * normal_tail(alpha / 2.0)) + error * normal_tail(1.0 - POWER);
        let least = if scale == Scale::Log { margin.ln_1p() } else { margin };
        let times = |change: f64| (sure / change).powi(2);
        if times(least) > 1.0 {
            return Some(times(least).max(known));
        }
        // A change of the margin would have been found. What remains is to distinguish this one from zero, or from the margin.
        let change = (scale.apply(self.b.value) - scale.apply(self.a.value)).abs();
        Some(times(change.max(least - change)).max(known))
    }

    /// The change as rules limit it, with its one-sided bounds: the true change is below the lower one with the probability `tail`,
    /// and above the upper one with the same. The difference of shares, and B / A − 1 of everything else, which is `None` if a
    /// number is 0.
    #[must_use]
    pub fn bounded(&self, tail: f64) -> Option<(f64, Interval)> {
        let scale = self.natural_scale();
        let bounds = Interval { low: self.low_end(scale, tail), high: self.high_end(scale, tail) };
        match scale {
            Scale::Linear if !self.is_share() => None,
            Scale::Linear => Some((self.b.value - self.a.value, bounds)),
            Scale::Log => {
                let relative = |end: Option<f64>| end.map(f64::exp_m1);
                let bounds = Interval { low: relative(bounds.low), high: relative(bounds.high) };
                Some((self.b.value / self.a.value - 1.0, bounds))
            }
        }
    }

    /// How many times as many requests are needed until the bound of [`Change::bounded`] that lies beyond `limit` lies on the
    /// observed change's side of it, with the planned power. `None` if there is no such bound yet, if the change is the limit, or if more
    /// would not help.
    #[must_use]
    pub fn times_to_decide(&self, limit: f64, tail: f64) -> Option<f64> {
        let scale = self.natural_scale();
        let limit = if scale == Scale::Log { limit.ln_1p() } else { limit };
        let value = scale.apply(self.b.value) - scale.apply(self.a.value);
        let bound = if value > limit { self.low_end(scale, tail) } else { self.high_end(scale, tail) }?;
        let sure = (normal_tail(tail) + normal_tail(1.0 - POWER)) / normal_tail(tail);
        let times = ((bound - value) / (limit - value) * sure).powi(2).max(self.times_to_know()?);
        Some(times).filter(|times| times.is_finite())
    }

    /// How many times as many requests are needed for both bounds of [`Change::bounded`]. `None` if that is unknown.
    #[must_use]
    pub fn times_to_bound(&self, tail: f64) -> Option<f64> {
        let times = |side: &SideEstimate| Some(side.size_for_bounds(tail)? / side.evidence.effective);
        Some(times(&self.a)?.max(times(&self.b)?).max(self.times_to_know()?))
    }

    /// Whether the interval of the change is within ± `margin`.
    #[must_use]
    pub fn is_within(&self, margin: f64) -> bool {
        let interval = match self.natural_scale() {
            Scale::Log => self.relative_change().map(|(_, interval)| interval),
            Scale::Linear if self.is_share() => Some(self.difference().1),
            Scale::Linear => None,
        };
        interval.is_some_and(|interval| {
            interval.low.is_some_and(|low| low >= -margin) && interval.high.is_some_and(|high| high <= margin)
        })
    }

    fn is_share(&self) -> bool {
        matches!(self.a.spread, Spread::Share)
    }

    fn both_positive(&self) -> bool {
        self.a.value > 0.0 && self.b.value > 0.0
    }

    /// Shares are compared by their difference, everything else by its ratio.
    fn natural_scale(&self) -> Scale {
        if self.is_share() || !self.both_positive() { Scale::Linear } else { Scale::Log }
    }

    fn interval_on(&self, scale: Scale) -> Interval {
        Interval { low: self.low_end(scale, TAIL), high: self.high_end(scale, TAIL) }
    }

    /// The lower end of the difference, from the end of each number's interval that faces the other number (MOVER).
    fn low_end(&self, scale: Scale, tail: f64) -> Option<f64> {
        let (a, b) = (scale.apply(self.a.value), scale.apply(self.b.value));
        let (a_high, b_low) =
            (scale.apply(self.side_end(&self.a, tail, true)?), scale.apply(self.side_end(&self.b, tail, false)?));
        Some(b - a - (b - b_low).hypot(a_high - a)).filter(|end| end.is_finite())
    }

    /// An end of a side's interval, as the difference needs it.
    fn side_end(&self, side: &SideEstimate, tail: f64, upper: bool) -> Option<f64> {
        if let (Some(freedom), Spread::Student(error, _)) = (self.freedom, &side.spread) {
            let logs = error * interval::student_quantile(freedom, tail)?;
            return Some(side.value * (if upper { logs } else { -logs }).exp());
        }
        if upper { side.high_end(tail) } else { side.low_end(tail) }
    }

    /// The upper end of the difference, found in the same way.
    fn high_end(&self, scale: Scale, tail: f64) -> Option<f64> {
        let (a, b) = (scale.apply(self.a.value), scale.apply(self.b.value));
        let (a_low, b_high) =
            (scale.apply(self.side_end(&self.a, tail, false)?), scale.apply(self.side_end(&self.b, tail, true)?));
        Some(b - a + (b_high - b).hypot(a - a_low)).filter(|end| end.is_finite())
    }
}

/// How many more requests each side needs to have `times` as many, rounded up to two digits, because it is an estimate. `None` if they
/// would not help.
#[must_use]
pub fn more_requests(times: f64, requests: u64) -> Option<u64> {
    let more = (times - 1.0) * requests as f64;
    let unit = 10_f64.powf((more.max(1.0).log10().floor() - 1.0).max(0.0));
    let worth_it = times > 1.0 && times < MAX_TIMES_NEEDED;
    worth_it.then(|| numpy::truncate_to_usize((more / unit).ceil() * unit) as u64)
}

/// Holm's correction: adjusts p-values so that the smallest is below 5 % in only 5 % of comparisons of equal servers.
#[must_use]
pub fn holm_correction(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::statistics::SampleEvidence;

    fn change_between(a: SideEstimate, b: SideEstimate) -> Change {
        Change { a, b, freedom: None, of_runs: false }
    }

    fn independent(n: usize) -> SampleEvidence {
        SampleEvidence { effective: n as f64, requests: n as f64, counted: n as f64, long_memory: false }
    }

    fn share(hits: f64, of: usize) -> SideEstimate {
        SideEstimate::new(hits / of as f64, of, independent(of), Spread::Share)
    }

    fn ranks(mut values: Vec<f64>, p: f64) -> SideEstimate {
        values.sort_by(f64::total_cmp);
        let value = crate::statistics::numpy::percentile(&values, p);
        SideEstimate::new(value, values.len(), independent(values.len()), Spread::Ranks(values.into(), p))
    }

    /// The example of Newcombe's paper (1998, method 10): 56 of 70 against 48 of 80.
    #[test]
    fn the_interval_of_two_shares_is_newcombes() {
        let change = change_between(share(48.0, 80), share(56.0, 70));
        let (value, interval) = change.difference();
        let near = |a: f64, b: f64| (a - b).abs() < 5e-5;
        assert!(
            near(value, 0.2) && near(interval.low.unwrap(), 0.0524) && near(interval.high.unwrap(), 0.3339),
            "{interval:?}"
        );
        assert!((0.005..0.02).contains(&change.p_value().unwrap()), "{:?}", change.p_value());
    }

    /// Two normal means have a z-test: with that many degrees of freedom, Student's t is normal.
    #[test]
    fn the_p_value_of_two_normal_numbers_equals_the_z_test() {
        let side = |value: f64, error: f64| SideEstimate::new(value, 9, independent(9), Spread::Student(error, 1e9));
        for (b, z) in [(0.05_f64.exp(), 1.0), (0.1_f64.exp(), 2.0), ((-0.15_f64).exp(), 3.0)] {
            let error = 0.05 / 2.0_f64.sqrt();
            let p = change_between(side(1.0, error), side(b, error)).p_value().unwrap();
            let want = 2.0 * Normal::standard().cdf(-z);
            assert!((p / want - 1.0).abs() < 1e-3, "z {z}: {p} is not {want}");
        }
    }

    #[test]
    fn holms_correction_matches_his_paper() {
        let p = [Some(0.01), Some(0.04), None, Some(0.03), Some(0.005)];
        let corrected: Vec<Option<f64>> =
            holm_correction(&p).into_iter().map(|p| p.map(|p| (p * 1e6).round() / 1e6)).collect();
        assert_eq!(corrected, [Some(0.03), Some(0.06), None, Some(0.06), Some(0.02)]);
    }

    #[test]
    fn twice_the_precision_needs_four_times_the_requests() {
        let side = |error| SideEstimate::new(1.0, 9, independent(9), Spread::Student(error, 1e9));
        let times = |error| change_between(side(error), side(error)).times_needed(0.05, 0.05).unwrap();
        assert!((times(0.2) / times(0.1) - 4.0).abs() < 1e-6);
        // (√2·0.1 · (1.96 + 1.036) / ln 1.05)²
        assert!((times(0.1) - 75.42).abs() < 0.05, "{}", times(0.1));
    }

    #[test]
    fn numbers_of_zero_have_a_difference_and_no_ratio() {
        let change = change_between(ranks(vec![0.0; 50], 50.0), ranks((1..51).map(f64::from).collect(), 50.0));
        assert!(change.relative_change().is_none() && !change.is_within(0.05));
        assert!(change.difference().1.low.unwrap() > 0.0 && change.p_value().unwrap() < 0.001);
    }

    proptest! {
        /// Swapping A and B must not change the result.
        #[test]
        fn turned_over_it_is_the_same_change(
            a in prop::collection::vec(0.1..10.0, 20..60),
            b in prop::collection::vec(0.1..10.0, 20..60),
            p in 20.0..80.0,
        ) {
            let (a, b) = (ranks(a, p), ranks(b, p));
            let (there, back) = (change_between(a.clone(), b.clone()), change_between(b, a));
            let near = |x: Option<f64>, y: Option<f64>| match (x, y) {
                (Some(x), Some(y)) => (x - y).abs() < 1e-9 * (1.0 + x.abs()),
                (x, y) => x.is_none() && y.is_none(),
            };
            let (one, other) = (there.relative_change().unwrap().1, back.relative_change().unwrap().1);
            let turned = |end: Option<f64>| end.map(|end| 1.0 / (1.0 + end) - 1.0);
            prop_assert!(near(one.low, turned(other.high)) && near(one.high, turned(other.low)), "{one:?} {other:?}");
            prop_assert!(near(there.p_value(), back.p_value()));
        }

        /// The p-value and the interval must agree.
        #[test]
        fn a_difference_is_sure_where_the_interval_leaves_zero_out(
            a in prop::collection::vec(1.0..2.0, 40..80),
            b in prop::collection::vec(1.0..2.0, 40..80),
            slower in 0.8..1.3,
        ) {
            let b: Vec<f64> = b.iter().map(|v| v * slower).collect();
            let change = change_between(ranks(a, 50.0), ranks(b, 50.0));
            let interval = change.relative_change().unwrap().1;
            let outside = interval.low.unwrap() > 0.0 || interval.high.unwrap() < 0.0;
            let p = change.p_value().unwrap();
            prop_assert!(outside == (p < ALPHA) || (p - ALPHA).abs() < 1e-3, "{interval:?} {p}");
        }

        /// Holm's p-values against the definition: rejected in order, until one is not.
        #[test]
        fn holm_rejects_what_the_definition_rejects(p in prop::collection::vec(0.0..0.2, 1..12)) {
            let corrected = holm_correction(&p.iter().copied().map(Some).collect::<Vec<_>>());
            let mut sorted = p.clone();
            sorted.sort_by(f64::total_cmp);
            let step = |(i, p): &(usize, &f64)| ALPHA > **p * (sorted.len() - i) as f64;
            let rejected = sorted.iter().enumerate().take_while(step).count();
            let accepted = corrected.iter().flatten().filter(|p| **p < ALPHA).count();
            prop_assert_eq!(accepted, rejected);
        }
    }
}
