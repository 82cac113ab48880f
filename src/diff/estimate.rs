//! A number of one side with its uncertainty.

use std::rc::Rc;

use crate::statistics::{
    interval::{self, Interval, normal_tail},
    numpy,
};

/// The fewest runs that show how much runs differ.
pub const MIN_REPEATS: usize = 3;

/// A number of one side, with an interval for any confidence.
#[derive(Debug, Clone)]
pub struct SideEstimate {
    /// The value.
    pub value: f64,
    /// How many values it was computed from.
    pub n: usize,
    /// The number of independent values with the same information.
    pub effective: f64,
    /// How it varies from sample to sample.
    pub spread: Spread,
    /// Whether its uncertainty comes from the differences between runs instead of between requests.
    pub runs: bool,
    /// The runs it was measured in.
    pub repeats: Repeats,
}

/// How a number varies from sample to sample.
#[derive(Debug, Clone)]
pub enum Spread {
    /// A percentile of this sorted sample: by ranks, for any distribution.
    Ranks(Rc<[f64]>, f64),
    /// Student's t for its logarithm: the standard error, relative to the number, and the degrees of freedom.
    Student(f64, f64),
    /// A share of successes: Wilson's interval.
    Share,
    /// Unknown.
    Unknown,
}

impl SideEstimate {
    /// An estimate from a sample of requests.
    #[must_use]
    pub fn new(value: f64, n: usize, effective: f64, spread: Spread) -> Self {
        SideEstimate { value, n, effective, spread, runs: false, repeats: Repeats::default() }
    }

    /// What was sampled: `runs` or `requests`.
    #[must_use]
    pub fn sampling_basis(&self) -> &'static str {
        if self.runs { "runs" } else { "requests" }
    }

    /// Estimates the mean of values with this standard deviation.
    #[must_use]
    pub fn from_mean(value: f64, std: f64, n: usize, effective: f64) -> Self {
        let error = std / (effective - 1.0).sqrt() / value;
        let known = value > 0.0 && error.is_finite();
        let spread = if known { Spread::Student(error, effective - 1.0) } else { Spread::Unknown };
        SideEstimate::new(value, n, effective, spread)
    }

    /// The lower end of its interval: the true number is below it with the probability `tail`.
    #[must_use]
    pub fn low_end(&self, tail: f64) -> Option<f64> {
        match &self.spread {
            Spread::Ranks(sorted, p) => {
                Some(numpy::value_at(sorted, interval::low_place(*p, self.n, self.effective, tail)?))
            }
            Spread::Student(error, freedom) => {
                Some(self.value * (-error * interval::student_quantile(*freedom, tail)?).exp())
            }
            Spread::Share => Some(interval::wilson_interval(self.value, self.effective, tail).0),
            Spread::Unknown => None,
        }
    }

    /// The upper end of its interval: the true number is above it with the probability `tail`.
    #[must_use]
    pub fn high_end(&self, tail: f64) -> Option<f64> {
        match &self.spread {
            Spread::Ranks(sorted, p) => {
                Some(numpy::value_at(sorted, interval::high_place(*p, self.n, self.effective, tail)?))
            }
            Spread::Student(error, freedom) => {
                Some(self.value * (error * interval::student_quantile(*freedom, tail)?).exp())
            }
            Spread::Share => Some(interval::wilson_interval(self.value, self.effective, tail).1),
            Spread::Unknown => None,
        }
    }

    /// The number of independent values from which on both ends of [`SideEstimate::low_end`] and [`SideEstimate::high_end`] are known:
    /// for a percentile, the smallest n with pⁿ ≤ `tail`.
    #[must_use]
    pub fn size_for_bounds(&self, tail: f64) -> Option<f64> {
        match self.spread {
            Spread::Ranks(_, p) => Some((tail.ln() / (p / 100.0).max(1.0 - p / 100.0).ln()).ceil()),
            Spread::Student(..) => Some(2.0),
            Spread::Share => Some(1.0),
            Spread::Unknown => None,
        }
    }

    /// Both ends of the 95 % interval.
    #[must_use]
    pub fn confidence_interval(&self) -> Interval {
        Interval { low: self.low_end(interval::TAIL), high: self.high_end(interval::TAIL) }
    }

    /// With the numbers of its runs, which may be left out if they are fewer than three.
    #[must_use]
    pub fn with_runs(self, count: usize, each: &[f64], precise: bool) -> Self {
        SideEstimate { repeats: Repeats { count, spread: RunSpread::measure(each), precise }, ..self }
    }

    /// Takes runs instead of requests as what was sampled, if that is known to be right: if runs vary more than their requests explain,
    /// or if runs are the more precise measure of it.
    #[must_use]
    pub fn widen_by_runs(self, spread: Option<RunSpread>) -> Self {
        let Some(spread) = spread else { return self };
        let error = spread.deviation / (self.repeats.count as f64).sqrt();
        let within = match (self.low_end(interval::TAIL), self.high_end(interval::TAIL)) {
            (Some(low), Some(high)) if low > 0.0 => (high.ln() - low.ln()) / (2.0 * normal_tail(interval::TAIL)),
            _ => f64::INFINITY,
        };
        if error <= within && !self.repeats.precise {
            return self;
        }
        let effective = self.repeats.count as f64;
        SideEstimate { effective, spread: Spread::Student(error, spread.freedom), runs: true, ..self }
    }
}

/// The runs of a side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repeats {
    /// How many there are.
    pub count: usize,
    /// How much the number differs between them; `None` if they are too few to know.
    pub spread: Option<RunSpread>,
    /// Whether the differences between runs are always the better measure of the number's error: they include all variation within
    /// a run.
    pub precise: bool,
}

/// How much a number differs from run to run of one server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunSpread {
    /// The standard deviation of its logarithm.
    deviation: f64,
    /// The degrees of freedom.
    freedom: f64,
}

impl RunSpread {
    /// Measures the number of each run; `None` for fewer than three.
    #[must_use]
    pub fn measure(each: &[f64]) -> Option<Self> {
        if each.len() < MIN_REPEATS || each.iter().any(|value| *value <= 0.0) {
            return None;
        }
        let logs: Vec<f64> = each.iter().map(|value| value.ln()).collect();
        let freedom = each.len() as f64 - 1.0;
        Some(RunSpread { deviation: numpy::std(&logs) * (each.len() as f64 / freedom).sqrt(), freedom })
    }
}
