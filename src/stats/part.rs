//! A part of a run: some of its requests, and their metrics.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    goodput::{Good, Slo, pool_attainment},
    pooling::{Pooled, Pooling},
    stamp_bounds,
};
use crate::{
    record::Object,
    recording::{RecordedRequest, Recording, metric::Metric, population::Population, sort_by_start},
    statistics::{Dependence, SampleStats, Summary, SummaryOptions, Unit},
};

/// Some of the requests of a run.
#[derive(Debug)]
pub struct RunPart<'a> {
    recording: &'a Recording,
    /// All offered requests, in the order of the input.
    offered: Vec<&'a RecordedRequest>,
    /// How they ended.
    pub population: Population,
    /// The successes, in the order in which they were sent.
    in_time: Vec<&'a RecordedRequest>,
}

impl<'a> RunPart<'a> {
    /// The whole run.
    #[must_use]
    pub fn from_recording(recording: &'a Recording) -> Self {
        Self::from_requests(recording, recording.requests.iter().collect())
    }

    /// These requests, which must be in the order of the input.
    #[must_use]
    pub fn from_requests(recording: &'a Recording, offered: Vec<&'a RecordedRequest>) -> Self {
        let in_time = sort_by_start(offered.iter().copied().filter(|r| r.success));
        let population = Population::from_requests(offered.iter().copied());
        RunPart { recording, offered, population, in_time }
    }

    /// The requests that can succeed or fail, in the order of the input.
    pub fn counted(&self) -> impl Iterator<Item = &'a RecordedRequest> {
        self.offered.iter().copied().filter(|r| r.counts())
    }

    /// The successes, in the order of the input.
    pub fn successes(&self) -> impl Iterator<Item = &'a RecordedRequest> {
        self.offered.iter().copied().filter(|r| r.success)
    }

    /// The recording that the requests are in.
    #[must_use]
    pub fn recording(&self) -> &'a Recording {
        self.recording
    }

    /// The gaps of one of its successes.
    #[must_use]
    pub fn gaps_of(&self, request: &RecordedRequest) -> &[f64] {
        self.recording.gaps_of(request)
    }

    /// The successes, in the order in which they were sent.
    #[must_use]
    pub fn successes_by_start(&self) -> &[&'a RecordedRequest] {
        &self.in_time
    }

    /// The statistics of a value over the successes that have it: summed in the order of the input, as in vLLM, and with their
    /// dependence in time order.
    pub fn sample_values(
        &self,
        value: &dyn Fn(&RecordedRequest) -> Option<f64>,
        unit: Unit,
        wanted: &SummaryOptions,
    ) -> SampleStats {
        let ordered: Vec<f64> = self.in_time.iter().filter_map(|request| value(request)).collect();
        let values: Vec<f64> = self.successes().filter_map(value).collect();
        SampleStats::with_intervals(&[&values], unit, wanted, &Dependence::measure(&ordered, &wanted.percentiles))
    }

    /// The statistics of the gaps between chunks.
    pub fn sample_gaps(&self, wanted: &SummaryOptions) -> SampleStats {
        let gaps = self.recording.gap_slices(self.successes());
        let dependence = self.recording.gap_dependence(|| self.successes(), &wanted.percentiles);
        SampleStats::with_intervals(&gaps, Unit::Seconds, wanted, &dependence)
    }
}

/// The metrics of a part of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Numbers {
    /// Requests that were due.
    pub offered: u64,
    /// Successful requests.
    pub completed: u64,
    /// Failed requests.
    pub failed: u64,
    /// Requests that the client cancelled on purpose, which are neither; absent without any.
    #[serde(skip_serializing_if = "is_zero")]
    pub abandoned: u64,
    /// Prompt tokens of the successes.
    pub input_tokens: u64,
    /// Generated tokens of the successes.
    pub output_tokens: u64,
    /// Start → first token.
    pub ttft_ms: Summary,
    /// Time per output token after the first, over requests.
    pub tpot_ms: Summary,
    /// Gaps between chunks.
    pub itl_ms: Summary,
    /// Start → last token.
    pub e2el_ms: Summary,
    /// The share of `completed` and `failed` requests that kept all limits, counted from start; absent without limits, and if no
    /// success has a value that a limit is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attainment: Option<f64>,
    /// The share for each limit alone; absent without limits.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub attainment_of: Object,
    /// Generated tokens of the requests that kept all limits; absent without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good_tokens: Option<u64>,
}

impl Numbers {
    /// Measures a part with these limits.
    #[must_use]
    pub fn measure(part: &RunPart, wanted: &SummaryOptions, slos: &[Slo]) -> Self {
        let values = |metric: Metric| {
            let stats = match metric.request_value() {
                Some(value) => part.sample_values(&value, Unit::Seconds, wanted),
                None => part.sample_gaps(wanted),
            };
            stamp_bounds::summarize(part, metric, &stats)
        };
        let sum = |value: fn(&RecordedRequest) -> u64| part.successes().map(value).sum();
        let population = part.population;
        let good = Good::count_requests(part, slos, |_| 0.0);
        Numbers {
            offered: population.offered,
            completed: population.succeeded,
            failed: population.failed(),
            abandoned: population.abandoned,
            input_tokens: sum(|r| u64::from(r.prompt_len)),
            output_tokens: sum(|r| u64::from(r.output_tokens)),
            ttft_ms: values(Metric::Ttft),
            tpot_ms: values(Metric::Tpot),
            itl_ms: values(Metric::Itl),
            e2el_ms: values(Metric::E2el),
            attainment: good.attainment.filter(|_| !slos.is_empty()),
            attainment_of: good.attainment_of,
            good_tokens: good.tokens.filter(|_| !slos.is_empty()),
        }
    }

    /// How its requests ended.
    #[must_use]
    pub fn population(&self) -> Population {
        Population { offered: self.offered, abandoned: self.abandoned, succeeded: self.completed }
    }
}

/// Whether a count is left out of the JSON.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
#[must_use]
pub fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Pooled for Numbers {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        let limits = all.all.first().map(|n| n.attainment_of.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let alone = |name: String| {
            let share = |n: &Numbers| n.attainment_of.get(&name).and_then(serde_json::Value::as_f64);
            let pooled = pool_attainment(all.all.iter().map(|n| (n.population(), share(n))));
            (name, pooled.into())
        };
        Some(Numbers {
            offered: all.sum(|n| n.offered),
            completed: all.sum(|n| n.completed),
            failed: all.sum(|n| n.failed),
            abandoned: all.sum(|n| n.abandoned),
            input_tokens: all.sum(|n| n.input_tokens),
            output_tokens: all.sum(|n| n.output_tokens),
            ttft_ms: all.pool_times(|n| &n.ttft_ms)?,
            tpot_ms: all.pool_times(|n| &n.tpot_ms)?,
            itl_ms: all.pool_times(|n| &n.itl_ms)?,
            e2el_ms: all.pool_times(|n| &n.e2el_ms)?,
            attainment: pool_attainment(all.all.iter().map(|n| (n.population(), n.attainment))),
            attainment_of: limits.into_iter().map(alone).collect(),
            good_tokens: all.sum_known(|n| n.good_tokens),
        })
    }
}
