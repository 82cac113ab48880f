//! A share of requests with its interval.

use crate::{
    recording::{RecordedRequest, population::Population, sort_by_start},
    statistics::{
        Dependence, PoolMode, SampleEvidence, find_doubt,
        interval::{TAIL, normal_tail, wilson_interval},
    },
};

/// A share of the requests of one of several runs.
#[derive(Debug, Clone, Copy)]
pub struct PartShare {
    /// The requests.
    pub population: Population,
    /// The share; `None` if it is unknown, as if it were 0.
    pub share: Option<f64>,
    /// Its interval; `None` if the run is too short for one.
    pub interval: Option<[f64; 2]>,
}

/// The 95 % interval of the share of requests that `has` holds for: Wilson's, with the effective size of the series in the order in which they
/// were sent. `None` without requests, and if the series is too short to know how its outcomes depend on each other.
#[must_use]
pub fn share_interval<'a>(
    requests: impl Iterator<Item = &'a RecordedRequest>,
    has: impl Fn(&RecordedRequest) -> bool,
) -> Option<[f64; 2]> {
    let outcomes: Vec<f64> = sort_by_start(requests).into_iter().map(|r| f64::from(u8::from(has(r)))).collect();
    let effective = Dependence::measure(&outcomes, &[]).effective_size();
    if outcomes.is_empty() || find_doubt(effective, false).is_some() {
        return None;
    }
    let share = outcomes.iter().sum::<f64>() / outcomes.len() as f64;
    let (low, high) = wilson_interval(share, effective, TAIL);
    Some([low, high])
}

/// The interval of `share`, the share over several runs. Their effective sizes are pooled as in distributions; a run that is
/// too short for an interval counts as one request. `None` if they are too short together.
#[must_use]
pub fn pool_share_intervals(share: Option<f64>, parts: &[PartShare], mode: PoolMode) -> Option<[f64; 2]> {
    let evidence: Vec<(f64, SampleEvidence)> = parts
        .iter()
        .filter(|part| part.population.counted() > 0)
        .map(|part| {
            let effective = part.effective_size();
            (
                part.population.counted() as f64,
                SampleEvidence { effective, requests: effective, counted: effective, long_memory: false },
            )
        })
        .collect();
    let effective = SampleEvidence::pool_parts(&evidence, mode).effective;
    if evidence.is_empty() || find_doubt(effective, false).is_some() {
        return None;
    }
    let (low, high) = wilson_interval(share?, effective, TAIL);
    Some([low, high])
}

impl PartShare {
    /// The effective size that its interval was made with.
    ///
    /// The ends of Wilson's interval are the roots of (1 + k)·x² − (2p + k)·x + p² with k = z² / n, so that their product is
    /// p² / (1 + k); with p = 0 one end is k / (1 + k).
    fn effective_size(&self) -> f64 {
        let Some([low, high]) = self.interval else { return 1.0 };
        let p = self.share.unwrap_or_default();
        let k = if p > 0.0 { p * p / (low * high) - 1.0 } else { high / (1.0 - high) };
        let size = normal_tail(TAIL).powi(2) / k;
        let all = self.population.counted() as f64;
        // A file may have any numbers.
        if size.is_nan() { 1.0 } else { size.clamp(1.0, all.max(1.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(outcomes: impl Iterator<Item = bool>) -> Vec<RecordedRequest> {
        let request = |(i, success): (usize, bool)| RecordedRequest {
            success,
            start: Some(i as f64),
            ..RecordedRequest::default()
        };
        outcomes.enumerate().map(request).collect()
    }

    fn interval(requests: &[RecordedRequest]) -> Option<[f64; 2]> {
        share_interval(requests.iter(), |request| request.success)
    }

    #[test]
    fn an_interval_has_the_size_that_it_was_made_with() {
        let population = Population { offered: 5000, abandoned: 0, succeeded: 0 };
        for share in [0.0, 0.001, 0.3, 0.5, 0.999, 1.0] {
            for size in [30.0, 444.4, 5000.0] {
                let (low, high) = wilson_interval(share, size, TAIL);
                let part = PartShare { population, share: Some(share), interval: Some([low, high]) };
                assert!((part.effective_size() / size - 1.0).abs() < 1e-6, "{share} {size} {}", part.effective_size());
            }
        }
        for interval in [None, Some([0.5, 0.0]), Some([f64::NAN, 1.0])] {
            assert!(PartShare { population, share: Some(0.5), interval }.effective_size() >= 1.0);
        }
    }

    #[test]
    fn hosts_know_less_together_than_runs_in_turn() {
        let population = Population { offered: 1000, abandoned: 0, succeeded: 900 };
        let part = |size: f64| {
            let (low, high) = wilson_interval(0.9, size, TAIL);
            PartShare { population, share: Some(0.9), interval: Some([low, high]) }
        };
        let pooled = |parts: &[PartShare], mode| pool_share_intervals(Some(0.9), parts, mode).unwrap();
        let near = |got: [f64; 2], size: f64| {
            let (low, high) = wilson_interval(0.9, size, TAIL);
            assert!((got[0] - low).abs() < 1e-9 && (got[1] - high).abs() < 1e-9, "{got:?}: {low} {high}");
        };
        near(pooled(&[part(500.0), part(500.0)], PoolMode::Sequential), 1000.0);
        near(pooled(&[part(500.0), part(500.0)], PoolMode::Concurrent), 2000.0 / 3.0);
        near(pooled(&[part(1000.0), part(1000.0)], PoolMode::Concurrent), 2000.0);
        let short = PartShare { interval: None, ..part(1.0) };
        near(pooled(&[part(500.0), short], PoolMode::Sequential), 501.0);
        assert_eq!(pool_share_intervals(Some(0.9), &[part(500.0), short], PoolMode::Concurrent), None);
        let empty = PartShare { population: Population::default(), share: None, interval: None };
        near(pooled(&[part(500.0), empty], PoolMode::Concurrent), 500.0);
        assert_eq!(pool_share_intervals(None, &[empty], PoolMode::Sequential), None);
    }

    #[test]
    fn successes_that_come_together_say_less() {
        let apart = interval(&requests((0..1000).map(|i| i * 7919 % 1000 < 900))).unwrap();
        assert!(apart[0] > 0.875 && apart[0] < 0.9 && apart[1] > 0.9 && apart[1] < 0.925, "{apart:?}");
        let together = interval(&requests((0..1000).map(|i| i % 100 < 90)));
        assert!(together.is_none_or(|[low, high]| high - low > 1.5 * (apart[1] - apart[0])), "{together:?}");
        // Without a failure, the upper end is certain.
        assert!(interval(&requests((0..200).map(|_| true))).is_some_and(|[low, high]| low < 1.0 && high >= 1.0));
        assert_eq!((interval(&requests((0..10).map(|_| true))), interval(&[])), (None, None));
    }
}
