//! Measures whether requests were sent when they were planned: how large the backlog became, what delayed requests, and two
//! Kolmogorov-Smirnov tests.

use std::collections::VecDeque;

use statrs::distribution::{ContinuousCDF, Gamma};

use super::profile::RateProfile;
use crate::units::Nanos;

/// Times closer than this count as the same: how late a request can be on a machine that does other things too.
pub const TOLERANCE: Nanos = Nanos(1_000_000);

/// How far off a gap may be if two requests are due at nearly the same time: sending one takes time too.
const GAP_TOLERANCE: Nanos = Nanos(100_000);

/// Bins of probability for the gaps: the distance is accurate to 1/8192.
const GAP_BINS: usize = 8192;

/// The distribution of a schedule's gaps, in planned requests: gamma with mean 1.
#[derive(Debug, Clone)]
pub struct GapDistribution {
    profile: RateProfile,
    gamma: Gamma,
}

impl GapDistribution {
    /// The gaps of arrivals that follow `profile` with this burstiness; `None` if gaps are even, which have no distribution to test.
    #[must_use]
    pub fn new(profile: RateProfile, burstiness: f64) -> Option<Self> {
        let gamma = Gamma::new(burstiness, burstiness).ok().filter(|_| burstiness.is_finite())?;
        Some(GapDistribution { profile, gamma })
    }
}

/// Watches requests being sent, in their order. Its memory grows with the number of requests that are overdue.
#[derive(Debug)]
pub struct ArrivalMonitor {
    law: Option<GapDistribution>,
    /// Requests planned and sent so far.
    planned: u64,
    sent: u64,
    /// For each sent request whose backlog is not known yet: when it was sent, and how many were sent before it, counting the
    /// request itself unless it was late.
    unresolved: VecDeque<(Nanos, u64)>,
    /// The most requests that were due and not yet sent.
    max_backlog: u64,
    /// Late requests by cause.
    late: LateRequests,
    last: Option<f64>,
    /// Gaps by the probability that the distribution gives to a gap that is longer, or shorter, by the tolerance.
    longer: Vec<u32>,
    shorter: Vec<u32>,
    gaps: u64,
}

/// Requests that were sent more than [`TOLERANCE`] after their scheduled time, by cause: the client, if it took the larger part
/// of the delay; else the wait that ended last, for a slot or for the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LateRequests {
    /// All slots were taken.
    pub no_slot: u64,
    /// The request had not been read from the input.
    pub input: u64,
    /// The client was slow.
    pub client: u64,
}

/// When a request could be sent, on the clock of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendTimes {
    /// The scheduled time; without a schedule (closed loop) the same as `ready`.
    pub scheduled: Nanos,
    /// When it was read; 0 if it was available before the client asked for it.
    pub read: Nanos,
    /// From when on only the client held it back: it was due, had its slot, and had been read.
    pub ready: Nanos,
    /// Whether it is a later turn of a conversation: the turn before it decides when it is due, and not the schedule.
    pub follows_turn: bool,
}

/// The arrivals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ArrivalSummary {
    /// Requests that were due.
    pub planned: u64,
    /// The largest share of them that was due and not sent at any one time.
    pub distance: f64,
    /// The probability of such a distance between two samples of one distribution.
    pub p: f64,
    /// The distance between the distribution of the gaps and the requested one, and its probability.
    pub gaps: Option<(f64, f64)>,
    /// Requests that were sent late.
    pub late: LateRequests,
}

impl ArrivalMonitor {
    /// A monitor of a run that has sent nothing yet.
    #[must_use]
    pub fn new(law: Option<GapDistribution>) -> Self {
        let bins = || if law.is_some() { vec![0; GAP_BINS] } else { vec![] };
        let (longer, shorter) = (bins(), bins());
        ArrivalMonitor {
            law,
            planned: 0,
            sent: 0,
            unresolved: VecDeque::new(),
            max_backlog: 0,
            late: LateRequests::default(),
            last: None,
            longer,
            shorter,
            gaps: 0,
        }
    }

    /// Records that a request is sent at `sent`.
    pub fn record_sent(&mut self, times: SendTimes, sent: Nanos) {
        self.note_planned(times.scheduled);
        self.count_late(times, sent);
        let in_time = sent < times.scheduled + TOLERANCE;
        self.unresolved.push_back((sent, self.sent + u64::from(in_time)));
        self.sent += 1;
        self.record_gap(sent);
    }

    /// Records a request that was due and is never sent.
    pub fn record_unsent(&mut self, scheduled: Nanos) {
        self.note_planned(scheduled);
    }

