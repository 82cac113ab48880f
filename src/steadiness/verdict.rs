//! Whether a run is one steady state, and in which part: without the warm-up and the drain.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backlog::{self, Overload},
    signals::{self, Blocks, Series, Signal},
    warm_up,
};
use crate::{
    record::Verdict,
    recording::{RecordedRequest, Recording},
    statistics::{
        levels, numpy,
        trend::{self, Trend},
    },
};

/// The fewest requests in a window.
const MIN_WINDOW_REQUESTS: usize = 50;

/// The fewest blocks for a trend test.
const MIN_TREND_BLOCKS: usize = 10;

/// The fewest median latencies that a window lasts. In a shorter window, the requests that start have little to do with those
/// that end.
const MIN_WINDOW_LATENCIES: f64 = 5.0;

/// A trend counts if it is less probable than this by chance, and changes the metric by at least this share.
const MAX_P_VALUE: f64 = 0.005;
const MIN_CHANGE: f64 = 0.05;

/// Levels count if they differ by at least this share, or the share of successes by `MIN_CHANGE`.
const MIN_LEVEL_CHANGE: f64 = 0.2;

/// The drain starts where this percentile of latencies would end after the last request was sent.
const DRAIN_PERCENTILE: f64 = 95.0;

/// The requests in which the steady state is searched.
#[derive(Debug, Clone, Copy)]
pub struct SteadyInput<'a> {
    /// The requests that were sent and that count, successes and failures, in the order in which they were sent.
    pub sent: &'a [&'a RecordedRequest],
    /// The start of the run, on the time axis of the starts of requests.
    pub origin: f64,
    /// Whether requests were sent by a schedule; `None` if unknown.
    pub open_loop: Option<bool>,
    /// Whether the client limited the load, so that a queue may be its own.
    pub is_client_bound: bool,
}

impl<'a> SteadyInput<'a> {
    /// The input for these requests of a recording, in the order in which they were sent.
    #[must_use]
    pub fn new(recording: &Recording, sent: &'a [&'a RecordedRequest]) -> Self {
        let is_client_bound = recording.ends.iter().any(|end| end.verdict == Some(Verdict::ClientBound));
        SteadyInput { sent, origin: recording.run_origin(), open_loop: recording.open_loop(), is_client_bound }
    }
}

/// How a run developed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// The window is one steady state.
    Steady,
    /// More requests arrive than the server serves: the backlog grows as long as the run lasts.
    Overloaded,
    /// Latencies rise: the numbers depend on how long the run lasts.
    DriftingUp,
    /// Latencies fall.
    DriftingDown,
    /// A latency, the share of successes or the rate of requests changes: the numbers depend on when the run ends.
    Changing,
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
            Stability::Overloaded => "overloaded",
            Stability::DriftingUp => "drifting up",
            Stability::DriftingDown => "drifting down",
            Stability::Changing => "changing",
            Stability::TooShort => "too short to judge",
        }
    }
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

    /// Its length.
    #[must_use]
    pub fn length_seconds(self) -> f64 {
        self.to - self.from
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// How the run developed.
    pub verdict: Stability,
    /// The reason in words.
    pub why: String,
    /// The growth of the backlog, if the run is overloaded.
    pub overload: Option<Overload>,
    /// Without warm-up and drain; `None` for too few requests.
    pub window: Option<Window>,
    /// The places of its requests.
    pub members: Range<usize>,
    /// The trends of the latencies in it, as shares of their medians.
    pub drifts: Vec<(Signal, Trend)>,
    /// The levels of the number that changes.
    pub levels: Option<Levels>,
}

/// The levels of a number that changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    /// The number.
    pub signal: Signal,
    /// When each level starts, on the time axis of the starts of requests, and its median.
    pub levels: Vec<(f64, f64)>,
}

