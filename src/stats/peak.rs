//! Peaks: the most requests in flight, and the most tokens in a second.

use super::{
    sliding::{TakeResponse, most_within_second},
    tokens,
};
use crate::{
    recording::{ChunkTokens, Recording},
    statistics::bins::visit_bins,
    units::{Nanos, SECOND},
};

/// Peaks as vLLM counts them, in buckets of one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct VllmPeaks {
    /// The most chunks in a bucket. (vLLM calls them tokens.)
    pub max_output_tokens_per_s: f64,
    /// The most requests that overlap a bucket. A request that ends early in a second and its successor both count.
    pub max_concurrent_requests: u64,
}

/// With more buckets (115 days), the times cannot be of one run.
const MAX_BUCKETS: f64 = 1e7;

/// The most slots that arrivals are counted in.
const MAX_SLOTS: u64 = 1_000_000;

/// vLLM's formula, with its order of additions.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Python's int() truncates; all values are 0 or more
pub fn count_in_seconds(recording: &Recording) -> VllmPeaks {
    let timed = || recording.successes().filter_map(|r| Some((r, r.start?, r.ttft?, r.latency?)));
    let first = timed().map(|(_, start, ..)| start).fold(f64::INFINITY, f64::min);
    let last = timed().map(|(_, start, _, latency)| start + latency).fold(f64::NEG_INFINITY, f64::max);
    let span = (last - first).ceil();
    if !(0.0..MAX_BUCKETS).contains(&span) {
        return VllmPeaks::default();
    }
    let mut tokens = vec![0_u64; span as usize + 1];
    let mut requests = vec![0_u64; span as usize + 1];
    let mut arrivals = Vec::new();
    for (request, start, _, latency) in timed() {
        arrivals.clear();
        recording.extend_arrivals(request, &mut arrivals);
        visit_bins(
            &arrivals,
            |time| (time - first) as usize,
            |bucket, inside| {
                if let Some(bucket) = tokens.get_mut(bucket) {
                    *bucket += inside.len() as u64;
                }
            },
        );
        let (from, to) = ((start - first) as usize, (start + latency - first) as usize);
        for bucket in requests.iter_mut().take(to + 1).skip(from) {
            *bucket += 1;
        }
    }
    VllmPeaks {
        max_output_tokens_per_s: tokens.into_iter().max().unwrap_or_default() as f64,
        max_concurrent_requests: requests.into_iter().max().unwrap_or_default(),
    }
}

/// The most requests in flight at one instant, from the exact start and end of each request that was sent, failures included. A
/// request that starts at the instant another ends does not overlap it.
#[must_use]
pub fn peak_concurrency(recording: &Recording) -> u64 {
    let sent = recording.requests.iter().filter_map(|r| Some((r.start?, r.done.or(r.latency)?)));
    let origin = recording.requests.iter().filter_map(|r| r.start).fold(f64::INFINITY, f64::min);
    let (mut starts, mut ends): (Vec<u64>, Vec<u64>) = sent
        .map(|(start, done)| {
            let from = Nanos::from_secs_f64(start - origin).0;
            (from, from.saturating_add(Nanos::from_secs_f64(done).0))
        })
        .unzip();
    starts.sort_unstable();
    ends.sort_unstable();
    let (mut ended, mut most) = (0, 0);
    for (started, start) in starts.iter().enumerate() {
        ended += ends[ended..].iter().take_while(|end| *end <= start).count();
        // A request of length 0 has already ended here.
        most = most.max((started + 1).saturating_sub(ended));
    }
    most as u64
}

/// The most tokens of successes that arrived within any second, `(t − 1 s, t]`. The tokens of a chunk arrive together.
#[must_use]
pub fn peak_token_rate(recording: &Recording) -> u64 {
    let span = recording.successes().filter_map(|r| Some(r.start? + r.latency?)).fold(0.0, f64::max)
        - recording.successes().filter_map(|r| r.start).fold(f64::INFINITY, f64::min);
    // One millisecond, or more for a run of hours.
    let slot = (Nanos::from_secs_f64(span).0 / MAX_SLOTS).max(SECOND / 1000);
    // Beyond that, gaps add up to far more than the latency.
    let horizon = slot.saturating_mul(2 * MAX_SLOTS + 1);
    most_within_second(&|take| visit_arrivals(recording, take), slot, horizon)
}

