//! A share of requests with its interval.

use crate::{
    recording::{RecordedRequest, sort_by_start},
    statistics::{
        Dependence, find_doubt,
        interval::{TAIL, wilson_interval},
    },
};

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