    fn note_planned(&mut self, planned: Nanos) {
        while let Some((sent, before)) = self.unresolved.front().copied()
            && sent < planned + TOLERANCE
        {
            self.update_backlog(before);
            self.unresolved.pop_front();
        }
        self.planned += 1;
    }

    /// Updates the backlog for a sent request, once every request that was due before it is known.
    fn update_backlog(&mut self, before: u64) {
        self.max_backlog = self.max_backlog.max(self.planned.saturating_sub(before));
    }

    fn count_late(&mut self, SendTimes { scheduled, read, ready, .. }: SendTimes, sent: Nanos) {
        if sent.since(scheduled) <= TOLERANCE {
            return;
        }
        let cause = match () {
            () if sent.since(ready) >= ready.since(scheduled) => &mut self.late.client,
            () if read >= ready && read > scheduled => &mut self.late.input,
            () => &mut self.late.no_slot,
        };
        *cause += 1;
    }

    fn record_gap(&mut self, sent: Nanos) {
        let Some(law) = &self.law else { return };
        let now = law.profile.requests_by(sent);
        let slack = law.profile.requests_by(sent + GAP_TOLERANCE) - now;
        if let Some(gap) = self.last.replace(now).map(|last| now - last) {
            for (bins, gap) in [(&mut self.longer, gap + slack), (&mut self.shorter, gap - slack)] {
                let bin = bin_index(law.gamma.cdf(gap.max(0.0)));
                bins[bin] = bins[bin].saturating_add(1);
            }
            self.gaps += 1;
        }
    }

    /// Ends the run: nothing more will be planned.
    #[must_use]
    pub fn finish(mut self) -> Option<ArrivalSummary> {
        while let Some((_, before)) = self.unresolved.pop_front() {
            self.update_backlog(before);
        }
        // Requests that were never sent were overdue to the last.
        self.max_backlog = self.max_backlog.max(self.planned - self.sent);
        if self.planned == 0 {
            return None;
        }
        let n = self.planned as f64;
        let distance = self.max_backlog as f64 / n;
        let gaps = (self.gaps > 0).then(|| {
            let distance = self.gap_distance();
            (distance, ks_probability(distance, self.gaps as f64))
        });
        Some(ArrivalSummary {
            planned: self.planned,
            distance,
            p: ks_probability(distance, n / 2.0),
            gaps,
            late: self.late,
        })
    }

