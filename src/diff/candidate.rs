//! The numbers that two sides have in common, before any verdict.

use super::{
    change::Change,
    estimate::SideEstimate,
    row::SHARE,
    side::{Latency, Side},
    summary,
};
use crate::{
    recording::{RecordedRequest, metric::Metric},
    statistics::{Doubt, interval, numpy},
};

/// A number to compare, before the verdict.
#[derive(Debug)]
pub struct Candidate {
    /// As in [`ChangeRow`](super::row::ChangeRow).
    pub metric: &'static str,
    /// In the same way.
    pub statistic: String,
    /// In the same way.
    pub unit: &'static str,
    /// Multiplies a value to give it this unit.
    pub scale: f64,
    /// Whether a larger number is the better one.
    pub more_is_better: bool,
    /// The fewest independent values of a side with which it can be compared.
    pub needs: u64,
    /// The number of both sides.
    pub change: Change,
}

impl Candidate {
    /// The share of requests that succeeded.
    pub fn of_success(a: SideEstimate, b: SideEstimate) -> Self {
        Candidate {
            metric: "success",
            statistic: "share".into(),
            unit: SHARE,
            scale: 1.0,
            more_is_better: true,
            needs: 2,
            change: Change::new(a, b),
        }
    }

    /// The p-value; `None` if there are too few values, or too few correlation times to know their dependence.
    pub fn p_value(&self) -> Option<f64> {
        let is_known = self.value_count() >= self.needs && self.change.doubt() != Some(Doubt::TooShort);
        if is_known { self.change.p_value() } else { None }
    }

    /// The independent values of the side that has fewer.
    pub fn value_count(&self) -> u64 {
        let count = |side: &SideEstimate| {
            let independent = if side.runs { side.n } else { numpy::truncate_to_usize(side.evidence.requests) };
            side.n.min(independent) as u64
        };
        count(&self.change.a).min(count(&self.change.b))
    }
}

/// Lists the numbers of two sides.
#[must_use]
pub fn list_candidates(a: &Side, b: &Side, percentiles: &[f64]) -> Vec<Candidate> {
    if a.has_summaries() || b.has_summaries() {
        return summary::list_candidates(a, b, percentiles);
    }
    let mut all = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el] {
        push_latencies(&mut all, (a, b), metric.name(), metric.into(), percentiles);
    }
    if a.requests_waited() || b.requests_waited() {
        let ttft = Latency::PerRequest(RecordedRequest::ttft_from_schedule);
        let e2el = Metric::E2elIncludingClientQueue.into();
        push_latencies(&mut all, (a, b), "ttft_from_schedule", ttft, percentiles);
        push_latencies(&mut all, (a, b), "e2el_from_schedule", e2el, percentiles);
    }
    let tokens = |side: &Side| side.estimate_throughput(|r| f64::from(r.output_tokens));
    let requests = |side: &Side| side.estimate_throughput(|_| 1.0);
    let rates = [
        ("throughput", "tokens/s", tokens(a).zip(tokens(b))),
        ("request_throughput", "requests/s", requests(a).zip(requests(b))),
    ];
    let more = |metric, statistic: &str, unit, (a, b)| Candidate {
        metric,
        statistic: statistic.into(),
        unit,
        scale: 1.0,
        more_is_better: true,
        needs: 2,
        change: Change::new(a, b),
    };
    for (metric, unit, both) in rates {
        all.extend(both.map(|both| more(metric, "rate", unit, both)));
    }
    all.extend(a.success_share().zip(b.success_share()).map(|(a, b)| Candidate::of_success(a, b)));
    all
}

fn push_latencies(
    all: &mut Vec<Candidate>,
    (a, b): (&Side, &Side),
    metric: &'static str,
    latency: Latency,
    percentiles: &[f64],
) {
    let (a, b) = (a.estimate_latency(latency, percentiles), b.estimate_latency(latency, percentiles));
    let names = std::iter::once(("mean".to_owned(), 2))
        .chain(percentiles.iter().map(|p| (format!("p{p}"), interval::samples_needed(*p).unwrap_or(u64::MAX))));
    for ((statistic, needs), (a, b)) in names.zip(a.into_iter().zip(b)) {
        let change = Change::new(a, b);
        let candidate = Candidate { metric, statistic, unit: "ms", scale: 1e3, more_is_better: false, needs, change };
        all.push(candidate);
    }
}