/// Judges a run.
#[must_use]
pub fn judge_run(run: &SteadyInput) -> Judgement {
    let drained = before_the_drain(run.sent);
    let growth = if run.open_loop == Some(true) { backlog::measure_growth(run.sent) } else { None };
    let overload = growth.filter(|growth| growth.is_certain() && !run.is_client_bound);
    let undecided = |why: String| Judgement {
        verdict: overload.map_or(Stability::TooShort, |_| Stability::Overloaded),
        why: overload.map_or(why, |overload| describe_overload(&overload)),
        overload,
        window: None,
        members: 0..0,
        drifts: Vec::new(),
        levels: None,
    };
    let successes = drained.iter().filter(|request| request.success).count();
    if successes < MIN_WINDOW_REQUESTS {
        let needs = format!("but {MIN_WINDOW_REQUESTS} are needed");
        return undecided(format!("{successes} successful requests were sent before the drain, {needs}"));
    }
    let blocks = Blocks::cut(drained);
    let latencies: Vec<Series> =
        signals::latency_signals(drained, run.open_loop).into_iter().map(|signal| blocks.series(signal)).collect();
    let first = latencies.iter().map(warm_up_blocks).max().unwrap_or_default();
    let after = |series: Series| series.without_blocks_before(first);
    let latencies: Vec<Series> = latencies.into_iter().map(after).collect();
    let others = [Signal::Success, Signal::Rate].map(|signal| after(blocks.series(signal)));
    let window = Window { from: blocks.start(first), to: blocks.start(usize::MAX) };
    let found = Judgement {
        window: Some(window),
        members: drained.len() - blocks.requests_from(first).len()..drained.len(),
        drifts: latencies.iter().filter_map(|series| Some((series.signal, measure_drift(&series.values)?))).collect(),
        ..undecided(String::new())
    };
    if overload.is_some() {
        return found;
    }
    let change = |series: &Series| find_change(series, &blocks);
    let success = change(&others[0]).map(as_change);
    let slow = found.drifts.iter().filter(|(_, drift)| drift.p < MAX_P_VALUE && drift.change.abs() >= MIN_CHANGE);
    let slow =
        slow.min_by(|a, b| a.1.p.total_cmp(&b.1.p)).map(|(signal, drift)| describe_drift(*signal, *drift, window));
    let levels = || latencies.iter().find_map(change).map(as_change);
    let rate = || change(&others[1]).map(as_change);
    let short = || describe_short(blocks.requests_from(first), window, &found.drifts);
    let backlog = || growth.map(|growth| describe_growth(&growth, run.is_client_bound));
    let what = success.or(slow).or_else(levels).or_else(rate).or_else(short).or_else(backlog);
    let (verdict, why, levels) = what.unwrap_or((Stability::Steady, "no change beyond chance".to_owned(), None));
    Judgement { verdict, why, levels, ..found }
}

/// How a run developed, why, and through which levels.
type Finding = (Stability, String, Option<Levels>);

fn warm_up_blocks(series: &Series) -> usize {
    let count = warm_up::count_warm_up(&series.values);
    series.blocks.get(count).copied().unwrap_or_default()
}

