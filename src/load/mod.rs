//! Schedules when each request is due, as data without a clock, and measures whether requests were sent then.

pub mod arrivals;
mod profile;
mod think;

use rand::rngs::ChaCha8Rng;

pub use self::{
    arrivals::{ArrivalMonitor, SendTimes},
    profile::{RateProfile, RequestRate},
    think::ThinkTime,
};

use crate::{rng, units::Nanos};

/// The intended send times of a run, one request after the other.
///
/// The times are absolute, counted from the start of the run: a late request does not delay those after it.
#[derive(Debug)]
pub enum Schedule {
    /// Each request has its own `timestamp`; one without it is due as soon as there is a free slot.
    Own,
    /// Every request is due as soon as there is a free slot, whether or not it has a timestamp (`--request-rate inf`).
    Free,
    /// Arrivals at random with a mean rate.
    Arrivals(Box<ArrivalProcess>),
}

/// Arrivals with gaps from a gamma distribution.
///
/// If the rate changes with time, a process of rate 1 is mapped through the inverse of the cumulative rate, ∫ rate. In any
/// period the profile's number of requests arrives, for all distributions of gaps.
///
/// Gaps have the mean 1/rate and the coefficient of variation 1/√burstiness: 1 is a Poisson process (exponential
/// gaps), smaller is burstier, infinity is a metronome. As in vLLM the first request comes after the first gap. Unlike vLLM,
/// nothing is rescaled afterwards to end at a full second, because that would change the process.
#[derive(Debug)]
pub struct ArrivalProcess {
    pace: ProcessRate,
    burstiness: f64,
    /// Requests that arrive at the same time.
    burst: u64,
    rng: ChaCha8Rng,
    /// Requests and bursts so far.
    count: u64,
    bursts: u64,
    last: Nanos,
}

/// The rate of an arrival process.
#[derive(Debug)]
enum ProcessRate {
    /// Constant, in bursts per second.
    Constant(f64),
    /// Varying with time; with the number of requests planned up to the last burst.
    Profile(RateProfile, f64),
}

impl Schedule {
    /// Creates the schedule that the flags ask for: the requests' own timestamps without a `rate`, [`Schedule::Free`] for an infinite
    /// one. `burst` requests arrive at the same time and gaps are between bursts, so that the rate stays the same.
    #[must_use]
    pub fn new(rate: Option<&RequestRate>, burstiness: f64, burst: u32, seed: u64) -> Self {
        let Some(rate) = rate else { return Schedule::Own };
        let burst = burst.max(1).into();
        let pace = match (rate.as_constant(), rate.to_profile()) {
            (Some(rate), _) => ProcessRate::Constant(rate / burst as f64),
            (None, Some(profile)) => ProcessRate::Profile(profile, 0.0),
            (None, None) => return Schedule::Free,
        };
        let rng = rng::random_stream(seed, "arrivals", 0);
        Schedule::Arrivals(Box::new(ArrivalProcess {
            pace,
            burstiness,
            burst,
            rng,
            count: 0,
            bursts: 0,
            last: Nanos(0),
        }))
    }

    /// When the next request is due, given its own `timestamp`; `None` if as soon as there is a free slot.
    pub fn next_due(&mut self, timestamp: Option<Nanos>) -> Option<Nanos> {
        match self {
            Schedule::Own => timestamp,
            Schedule::Free => None,
            Schedule::Arrivals(arrivals) => Some(arrivals.next_arrival()),
        }
    }
}

impl ArrivalProcess {
    fn next_arrival(&mut self) -> Nanos {
        if self.count.is_multiple_of(self.burst) {
            self.bursts += 1;
            self.last = self.next_burst();
        }
        self.count += 1;
        self.last
    }

    fn next_burst(&mut self) -> Nanos {
        let even = self.burstiness.is_infinite();
        let gap = if even { 1.0 } else { self.draw_gap() };
        match &mut self.pace {
            // By multiplication, so that rounding errors do not add up over a long run.
            ProcessRate::Constant(rate) if even => Nanos::from_secs_f64(self.bursts as f64 / *rate),
            ProcessRate::Constant(rate) => self.last + Nanos::from_secs_f64(gap / *rate),
            ProcessRate::Profile(profile, planned) => {
                *planned += gap * self.burst as f64;
                profile.time_due(*planned)
            }
        }
    }

    /// Draws a gap in units of mean gaps between bursts.
    fn draw_gap(&mut self) -> f64 {
        // The exponential is the gamma of shape 1, drawn with one logarithm instead of several draws.
        if self.burstiness.to_bits() == 1.0_f64.to_bits() {
            rng::sample_exponential(&mut self.rng)
        } else {
            rng::sample_gamma(&mut self.rng, self.burstiness) / self.burstiness
        }
    }
}

/// Parses the burstiness: a number above 0, or `inf`.
pub fn parse_burstiness(text: &str) -> Result<f64, String> {
    parse_positive(text).ok_or_else(|| {
        format!("`{text}` is not a burstiness: 1 is Poisson, smaller is burstier, `inf` is even spacing")
    })
}

