//! The client's measurement error, from the end records of a run: of one client, or of all hosts together.

use std::{cmp::Reverse, ops::Add};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    part::is_zero,
    pooling::{Pooled, Pooling},
};
use crate::{
    record::{Bounds, Buffering, EndRecord, PercentileBounds, Percentiles, RunRecord, Stamps, TimeBounds, Verdict},
    recording::Recording,
    units::Nanos,
};

/// What the clients of a run report about themselves. With several hosts, counters are added, and lags and shares are the worst
/// of any host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Client")]
pub struct ClientFigures {
    /// The transport: `stamped` or `portable`; `null` if not reported.
    pub transport: Option<String>,
    /// Threads that read responses; `null` if not reported.
    pub threads: Option<u32>,
    /// Due, with a slot → first byte sent, without connecting; `null` if not reported.
    pub send_lag_ms: Option<Lags>,
    /// Kernel stamp → read, over all reads; `null` without kernel stamps.
    pub read_lag_ms: Option<Lags>,
    /// How chunks were stamped; `null` if not reported.
    pub stamps: Option<Stamps>,
    /// What is known of the percentiles if chunks waited for the client and lost their own stamps; absent: no chunk did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds_ms: Option<TimeBoundsMs>,
    /// CPU time in cores: CPU seconds per second of the run; `null` if not reported.
    pub cpu: Option<f64>,
    /// CPU time of the busiest reading thread, as a share of the run; `null` if not reported.
    pub busiest_thread: Option<f64>,
    /// The longest time that a thread was ready and had no core, as a share of the run; `null` if not reported.
    pub run_queue: Option<f64>,
    /// Time in which a reading thread did not run for 30 ms or longer, as a share of the run; `null` if not reported.
    pub away: Option<f64>,
    /// Whether chunks were held back on their way; `null` if no response shows it.
    pub buffering: Option<Buffering>,
    /// How late the timers of the reading threads fired; `null` if not reported.
    pub wake_lag_ms: Option<Lags>,
    /// Retransmitted TCP segments; `null` if not reported.
    pub retransmits: Option<u64>,
    /// Requests that were sent again on a new connection, because the server closed the open one before it saw them; absent: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub resent: u64,
}

/// Percentiles of a lag of the client, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Lags {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest lag.
    pub max: f64,
}

/// Percentiles that are known only to an interval: `[least, most]`, in milliseconds. With several hosts, the widest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "TimeBounds")]
pub struct TimeBoundsMs {
    /// Chunks that carry the stamp of a later chunk.
    pub chunks: u64,
    /// Time to first token; `null` without any.
    pub ttft: Option<PercentileBoundsMs>,
    /// Gaps between chunks; `null` without any.
    pub itl: Option<PercentileBoundsMs>,
    /// Time to the last token; `null` without any.
    pub e2el: Option<PercentileBoundsMs>,
}

/// The bounds of a metric's percentiles, in milliseconds; `null`: too few values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "PercentileBounds")]
pub struct PercentileBoundsMs {
    /// Of the median.
    pub p50: Option<[f64; 2]>,
    /// Of the 90th percentile.
    pub p90: Option<[f64; 2]>,
    /// Of the 99th percentile.
    pub p99: Option<[f64; 2]>,
}

impl TimeBoundsMs {
    fn from_bounds(bounds: TimeBounds) -> Self {
        let metric = |metric: Option<PercentileBounds>| metric.map(PercentileBoundsMs::from_bounds);
        let (ttft, itl, e2el) = (metric(bounds.ttft), metric(bounds.itl), metric(bounds.e2el));
        TimeBoundsMs { chunks: bounds.chunks, ttft, itl, e2el }
    }

    fn widest(self, other: TimeBoundsMs) -> Self {
        let widest = |a: Option<PercentileBoundsMs>, b: Option<PercentileBoundsMs>| {
            a.into_iter().chain(b).reduce(PercentileBoundsMs::widest)
        };
        TimeBoundsMs {
            chunks: self.chunks.saturating_add(other.chunks),
            ttft: widest(self.ttft, other.ttft),
            itl: widest(self.itl, other.itl),
            e2el: widest(self.e2el, other.e2el),
        }
    }
}

impl PercentileBoundsMs {
    fn from_bounds(bounds: PercentileBounds) -> Self {
        let ms = |bounds: Option<Bounds>| bounds.map(|bounds| bounds.map(|time| time.0 as f64 / 1e6));
        PercentileBoundsMs { p50: ms(bounds.p50), p90: ms(bounds.p90), p99: ms(bounds.p99) }
    }

    fn widest(self, other: PercentileBoundsMs) -> Self {
        let widest = |a: Option<[f64; 2]>, b: Option<[f64; 2]>| {
            a.into_iter().chain(b).reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])])
        };
        PercentileBoundsMs {
            p50: widest(self.p50, other.p50),
            p90: widest(self.p90, other.p90),
            p99: widest(self.p99, other.p99),
        }
    }
}

impl Lags {
    fn from_percentiles(lag: Percentiles) -> Self {
        let ms = |time: Nanos| time.0 as f64 / 1e6;
        Lags { p50: ms(lag.p50), p99: ms(lag.p99), max: ms(lag.max) }
    }

    fn worst_of_each(self, other: Lags) -> Self {
        Lags { p50: self.p50.max(other.p50), p99: self.p99.max(other.p99), max: self.max.max(other.max) }
    }
}

