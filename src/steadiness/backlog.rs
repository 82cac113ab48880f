//! The backlog: requests that have arrived and not ended. If it grows throughout an open loop, the server is overloaded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::{recording::RecordedRequest, statistics::numpy};

/// The parts of a run in which arrivals and departures are compared. Few, so that what happens in one part depends little on the
/// part before it.
const SLICES: usize = 12;

/// A growth counts if it is at least this share of the arrivals, and if chance gives it less often than `MAX_P_VALUE`. Up to
/// `MAX_DOUBTFUL_P_VALUE`, it is undecided.
const MIN_GROWTH: f64 = 0.02;
const MAX_P_VALUE: f64 = 0.01;
const MAX_DOUBTFUL_P_VALUE: f64 = 0.2;

/// A growing backlog makes requests wait: latencies at the end are this many times those at the start. (If only the rate grows, more
/// requests are in flight, and none waits longer.)
const MIN_SLOWDOWN: f64 = 1.25;

/// The shortest run, in latencies of its fastest requests.
const MIN_LATENCIES: f64 = 3.0;

/// The server is filled during this part of a run at most.
const MAX_FILL: f64 = 0.25;

/// The fewest requests.
const MIN_REQUESTS: usize = 50;

/// The growth of the backlog of an overloaded server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Overload {
    /// Requests that arrived per second, after the server had filled.
    pub offered_per_s: f64,
    /// Requests that ended per second in the same time.
    pub served_per_s: f64,
    /// By how many requests the backlog grew.
    pub backlog_growth: f64,
    /// The probability of such a growth by chance.
    pub p: f64,
}

/// When a request arrived, as scheduled, when its first token arrived, and when it ended.
#[derive(Debug, Clone, Copy)]
struct Stay {
    from: f64,
    first: f64,
    to: f64,
}

impl Overload {
    /// Whether chance does not explain it.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.p < MAX_P_VALUE
    }
}

/// How the backlog grew all the time while requests arrived, perhaps by chance; `None` if it did not, or cannot be judged.
#[must_use]
pub fn measure_growth(sent: &[&RecordedRequest]) -> Option<Overload> {
    let stay = |request: &&RecordedRequest| {
        let start = request.start?;
        let from = start - request.queue_time.unwrap_or_default();
        let to = start + request.done.or(request.latency)?;
        Some(Stay { from, first: request.ttft.map_or(to, |ttft| (start + ttft).min(to)), to })
    };
    let mut stays: Vec<Stay> = sent.iter().filter_map(stay).collect();
    if stays.len() < MIN_REQUESTS {
        return None;
    }
    stays.sort_by(|a, b| a.from.total_cmp(&b.from));
    let (first, last) = (stays[0].from, stays[stays.len() - 1].from);
    let took =
        |stays: &[Stay], p| numpy::percentile_of_unsorted(stays.iter().map(|stay| stay.to - stay.from).collect(), p);
    let early = &stays[..(stays.len() / 10).max(5)];
    if last - first < MIN_LATENCIES * took(early, 10.0) {
        return None;
    }
    let filled = first + took(early, 90.0).min((last - first) * MAX_FILL);
    let inside = &stays[stays.partition_point(|stay| stay.from < filled)..];
    let quarter = inside.len() / 4;
    if quarter == 0 || took(&inside[inside.len() - quarter..], 50.0) < MIN_SLOWDOWN * took(&inside[..quarter], 50.0) {
        return None;
    }
    let seconds = last - filled;
    let place = |time: f64| (time - filled) / seconds * SLICES as f64;
    let (mut arrived, mut ended) = ([0.0; SLICES], [0.0; SLICES]);
    for stay in &stays {
        spread_one(&mut arrived, place(stay.from), place(stay.from));
        // Streams that end together, and start together, would be noise.
        spread_one(&mut ended, place(stay.first), place(stay.to));
    }
    let growth: Vec<f64> = arrived.iter().zip(&ended).map(|(arrived, ended)| arrived - ended).collect();
    let served: f64 = ended.iter().sum();
    let grown: f64 = growth.iter().sum();
    let p = rise_p_value(&growth);
    let offered = grown + served;
    (p < MAX_DOUBTFUL_P_VALUE && grown >= MIN_GROWTH * offered).then(|| Overload {
        offered_per_s: offered / seconds,
        served_per_s: served / seconds,
        backlog_growth: grown,
        p,
    })
}

/// Distributes one event over the slices between two places; nothing outside of them.
fn spread_one(slices: &mut [f64; SLICES], from: f64, to: f64) {
    if to <= from {
        if let Some(slice) = slices.get_mut(numpy::truncate_to_usize(to)).filter(|_| to >= 0.0) {
            *slice += 1.0;
        }
        return;
    }
    let last = numpy::truncate_to_usize(to).min(SLICES - 1);
    for (i, slice) in slices.iter_mut().enumerate().take(last + 1).skip(numpy::truncate_to_usize(from)) {
        *slice += (to.min(i as f64 + 1.0) - from.max(i as f64)).max(0.0) / (to - from);
    }
}

/// The probability of a mean this far above 0 if the true mean is 0: Student's t-test.
fn rise_p_value(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let (mean, spread) = (numpy::mean(values), numpy::std(values) / (n - 1.0).sqrt());
    if mean <= 0.0 {
        return 1.0;
    }
    let freedom = StudentsT::new(0.0, 1.0, n - 1.0);
    freedom.map_or(1.0, |student| if spread > 0.0 { student.cdf(-mean / spread) } else { 0.0 })
}