fn parse_positive(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number| *number > 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::SECOND;

    fn gaps(rate: f64, burstiness: f64, seed: u64, n: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(Some(&RequestRate::from_constant(rate)), burstiness, 1, seed);
        let times: Vec<Nanos> = (0..n).map(|_| schedule.next_due(None).unwrap()).collect();
        let firsts = std::iter::once(Nanos(0)).chain(times.iter().copied());
        times.iter().zip(firsts).map(|(now, before)| now.since(before).as_secs_f64()).collect()
    }

    #[test]
    fn the_gaps_have_the_mean_and_the_spread_that_were_asked_for() {
        for (rate, burstiness) in [(10.0, 1.0), (2000.0, 0.25), (0.5, 4.0)] {
            let gaps = gaps(rate, burstiness, 7, 50_000);
            let n = gaps.len() as f64;
            let mean = gaps.iter().sum::<f64>() / n;
            let cv = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n).sqrt() / mean;
            assert!((mean * rate - 1.0).abs() < 0.03, "{rate} {burstiness}: mean {mean}");
            assert!((cv * burstiness.sqrt() - 1.0).abs() < 0.05, "{rate} {burstiness}: cv {cv}");
        }
    }

    /// Two moments do not distinguish the exponential distribution from others; the Kolmogorov-Smirnov test does.
    #[test]
    fn burstiness_one_is_a_poisson_process() {
        let mut gaps = gaps(100.0, 1.0, 3, 10_000);
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let distance = gaps
            .iter()
            .enumerate()
            .map(|(i, gap)| {
                let expected = 1.0 - (-gap * 100.0).exp();
                (expected - i as f64 / n).abs().max(((i + 1) as f64 / n - expected).abs())
            })
            .fold(0.0, f64::max);
        assert!(distance * n.sqrt() < 1.63, "beyond the 1 % point: {}", distance * n.sqrt());
    }

    fn due(rate: &str, burstiness: f64, burst: u32, n: usize) -> Vec<Nanos> {
        let mut schedule = Schedule::new(Some(&rate.parse().unwrap()), burstiness, burst, 1);
        (0..n).map(|_| schedule.next_due(None).unwrap()).collect()
    }

    #[test]
    fn a_profile_that_never_changes_is_the_rate_itself() {
        for burstiness in [f64::INFINITY, 1.0, 0.3] {
            let (plain, profile) = (due("20", burstiness, 1, 500), due("20:7s,20", burstiness, 1, 500));
            let off = plain.iter().zip(&profile).map(|(a, b)| a.0.abs_diff(b.0)).max();
            assert!(off < Some(1000), "{burstiness}: {off:?} ns, by rounding each gap");
        }
    }

    #[test]
    fn as_many_come_in_each_time_as_the_profile_says() {
        let rate = "10:20s,10-100:60s,100~10:60s,0:30s,50";
        let profile = rate.parse::<RequestRate>().unwrap().to_profile().unwrap();
        for (burstiness, burst) in [(f64::INFINITY, 1), (1.0, 1), (4.0, 5)] {
            let times = due(rate, burstiness, burst, 12_000);
            for seconds in [10, 20, 50, 80, 120, 140, 160, 200] {
                let at = Nanos(seconds * SECOND);
                let (came, planned) = (times.partition_point(|t| *t <= at) as f64, profile.requests_by(at));
                let sd = if burstiness.is_infinite() { 1.0 } else { (planned * f64::from(burst) / burstiness).sqrt() };
                assert!((came - planned).abs() <= 4.0 * sd + f64::from(burst), "{seconds} s: {came} of {planned}");
            }
        }
    }

    #[test]
    fn a_burst_comes_at_one_instant_and_the_rate_stays() {
        let times = due("100", f64::INFINITY, 4, 12);
        let ms: Vec<u64> = times.iter().map(|t| t.0 / 1_000_000).collect();
        assert_eq!(ms, [40, 40, 40, 40, 80, 80, 80, 80, 120, 120, 120, 120]);
    }

    #[test]
    fn a_metronome_does_not_drift() {
        let mut schedule = Schedule::new(Some(&RequestRate::from_constant(3.0)), f64::INFINITY, 1, 0);
        let last = (0..3_000_000).filter_map(|_| schedule.next_due(None)).last();
        assert_eq!(last, Some(Nanos(1_000_000 * SECOND)));
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_repeat_with_the_seed(rate in 0.01..1e5, burstiness in 0.05..50.0, seed: u64) {
            let run = || {
                let mut schedule = Schedule::new(Some(&RequestRate::from_constant(rate)), burstiness, 1, seed);
                (0..50).map(|_| schedule.next_due(Some(Nanos(5))).unwrap()).collect::<Vec<_>>()
            };
            let times = run();
            prop_assert!(times.is_sorted());
            prop_assert_eq!(times, run());
        }
    }

    #[test]
    fn without_a_rate_the_requests_say_when() {
        let mut own = Schedule::new(None, 1.0, 1, 0);
        assert_eq!((own.next_due(Some(Nanos(9))), own.next_due(None)), (Some(Nanos(9)), None));
        let mut free = Schedule::new(Some(&"inf".parse().unwrap()), 1.0, 1, 0);
        assert_eq!(free.next_due(Some(Nanos(9))), None);
        for text in ["0", "-1", "nan", "fast", ""] {
            assert!(parse_burstiness(text).is_err(), "{text}");
        }
        assert_eq!(parse_burstiness(" 0.5 "), Ok(0.5));
    }
}
