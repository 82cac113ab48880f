//! One number of one side, and where it may truly be.

use std::rc::Rc;

use statrs::distribution::{ContinuousCDF, Normal};

use crate::statistics::{
    interval::{self, Interval},
    numpy,
};

/// A number of one side, with an interval for any probability.
#[derive(Debug, Clone)]
pub struct SideEstimate {
    /// The number.
    pub value: f64,
    /// Values that it is made of.
    pub n: usize,
    /// Independent values that would tell as much.
    pub effective: f64,
    /// How it varies.
    pub spread: Spread,
    /// Whether the runs, and not the requests, are taken as sampled.
    pub runs: bool,
}

/// How a number varies from sample to sample.
#[derive(Debug, Clone)]
pub enum Spread {
    /// As a percentile of this sorted sample does: by ranks, whatever the distribution.
    Ranks(Rc<[f64]>, f64),
    /// Its logarithm as Student's t: the standard error, relative to the number, and the degrees of freedom.
    Student(f64, f64),
    /// As a share of successes does: Wilson's interval.
    Share,
    /// Nobody knows.
    Unknown,
}

impl SideEstimate {
    /// A number of requests.
    #[must_use]
    pub fn new(value: f64, n: usize, effective: f64, spread: Spread) -> Self {
        SideEstimate { value, n, effective, spread, runs: false }
    }

    /// What was taken as sampled.
    #[must_use]
    pub fn sampling_basis(&self) -> &'static str {
        if self.runs { "runs" } else { "requests" }
    }

    /// The mean of values with this standard deviation.
    #[must_use]
    pub fn from_mean(value: f64, std: f64, n: usize, effective: f64) -> Self {
        let error = std / (effective - 1.0).sqrt() / value;
        let known = value > 0.0 && error.is_finite();
        let spread = if known { Spread::Student(error, effective - 1.0) } else { Spread::Unknown };
        SideEstimate::new(value, n, effective, spread)
    }

    /// The lower end of its interval, below which it truly is with the probability `tail`.
    #[must_use]
    pub fn low_end(&self, tail: f64) -> Option<f64> {
        match &self.spread {
            Spread::Ranks(sorted, p) => {
                Some(numpy::value_at(sorted, interval::low_place(*p, self.n, self.effective, tail)?))
            }
            Spread::Student(error, freedom) => {
                Some(self.value * (-error * interval::student_quantile(*freedom, tail)?).exp())
            }
            Spread::Share => Some(self.wilson_interval(tail).0),
            Spread::Unknown => None,
        }
    }

    /// The upper end of its interval, above which it truly is with the probability `tail`.
    #[must_use]
    pub fn high_end(&self, tail: f64) -> Option<f64> {
        match &self.spread {
            Spread::Ranks(sorted, p) => {
                Some(numpy::value_at(sorted, interval::high_place(*p, self.n, self.effective, tail)?))
            }
            Spread::Student(error, freedom) => {
                Some(self.value * (error * interval::student_quantile(*freedom, tail)?).exp())
            }
            Spread::Share => Some(self.wilson_interval(tail).1),
            Spread::Unknown => None,
        }
    }

    /// Both ends of the 95 % interval.
    #[must_use]
    pub fn confidence_interval(&self) -> Interval {
        Interval { low: self.low_end(interval::TAIL), high: self.high_end(interval::TAIL) }
    }

    /// Wilson's interval of a share.
    fn wilson_interval(&self, tail: f64) -> (f64, f64) {
        let (n, p) = (self.effective, self.value);
        let z = normal_tail(tail);
        let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }

    /// The number over repeats, where these vary more from run to run than the requests in them let expect: then runs and
    /// not requests are what was sampled. `each` has the number of each run.
    #[must_use]
    pub fn widen_by_runs(self, each: &[f64]) -> Self {
        let Some((between, freedom)) = error_between_runs(each) else { return self };
        let within = match (self.low_end(interval::TAIL), self.high_end(interval::TAIL)) {
            (Some(low), Some(high)) if low > 0.0 => (high.ln() - low.ln()) / (2.0 * normal_tail(interval::TAIL)),
            _ => return self,
        };
        if between <= within { self } else { self.with_error_between_runs(between, freedom) }
    }

    /// The number over repeats, where there are enough of them: whatever varies within a run is in their differences.
    #[must_use]
    pub fn sample_by_runs(self, each: &[f64]) -> Self {
        match error_between_runs(each) {
            Some((error, freedom)) => self.with_error_between_runs(error, freedom),
            None => self,
        }
    }

    fn with_error_between_runs(self, error: f64, freedom: f64) -> Self {
        SideEstimate { effective: freedom + 1.0, spread: Spread::Student(error, freedom), runs: true, ..self }
    }
}

/// The relative standard error of the mean of these runs, with its degrees of freedom; `None`: fewer than three runs.
fn error_between_runs(each: &[f64]) -> Option<(f64, f64)> {
    if each.len() < 3 || each.iter().any(|value| *value <= 0.0) {
        return None;
    }
    let logs: Vec<f64> = each.iter().map(|value| value.ln()).collect();
    let freedom = each.len() as f64 - 1.0;
    Some((numpy::std(&logs) / freedom.sqrt(), freedom))
}

/// What a standard normal value exceeds with the probability `tail`.
#[must_use]
pub fn normal_tail(tail: f64) -> f64 {
    -Normal::standard().inverse_cdf(tail)
}
