//! The client's times against the server's: joined by request id, then subtracted. No clock runs here.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::{Rate, ServerPace, StampErrors};
use crate::{
    record::{Percentiles, RequestFuncOutput, Stamp, Truth},
    units::{Nanos, SECOND, UnixNanos},
};

/// Errors of the three latencies, without their signs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Errors {
    /// TTFT against `start_time` → the server's first send.
    pub ttft: Percentiles,
    /// Each gap between chunks against the gap between the server's sends.
    pub itl: Percentiles,
    /// E2EL against `start_time` → the server's last send.
    pub e2el: Percentiles,
}

/// A request as the client and as the server saw it.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    output: &'a RequestFuncOutput,
    truth: &'a Truth,
    start: UnixNanos,
}

/// Which instant of arrival is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Kernel,
    User,
}

/// The successes that the server's log knows with as many chunks, in the order of the outputs.
#[must_use]
pub fn join<'a>(outputs: &'a [RequestFuncOutput], truths: &'a [Truth]) -> Vec<Pair<'a>> {
    let by_id: HashMap<&str, &Truth> = truths.iter().map(|truth| (truth.request_id.as_str(), truth)).collect();
    let pair = |output: &'a RequestFuncOutput| {
        let (truth, start) = (*by_id.get(output.request_id.as_str())?, output.start_time?);
        let same = output.success && output.ttft.is_some() && truth.sent.len() == output.itl.len() + 1;
        same.then_some(Pair { output, truth, start })
    };
    outputs.iter().filter_map(pair).collect()
}

impl Pair<'_> {
    /// When each chunk arrived; `None`: not known by this stamp.
    fn arrivals(&self, by: By) -> Option<Vec<UnixNanos>> {
        let mut at = self.start + self.output.ttft?;
        let mut arrivals = vec![at];
        for gap in &self.output.itl {
            at = at + *gap;
            arrivals.push(at);
        }
        match (by, self.output.stamp, &self.output.read_lag) {
            (By::Kernel, Stamp::Kernel, _) | (By::User, Stamp::User, _) => Some(arrivals),
            (By::User, Stamp::Kernel, Some(lags)) if lags.len() == arrivals.len() => {
                Some(arrivals.iter().zip(lags).map(|(at, lag)| *at + *lag).collect())
            }
            _ => None,
        }
    }

    /// Chunks of the answer.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.truth.sent.len() as u64
    }

    /// Start → the server had read the request.
    fn send_to_read(&self) -> Nanos {
        self.truth.received.since(self.start)
    }
}

/// The errors over all pairs, by both stamps.
#[must_use]
pub fn errors(pairs: &[Pair]) -> StampErrors {
    StampErrors { kernel: errors_by(pairs, By::Kernel), user: errors_by(pairs, By::User) }
}

fn errors_by(pairs: &[Pair], by: By) -> Option<Errors> {
    let (mut ttft, mut itl, mut e2el) = (vec![], vec![], vec![]);
    for pair in pairs {
        let (Some(arrived), sent) = (pair.arrivals(by), &pair.truth.sent) else { continue };
        // Without the server's own stamp both count from the client's, which then drops out of the difference.
        let (start, asked) = (pair.start, pair.truth.arrived.unwrap_or(pair.start));
        let error = |(a, s): (&UnixNanos, &UnixNanos)| a.since(start).0.abs_diff(s.since(asked).0);
        ttft.extend(arrived.first().zip(sent.first()).map(error));
        e2el.extend(arrived.last().zip(sent.last()).map(error));
        let gaps = arrived.windows(2).zip(sent.windows(2));
        itl.extend(gaps.map(|(a, s)| a[1].since(a[0]).0.abs_diff(s[1].since(s[0]).0)));
    }
    // An answer of one chunk has no gap, and none is no error.
    let itl = percentiles(itl).unwrap_or_default();
    Some(Errors { ttft: percentiles(ttft)?, itl, e2el: percentiles(e2el)? })
}

/// Start → the server had read the request, over all pairs.
#[must_use]
pub fn send_to_read(pairs: &[Pair]) -> Option<Percentiles> {
    percentiles(pairs.iter().map(|pair| pair.send_to_read().0).collect())
}

