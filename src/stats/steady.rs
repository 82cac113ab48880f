//! Whether a run was in a steady state, and in which part: without the warm-up and the drain.
//!
//! [`steadiness`] decides; this adds what was measured in the steady part.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    part::{Numbers, RunPart},
    rate::{MeasuredRate, TimeSlices},
    tokens,
};
use crate::{
    recording::{ChunkTokens, RecordedRequest, Recording},
    steadiness::{
        self, Judgement, Signal, Stability, SteadyInput, Window,
        backlog::Overload,
        little::{self, Little},
        lock_step,
        stall::{self, Stalls},
    },
};

/// The steady part of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Steady {
    /// Whether there is a steady part.
    pub verdict: Stability,
    /// The reason of the verdict.
    pub why: String,
    /// The growth of the backlog; `null` unless the run is overloaded.
    pub overload: Option<Overload>,
    /// The first issue time of the window, in seconds from the start of the run; `null` if there are too few requests.
    pub from_s: Option<f64>,
    /// The last issue time of the window, in the same way.
    pub to_s: Option<f64>,
    /// Successes that were sent in the window.
    pub requests: u64,
    /// The drift of TTFT over the window, from the schedule in an open loop; `null` if there are too few requests, and without
    /// streaming.
    pub ttft: Option<Drift>,
    /// The drift of TPOT; `null` also if outputs have one token.
    pub tpot: Option<Drift>,
    /// The drift of E2EL if no response is streamed; else `null`.
    pub e2el: Option<Drift>,
    /// The number that changes between levels: `ttft`, `tpot`, `e2el`, `success` or `rate`; `null` without levels.
    pub changing: Option<String>,
    /// Its levels, one after the other; empty without a change.
    pub levels: Vec<Level>,
    /// The time of a level shift of a latency, in seconds from the start of the run; `null` unless there are two levels.
    pub level_shift_s: Option<f64>,
    /// Times in which no stream received anything; absent: none.
    #[serde(skip_serializing_if = "has_none")]
    pub stalls: Stalls,
    /// Little's law in the window; `null` without a window, and if it is too short.
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

fn has_none(stalls: &Stalls) -> bool {
    stalls.count == 0
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

/// A level of a number that changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Level {
    /// When it starts, in seconds from the start of the run.
    pub from_s: f64,
    /// The median: of a latency in milliseconds, of requests per second; or the share of successes.
    pub value: f64,
}

impl Steady {
    /// Looks for a steady part. There is a window if there are enough requests for one.
    #[must_use]
    pub fn detect(run: &SteadyInput) -> (Self, Option<Window>) {
        let Judgement { verdict, why, overload, window, members, drifts, levels } = steadiness::judge_run(run);
        let members = &run.sent[members];
        let drift_of = |wanted: fn(&Signal) -> bool| {
            let found = drifts.iter().find(|(signal, _)| wanted(signal));
            found.map(|(_, trend)| Drift { change: trend.change, p: trend.p })
        };
        let scale = |signal: Signal| if signal.is_latency() { 1e3 } else { 1.0 };
        let level = |found: &steadiness::Levels| -> Vec<Level> {
            let level =
                |(from, value): &(f64, f64)| Level { from_s: from - run.origin, value: value * scale(found.signal) };
            found.levels.iter().map(level).collect()
        };
        let shift = levels.as_ref().filter(|found| found.levels.len() == 2 && found.signal.is_latency());
        let steady = Steady {
            verdict,
            why,
            overload,
            from_s: window.map(|window| window.from - run.origin),
            to_s: window.map(|window| window.to - run.origin),
            requests: members.iter().filter(|request| request.success).count() as u64,
            ttft: drift_of(|signal| matches!(signal, Signal::Ttft { .. })),
            tpot: drift_of(|signal| *signal == Signal::Tpot),
            e2el: drift_of(|signal| matches!(signal, Signal::E2el { .. })),
            changing: levels.as_ref().map(|found| found.signal.key().to_owned()),
            levels: levels.as_ref().map(level).unwrap_or_default(),
            level_shift_s: shift.map(|found| found.levels[1].0 - run.origin),
            lock_step: if run.open_loop == Some(false) { lock_step::detect_lock_step(members) } else { None },
            ..Steady::default()
        };
        (steady, window)
    }

    /// For a sample of one request in `one_in`: the counts and rates of all of them.
    #[must_use]
    pub fn scale_counts(mut self, one_in: u64) -> Self {
        self.requests = self.requests.saturating_mul(one_in);
        let factor = one_in as f64;
        if let Some(overload) = &mut self.overload {
            overload.offered_per_s *= factor;
            overload.served_per_s *= factor;
            overload.backlog_growth *= factor;
        }
        if self.changing.as_deref() == Some(Signal::Rate.key()) {
            self.levels.iter_mut().for_each(|level| level.value *= factor);
        }
        self
    }

    /// Adds what was measured within the window.
    #[must_use]
    pub fn with_measurements(mut self, window: Window, recording: &Recording) -> Self {
        let sent: Vec<(f64, f64)> =
            recording.requests.iter().filter_map(|r| Some((r.start?, r.done.or(r.latency)?))).collect();
        self.little = little::littles_law(&sent, window).filter(|_| self.verdict != Stability::TooShort);
        let (requests, tokens) = measure_rates(recording, |cycle| TimeSlices::new(window.from, window.to, cycle));
        (self.requests_per_s, self.output_tokens_per_s) = (Some(requests), Some(tokens));
        self
    }

    /// Adds the stalls of the whole run, which starts at `origin`.
    #[must_use]
    pub fn with_stalls(self, recording: &Recording, origin: f64) -> Self {
        Steady { stalls: stall::find_stalls(recording, origin), ..self }
    }
}

/// The rates of successes that ended, and of tokens that arrived, in slices that `slices` makes for the length of a cycle.
#[must_use]
pub fn measure_rates(recording: &Recording, slices: impl Fn(f64) -> TimeSlices) -> (MeasuredRate, MeasuredRate) {
    let successes: Vec<&RecordedRequest> = recording.successes().collect();
    let mut requests = slices(steadiness::percentile_of_latencies(&successes, 50.0));
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