/// The requests that started long enough before the last one for nearly all of them to end by then; at least half of the time.
fn before_the_drain<'r>(sent: &'r [&'r RecordedRequest]) -> &'r [&'r RecordedRequest] {
    let (Some(first), Some(last)) = (sent.first().and_then(|r| r.start), sent.last().and_then(|r| r.start)) else {
        return &[];
    };
    let end = (last - percentile_of_latencies(sent, DRAIN_PERCENTILE)).max(f64::midpoint(first, last));
    &sent[..sent.partition_point(|r| r.start.is_some_and(|start| start <= end))]
}

/// A percentile of the latencies of the successes.
#[must_use]
pub fn percentile_of_latencies(requests: &[&RecordedRequest], p: f64) -> f64 {
    let successes = requests.iter().filter(|request| request.success);
    numpy::percentile_of_unsorted(successes.filter_map(|r| r.latency).collect(), p)
}

fn median(values: &[f64]) -> f64 {
    numpy::percentile_of_unsorted(values.to_vec(), 50.0)
}

fn measure_drift(series: &[f64]) -> Option<Trend> {
    if series.len() < MIN_TREND_BLOCKS {
        return None;
    }
    let Trend { p, change } = trend::mann_kendall(series)?;
    let level = median(series);
    (level > 0.0).then(|| Trend { change: change / level, p })
}

fn direction(change: f64) -> (Stability, &'static str) {
    if change > 0.0 { (Stability::DriftingUp, "rises") } else { (Stability::DriftingDown, "falls") }
}

fn describe_drift(signal: Signal, Trend { p, change }: Trend, window: Window) -> Finding {
    let (verdict, word) = direction(change);
    let (percent, seconds) = (change.abs() * 100.0, window.length_seconds());
    (verdict, format!("{} {word} by {percent:.0} % within {seconds:.1} s (p = {p:.1e})", signal.name()), None)
}

fn describe_overload(overload: &Overload) -> String {
    let Overload { offered_per_s, served_per_s, backlog_growth, p } = overload;
    format!(
        "{offered_per_s:.2} requests arrived per second and {served_per_s:.2} ended, so {backlog_growth:.0} more were waiting at the \
         end (p = {p:.1e}); this is the capacity, and a longer run has longer latencies"
    )
}

/// A backlog that is not, or not for certain, the server's.
fn describe_growth(growth: &Overload, is_client_bound: bool) -> Finding {
    let Overload { offered_per_s, served_per_s, .. } = growth;
    let rates = format!("{offered_per_s:.2} requests arrived per second and {served_per_s:.2} ended");
    if growth.is_certain() && is_client_bound {
        let why = format!("{rates}, but the client limited the load (see its verdict)");
        return (Stability::DriftingUp, why, None);
    }
    (
        Stability::TooShort,
        format!("{rates}; only a longer run shows whether that is overload or a busy time (p = {:.2})", growth.p),
        None,
    )
}

fn describe_short(members: &[&RecordedRequest], window: Window, drifts: &[(Signal, Trend)]) -> Option<Finding> {
    let lasted = window.length_seconds() / percentile_of_latencies(members, 50.0);
    let n = members.iter().filter(|request| request.success).count();
    if n >= MIN_WINDOW_REQUESTS && !drifts.is_empty() && lasted >= MIN_WINDOW_LATENCIES {
        return None;
    }
    let lasted = if lasted.is_finite() { lasted } else { 0.0 };
    let why = format!(
        "{n} requests in {lasted:.1} times the median latency are left without warm-up and drain, but {MIN_WINDOW_REQUESTS} in \
         {MIN_WINDOW_LATENCIES:.0} times are needed"
    );
    Some((Stability::TooShort, why, None))
}

/// The levels of a number, if there are several that differ enough.
fn find_change(series: &Series, blocks: &Blocks) -> Option<Levels> {
    let found = levels_of(series, &levels::find_levels(&series.values), blocks);
    let values = || found.levels.iter().map(|(_, value)| *value);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let counts = match series.signal {
        Signal::Success => most - least >= MIN_CHANGE,
        _ if found.levels.len() == 2 => most >= least * (1.0 + MIN_CHANGE),
        _ => most >= least * (1.0 + MIN_LEVEL_CHANGE),
    };
    (found.levels.len() > 1 && counts).then_some(found)
}

fn levels_of(series: &Series, places: &[usize], blocks: &Blocks) -> Levels {
    let ends = places.iter().copied().chain([series.values.len()]);
    let starts = std::iter::once(0).chain(places.iter().copied());
    let level = |(from, to): (usize, usize)| {
        let values = &series.values[from..to];
        // Most blocks of an outage may have one or two successes.
        let value = if series.signal == Signal::Success { numpy::mean(values) } else { median(values) };
        (series.blocks.get(from).map_or(0.0, |block| blocks.start(*block)), value)
    };
    Levels { signal: series.signal, levels: starts.zip(ends).filter(|(from, to)| from < to).map(level).collect() }
}

fn as_change(found: Levels) -> Finding {
    let Levels { signal, levels } = &found;
    let verdict = match &levels[..] {
        [(_, before), (_, after)] if signal.is_latency() => direction(after - before).0,
        _ => Stability::Changing,
    };
    let values: Vec<String> = levels.iter().map(|(_, value)| signal.describe_value(*value)).collect();
    let why = format!("{} changes: {}", signal.name(), values.join(", then "));
    (verdict, why, Some(found))
}