/// By nearest rank: each is a value that occurred. `None` of nothing.
fn percentiles(mut values: Vec<u64>) -> Option<Percentiles> {
    values.sort_unstable();
    let rank = |percent: usize| Some(Nanos(*values.get((values.len() * percent).div_ceil(100).checked_sub(1)?)?));
    Some(Percentiles { p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
}

/// The rates of the requests that were sent.
#[must_use]
pub fn rate(outputs: &[RequestFuncOutput], asked: Option<f64>) -> Rate {
    let sent = || outputs.iter().filter_map(|output| Some((output.scheduled_time, output.start_time?)));
    Rate {
        asked,
        scheduled: per_second(sent().map(|times| times.0)),
        realised: per_second(sent().map(|times| times.1)),
    }
}

/// Events per second from the first to the last.
fn per_second(times: impl Iterator<Item = UnixNanos>) -> Option<f64> {
    let (n, first, last) =
        times.fold((0_u64, u64::MAX, 0), |(n, first, last), time| (n + 1, first.min(time.0), last.max(time.0)));
    (n > 1 && last > first).then(|| (n - 1) as f64 * SECOND as f64 / (last - first) as f64)
}

/// How well the server kept its step.
#[must_use]
pub fn pace(truths: &[Truth], step: Nanos) -> ServerPace {
    let gaps: Vec<u64> =
        truths.iter().flat_map(|truth| truth.sent.windows(2)).map(|pair| pair[1].since(pair[0]).0).collect();
    let n = gaps.len() as u64;
    let mean = (n > 0).then(|| Nanos(gaps.iter().sum::<u64>() / n));
    let long = gaps.iter().filter(|gap| **gap > step.0 / 2 * 3).count();
    let long_gaps = long as f64 / (n as f64).max(1.0);
    let p50 = percentiles(gaps).map(|p| p.p50);
    let in_time = |gap: Option<Nanos>| gap.is_none_or(|gap| gap.0 <= step.0 / 5 * 6);
    // A median may be in time although the mean is not: tokens that are late come together, with gaps of nothing.
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

    /// Which arrive 1, 2 and 4 ms later and are read 1, 0 and 3 ms after that.
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

    fn told(p: Percentiles) -> [u64; 3] {
        [p.p50.0 / MS, p.p99.0 / MS, p.max.0 / MS]
    }

    #[test]
    fn errors_are_differences_to_the_sends() {
        let (outputs, truths) = ([output()], [truth()]);
        let pairs = join(&outputs, &truths);
        let all = errors(&pairs);
        let kernel = all.kernel.unwrap();
        assert_eq!(told(kernel.ttft), [1, 1, 1]);
        assert_eq!(told(kernel.itl), [1, 2, 2]);
        assert_eq!(told(kernel.e2el), [4, 4, 4]);
        // Read at 12, 32 and 57 ms: gaps of 20 and 25.
        let user = all.user.unwrap();
        assert_eq!((told(user.ttft), told(user.itl), told(user.e2el)), ([2, 2, 2], [0, 5, 5], [7, 7, 7]));
        assert_eq!(told(send_to_read(&pairs).unwrap()), [1, 1, 1]);
    }

    #[test]
    fn the_servers_own_stamp_of_the_request_tells_the_way_there_too() {
        let (outputs, truths) = ([output()], [Truth { arrived: Some(at(1)), ..truth() }]);
        let kernel = errors(&join(&outputs, &truths)).kernel.unwrap();
        assert_eq!((told(kernel.ttft), told(kernel.itl), told(kernel.e2el)), ([2, 2, 2], [1, 2, 2], [5, 5, 5]));
    }

    #[test]
    fn without_kernel_stamps_there_is_the_users_column_only() {
        let user = RequestFuncOutput { stamp: Stamp::User, read_lag: None, ..output() };
        let (outputs, truths) = ([user], [truth()]);
        let all = errors(&join(&outputs, &truths));
        assert_eq!(all.kernel, None);
        assert_eq!(told(all.user.unwrap().e2el), [4, 4, 4]);
        let unknown = [RequestFuncOutput { read_lag: None, ..output() }];
        let all = errors(&join(&unknown, &truths));
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
        assert!(join(&outputs, &truths).is_empty());
        assert_eq!(errors(&[]), StampErrors::default());
        assert_eq!(send_to_read(&[]), None);
    }

    #[test]
    fn a_rate_is_counted_over_the_gaps() {
        let sent = |due: u64, sent: u64| RequestFuncOutput {
            scheduled_time: at(due),
            start_time: Some(at(sent)),
            ..RequestFuncOutput::default()
        };
        let rate = rate(&[sent(200, 250), sent(0, 0), sent(100, 100)], Some(9.5));
        assert_eq!((rate.asked, rate.scheduled, rate.realised), (Some(9.5), Some(10.0), Some(8.0)));
        assert_eq!(super::rate(&[sent(0, 0)], None), Rate::default());
    }

    #[test]
    fn a_server_that_is_behind_is_told() {
        let step = Nanos(20 * MS);
        assert!(pace(&[truth()], step).kept);
        assert!(pace(&[], step).kept);
        let slow = Truth { sent: vec![at(0), at(30), at(60)], ..truth() };
        assert!(!pace(&[slow], step).kept);
        // Half of the tokens come together with the one before, which hides the delay from the median.
        let bunched = Truth { sent: vec![at(0), at(60), at(60), at(60), at(120)], ..truth() };
        let pace = pace(&[bunched], step);
        assert_eq!((pace.gap_p50, pace.gap_mean, pace.kept), (Some(Nanos(0)), Some(Nanos(30 * MS)), false));
    }

    proptest! {
        #[test]
        fn percentiles_are_values_with_enough_below_them(values in prop::collection::vec(0_u64..1000, 1..200)) {
            let told = percentiles(values.clone()).unwrap();
            for (percent, value) in [(50, told.p50.0), (99, told.p99.0), (100, told.max.0)] {
                prop_assert!(values.contains(&value));
                let at_most = values.iter().filter(|v| **v <= value).count();
                let below = values.iter().filter(|v| **v < value).count();
                prop_assert!(at_most * 100 >= percent * values.len() && below * 100 < percent * values.len());
            }
        }
    }
}