impl ClientFigures {
    /// From all end records; `None` if they have no such fields, as in older versions.
    #[must_use]
    pub fn from_recording(recording: &Recording) -> Option<Self> {
        let (runs, ends) = (&recording.runs, &recording.ends);
        let has_figures = |end: &EndRecord| end.verdict.is_some() || end.client.is_some() || end.stamps.is_some();
        if !ends.iter().any(has_figures) {
            return None;
        }
        runs.iter()
            .map(ClientFigures::from_run)
            .chain(ends.iter().map(ClientFigures::from_end))
            .reduce(ClientFigures::merge_with)
    }

    fn from_run(run: &RunRecord) -> Self {
        ClientFigures { transport: run.transport.clone(), threads: run.threads, ..ClientFigures::default() }
    }

    fn from_end(end: &EndRecord) -> Self {
        ClientFigures {
            send_lag_ms: end.send_lag.map(Lags::from_percentiles),
            read_lag_ms: end.read_lag.map(Lags::from_percentiles),
            stamps: end.stamps,
            bounds_ms: end.bounds.map(TimeBoundsMs::from_bounds),
            cpu: end.client.map(|client| client.cpu),
            busiest_thread: end.client.map(|client| client.busiest_thread),
            run_queue: end.client.and_then(|client| client.run_queue),
            away: end.client.and_then(|client| client.away),
            buffering: end.buffering.clone(),
            wake_lag_ms: end.client.and_then(|client| client.wake_lag).map(Lags::from_percentiles),
            retransmits: end.client.and_then(|client| client.retransmits),
            resent: end.resent,
            ..ClientFigures::default()
        }
    }

    /// Merges two clients.
    #[must_use]
    pub fn merge_with(self, other: ClientFigures) -> Self {
        let lags = |a: Option<Lags>, b: Option<Lags>| a.into_iter().chain(b).reduce(Lags::worst_of_each);
        let most = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        let sum = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).reduce(u64::saturating_add);
        ClientFigures {
            transport: join_transports(self.transport.into_iter().chain(other.transport)),
            threads: self.threads.into_iter().chain(other.threads).reduce(u32::saturating_add),
            send_lag_ms: lags(self.send_lag_ms, other.send_lag_ms),
            read_lag_ms: lags(self.read_lag_ms, other.read_lag_ms),
            stamps: self.stamps.into_iter().chain(other.stamps).reduce(Stamps::add),
            bounds_ms: self.bounds_ms.into_iter().chain(other.bounds_ms).reduce(TimeBoundsMs::widest),
            cpu: self.cpu.into_iter().chain(other.cpu).reduce(|a, b| a + b),
            busiest_thread: most(self.busiest_thread, other.busiest_thread),
            run_queue: most(self.run_queue, other.run_queue),
            away: most(self.away, other.away),
            buffering: self.buffering.into_iter().chain(other.buffering).reduce(Buffering::merge_with),
            wake_lag_ms: lags(self.wake_lag_ms, other.wake_lag_ms),
            retransmits: sum(self.retransmits, other.retransmits),
            resent: self.resent.saturating_add(other.resent),
        }
    }

    /// Describes it for the verdict line of a clean run.
    #[must_use]
    pub fn describe_client(&self) -> String {
        let mut words = Vec::new();
        if let Some(stamps) = self.stamps.filter(|stamps| stamps.chunks > 0) {
            words.push(match stamps.user {
                0 => "chunks stamped by the kernel".to_owned(),
                user if user == stamps.chunks => "chunks stamped in user space".to_owned(),
                user => format!("{user} of {} chunks stamped in user space, the others by the kernel", stamps.chunks),
            });
        }
        for (name, lags) in [("read", self.read_lag_ms), ("send", self.send_lag_ms)] {
            words.extend(lags.map(|lags| format!("{name} lag p99 {:.2} ms", lags.p99)));
        }
        words.extend(self.cpu.map(|cpu| format!("{cpu:.2} cores")));
        words.join("; ")
    }
}

/// All transports, each once, separated by commas.
fn join_transports(all: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = all.collect();
    let mut names: Vec<&str> = all.iter().flat_map(|names| names.split(", ")).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The worst verdict of any client, and the reasons of all, worst verdict first. With several hosts, each reason starts with
/// the name of its host.
#[must_use]
pub fn worst_verdict(recording: &Recording) -> (Option<Verdict>, Vec<String>) {
    let mut judged: Vec<(&EndRecord, String)> = recording
        .hosted_ends()
        .map(|(host, end)| (end, host.filter(|_| recording.ends.len() > 1).map_or(String::new(), |h| format!("{h}: "))))
        .collect();
    judged.sort_by_key(|(end, _)| Reverse(end.verdict));
    let worst = judged.first().and_then(|(end, _)| end.verdict);
    let mut reasons: Vec<String> = Vec::new();
    for (end, host) in judged {
        for reason in end.reasons.iter().map(|reason| format!("{host}{reason}")) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    (worst, reasons)
}

impl Pooled for ClientFigures {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        all.all.iter().copied().cloned().reduce(ClientFigures::merge_with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_is_named_once() {
        let with_transport = |name: &str| ClientFigures { transport: Some(name.into()), ..ClientFigures::default() };
        let all = ["stamped", "portable", "stamped"].map(with_transport).into_iter().reduce(ClientFigures::merge_with);
        assert_eq!(all.unwrap().transport.as_deref(), Some("portable, stamped"));
        assert_eq!(ClientFigures::default().merge_with(ClientFigures::default()), ClientFigures::default());
    }
}
