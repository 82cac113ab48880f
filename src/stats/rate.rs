//! Throughput with its interval: the mean of the counts in slices of time.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pooling::Pooling;
use crate::statistics::{Dependence, Doubt, PoolMode, bins::visit_bins, find_doubt, interval, numpy};

/// The most slices, and the fewest: fewer cannot last as many correlation times as an interval needs.
const MAX_SLICES: f64 = 100.0;
const MIN_SLICES: f64 = 30.0;

/// The fewest events for an interval.
const MIN_EVENTS: u64 = 20;

/// A rate and its uncertainty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Rate")]
pub struct MeasuredRate {
    /// Per second.
    pub per_s: f64,
    /// The 95 % interval, `[low, high]`; `null` if there are too few events, or if the run lasts fewer than 30 correlation times.
    pub interval: Option<[f64; 2]>,
}

/// Counts in slices of a time span.
#[derive(Debug, Clone)]
pub struct TimeSlices {
    from: f64,
    to: f64,
    /// The times that count.
    counted: RangeInclusive<f64>,
    /// Slices per second.
    per_second: f64,
    counts: Vec<f64>,
    events: u64,
}

impl TimeSlices {
    /// Slices of the time from `from` to `to` in seconds. If possible, a slice is at least as long as `cycle`, so that
    /// something that happens once per cycle happens in each slice.
    #[must_use]
    pub fn new(from: f64, to: f64, cycle: f64) -> Self {
        let cycles = (to - from) / cycle;
        let slices = if cycles.is_nan() { MIN_SLICES } else { cycles.clamp(MIN_SLICES, MAX_SLICES) };
        TimeSlices {
            from,
            to,
            counted: from..=to,
            per_second: slices.floor() / (to - from),
            counts: vec![0.0; numpy::truncate_to_usize(slices)],
            events: 0,
        }
    }

    /// Counts every event, wherever it is: in a whole run, an event outside of it differs by the rounding of its time.
    #[must_use]
    pub fn count_all(self) -> Self {
        TimeSlices { counted: f64::NEG_INFINITY..=f64::INFINITY, ..self }
    }

    /// Counts `n` at a time; ignored outside the span.
    pub fn count_events(&mut self, time: f64, n: f64) {
        if self.counted.contains(&time) {
            let slice = numpy::truncate_to_usize((time - self.from) * self.per_second);
            let last = self.counts.len() - 1;
            self.counts[slice.min(last)] += n;
            self.events += 1;
        }
    }

    /// Counts arrivals at these times: `tokens` each, or one.
    pub fn count_arrivals(&mut self, times: &[f64], tokens: Option<&[u32]>) {
        let times = tokens.map_or(times, |tokens| &times[..times.len().min(tokens.len())]);
        let last = self.counts.len() - 1;
        let (from, counted, per_second) = (self.from, self.counted.clone(), self.per_second);
        // Before the span, its slices, and after it.
        let bin = |time: f64| match counted.contains(&time) {
            true => 1 + numpy::truncate_to_usize((time - from) * per_second).min(last),
            false if time > *counted.end() => last + 2,
            false => 0,
        };
        visit_bins(times, bin, |bin, inside| {
            let Some(count) = bin.checked_sub(1).and_then(|slice| self.counts.get_mut(slice)) else { return };
            self.events += inside.len() as u64;
            *count += match tokens {
                None => inside.len() as f64,
                Some(tokens) => tokens[inside].iter().map(|n| u64::from(*n)).sum::<u64>() as f64,
            };
        });
    }

    /// The rate of what was counted.
    #[must_use]
    pub fn measure_rate(&self) -> MeasuredRate {
        let seconds = self.to - self.from;
        if seconds.is_nan() || seconds <= 0.0 {
            return MeasuredRate::default();
        }
        let slices = self.counts.len();
        let per_s = slices as f64 / seconds;
        let mean = numpy::mean(&self.counts);
        let dependence = Dependence::measure(&self.counts, &[]);
        let effective = dependence.effective_size();
        let is_known = self.events >= MIN_EVENTS && find_doubt(effective, false) != Some(Doubt::TooShort);
        let (std, least) = (numpy::std(&self.counts), self.counts.iter().copied().fold(f64::INFINITY, f64::min));
        let ends = interval::mean_interval(mean, std, least, effective, dependence.batch_means(), interval::TAIL);
        let interval = ends.low.zip(ends.high).filter(|_| is_known);
        MeasuredRate {
            per_s: mean * per_s,
            interval: interval.map(|(low, high)| [(low * per_s).max(0.0), high * per_s]),
        }
    }
}

