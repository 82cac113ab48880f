//! Whether a run was in a steady state, and in which part: without the warm-up and the drain.
//!
//! All times are *issue* times, the starts of requests: a request that ends late cannot stretch the window.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    part::{Numbers, RunPart},
    rate::{MeasuredRate, TimeSlices},
    tokens,
};
use crate::{
    recording::{ChunkTokens, RecordedRequest, Recording},
    statistics::{
        numpy,
        trend::{self, Trend},
    },
};

/// The fewest requests in a window.
const MIN_WINDOW_REQUESTS: usize = 50;

/// The fewest requests per block, and the most blocks.
const MIN_BLOCK_REQUESTS: usize = 5;
const MAX_BLOCKS: usize = 60;

/// The fewest blocks for a trend test.
const MIN_TREND_BLOCKS: usize = 10;

/// The fewest median latencies that a window lasts. In a shorter window, the requests that start have little to do with those
/// that end.
const MIN_WINDOW_LATENCIES: f64 = 5.0;

/// A trend counts if it is less probable than this by chance, and changes the metric by at least this share.
const MAX_P_VALUE: f64 = 0.005;
const MIN_CHANGE: f64 = 0.05;

/// The drain starts where this percentile of latencies would end after the last request was sent.
const DRAIN_PERCENTILE: f64 = 95.0;

/// How latencies developed over the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// The window is one steady state.
    Steady,
    /// Latencies rise: the numbers depend on how long the run lasts.
    DriftingUp,
    /// Latencies fall.
    DriftingDown,
    /// Undecided: the window is too short.
    #[default]
    TooShort,
}

impl Stability {
    /// In words.
    #[must_use]
    pub fn as_words(self) -> &'static str {
        match self {
            Stability::Steady => "steady",
            Stability::DriftingUp => "drifting up",
            Stability::DriftingDown => "drifting down",
            Stability::TooShort => "too short to judge",
        }
    }
}

/// The steady part of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Steady {
    /// Whether there is a steady part.
    pub verdict: Stability,
    /// The reason of the verdict.
    pub why: String,
    /// The first issue time of the window, in seconds from the start of the run; `null` if there are too few requests.
    pub from_s: Option<f64>,
    /// The last issue time of the window, in the same way.
    pub to_s: Option<f64>,
    /// Successes that were sent in the window.
    pub requests: u64,
    /// The drift of TTFT over the window, from the schedule in an open loop; `null` if there are too few requests.
    pub ttft: Option<Drift>,
    /// The drift of TPOT; `null` also if outputs have one token.
    pub tpot: Option<Drift>,
    /// The time of a level shift, in seconds from the start of the run; `null` without a shift.
    pub level_shift_s: Option<f64>,
    /// Little's law in the window; `null` without a window.
    pub little: Option<Little>,
    /// Closed loop: this many requests start together, repeatedly, in lock-step; `null` if they do not.
    pub lock_step: Option<f64>,
    /// Successes that ended in the window, per second; `null` without a window.
    pub requests_per_s: Option<MeasuredRate>,
    /// Tokens that arrived in the window, per second; `null` without a window.
    pub output_tokens_per_s: Option<MeasuredRate>,
    /// The metrics of the requests of the window; `null` unless it is steady.
    pub numbers: Option<Numbers>,
}

/// The drift of a metric over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Drift {
    /// Its change from the first to the last request of the window, as a share of its median.
    pub change: f64,
    /// The probability of a trend this strong by chance.
    pub p: f64,
}

/// Little's law, L = λW: in a steady state, requests in flight = rate × latency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Little {
    /// L: requests in flight, averaged over the window.
    pub concurrency: f64,
    /// λ: requests sent per second.
    pub rate: f64,
    /// W: their mean latency in seconds.
    pub latency_s: f64,
    /// L / (λW) − 1.
    pub gap: f64,
}

/// The requests in which the steady state is searched.
#[derive(Debug, Clone, Copy)]
pub struct SteadyInput<'a> {
    /// The successes in the order in which they were sent.
    pub in_time: &'a [&'a RecordedRequest],
    /// The start of the run, on the time axis of the starts of requests.
    pub origin: f64,
    /// Whether requests were sent by a schedule; `None` if unknown.
    pub open_loop: Option<bool>,
}

