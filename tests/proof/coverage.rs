//! Counts in simulated runs how often an interval contains the truth, and prints the tables of `docs/METRICS.md`.

use rand::rngs::ChaCha8Rng;
use vb::{
    recording::Recording,
    rng,
    statistics::{
        Dependence, Doubt, SampleStats, Summary, SummaryOptions, Unit,
        interval::{self, Interval},
        numpy,
    },
};

use crate::{
    count_trials, fewest_of,
    models::{ClosedLoop, Queue, Stalls, equal_tokens, varied_tokens},
    noise::{autoregressive, draw_values, fractional_noise},
    percent, trials_asked,
};

/// The percentiles whose truth is known.
const PERCENTILES: [f64; 3] = [50.0, 90.0, 99.0];

/// Values in time order, or runs.
pub struct Model {
    pub name: &'static str,
    pub source: Source,
    /// The true mean and percentiles of the values, or of TTFT and E2EL: of 30 runs of 100,000 values by `print_the_truths`, or exact.
    truths: &'static [[f64; 4]],
    pub kind: Kind,
}

pub enum Source {
    Values(fn(&mut ChaCha8Rng, usize) -> Vec<f64>),
    Runs(fn(&mut ChaCha8Rng, usize) -> Recording),
}

/// How the values of a model depend on each other.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Not at all.
    Independent,
    /// They do.
    Dependent,
    /// For longer than a run lasts: intervals need a warning, and cannot be right.
    Unknowable,
    /// The load swings more slowly than most runs last: such a run is called changing, and its intervals are for the load that it had.
    Swinging,
}

const fn values(
    kind: Kind,
    name: &'static str,
    truths: &'static [[f64; 4]],
    values: fn(&mut ChaCha8Rng, usize) -> Vec<f64>,
) -> Model {
    Model { name, source: Source::Values(values), truths, kind }
}

const fn runs(
    kind: Kind,
    name: &'static str,
    truths: &'static [[f64; 4]],
    run: fn(&mut ChaCha8Rng, usize) -> Recording,
) -> Model {
    Model { name, source: Source::Runs(run), truths, kind }
}

use Kind::{Dependent, Independent, Swinging, Unknowable};

/// The models: independent values, then values that depend on each other.
#[allow(clippy::approx_constant, reason = "what a long simulation gave, as the others")]
pub const MODELS: &[Model] = &[
    values(Independent, "exponential", &[[1.0000, 0.6931, 2.3026, 4.6052]], |r, n| {
        draw_values(n, || rng::sample_exponential(r))
    }),
    values(Independent, "log-normal 1.5", &[[3.0802, 1.0000, 6.8369, 32.7703]], |r, n| {
        draw_values(n, || (1.5 * rng::sample_normal(r)).exp())
    }),
    // One request in 200 takes 20 times as long.
    values(Independent, "slow mode", &[[1.1463, 1.0018, 1.4802, 2.1647]], |r, n| {
        draw_values(n, || (0.3 * rng::sample_normal(r)).exp() * if rng::sample_unit(r) < 0.005 { 20.0 } else { 1.0 })
    }),
    values(Independent, "Pareto 1.5, cut", &[[2.8069, 1.5880, 4.6434, 21.8559]], |r, n| {
        draw_values(n, || (1.0 - rng::sample_unit(r)).powf(-1.0 / 1.5).min(100.0))
    }),
    values(Dependent, "AR(1) 0.95", &[[1.1331, 1.0000, 1.8980, 3.2001]], autoregressive),
    runs(Dependent, "M/G/8 0.5", &[[0.0831, 0.0585, 0.1450, 0.4800], [1.0131, 0.7408, 2.0439, 4.6793]], |r, n| {
        loaded_queue(|_| 0.5).simulate(n, r)
    }),
    runs(Dependent, "M/G/8 0.8", &[[0.3368, 0.1075, 0.9476, 2.3651], [1.2668, 0.9742, 2.5327, 5.1854]], |r, n| {
        loaded_queue(|_| 0.8).simulate(n, r)
    }),
    runs(Unknowable, "M/G/8 0.95", &[[2.1920, 1.3030, 5.4159, 13.0235], [3.1220, 2.2989, 6.5872, 14.2387]], |r, n| {
        Queue { warm_up: 20_000, ..loaded_queue(|_| 0.95) }.simulate(n, r)
    }),
    runs(Dependent, "lock-step", &[[0.0385, 0.0384, 0.0429, 0.0470], [0.9153, 0.9136, 0.9875, 1.0521]], |r, n| {
        ClosedLoop { tokens: equal_tokens, ..CLOSED_LOOP }.simulate(n, r)
    }),
    runs(Dependent, "closed loop", &[[0.0242, 0.0229, 0.0314, 0.0397], [0.9078, 0.7567, 1.6426, 3.0827]], |r, n| {
        CLOSED_LOOP.simulate(n, r)
    }),
    runs(Dependent, "stalls", &[[0.0940, 0.0597, 0.1593, 0.7216], [1.0745, 0.7751, 2.1988, 4.9862]], |r, n| {
        let stalls = Some(Stalls { first: 0.0, length: 0.8, every: 15.0 });
        Queue { places: 64, stalls, ..loaded_queue(|_| 0.3) }.simulate(n, r)
    }),
    runs(Swinging, "diurnal", &[[0.3769, 0.0881, 1.0980, 3.3983], [1.2991, 0.9560, 2.6982, 5.6038]], |r, n| {
        let load = |time: f64| 0.7 * (1.0 + 0.3 * (std::f64::consts::TAU * time / 300.0).sin());
        Queue { latest_start: 300.0, ..loaded_queue(load) }.simulate(n, r)
    }),
    values(Unknowable, "fractional 0.8", &[[1.1331, 1.0000, 1.8980, 3.2001]], fractional_noise),
];