impl MeasuredRate {
    /// The rate `per_s` of several runs, as uncertain as their own rates. Hosts add up; they share the server's state, so their
    /// errors add up too. Runs one after the other weigh by their durations in `seconds`.
    #[must_use]
    pub fn pool_weighted(all: &Pooling<Self>, seconds: &[f64], per_s: f64) -> Self {
        let total: f64 = seconds.iter().sum();
        let together = all.options.together;
        let weight = |i: usize| match together {
            PoolMode::Concurrent => 1.0,
            PoolMode::Sequential => seconds[i] / total,
        };
        let weighted = |value: &dyn Fn(&MeasuredRate) -> Option<f64>| -> Option<Vec<f64>> {
            all.all.iter().enumerate().map(|(i, rate)| Some(weight(i) * value(rate)?)).collect()
        };
        // Hosts that start or end at different times have a lower pooled rate than the sum of their rates.
        let scale = per_s / weighted(&|rate| Some(rate.per_s)).unwrap_or_default().iter().sum::<f64>();
        let half = weighted(&|rate| rate.interval.map(|[low, high]| (high - low) / 2.0)).map(|halves| match together {
            PoolMode::Concurrent => halves.iter().sum(),
            PoolMode::Sequential => halves.iter().map(|half| half * half).sum::<f64>().sqrt(),
        });
        let interval = half.map(|half: f64| half * scale).filter(|half| half.is_finite());
        MeasuredRate { per_s, interval: interval.map(|half| [(per_s - half).max(0.0), per_s + half]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Arrivals of a Poisson process, and of one whose rate changes slowly, like the load of a server.
    #[test]
    fn rate_intervals_have_their_nominal_coverage() {
        const RUNS: u64 = 1000;
        for (name, like) in [("steady", 0.0), ("swinging", 0.6)] {
            let (mut held, mut printed) = (0, 0);
            for run in 0..RUNS {
                let mut rng = rng::random_stream(run, name, 0);
                let mut slices = TimeSlices::new(0.0, 1000.0, 1.0);
                let mut swing = 0.0;
                for second in 0..1000_u32 {
                    if second % 5 == 0 {
                        swing = like * swing + (1.0_f64 - like * like).sqrt() * (rng::sample_unit(&mut rng) - 0.5);
                    }
                    let rate = if like > 0.0 { 5.0 + 4.0 * swing } else { 5.0 };
                    let mut time = rng::sample_exponential(&mut rng) / rate;
                    while time < 1.0 {
                        slices.count_events(f64::from(second) + time, 3.0);
                        time += rng::sample_exponential(&mut rng) / rate;
                    }
                }
                let Some([low, high]) = slices.measure_rate().interval else { continue };
                printed += 1;
                held += u64::from(low <= 15.0 && 15.0 <= high);
            }
            let coverage = held as f64 / f64::from(printed);
            println!("{name}: {coverage} of {printed}");
            assert!((0.93..=0.98).contains(&coverage) && printed >= 600, "{name}: {coverage} of {printed}");
        }
    }

    #[test]
    fn events_outside_the_span_are_not_counted() {
        let mut slices = TimeSlices::new(1.0, 3.0, 0.1);
        for time in [0.5, 1.0, 2.0, 3.0, 3.1] {
            slices.count_events(time, 2.0);
        }
        assert!((slices.measure_rate().per_s - 3.0).abs() < 1e-12);
        assert_eq!(slices.measure_rate().interval, None, "of three events");
        let mut whole = TimeSlices::new(1.0, 3.0, 0.1).count_all();
        whole.count_events(3.000_000_000_1, 2.0);
        whole.count_arrivals(&[0.999_999_999, 2.0, 3.000_000_000_1], Some(&[1, 2, 3]));
        assert!((whole.measure_rate().per_s - 4.0).abs() < 1e-12, "rounding loses nothing");
        assert_eq!(TimeSlices::new(1.0, 1.0, 0.1).measure_rate(), MeasuredRate::default());
    }
}
