//! Counts in simulated runs how often an interval contains the truth, and prints the table of `docs/METRICS.md`.
//!
//! `VB_TRIALS` sets the number of runs of each model: `scripts/check-statistics.sh` makes more of them, in a release build.

use super::{
    Dependence, Doubt, SampleStats, Summary, SummaryOptions, Unit,
    interval::{self, Interval},
    models::{Kind, MODELS, Model, PERCENTILES},
};
use crate::rng;

/// What `runs` of a model gave.
#[derive(Debug, Clone, Default)]
struct Coverage {
    runs: f64,
    /// Runs without intervals, and runs with a doubt of any kind.
    too_short: f64,
    doubted: f64,
    /// Of the others: how often the truth was inside the interval of the mean and of each percentile, and below the upper bounds of the
    /// last percentile, 95 and 99 % sure.
    inside: [f64; 4],
    below: [f64; 2],
    /// The widths of the mean and of the p90, relative to the textbook's for independent values.
    widths: [f64; 2],
}

fn contains(interval: &Interval, truth: f64) -> bool {
    interval.low.is_none_or(|low| low <= truth) && interval.high.is_none_or(|high| truth <= high)
}

impl Coverage {
    fn measure(model: &Model, n: usize, runs: u64) -> Self {
        let mut coverage = Coverage { runs: runs as f64, ..Coverage::default() };
        for run in 0..runs {
            let values = (model.values)(&mut rng::random_stream(run, model.name, n as u64), n);
            coverage.add_run(model, &values);
        }
        coverage
    }

    fn add_run(&mut self, model: &Model, values: &[f64]) {
        let wanted = SummaryOptions { percentiles: PERCENTILES.to_vec(), histograms: false };
        let dependence = Dependence::measure(values, &PERCENTILES);
        let stats = SampleStats::with_intervals(&[values], Unit::Tokens, &wanted, &dependence);
        let precision = stats.precision.as_ref().unwrap();
        let doubt = Summary::from_stats(&stats).doubt;
        self.doubted += f64::from(u8::from(doubt.is_some()));
        let intervals = std::iter::once(&precision.mean).chain(precision.percentiles.iter().map(|p| &p.interval));
        let inside: Vec<f64> = intervals
            .zip(model.truth)
            .map(|(interval, truth)| f64::from(u8::from(contains(interval, truth))))
            .collect();
        if doubt == Some(Doubt::TooShort) {
            self.too_short += 1.0;
            return;
        }
        self.inside.iter_mut().zip(&inside).for_each(|(sum, inside)| *sum += inside);
        for (sum, bound) in self.below.iter_mut().zip(precision.percentiles[2].bounds) {
            *sum += f64::from(u8::from(bound.is_none_or(|bound| model.truth[3] <= bound)));
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = values.len();
        let places = interval::percentile_places(90.0, n, n as f64);
        let textbook = [
            interval::student_interval(stats.mean, stats.std, n as f64),
            Interval {
                low: places.low.map(|place| super::numpy::value_at(&sorted, place)),
                high: places.high.map(|place| super::numpy::value_at(&sorted, place)),
            },
        ];
        let own = [precision.mean, precision.percentiles[1].interval];
        let width = |interval: &Interval| interval.low.zip(interval.high).map_or(0.0, |(low, high)| high - low);
        for ((sum, own), textbook) in self.widths.iter_mut().zip(&own).zip(&textbook) {
            *sum += width(own) / width(textbook);
        }
    }

    /// Adds what runs of another model gave.
    fn merge_with(&mut self, other: &Coverage) {
        self.runs += other.runs;
        self.too_short += other.too_short;
        self.doubted += other.doubted;
        self.inside.iter_mut().zip(other.inside).for_each(|(sum, inside)| *sum += inside);
        self.below.iter_mut().zip(other.below).for_each(|(sum, below)| *sum += below);
        self.widths.iter_mut().zip(other.widths).for_each(|(sum, width)| *sum += width);
    }

    /// Whether the truth is in 92 % of the intervals of all models, and below as many bounds as it should be.
    fn keeps_promises(&self) -> bool {
        let printed = self.runs - self.too_short;
        let is_inside = self.inside.iter().all(|inside| *inside >= 0.92 * printed);
        is_inside && self.below[0] >= 0.92 * printed && self.below[1] >= 0.97 * printed
    }

    fn describe(&self, name: &str, n: usize) -> String {
        let printed = self.runs - self.too_short;
        let percent = |part: f64, of: f64| if of > 0.0 { format!("{:.0}", 100.0 * part / of) } else { "-".to_owned() };
        let cells =
            |parts: &[f64], of: f64| parts.iter().map(|part| percent(*part, of)).collect::<Vec<_>>().join(" | ");
        format!(
            "| {name} | {n} | {} | {} | {} | {} | {} |",
            percent(printed, self.runs),
            percent(self.doubted, self.runs),
            cells(&self.inside, printed),
            cells(&self.below, printed),
            self.widths
                .map(|sum| if printed > 0.0 { format!("{:.1}", sum / printed) } else { "-".to_owned() })
                .join(" | "),
        )
    }
}

fn trials() -> Option<u64> {
    std::env::var("VB_TRIALS").ok().map(|text| text.parse().unwrap())
}

/// Of all models and lengths, if `VB_TRIALS` is set; else of few runs.
#[test]
fn intervals_contain_the_truth_as_often_as_the_manual_says() {
    let sizes: &[usize] = if trials().is_some() { &[300, 1000, 5000] } else { &[1000] };
    println!(
        "| model | n | intervals | doubts | mean | p50 | p90 | p99 | p99 ≤ 95 % | ≤ 99 % | width of mean | of p90 |"
    );
    for n in sizes {
        let (mut independent, mut dependent, mut unknowable) = Default::default();
        for model in &MODELS {
            let coverage = Coverage::measure(model, *n, trials().unwrap_or(12));
            println!("{}", coverage.describe(model.name, *n));
            let kind = match model.kind {
                Kind::Independent => &mut independent,
                Kind::Dependent => &mut dependent,
                Kind::Unknowable => &mut unknowable,
            };
            Coverage::merge_with(kind, &coverage);
        }
        let printed = independent.runs - independent.too_short;
        // Shorter runs of a busy queue miss what matters, as the manual says.
        assert!(
            *n < 1000 || independent.keeps_promises() && dependent.keeps_promises(),
            "{n}: {independent:?} {dependent:?}"
        );
        assert!(independent.widths[1] <= 1.3 * printed, "{n}: {independent:?}");
        assert!(unknowable.doubted >= 0.9 * unknowable.runs, "{n}: {unknowable:?}");
    }
}

/// `VB_TRIALS=30 cargo test --release --lib print_the_truths -- --nocapture`
#[test]
fn print_the_truths() {
    let Some(runs) = trials() else { return };
    for model in &MODELS {
        let mut sums = [0.0; 4];
        let mut all = Vec::new();
        for run in 0..runs {
            all.extend((model.values)(&mut rng::random_stream(run, "truth", 0), 100_000));
        }
        all.sort_unstable_by(f64::total_cmp);
        sums[0] = super::numpy::mean(&all);
        for (sum, p) in sums[1..].iter_mut().zip(PERCENTILES) {
            *sum = super::numpy::percentile(&all, p);
        }
        println!("{}: {sums:?}", model.name);
    }
}
