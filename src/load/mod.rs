//! When each request is due: load schedules as data, without a clock.

use rand::rngs::ChaCha8Rng;

use crate::{rng, units::Nanos};

/// The intended send times of a run, one request after the other.
///
/// The times are absolute, counted from the start of the run: a late request does not move those behind it.
#[derive(Debug)]
pub enum Schedule {
    /// As the requests' own `timestamp` says; those without one are due as soon as there is room.
    Own,
    /// As soon as there is room, whatever the requests say (`--request-rate inf`).
    Free,
    /// A process of arrivals at a mean rate.
    Arrivals(Box<Arrivals>),
}

/// Arrivals with gaps from a gamma distribution.
///
/// Gaps have the mean 1/rate and the coefficient of variation 1/√burstiness: 1 is a Poisson process (exponential
/// gaps), smaller is burstier, infinity is a metronome. As in vLLM the first request comes after the first gap; unlike
/// there, nothing is rescaled afterwards to end at a round time, which would make the process something else.
#[derive(Debug)]
pub struct Arrivals {
    rate: f64,
    burstiness: f64,
    rng: ChaCha8Rng,
    count: u64,
    last: Nanos,
}

impl Schedule {
    /// From the flags: no `rate` obeys the requests, an infinite one is [`Schedule::Free`].
    #[must_use]
    pub fn new(rate: Option<f64>, burstiness: f64, seed: u64) -> Self {
        match rate {
            None => Schedule::Own,
            Some(rate) if rate.is_infinite() => Schedule::Free,
            Some(rate) => {
                let rng = rng::stream(seed, "arrivals", 0);
                Schedule::Arrivals(Box::new(Arrivals { rate, burstiness, rng, count: 0, last: Nanos(0) }))
            }
        }
    }

    /// When the next request is due, given its own `timestamp`; `None`: as soon as there is room.
    pub fn due(&mut self, timestamp: Option<Nanos>) -> Option<Nanos> {
        match self {
            Schedule::Own => timestamp,
            Schedule::Free => None,
            Schedule::Arrivals(arrivals) => Some(arrivals.next()),
        }
    }
}

impl Arrivals {
    fn next(&mut self) -> Nanos {
        self.count += 1;
        if self.burstiness.is_infinite() {
            // By multiplication, so that no rounding adds up over a long run.
            self.last = Nanos::from_secs_f64(self.count as f64 / self.rate);
        } else {
            // The exponential is the gamma of shape 1, by one logarithm instead of several draws.
            let gap = if self.burstiness.to_bits() == 1.0_f64.to_bits() {
                rng::exponential(&mut self.rng)
            } else {
                rng::gamma(&mut self.rng, self.burstiness) / self.burstiness
            };
            self.last = self.last + Nanos::from_secs_f64(gap / self.rate);
        }
        self.last
    }
}

/// Requests per second as it is typed: a number above 0, or `inf`.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    positive(text).ok_or_else(|| format!("`{text}` is not a number of requests per second above 0, nor `inf`"))
}

/// The shape of the gaps as it is typed: a number above 0, or `inf`.
pub fn parse_burstiness(text: &str) -> Result<f64, String> {
    positive(text)
        .ok_or_else(|| format!("`{text}` is no shape: 1 is Poisson, smaller is burstier, `inf` is even spacing"))
}

fn positive(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number| *number > 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::SECOND;

    fn gaps(rate: f64, burstiness: f64, seed: u64, n: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(Some(rate), burstiness, seed);
        let times: Vec<Nanos> = (0..n).map(|_| schedule.due(None).unwrap()).collect();
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

    /// The exponential distribution is told from others by more than two moments: Kolmogorov and Smirnov.
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

    #[test]
    fn a_metronome_does_not_drift() {
        let mut schedule = Schedule::new(Some(3.0), f64::INFINITY, 0);
        let last = (0..3_000_000).filter_map(|_| schedule.due(None)).last();
        assert_eq!(last, Some(Nanos(1_000_000 * SECOND)));
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_repeat_with_the_seed(rate in 0.01..1e5, burstiness in 0.05..50.0, seed: u64) {
            let run = || {
                let mut schedule = Schedule::new(Some(rate), burstiness, seed);
                (0..50).map(|_| schedule.due(Some(Nanos(5))).unwrap()).collect::<Vec<_>>()
            };
            let times = run();
            prop_assert!(times.is_sorted());
            prop_assert_eq!(times, run());
        }
    }

    #[test]
    fn without_a_rate_the_requests_say_when() {
        let mut own = Schedule::new(None, 1.0, 0);
        assert_eq!((own.due(Some(Nanos(9))), own.due(None)), (Some(Nanos(9)), None));
        let mut free = Schedule::new(Some(f64::INFINITY), 1.0, 0);
        assert_eq!(free.due(Some(Nanos(9))), None);
        for text in ["0", "-1", "nan", "fast", ""] {
            assert!(parse_rate(text).is_err() && parse_burstiness(text).is_err(), "{text}");
        }
        assert_eq!((parse_rate("inf"), parse_burstiness(" 0.5 ")), (Ok(f64::INFINITY), Ok(0.5)));
    }
}