    /// The distance between the gaps and their distribution at the ends of the bins: the smallest of all gaps within the tolerance.
    fn gap_distance(&self) -> f64 {
        let share = |count: u64| count as f64 / self.gaps as f64;
        let (mut longer, mut shorter, mut worst) = (0, 0, 0.0_f64);
        for (bin, (long, short)) in (1..).zip(self.longer.iter().zip(&self.shorter)) {
            longer += u64::from(*long);
            shorter += u64::from(*short);
            let law = f64::from(bin) / GAP_BINS as f64;
            worst = worst.max(share(longer) - law).max(law - share(shorter));
        }
        worst
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 1
fn bin_index(probability: f64) -> usize {
    ((probability * GAP_BINS as f64) as usize).min(GAP_BINS - 1)
}

/// The probability that the Kolmogorov-Smirnov distance is `distance` or more by chance, with `n` effective observations
/// (n/2 for two samples of n each): Stephens, "EDF statistics for goodness of fit", JASA 69 (1974).
#[must_use]
pub fn ks_probability(distance: f64, n: f64) -> f64 {
    let root = libm::sqrt(n);
    let lambda = (root + 0.12 + 0.11 / root) * distance;
    if lambda < 0.2 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
        sign * libm::exp(-2.0 * f64::from(k * k) * lambda * lambda)
    };
    (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::RequestRate, *};
    use crate::rng;

    fn ms(n: u64) -> Nanos {
        Nanos(n * 1_000_000)
    }

    /// Nothing but the client holds the request back once it is due.
    fn on_time(scheduled: Nanos) -> SendTimes {
        SendTimes { scheduled, ready: scheduled, ..SendTimes::default() }
    }

    /// The largest number of requests that were due and not sent just before one was sent, by brute force.
    fn brute(planned: &[Nanos], sent: &[Nanos]) -> u64 {
        let behind = |(place, sent): (usize, &Nanos)| {
            let due = planned.iter().filter(|p| **p + TOLERANCE <= *sent).count();
            due.saturating_sub(place) as u64
        };
        sent.iter().enumerate().map(behind).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn late_requests_are_counted_while_they_are_sent(
            gaps in prop::collection::vec(0..8_u64, 1..60), delays in prop::collection::vec(0..30_u64, 60),
        ) {
            let mut arrivals = ArrivalMonitor::new(None);
            let (mut due, mut free) = (0, 0);
            let (mut planned, mut sent) = (Vec::new(), Vec::new());
            for (gap, delay) in gaps.iter().zip(delays) {
                due += gap;
                // One at a time and never two at the same time, as a client sends.
                free = due.max(free + 1) + delay / 20 * delay;
                planned.push(ms(due));
                sent.push(ms(free));
                arrivals.record_sent(on_time(ms(due)), ms(free));
            }
            let summary = arrivals.finish().unwrap();
            let want = brute(&planned, &sent) as f64 / planned.len() as f64;
            prop_assert!((summary.distance - want).abs() < 1e-12, "{} and {want}: {planned:?} {sent:?}", summary.distance);
        }
    }

    /// Arrivals of `rate`, sent by a client that takes `service` for each.
    fn run(rate: f64, burstiness: f64, service: Nanos) -> ArrivalSummary {
        let profile = RequestRate::from_constant(rate).to_profile().unwrap();
        let mut arrivals = ArrivalMonitor::new(GapDistribution::new(profile, burstiness));
        let mut rng = rng::random_stream(1, "test", 0);
        let (mut planned, mut free) = (Nanos(0), Nanos(0));
        for _ in 0..5000 {
            let gap = rng::sample_gamma(&mut rng, burstiness) / burstiness / rate;
            planned = planned + Nanos::from_secs_f64(gap);
            free = planned.max(free + service);
            arrivals.record_sent(on_time(planned), free);
        }
        arrivals.finish().unwrap()
    }

    #[test]
    fn a_client_that_keeps_up_passes_and_one_that_does_not_fails() {
        for burstiness in [0.5, 1.0, 4.0] {
            let good = run(1000.0, burstiness, Nanos(20_000));
            assert!(good.p > 0.9 && good.gaps.unwrap().1 > 0.01 && good.late.client < 50, "{good:?}");
            let slow = run(1000.0, burstiness, Nanos(1_200_000));
            assert!(slow.p < 1e-6 && slow.gaps.unwrap().1 < 1e-6 && slow.late.client > 1000, "{slow:?}");
        }
        // The right number of requests with the wrong gaps is detected as well.
        let profile = RequestRate::from_constant(100.0).to_profile().unwrap();
        let mut even = ArrivalMonitor::new(GapDistribution::new(profile, 1.0));
        (1..1000).for_each(|i| even.record_sent(on_time(ms(i * 10)), ms(i * 10)));
        let summary = even.finish().unwrap();
        assert!(summary.p > 0.9 && summary.gaps.unwrap().1 < 1e-6, "{summary:?}");
    }

    #[test]
    fn what_is_sent_at_once_is_in_time_from_the_very_beginning() {
        for start in [0, 500] {
            let mut arrivals = ArrivalMonitor::new(None);
            let sent = |place: u64| Nanos(start * 1_000_000 + place * 40_000);
            (0..20).for_each(|i| arrivals.record_sent(on_time(ms(start)), sent(i)));
            let summary = arrivals.finish().unwrap();
            assert!(summary.distance == 0.0 && summary.late == LateRequests::default(), "{summary:?}");
        }
    }

    #[test]
    fn causes_are_kept_apart_and_unsent_requests_are_overdue() {
        let mut arrivals = ArrivalMonitor::new(None);
        let times = [(0, 0, 0, 1), (10, 0, 15, 15), (20, 27, 27, 27), (30, 0, 30, 35), (40, 0, 45, 50)];
        for (scheduled, read, ready, sent) in times {
            let times =
                SendTimes { scheduled: ms(scheduled), read: ms(read), ready: ms(ready), ..SendTimes::default() };
            arrivals.record_sent(times, ms(sent));
        }
        arrivals.record_unsent(ms(60));
        arrivals.record_unsent(ms(70));
        let summary = arrivals.finish().unwrap();
        assert_eq!(summary.late, LateRequests { no_slot: 1, input: 1, client: 2 });
        assert!((summary.distance - 2.0 / 7.0).abs() < 1e-12, "{summary:?}");
        assert!(ArrivalMonitor::new(None).finish().is_none());
    }

    #[test]
    fn the_probabilities_match_published_tables() {
        // Smirnov's table: 5 % at 1.358, 1 % at 1.628, for many observations.
        for (lambda, want) in [(1.358, 0.05), (1.628, 0.01), (1.949, 0.001)] {
            let n = 1e8_f64;
            assert!((ks_probability(lambda / n.sqrt(), n) - want).abs() < 2e-4 * (1.0 + want), "{lambda}");
        }
        assert!((ks_probability(0.0, 100.0) - 1.0).abs() < f64::EPSILON);
    }
}
