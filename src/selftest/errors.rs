//! Compares the client's times with the server's: joins them by request id and subtracts. Reads no clock.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::{MeasuredRates, ServerPace, StampErrors};
use crate::{
    record::{Percentiles, RequestFuncOutput, Stamp, Truth},
    units::{Nanos, SECOND, UnixNanos},
};

/// Absolute errors of the three latencies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Errors")]
pub struct LatencyErrors {
    /// TTFT against `start_time` → the server's first send.
    pub ttft: Percentiles,
    /// Each gap between chunks against the gap between the server's sends.
    pub itl: Percentiles,
    /// E2EL against `start_time` → the server's last send.
    pub e2el: Percentiles,
}

/// A request as the client and as the server saw it.
#[derive(Debug, Clone, Copy)]
pub struct RequestPair<'a> {
    output: &'a RequestFuncOutput,
    truth: &'a Truth,
    start: UnixNanos,
}

/// The stamp to use as the time of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArrivalStamp {
    Kernel,
    User,
}

/// Joins the successful requests that the truth log has with the same number of chunks, in the order of the outputs.
#[must_use]
pub fn join_by_id<'a>(outputs: &'a [RequestFuncOutput], truths: &'a [Truth]) -> Vec<RequestPair<'a>> {
    let by_id: HashMap<&str, &Truth> = truths.iter().map(|truth| (truth.request_id.as_str(), truth)).collect();
    let pair = |output: &'a RequestFuncOutput| {
        let (truth, start) = (*by_id.get(output.request_id.as_str())?, output.start_time?);
        let same = output.success && output.ttft.is_some() && truth.sent.len() == output.itl.len() + 1;
        same.then_some(RequestPair { output, truth, start })
    };
    outputs.iter().filter_map(pair).collect()
}

impl RequestPair<'_> {
    /// When each chunk arrived by this stamp; `None`: unknown.
    fn arrival_times(&self, by: ArrivalStamp) -> Option<Vec<UnixNanos>> {
        let mut at = self.start + self.output.ttft?;
        let mut arrivals = vec![at];
        for gap in &self.output.itl {
            at = at + *gap;
            arrivals.push(at);
        }
        match (by, self.output.stamp, &self.output.read_lag) {
            (ArrivalStamp::Kernel, Stamp::Kernel | Stamp::Packet, _) | (ArrivalStamp::User, Stamp::User, _) => {
                Some(arrivals)
            }
            (ArrivalStamp::User, Stamp::Kernel | Stamp::Packet, Some(lags)) if lags.len() == arrivals.len() => {
                Some(arrivals.iter().zip(lags).map(|(at, lag)| *at + *lag).collect())
            }
            _ => None,
        }
    }

    /// The number of chunks in the response.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.truth.sent.len() as u64
    }

    /// From the start of the request until the server had read it.
    fn send_to_read(&self) -> Nanos {
        self.truth.received.since(self.start)
    }
}

/// The errors over all pairs, by both stamps.
#[must_use]
pub fn errors_of_pairs(pairs: &[RequestPair]) -> StampErrors {
    StampErrors { kernel: errors_by(pairs, ArrivalStamp::Kernel), user: errors_by(pairs, ArrivalStamp::User) }
}

fn errors_by(pairs: &[RequestPair], by: ArrivalStamp) -> Option<LatencyErrors> {
    let (mut ttft, mut itl, mut e2el) = (vec![], vec![], vec![]);
    for pair in pairs {
        let (Some(arrived), sent) = (pair.arrival_times(by), &pair.truth.sent) else { continue };
        // Without the server's stamp both count from the client's start, which then cancels out of the difference.
        let (start, asked) = (pair.start, pair.truth.arrived.unwrap_or(pair.start));
        let error = |(a, s): (&UnixNanos, &UnixNanos)| a.since(start).0.abs_diff(s.since(asked).0);
        ttft.extend(arrived.first().zip(sent.first()).map(error));
        e2el.extend(arrived.last().zip(sent.last()).map(error));
        let gaps = arrived.windows(2).zip(sent.windows(2));
        itl.extend(gaps.map(|(a, s)| a[1].since(a[0]).0.abs_diff(s[1].since(s[0]).0)));
    }
    // A response of one chunk has no gaps, so its ITL error is 0.
    let itl = percentiles_of(itl).unwrap_or_default();
    Some(LatencyErrors { ttft: percentiles_of(ttft)?, itl, e2el: percentiles_of(e2el)? })
}