/// A window of issue times, from the first to the last, on the time axis of the starts of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// The first issue time.
    pub from: f64,
    /// The last issue time.
    pub to: f64,
}

impl Window {
    /// Whether a request was sent in the window.
    #[must_use]
    pub fn contains_start(self, request: &RecordedRequest) -> bool {
        request.start.is_some_and(|start| (self.from..=self.to).contains(&start))
    }

    fn length_seconds(self) -> f64 {
        self.to - self.from
    }
}

impl Steady {
    /// Looks for a steady part. There is a window if there are enough requests for one.
    #[must_use]
    pub fn detect(run: &SteadyInput) -> (Self, Option<Window>) {
        let timed: Vec<&RecordedRequest> = run.in_time.iter().copied().filter(|r| r.start.is_some()).collect();
        let drained = before_the_drain(&timed);
        if drained.len() < MIN_WINDOW_REQUESTS {
            let why =
                format!("{} requests were sent before the drain, but {MIN_WINDOW_REQUESTS} are needed", drained.len());
            return (Steady { why, ..Steady::default() }, None);
        }
        let size = drained.len().div_ceil(MAX_BLOCKS).max(MIN_BLOCK_REQUESTS);
        let series: Vec<(&str, Vec<f64>)> = drift_signals(run.open_loop)
            .into_iter()
            .filter_map(|(name, value)| Some((name, block_means(drained, size, value)?)))
            .collect();
        let skipped = series.iter().map(|(_, series)| trend::warm_up(series)).max().unwrap_or_default();
        let members = &drained[skipped * size..];
        let start = |request: Option<&&RecordedRequest>| request.and_then(|r| r.start).unwrap_or_default();
        let window = Window { from: start(members.first()), to: start(members.last()) };
        let drifts: Vec<(&str, Drift)> =
            series.iter().filter_map(|(name, series)| Some((*name, measure_drift(&series[skipped..])?))).collect();
        let named = |wanted: &str| drifts.iter().find(|(name, _)| *name == wanted).map(|(_, drift)| *drift);
        let shift = series.iter().find_map(|(name, series)| Some((*name, find_shift(&series[skipped..])?)));
        let (verdict, why) = judge_stability(&drifts, shift, members, window);
        let steady = Steady {
            verdict,
            why,
            from_s: Some(window.from - run.origin),
            to_s: Some(window.to - run.origin),
            requests: members.len() as u64,
            ttft: named("TTFT"),
            tpot: named("TPOT"),
            level_shift_s: shift.map(|(_, shift)| start(members.get(shift.block * size)) - run.origin),
            lock_step: if run.open_loop == Some(false) { detect_lock_step(members) } else { None },
            ..Steady::default()
        };
        (steady, Some(window))
    }

    /// Adds what was measured within the window.
    #[must_use]
    pub fn with_measurements(mut self, window: Window, recording: &Recording) -> Self {
        let sent: Vec<(f64, f64)> =
            recording.requests.iter().filter_map(|r| Some((r.start?, r.done.or(r.latency)?))).collect();
        self.little = littles_law(&sent, window);
        let (requests, tokens) = measure_rates(recording, |cycle| TimeSlices::new(window.from, window.to, cycle));
        (self.requests_per_s, self.output_tokens_per_s) = (Some(requests), Some(tokens));
        self
    }
}

/// The rates of successes that ended, and of tokens that arrived, in slices that `slices` makes for the length of a cycle.
#[must_use]
pub fn measure_rates(recording: &Recording, slices: impl Fn(f64) -> TimeSlices) -> (MeasuredRate, MeasuredRate) {
    let successes: Vec<&RecordedRequest> = recording.successes().collect();
    let mut requests = slices(percentile_of_latencies(&successes, 50.0));
    let mut arrived = requests.clone();
    let mut times = Vec::new();
    for request in successes {
        let Some(start) = request.start else { continue };
        if let Some(latency) = request.latency {
            requests.count_events(start + latency, 1.0);
        }
        times.clear();
        recording.extend_arrivals(request, &mut times);
        let tokens = (request.chunks != ChunkTokens::Single).then(|| tokens::tokens_per_chunk(recording, request));
        arrived.count_arrivals(&times, tokens.as_deref());
    }
    (requests.measure_rate(), arrived.measure_rate())
}