/// Calls `take` with the times and the tokens of the chunks of each success. Times are nanoseconds from the first start.
fn visit_arrivals(recording: &Recording, take: &mut TakeResponse<'_>) {
    let timed = || recording.successes().filter_map(|r| Some((r, r.start?, r.ttft?)));
    let origin = timed().map(|(_, start, _)| start).fold(f64::INFINITY, f64::min);
    let mut arrivals = Vec::new();
    for (request, start, ttft) in timed() {
        let mut time = Nanos::from_secs_f64(start - origin) + Nanos::from_secs_f64(ttft);
        arrivals.clear();
        arrivals.push(time.0);
        arrivals.extend(recording.gaps_of(request).iter().map(|gap| {
            time = time + Nanos::from_secs_f64(*gap);
            time.0
        }));
        let tokens = (request.chunks != ChunkTokens::Single).then(|| tokens::tokens_per_chunk(recording, request));
        arrivals.truncate(tokens.as_ref().map_or(arrivals.len(), |tokens| tokens.len()));
        take(&arrivals, tokens.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recording::RecordedRequest;

    /// Requests of one token each: (start, latency) in ms.
    fn recording(requests: &[(u64, u64)]) -> Recording {
        let seconds = |ms: &u64| *ms as f64 / 1e3;
        let requests = requests.iter().map(|(start, latency)| RecordedRequest {
            success: true,
            output_tokens: 1,
            start: Some(seconds(start)),
            ttft: Some(seconds(latency)),
            latency: Some(seconds(latency)),
            done: Some(seconds(latency)),
            ..RecordedRequest::default()
        });
        Recording { requests: requests.collect(), ..Recording::default() }
    }

    #[test]
    fn peak_concurrency_of_a_closed_loop_is_its_limit() {
        // Sequential without a pause: vLLM counts several.
        let serial = recording(&[(0, 400), (400, 400), (800, 400)]);
        assert_eq!(peak_concurrency(&serial), 1);
        assert_eq!(count_in_seconds(&serial).max_concurrent_requests, 3);
        assert_eq!(peak_concurrency(&Recording::default()), 0);
    }

    #[test]
    fn peak_tokens_per_s_slides() {
        // Four tokens within 600 ms that straddle the end of a bucket.
        let burst = recording(&[(0, 700), (0, 900), (0, 1100), (0, 1300)]);
        assert_eq!(peak_token_rate(&burst), 4);
        assert!((count_in_seconds(&burst).max_output_tokens_per_s - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn peak_tokens_per_s_weighs_chunks_in_tokens() {
        let mut spec = recording(&[(0, 10)]);
        spec.chunk_tokens = vec![3, 4];
        spec.gaps = vec![0.1];
        spec.requests[0].gaps = 0..1;
        spec.requests[0].chunks = ChunkTokens::Known(0..2);
        assert_eq!(peak_token_rate(&spec), 7);
    }

    proptest! {
        #[test]
        fn peaks_match_brute_force(requests in prop::collection::vec((0_u64..4000, 1_u64..3000), 1..40)) {
            let got = recording(&requests);
            let at = |t: u64| requests.iter().filter(|(s, l)| *s <= t && t < s + l).count() as u64;
            prop_assert_eq!(peak_concurrency(&got), requests.iter().map(|(s, _)| at(*s)).max().unwrap());
            let arrivals: Vec<u64> = requests.iter().map(|(s, l)| s + l).collect();
            let within = |t: u64| arrivals.iter().filter(|a| **a <= t && **a + 1000 > t).count() as u64;
            prop_assert_eq!(peak_token_rate(&got), arrivals.iter().map(|a| within(*a)).max().unwrap());
        }
    }
}