/// From the start of a request until the server had read it, over all pairs.
#[must_use]
pub fn send_to_read(pairs: &[RequestPair]) -> Option<Percentiles> {
    percentiles_of(pairs.iter().map(|pair| pair.send_to_read().0).collect())
}

/// Percentiles by nearest rank, so each is one of the values. `None` without values.
fn percentiles_of(mut values: Vec<u64>) -> Option<Percentiles> {
    values.sort_unstable();
    let rank = |percent: usize| Some(Nanos(*values.get((values.len() * percent).div_ceil(100).checked_sub(1)?)?));
    Some(Percentiles { p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
}

/// The rates of the requests that were sent.
#[must_use]
pub fn request_rates(outputs: &[RequestFuncOutput], asked: Option<f64>) -> MeasuredRates {
    let sent = || outputs.iter().filter_map(|output| Some((output.scheduled_time, output.start_time?)));
    MeasuredRates {
        asked,
        scheduled: events_per_second(sent().map(|times| times.0)),
        realised: events_per_second(sent().map(|times| times.1)),
    }
}

/// Events per second from the first event to the last.
fn events_per_second(times: impl Iterator<Item = UnixNanos>) -> Option<f64> {
    let (n, first, last) =
        times.fold((0_u64, u64::MAX, 0), |(n, first, last), time| (n + 1, first.min(time.0), last.max(time.0)));
    (n > 1 && last > first).then(|| (n - 1) as f64 * SECOND as f64 / (last - first) as f64)
}

/// How well the server kept the time between tokens.
#[must_use]
pub fn server_pace(truths: &[Truth], step: Nanos) -> ServerPace {
    let gaps: Vec<u64> =
        truths.iter().flat_map(|truth| truth.sent.windows(2)).map(|pair| pair[1].since(pair[0]).0).collect();
    let n = gaps.len() as u64;
    let mean = (n > 0).then(|| Nanos(gaps.iter().sum::<u64>() / n));
    let long = gaps.iter().filter(|gap| **gap > step.0 / 2 * 3).count();
    let long_gaps = long as f64 / (n as f64).max(1.0);
    let p50 = percentiles_of(gaps).map(|p| p.p50);
    let in_time = |gap: Option<Nanos>| gap.is_none_or(|gap| gap.0 <= step.0 / 5 * 6);
    // The median may be in time although the mean is not: late tokens arrive together, with gaps of 0.
    ServerPace { gap_p50: p50, gap_mean: mean, long_gaps, kept: in_time(p50) && in_time(mean) && long_gaps <= 0.1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> UnixNanos {
        UnixNanos(1_000 * SECOND + ms * MS)
    }

    /// Sent at 0, tokens due at 10, 30 and 50 ms.
    fn truth() -> Truth {
        Truth { request_id: "a".into(), received: at(1), sent: vec![at(10), at(30), at(50)], ..Truth::default() }
    }

    /// The same tokens: they arrive 1, 2 and 4 ms later and are read 1, 0 and 3 ms after that.
    fn output() -> RequestFuncOutput {
        RequestFuncOutput {
            request_id: "a".into(),
            success: true,
            scheduled_time: at(0),
            start_time: Some(at(0)),
            ttft: Some(Nanos(11 * MS)),
            itl: vec![Nanos(21 * MS), Nanos(22 * MS)],
            latency: Some(Nanos(54 * MS)),
            stamp: Stamp::Kernel,
            read_lag: Some(vec![Nanos(MS), Nanos(0), Nanos(3 * MS)]),
            ..RequestFuncOutput::default()
        }
    }

    fn in_ms(p: Percentiles) -> [u64; 3] {
        [p.p50.0 / MS, p.p99.0 / MS, p.max.0 / MS]
    }

    #[test]
    fn errors_are_differences_to_the_sends() {
        let (outputs, truths) = ([output()], [truth()]);
        let pairs = join_by_id(&outputs, &truths);
        let all = errors_of_pairs(&pairs);
        let kernel = all.kernel.unwrap();
        assert_eq!(in_ms(kernel.ttft), [1, 1, 1]);
        assert_eq!(in_ms(kernel.itl), [1, 2, 2]);
        assert_eq!(in_ms(kernel.e2el), [4, 4, 4]);
        // Read at 12, 32 and 57 ms: gaps of 20 and 25.
        let user = all.user.unwrap();
        assert_eq!((in_ms(user.ttft), in_ms(user.itl), in_ms(user.e2el)), ([2, 2, 2], [0, 5, 5], [7, 7, 7]));
        assert_eq!(in_ms(send_to_read(&pairs).unwrap()), [1, 1, 1]);
    }

    #[test]
    fn the_servers_stamp_of_the_request_adds_the_error_of_sending() {
        let (outputs, truths) = ([output()], [Truth { arrived: Some(at(1)), ..truth() }]);
        let kernel = errors_of_pairs(&join_by_id(&outputs, &truths)).kernel.unwrap();
        assert_eq!((in_ms(kernel.ttft), in_ms(kernel.itl), in_ms(kernel.e2el)), ([2, 2, 2], [1, 2, 2], [5, 5, 5]));
    }

    #[test]
    fn without_kernel_stamps_only_the_user_column_is_known() {
        let user = RequestFuncOutput { stamp: Stamp::User, read_lag: None, ..output() };
        let (outputs, truths) = ([user], [truth()]);
        let all = errors_of_pairs(&join_by_id(&outputs, &truths));
        assert_eq!(all.kernel, None);
        assert_eq!(in_ms(all.user.unwrap().e2el), [4, 4, 4]);
        let unknown = [RequestFuncOutput { read_lag: None, ..output() }];
        let all = errors_of_pairs(&join_by_id(&unknown, &truths));
        assert!(all.kernel.is_some() && all.user.is_none());
    }

    #[test]
    fn only_a_success_with_all_its_chunks_is_joined() {
        let truths = [truth()];
        let failed = RequestFuncOutput { success: false, ..output() };
        let fewer = RequestFuncOutput { itl: vec![Nanos(1)], ..output() };
        let stranger = RequestFuncOutput { request_id: "b".into(), ..output() };
        let unsent = RequestFuncOutput { start_time: None, ..output() };
        let outputs = [failed, fewer, stranger, unsent];
        assert!(join_by_id(&outputs, &truths).is_empty());
        assert_eq!(errors_of_pairs(&[]), StampErrors::default());
        assert_eq!(send_to_read(&[]), None);
    }

    #[test]
    fn a_rate_is_counted_over_the_gaps() {
        let sent = |due: u64, sent: u64| RequestFuncOutput {
            scheduled_time: at(due),
            start_time: Some(at(sent)),
            ..RequestFuncOutput::default()
        };
        let rate = request_rates(&[sent(200, 250), sent(0, 0), sent(100, 100)], Some(9.5));
        assert_eq!((rate.asked, rate.scheduled, rate.realised), (Some(9.5), Some(10.0), Some(8.0)));
        assert_eq!(super::request_rates(&[sent(0, 0)], None), MeasuredRates::default());
    }

    #[test]
    fn a_server_that_is_late_is_detected() {
        let step = Nanos(20 * MS);
        assert!(server_pace(&[truth()], step).kept);
        assert!(server_pace(&[], step).kept);
        let slow = Truth { sent: vec![at(0), at(30), at(60)], ..truth() };
        assert!(!server_pace(&[slow], step).kept);
        // Half of the tokens arrive together with the previous one, which hides the delay from the median.
        let bunched = Truth { sent: vec![at(0), at(60), at(60), at(60), at(120)], ..truth() };
        let pace = server_pace(&[bunched], step);
        assert_eq!((pace.gap_p50, pace.gap_mean, pace.kept), (Some(Nanos(0)), Some(Nanos(30 * MS)), false));
    }

    proptest! {
        #[test]
        fn percentiles_are_values_with_enough_below_them(values in prop::collection::vec(0_u64..1000, 1..200)) {
            let got = percentiles_of(values.clone()).unwrap();
            for (percent, value) in [(50, got.p50.0), (99, got.p99.0), (100, got.max.0)] {
                prop_assert!(values.contains(&value));
                let at_most = values.iter().filter(|v| **v <= value).count();
                let below = values.iter().filter(|v| **v < value).count();
                prop_assert!(at_most * 100 >= percent * values.len() && below * 100 < percent * values.len());
            }
        }
    }
}