/// The requests of a window.
#[must_use]
pub fn window_part(recording: &Recording, window: Window) -> RunPart<'_> {
    RunPart::from_requests(recording, recording.requests.iter().filter(|r| window.contains_start(r)).collect())
}

type Value = fn(&RecordedRequest) -> Option<f64>;

/// The metrics that drift if a server cannot keep up: the queue, and the time per step.
fn drift_signals(open_loop: Option<bool>) -> [(&'static str, Value); 2] {
    let waited: Value = |r| Some(r.ttft? + r.queue_time.unwrap_or_default());
    let ttft: Value = |r| r.ttft;
    [("TTFT", if open_loop == Some(true) { waited } else { ttft }), ("TPOT", RecordedRequest::tpot)]
}

/// The requests that started long enough before the last one for nearly all of them to end by then; at least half of the time.
fn before_the_drain<'r>(in_time: &'r [&'r RecordedRequest]) -> &'r [&'r RecordedRequest] {
    let (Some(first), Some(last)) = (in_time.first().and_then(|r| r.start), in_time.last().and_then(|r| r.start))
    else {
        return &[];
    };
    let end = (last - percentile_of_latencies(in_time, DRAIN_PERCENTILE)).max(f64::midpoint(first, last));
    &in_time[..in_time.partition_point(|r| r.start.is_some_and(|start| start <= end))]
}

fn percentile_of_latencies(requests: &[&RecordedRequest], p: f64) -> f64 {
    let mut latencies: Vec<f64> = requests.iter().filter_map(|r| r.latency).collect();
    numpy::partially_sort(&mut latencies, &[p], &[]);
    numpy::percentile(&latencies, p)
}

/// The mean of each `size` requests; `None` if a block has no value.
fn block_means(requests: &[&RecordedRequest], size: usize, value: Value) -> Option<Vec<f64>> {
    // The remainder at the end joins the last block.
    let blocks = requests.len() / size;
    let block = |i: usize| &requests[i * size..if i + 1 == blocks { requests.len() } else { (i + 1) * size }];
    let mean = |requests: &[&RecordedRequest]| {
        let values: Vec<f64> = requests.iter().filter_map(|r| value(r)).collect();
        (!values.is_empty()).then(|| numpy::mean(&values))
    };
    (0..blocks).map(|i| mean(block(i))).collect()
}

fn measure_drift(series: &[f64]) -> Option<Drift> {
    if series.len() < MIN_TREND_BLOCKS {
        return None;
    }
    let Trend { p, change } = trend::mann_kendall(series)?;
    let mut values = series.to_vec();
    numpy::partially_sort(&mut values, &[], &[]);
    let level = numpy::median(&values);
    (level > 0.0).then(|| Drift { change: change / level, p })
}

fn judge_stability(
    drifts: &[(&str, Drift)],
    shift: Option<(&str, Shift)>,
    members: &[&RecordedRequest],
    window: Window,
) -> (Stability, String) {
    let drifting = |change: f64| if change > 0.0 { Stability::DriftingUp } else { Stability::DriftingDown };
    let word = |change: f64| if change > 0.0 { "rises" } else { "falls" };
    let real = drifts.iter().filter(|(_, drift)| drift.p < MAX_P_VALUE && drift.change.abs() >= MIN_CHANGE);
    if let Some((name, Drift { change, p })) = real.min_by(|a, b| a.1.p.total_cmp(&b.1.p)) {
        let (percent, seconds) = (change.abs() * 100.0, window.length_seconds());
        let why = format!("{name} {} by {percent:.0} % within {seconds:.1} s (p = {p:.1e})", word(*change));
        return (drifting(*change), why);
    }
    if let Some((name, Shift { change, p, .. })) = shift {
        let percent = change.abs() * 100.0;
        return (drifting(change), format!("{name} {} by {percent:.0} % at once (p = {p:.1e})", word(change)));
    }
    let latency = percentile_of_latencies(members, 50.0);
    let lasted = window.length_seconds() / latency;
    if members.len() < MIN_WINDOW_REQUESTS || drifts.is_empty() || lasted < MIN_WINDOW_LATENCIES {
        let (n, lasted) = (members.len(), if lasted.is_finite() { lasted } else { 0.0 });
        let has = format!("{n} requests in {lasted:.1} times the median latency are left");
        return (
            Stability::TooShort,
            format!(
                "{has} without warm-up and drain, but {MIN_WINDOW_REQUESTS} in {MIN_WINDOW_LATENCIES:.0} times are needed"
            ),
        );
    }
    (Stability::Steady, "no trend beyond chance".into())
}

/// A step from one level to another.
#[derive(Debug, Clone, Copy)]
struct Shift {
    /// The first block of the new level.
    block: usize,
    /// The step, as a share of the median.
    change: f64,
    /// The probability of a step this strong by chance.
    p: f64,
}

/// The level shift of a series. A slope has a most likely shift too, so the levels on both sides must be flat.
fn find_shift(series: &[f64]) -> Option<Shift> {
    if series.len() < MIN_TREND_BLOCKS {
        return None;
    }
    let (block, p) = trend::pettitt_test(series)?;
    let (before, after) = series.split_at(block);
    let level = |side: &[f64]| {
        let mut side = side.to_vec();
        numpy::partially_sort(&mut side, &[], &[]);
        numpy::median(&side)
    };
    let slopes = |side: &[f64]| trend::mann_kendall(side).map_or(0.0, |trend| trend.change.abs());
    let step = level(after) - level(before);
    let change = step / level(series);
    let flat = slopes(before) + slopes(after) < step.abs() * 0.7;
    (p < MAX_P_VALUE && flat && change.abs() >= MIN_CHANGE).then_some(Shift { block, change, p })
}

/// The number of requests that start together: with groups of N at equal distances, the gaps between starts have CV² = N − 1;
/// with independent starts, 1. Reported from 4 on, which chance does not give.
fn detect_lock_step(in_time: &[&RecordedRequest]) -> Option<f64> {
    let starts: Vec<f64> = in_time.iter().filter_map(|r| r.start).collect();
    let gaps: Vec<f64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let together = 1.0 + (numpy::std(&gaps) / numpy::mean(&gaps)).powi(2);
    (together >= 4.0).then_some(together)
}

/// Computed from the start and the duration of all requests that were sent.
fn littles_law(sent: &[(f64, f64)], window: Window) -> Option<Little> {
    let seconds = window.length_seconds();
    let within: Vec<f64> =
        sent.iter().filter(|(start, _)| (window.from..window.to).contains(start)).map(|(_, took)| *took).collect();
    let overlap = |(start, took): &(f64, f64)| ((start + took).min(window.to) - start.max(window.from)).max(0.0);
    let concurrency = sent.iter().map(overlap).sum::<f64>() / seconds;
    let (rate, latency_s) = (within.len() as f64 / seconds, numpy::mean(&within));
    let gap = concurrency / (rate * latency_s) - 1.0;
    gap.is_finite().then_some(Little { concurrency, rate, latency_s, gap })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// The shape of a synthetic run.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Shape {
        Flat,
        /// Slower at the start, then flat.
        WarmUp,
        /// Latencies rise or fall throughout.
        Ramp,
        /// Autocorrelated, with a drift.
        Drift,
        /// A different level after two thirds.
        Shift,
        /// A hundred requests in two latencies.
        Short,
    }

    /// Requests of an open loop at 20 per second, each of about a second.
    fn run(kind: Shape, seed: u64, up: bool) -> Vec<RecordedRequest> {
        let mut rng = rng::random_stream(seed, "run", kind as u64);
        let (n, every) = if kind == Shape::Short { (100_u32, 0.02) } else { (1000, 0.05) };
        let (mut start, mut swing) = (0.0, 0.0);
        (0..n)
            .map(|i| {
                start += every * rng::sample_exponential(&mut rng);
                swing = 0.5 * swing + rng::sample_unit(&mut rng) - 0.5;
                let noise = if kind == Shape::Drift { swing } else { rng::sample_unit(&mut rng) - 0.5 };
                let at = f64::from(i) / f64::from(n);
                let level = match kind {
                    Shape::WarmUp => 1.0 + 3.0 * (1.0 - at / 0.1).max(0.0),
                    Shape::Ramp | Shape::Drift if up => 1.0 + at,
                    Shape::Ramp | Shape::Drift => 2.0 - at,
                    Shape::Shift if (at > 0.67) == up => 1.5,
                    Shape::Flat | Shape::Short | Shape::Shift => 1.0,
                };
                let ttft = 0.2 * level * (1.0 + 0.5 * noise);
                let latency = ttft + 0.8 * (1.0 + 0.2 * (rng::sample_unit(&mut rng) - 0.5));
                RecordedRequest {
                    success: true,
                    start: Some(start),
                    ttft: Some(ttft),
                    latency: Some(latency),
                    done: Some(latency),
                    output_tokens: 50,
                    ..RecordedRequest::default()
                }
            })
            .collect()
    }

    #[test]
    fn verdicts_are_right_on_synthetic_runs() {
        let mut wrong = Vec::new();
        let kinds = [Shape::Flat, Shape::Flat, Shape::WarmUp, Shape::Ramp, Shape::Drift, Shape::Shift, Shape::Short];
        let runs = (0..210).map(|i| (kinds[i % kinds.len()], i as u64, i % 2 == 0));
        for (kind, seed, up) in runs {
            let requests = run(kind, seed, up);
            let in_time: Vec<&RecordedRequest> = requests.iter().collect();
            let (steady, window) =
                Steady::detect(&SteadyInput { in_time: &in_time, origin: 0.0, open_loop: Some(true) });
            let want = match kind {
                Shape::Flat | Shape::WarmUp => Stability::Steady,
                Shape::Short => Stability::TooShort,
                _ if up => Stability::DriftingUp,
                _ => Stability::DriftingDown,
            };
            if steady.verdict != want {
                wrong.push((kind, seed, steady.verdict, steady.why));
                continue;
            }
            if kind == Shape::WarmUp {
                assert!(window.unwrap().from > requests[60].start.unwrap(), "the warm-up is in the window of {seed}");
            }
            // An autocorrelated drift may look like a step.
            if kind != Shape::Drift {
                assert_eq!(kind == Shape::Shift, steady.level_shift_s.is_some(), "{kind:?} {seed}: {}", steady.why);
            }
            if kind == Shape::Shift {
                let (at, last) = (steady.level_shift_s.unwrap(), requests[999].start.unwrap());
                assert!((at / last - 0.67).abs() < 0.08, "{seed} shifts at {at} of {last} s");
            }
        }
        println!("{} of 210: {wrong:?}", wrong.len());
        // A step is sometimes lost in the noise.
        assert!(wrong.len() <= 2, "{} of 210: {wrong:?}", wrong.len());
    }

    #[test]
    fn littles_law_holds_in_a_steady_state() {
        // Always four in flight: one request each half second, of two seconds.
        let sent: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i) * 0.5, 2.0)).collect();
        let law = littles_law(&sent, Window { from: 4.0, to: 14.0 }).unwrap();
        assert!((law.concurrency - 4.0).abs() < 1e-9 && (law.rate - 2.0).abs() < 1e-9, "{law:?}");
        assert!(law.gap.abs() < 1e-9, "{law:?}");
        assert_eq!(littles_law(&[], Window { from: 0.0, to: 1.0 }), None);
    }

    #[test]
    fn lock_step_is_detected_and_chance_is_not() {
        let mut rng = rng::random_stream(1, "starts", 0);
        let at = |start: f64| RecordedRequest { start: Some(start), ..RecordedRequest::default() };
        let waves: Vec<RecordedRequest> =
            (0..200_u32).map(|i| at(f64::from(i / 16) + 0.01 * rng::sample_unit(&mut rng))).collect();
        let mut time = 0.0;
        let poisson: Vec<RecordedRequest> = (0..200)
            .map(|_| {
                time += rng::sample_exponential(&mut rng);
                at(time)
            })
            .collect();
        let detected = |requests: &[RecordedRequest]| {
            let mut in_time: Vec<&RecordedRequest> = requests.iter().collect();
            in_time.sort_by(|a, b| a.start.unwrap().total_cmp(&b.start.unwrap()));
            detect_lock_step(&in_time)
        };
        assert!((detected(&waves).unwrap() - 16.0).abs() < 2.0, "{:?}", detected(&waves));
        assert_eq!(detected(&poisson), None);
    }
}