/// A queue whose run starts long after the queue did.
pub fn loaded_queue(load: fn(f64) -> f64) -> Queue {
    Queue { warm_up: 3000, ..Queue::at_load(load) }
}

/// A loop whose run starts long after the loop did, and whose speed drifts.
pub const CLOSED_LOOP: ClosedLoop = ClosedLoop { tokens: varied_tokens, slowness: |_| 1.0, drift: 0.1, warm_up: 500 };

impl Model {
    /// The values of a run: one series, or TTFT and E2EL.
    fn draw_series(&self, random: &mut ChaCha8Rng, n: usize) -> Vec<Vec<f64>> {
        match self.source {
            Source::Values(values) => vec![values(random, n)],
            Source::Runs(run) => {
                let run = run(random, n);
                let times = |value: fn(&vb::recording::RecordedRequest) -> Option<f64>| {
                    run.requests.iter().filter_map(value).collect()
                };
                vec![times(|r| r.ttft), times(|r| r.latency)]
            }
        }
    }

    fn series_name(&self, series: usize) -> String {
        match self.source {
            Source::Values(_) => self.name.to_owned(),
            Source::Runs(_) => format!("{} {}", self.name, ["TTFT", "E2EL"][series]),
        }
    }
}

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
    /// What runs of a model gave: one for each of its series.
    fn measure(model: &Model, n: usize, runs: u64) -> Vec<Self> {
        let mut all = vec![Coverage { runs: runs as f64, ..Coverage::default() }; model.truths.len()];
        for run in 0..runs {
            let series = model.draw_series(&mut rng::random_stream(run, model.name, n as u64), n);
            for ((coverage, values), truth) in all.iter_mut().zip(&series).zip(model.truths) {
                coverage.add_run(truth, values);
            }
        }
        all
    }

    fn add_run(&mut self, truth: &[f64; 4], values: &[f64]) {
        let wanted = SummaryOptions { percentiles: PERCENTILES.to_vec(), histograms: false };
        let dependence = Dependence::measure(values, &PERCENTILES);
        let stats = SampleStats::with_intervals(&[values], Unit::Tokens, &wanted, &dependence);
        let precision = stats.precision.as_ref().unwrap();
        let doubt = Summary::from_stats(&stats).doubt;
        self.doubted += f64::from(u8::from(doubt.is_some()));
        let intervals = std::iter::once(&precision.mean).chain(precision.percentiles.iter().map(|p| &p.interval));
        let inside: Vec<f64> =
            intervals.zip(truth).map(|(interval, truth)| f64::from(u8::from(contains(interval, *truth)))).collect();
        if doubt == Some(Doubt::TooShort) {
            self.too_short += 1.0;
            return;
        }
        self.inside.iter_mut().zip(&inside).for_each(|(sum, inside)| *sum += inside);
        for (sum, bound) in self.below.iter_mut().zip(precision.percentiles[2].bounds) {
            *sum += f64::from(u8::from(bound.is_none_or(|bound| truth[3] <= bound)));
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = values.len();
        let places = interval::percentile_places(90.0, n, n as f64);
        let textbook = [
            interval::student_interval(stats.mean, stats.std, n as f64, interval::TAIL),
            Interval {
                low: places.low.map(|place| numpy::value_at(&sorted, place)),
                high: places.high.map(|place| numpy::value_at(&sorted, place)),
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

    /// Whether the truth is in 92 % of the intervals of all models, and below as many bounds as it should be, but for chance.
    fn keeps_promises(&self) -> bool {
        let printed = self.runs - self.too_short;
        let is_inside = self.inside.iter().all(|inside| *inside >= fewest_of(0.92, printed));
        is_inside && self.below[0] >= fewest_of(0.92, printed) && self.below[1] >= fewest_of(0.97, printed)
    }

    fn describe(&self, name: &str, n: usize) -> String {
        let printed = self.runs - self.too_short;
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

/// Of all models and lengths, if `VB_TRIALS` is set; else of few runs.
#[test]
fn intervals_contain_the_truth_as_often_as_the_manual_says() {
    let sizes: &[usize] = if trials_asked().is_some() { &[300, 1000, 5000] } else { &[1000] };
    println!(
        "| model | n | intervals | doubts | mean | p50 | p90 | p99 | p99 ≤ 95 % | ≤ 99 % | width of mean | of p90 |"
    );
    for n in sizes {
        let (mut independent, mut dependent, mut unknowable, mut swinging) = Default::default();
        for model in MODELS {
            for (series, coverage) in Coverage::measure(model, *n, count_trials(4)).iter().enumerate() {
                println!("{}", coverage.describe(&model.series_name(series), *n));
                let kind = match model.kind {
                    Independent => &mut independent,
                    Dependent => &mut dependent,
                    Unknowable => &mut unknowable,
                    Swinging => &mut swinging,
                };
                Coverage::merge_with(kind, coverage);
            }
        }
        let printed = independent.runs - independent.too_short;
        // Shorter runs of a busy queue miss what matters, as the manual says.
        assert!(
            *n < 1000 || independent.keeps_promises() && dependent.keeps_promises(),
            "{n}: {independent:?} {dependent:?}"
        );
        assert!(independent.widths[1] <= 1.3 * printed, "{n}: {independent:?}");
        assert!(unknowable.doubted >= fewest_of(0.9, unknowable.runs), "{n}: {unknowable:?}");
    }
}

/// `VB_TRIALS=30 cargo test --release --test proof print_the_truths -- --nocapture`
#[test]
fn print_the_truths() {
    let Some(runs) = trials_asked().filter(|runs| *runs <= 30) else { return };
    for model in MODELS {
        let mut all = vec![Vec::new(); model.truths.len()];
        for run in 0..runs {
            let series = model.draw_series(&mut rng::random_stream(run, "truth", 0), 100_000);
            all.iter_mut().zip(series).for_each(|(all, series)| all.extend(series));
        }
        for (series, mut all) in all.into_iter().enumerate() {
            all.sort_unstable_by(f64::total_cmp);
            let percentiles = PERCENTILES.map(|p| numpy::percentile(&all, p));
            println!("{}: {:.4} {percentiles:.4?}", model.series_name(series), numpy::mean(&all));
        }
    }
}
