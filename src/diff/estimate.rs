//! A number of one side with its uncertainty.

use std::rc::Rc;

use crate::statistics::{
    Doubt, SampleEvidence,
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
    /// The number of independent values with the same information, and what is known of it.
    pub evidence: SampleEvidence,
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
    /// The mean of values of requests: see [`interval::mean_interval`].
    Mean(MeanSpread),
    /// Student's t for its logarithm: the standard error, relative to the number, and the degrees of freedom.
    Student(f64, f64),
    /// A share of successes: Wilson's interval.
    Share,
    /// Unknown.
    Unknown,
}

/// How the mean of a sample varies.
#[derive(Debug, Clone)]
pub struct MeanSpread {
    /// The standard deviation of the values.
    pub std: f64,
    /// The smallest of them.
    pub least: f64,
    /// The means of batches in time order.
    pub batches: Rc<[f64]>,
}

impl SideEstimate {
    /// An estimate from a sample of `n` values.
    #[must_use]
    pub fn new(value: f64, n: usize, evidence: SampleEvidence, spread: Spread) -> Self {
        SideEstimate { value, n, evidence, spread, runs: false, repeats: Repeats::default() }
    }

    /// An estimate from one positive number of each run: their geometric mean, since logarithms are compared.
    #[must_use]
    pub fn from_runs(each: &[f64]) -> Self {
        let n = each.len() as f64;
        let logs: Vec<f64> = each.iter().map(|value| value.ln()).collect();
        let value = if each.len() == 1 { each[0] } else { numpy::mean(&logs).exp() };
        let error = numpy::std(&logs) / (n - 1.0).sqrt();
        let spread = if each.len() > 1 { Spread::Student(error, n - 1.0) } else { Spread::Unknown };
        let evidence = SampleEvidence { effective: n, requests: n, counted: n, long_memory: false };
        SideEstimate { runs: true, ..SideEstimate::new(value, each.len(), evidence, spread) }
    }

    /// The squared relative standard error, and its degrees of freedom, if both are known.
    #[must_use]
    pub fn variance(&self) -> Option<(f64, f64)> {
        if let Spread::Student(error, freedom) = self.spread { Some((error * error, freedom)) } else { None }
    }

    /// Why its uncertainty is not certain either; never if it comes from the differences between runs, or pieces of a run.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        if self.runs || matches!(self.spread, Spread::Student(..)) { None } else { self.evidence.doubt() }
    }

    /// What was sampled: `runs` or `requests`.
    #[must_use]
    pub fn sampling_basis(&self) -> &'static str {
        if self.runs { "runs" } else { "requests" }
    }

    /// The lower end of its interval: the true number is below it with the probability `tail`.
    #[must_use]
    pub fn low_end(&self, tail: f64) -> Option<f64> {
        let effective = self.evidence.effective;
        match &self.spread {
            Spread::Ranks(sorted, p) => {
                Some(numpy::value_at(sorted, interval::low_place(*p, self.n, effective, tail)?))
            }
            Spread::Mean(spread) => self.mean_interval(spread, tail).low,
            Spread::Student(error, freedom) => {
                Some(self.value * (-error * interval::student_quantile(*freedom, tail)?).exp())
            }
            Spread::Share => Some(interval::wilson_interval(self.value, effective, tail).0),
            Spread::Unknown => None,
        }
    }

    /// The upper end of its interval: the true number is above it with the probability `tail`.
    #[must_use]
    pub fn high_end(&self, tail: f64) -> Option<f64> {
        let effective = self.evidence.effective;
        match &self.spread {
            Spread::Ranks(sorted, p) => {
                Some(numpy::value_at(sorted, interval::high_place(*p, self.n, effective, tail)?))
            }
            Spread::Mean(spread) => self.mean_interval(spread, tail).high,
            Spread::Student(error, freedom) => {
                Some(self.value * (error * interval::student_quantile(*freedom, tail)?).exp())
            }
            Spread::Share => Some(interval::wilson_interval(self.value, effective, tail).1),
            Spread::Unknown => None,
        }
    }

    fn mean_interval(&self, MeanSpread { std, least, batches }: &MeanSpread, tail: f64) -> Interval {
        interval::mean_interval(self.value, *std, *least, self.evidence.effective, batches, tail)
    }

    /// The number of independent values from which on both ends of [`SideEstimate::low_end`] and [`SideEstimate::high_end`] are known:
    /// for a percentile, the smallest n with pⁿ ≤ `tail`.
    #[must_use]
    pub fn size_for_bounds(&self, tail: f64) -> Option<f64> {
        match self.spread {
            Spread::Ranks(_, p) => Some((tail.ln() / (p / 100.0).max(1.0 - p / 100.0).ln()).ceil()),
            Spread::Mean(_) | Spread::Student(..) => Some(2.0),
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
    /// if these are too few to explain anything, or if runs are the more precise measure of it.
    #[must_use]
    pub fn widen_by_runs(self, spread: Option<RunSpread>) -> Self {
        let Some(spread) = spread else { return self };
        let error = spread.deviation / (self.repeats.count as f64).sqrt();
        let within = match (self.low_end(interval::TAIL), self.high_end(interval::TAIL)) {
            (Some(low), Some(high)) if low > 0.0 => (high.ln() - low.ln()) / (2.0 * normal_tail(interval::TAIL)),
            _ => f64::INFINITY,
        };
        if error <= within && !self.repeats.precise && self.doubt() != Some(Doubt::TooShort) {
            return self;
        }
        let runs = self.repeats.count as f64;
        let evidence = SampleEvidence { effective: runs, requests: runs, counted: runs, long_memory: false };
        SideEstimate { evidence, spread: Spread::Student(error, spread.freedom), runs: true, ..self }
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

    /// What both sides know: the runs of two servers on one machine differ as much, and it does not matter which one is faster.
    #[must_use]
    pub fn pool(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
        let freedom = a.freedom + b.freedom;
        let variance = (a.freedom * a.deviation.powi(2) + b.freedom * b.deviation.powi(2)) / freedom;
        Some(RunSpread { deviation: variance.sqrt(), freedom })
    }
}
